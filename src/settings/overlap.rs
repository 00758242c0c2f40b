//! Refuses destinations that are the same place under two names: the retention of one would delete what the other keeps.
//!
//! A destination in a subdirectory of another one is harmless: each lists only `CLUSTER/MEMBER/NAME` directly below its own
//! directory. Must never use the network or a disk: a restore reads the settings too.

use crate::error::Refusal;
use crate::inventory::destinations::{Destination, Location, same_place};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Refuses two destinations that describe the same place.
pub(super) fn check(destinations: &BTreeMap<String, Destination>) -> Result<(), Refusal> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for (name, destination) in destinations {
        if let Some(other) = seen.insert(identity(&destination.location), name) {
            return Err(same_place(other, name, &destination.location.url()));
        }
    }
    Ok(())
}

/// Refuses a target that is a destination itself, or the directory of a member in one of the `destinations`.
pub(super) fn check_target(
    destinations: &BTreeMap<String, Destination>,
    target: &Path,
) -> Result<(), Refusal> {
    let target = normalized(target);
    for (name, destination) in destinations {
        let Location::Directory(described) = &destination.location else { continue };
        let directory = normalized(&described.directory);
        let next = "choose a target outside the destination, or another directory for the destination";
        if target == directory {
            let reason =
                format!("the target {} is the same directory as the destination {name}", target.display());
            return Err(Refusal::new(reason, next));
        }
        let below = target.strip_prefix(&directory).map_or(0, |rest| rest.components().count());
        // The directory of a member: CLUSTER/MEMBER.
        if below == 2 {
            let reason = format!(
                "the target {} is where the destination {name} stores the archives of a member: its rules would delete archives of the \
                 target",
                target.display()
            );
            return Err(Refusal::new(reason, next));
        }
    }
    Ok(())
}

/// Returns a text that is equal for two descriptions of the same place.
fn identity(location: &Location) -> String {
    match location {
        Location::Bucket(described) => described.identity(),
        Location::Azure(described) => described.identity(),
        Location::Google(described) => described.identity(),
        Location::Directory(described) => normalized(&described.directory).display().to_string(),
    }
}

/// Returns the path without `.` and repeated slashes. A path with `..` or a symlink is refused when it is opened.
fn normalized(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn checked(one: &str, other: &str) -> Result<(), String> {
        let text = format!("destinations:\n  a: {one}\n  b: {other}\n");
        check(&Settings::parse(&text).unwrap().destinations).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn recognizes_the_same_place_in_another_spelling() {
        let s3 = |more: &str| format!("{{s3: {{bucket: n{more}}}}}");
        for (one, other, same) in [
            (s3(""), s3(""), true),
            (s3(""), s3(", folder: /"), true),
            (s3(", folder: a/b"), s3(", folder: /a/b/"), true),
            (s3(""), s3(", folder: longterm"), false),
            (s3(", folder: a"), s3(", folder: a/b/c"), false),
            (s3(""), "{s3: {bucket: other}}".to_owned(), false),
            // Bucket names are unique within Amazon, regardless of the endpoint.
            (s3(", region: eu-central-1"), s3(", endpoint: 'https://s3.amazonaws.com'"), true),
            (s3(""), s3(", endpoint: 'https://s3.dualstack.us-east-1.amazonaws.com', style: path"), true),
            (s3(", endpoint: 'https://Minio:443/'"), s3(", endpoint: 'https://minio'"), true),
            (s3(", endpoint: 'https://minio.'"), s3(", endpoint: 'https://minio'"), true),
            (s3(", endpoint: 'http://minio', allow-http: true"), s3(", endpoint: 'https://minio'"), true),
            (s3(", endpoint: 'http://127.0.0.1:9000'"), s3(", endpoint: 'http://localhost:9000'"), true),
            (s3(", endpoint: 'http://127.0.0.1:9000'"), s3(", endpoint: 'http://[::1]:9000'"), true),
            (s3(", endpoint: 'http://127.0.0.1:9000'"), s3(", endpoint: 'http://127.0.0.1:9001'"), false),
            (s3(", endpoint: 'https://one:9000'"), s3(", endpoint: 'https://two:9000'"), false),
            (s3(", endpoint: 'https://minio', style: host"), s3(", endpoint: 'https://minio'"), true),
            ("{directory: /d}".to_owned(), "{directory: /d//.}".to_owned(), true),
            ("{directory: /d}".to_owned(), "{directory: /d/long}".to_owned(), false),
            ("{directory: /d}".to_owned(), "{directory: /dd}".to_owned(), false),
        ] {
            let checked = checked(&one, &other);
            assert_eq!(checked.is_err(), same, "{one} {other}: {checked:?}");
        }
        let refusal = checked(&s3(""), &s3("")).unwrap_err();
        assert!(refusal.contains("destinations a and b are the same place, s3://n/"), "{refusal}");
    }

    #[test]
    fn refuses_a_target_that_is_the_directory_of_a_member() {
        let settings =
            Settings::parse("destinations: {nfs: {directory: /nfs}, s: {s3: {bucket: b}}}").unwrap();
        for (target, taken) in [
            ("/nfs", false),
            ("/nfs/./", false),
            ("/nfs/a", true),
            ("/nfs/a/b", false),
            ("/nfs/a//b/.", false),
            ("/nfs/a/b/c", true),
            ("/", true),
            ("/nfsa/b/c", true),
            ("/other", true),
        ] {
            assert_eq!(check_target(&settings.destinations, Path::new(target)).is_ok(), taken, "{target}");
        }
    }
}
