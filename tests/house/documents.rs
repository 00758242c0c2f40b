//! The documents name every parameter and this version.

use crate::read;

#[test]
fn the_reference_names_every_parameter() {
    const REFERENCE: &str = "docs/reference/commands.md";
    let reference = read(REFERENCE);
    for file in ["actions.yaml", "src/cli/commands.yaml"] {
        let declared: serde_yaml::Value = serde_yaml::from_str(&read(file)).unwrap();
        for (_, declared) in declared.as_mapping().unwrap() {
            for (parameter, _) in declared["params"].as_mapping().unwrap() {
                let parameter = parameter.as_str().unwrap();
                assert!(
                    reference.contains(&format!("--{parameter}")),
                    "{REFERENCE} does not name {parameter}"
                );
            }
        }
    }
}

#[test]
fn the_changelog_names_this_version() {
    assert!(read("CHANGELOG.md").contains(env!("CARGO_PKG_VERSION")));
}
