//! The resources of a charm, as `juju attach-resource` and `juju deploy --resource` take them.

use serde_json::Value;
use std::path::Path;

/// Returns the name under which the agent stores `file`, attached as the resource `name` of `metadata.yaml`.
///
/// # Errors
/// As Juju reports them: if there is no such resource, or if the extension is not that of `filename`. Only what follows the
/// last dot counts.
pub fn stored_name(metadata: &str, name: &str, file: &Path) -> Result<String, String> {
    let metadata: Value = serde_yaml::from_str(metadata).map_err(|error| error.to_string())?;
    let filename = metadata["resources"][name]["filename"]
        .as_str()
        .ok_or_else(|| format!("charm resource {name:?} not found"))?;
    let expected = Path::new(filename).extension().unwrap_or_default();
    if file.extension().unwrap_or_default() != expected {
        return Err(format!(
            "incorrect extension on resource upload {:?}, expected \".{}\"",
            file.file_name().unwrap_or_default().to_string_lossy(),
            expected.to_string_lossy()
        ));
    }
    Ok(filename.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_of_a_resource_is_that_of_the_metadata() {
        let metadata = "resources: {snapshot: {type: file, filename: snapshot.tar.gz}}";
        let stored = |file: &str| stored_name(metadata, "snapshot", Path::new(file));
        for good in ["a.tar.gz", "b.gz", "./c.age.gz"] {
            assert_eq!(stored(good).unwrap(), "snapshot.tar.gz", "{good}");
        }
        for bad in ["a.tgz", "a.tar.gz.age", "a.db", "a"] {
            assert!(stored(bad).unwrap_err().contains("incorrect extension"), "{bad}");
        }
        assert!(stored_name(metadata, "snap", Path::new("a.gz")).is_err());
    }
}
