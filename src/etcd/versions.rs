//! The versions of etcd: the features and requirements of each, and which versions work together.
//!
//! Owns the table of these facts, each with its source in etcd, and every comparison of versions: no other module can
//! order them. Pure: it must never run a program or read a file.

use std::fmt;
use std::path::PathBuf;

/// A difference between versions of etcd that matters to this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// The first patch version that has it, in each minor version. Every minor version after the last one listed has it
    /// too, up to `until`.
    since: &'static [(u32, u32, u32)],
    /// The first minor version that no longer has it.
    until: Option<(u32, u32)>,
    /// The difference.
    pub what: &'static str,
    /// How this program takes it into account.
    pub here: &'static str,
    /// The file or changelog of etcd that shows it.
    pub source: &'static str,
}

impl Feature {
    const fn since(since: &'static [(u32, u32, u32)], what: &'static str) -> Self {
        Self { since, until: None, what, here: "", source: "" }
    }

    const fn until(self, minor: (u32, u32)) -> Self {
        Self { until: Some(minor), ..self }
    }

    const fn here(self, here: &'static str) -> Self {
        Self { here, ..self }
    }

    const fn source(self, source: &'static str) -> Self {
        Self { source, ..self }
    }

    /// Returns the versions that have it, in words.
    pub fn versions(&self) -> String {
        let since: Vec<String> =
            self.since.iter().map(|(major, minor, patch)| format!("{major}.{minor}.{patch}")).collect();
        match (since.join(", "), self.until) {
            (since, None) => format!("{since} and later"),
            (since, Some((major, minor))) => format!("{since} to before {major}.{minor}"),
        }
    }
}

/// etcd reads `ETCD_CONFIG_FILE`.
pub const READS_CONFIG_FILE_VARIABLE: Feature =
    Feature::since(&[(3, 4, 0)], "`etcd` reads `ETCD_CONFIG_FILE`")
        .here("the charm refuses an older etcd")
        .source("CHANGELOG-3.4.md v3.4.0, pull request 10762");

/// `snapshot restore` has `--bump-revision`.
const BUMPS_REVISIONS: Feature = Feature::since(
    &[(3, 4, 27), (3, 5, 10), (3, 6, 0)],
    "`snapshot restore` has `--bump-revision` and `--mark-compacted`",
)
.here("without it, `restore` warns that the revision goes back")
.source("CHANGELOG-3.4.md v3.4.27, CHANGELOG-3.5.md v3.5.10, CHANGELOG-3.6.md v3.6.0");

/// etcd 3.6 reads the members only from the database, where an older one may list a voter as the learner that it was.
const STORES_PROMOTIONS: Feature = Feature::since(
    &[(3, 5, 26)],
    "the database says that a promoted learner is a voter; 3.6 reads only that",
)
.here("the charm upgrades an older 3.5 to 3.6 only by way of a newer 3.5")
.source("CHANGELOG-3.5.md v3.5.20 and v3.5.26");

/// Only `etcdutl` reads and restores snapshots.
const NEEDS_ETCDUTL: Feature = Feature::since(
    &[(3, 6, 0)],
    "`etcdctl` has no `snapshot status` and `snapshot restore`; only `etcdutl` has them",
)
.here("commands refuse if `etcdutl` is missing")
.source("CHANGELOG-3.6.md v3.6.0, pull request 13809; `etcdctl/ctlv3/command/snapshot_command.go`");

/// etcd refuses data according to its storage version and cluster version.
const CHECKS_DATA_VERSIONS: Feature = Feature::since(
    &[(3, 6, 0)],
    "`etcd` writes a storage version, and refuses data of a newer minor version",
)
.here("`restore` reads the versions in the data and refuses before it stops etcd")
.source("CHANGELOG-3.6.md v3.6.0; `server/storage/schema/schema.go` `Validate`");

/// `etcd` cannot read a write-ahead log that 3.5 or older wrote: it panics with "unmarshal should never fail".
const CANNOT_READ_OLD_LOGS: Feature =
    Feature::since(&[(3, 7, 0)], "`etcd` panics on the log of 3.5 and older")
        .here("a restore over such data is refused: it needs the programs of the older etcd")
        .source("tried with 3.7.3 on data of 3.4.23; `server/etcdserver/server.go` `applyEntryNormal`");
/// The first minor version that writes logs which every later one reads.
const FIRST_NEW_LOG: (u32, u32) = (3, 6);

/// All differences, the oldest first. Those without a name of their own need no distinction: the code works with both
/// sides, in the way that the row says.
pub const TABLE: [Feature; 18] = [
    READS_CONFIG_FILE_VARIABLE,
    Feature::since(
        &[(3, 4, 0)],
        "`etcdctl` uses the v3 API without `ETCDCTL_API=3`; 3.6 and later warn about it",
    )
    .here("the variable is not set")
    .source("CHANGELOG-3.4.md v3.4.0, issue 9600"),
    Feature::since(&[(3, 4, 10)], "`etcd` has `--unsafe-no-fsync`")
        .here("the private etcd gets it as a variable, which older versions ignore: its data is temporary")
        .source("CHANGELOG-3.4.md v3.4.10, pull request 11946"),
    BUMPS_REVISIONS,
    Feature::since(
        &[(3, 4, 28)],
        "the gRPC gateway cannot reach a server on a unix socket, and `etcd` exits",
    )
    .until((3, 5))
    .here("the private etcd gets `--enable-grpc-gateway=false`, which every version accepts")
    .source("`go.mod` v3.4.28 (gRPC 1.58); `embed/serve.go`"),
    Feature::since(&[(3, 4, 31)], "`etcd` 3.4 refuses data with a storage version")
        .until((3, 5))
        .here("`restore` refuses such data on every older etcd")
        .source("`mvcc/kvstore.go` `restore`"),
    Feature::since(&[(3, 5, 0)], "`etcdutl` exists; `etcdctl` still reads and restores snapshots")
        .here("`etcdutl` is preferred")
        .source("CHANGELOG-3.5.md v3.5.0, pull request 12971"),
    Feature::since(
        &[(3, 5, 0)],
        "`snapshot restore` removes the members of the old cluster from the database",
    )
    .here("after a restore that did not, they are removed from the new data")
    .source("`etcdutl/snapshot/v3_snapshot.go` `saveDB`; 3.4: `clientv3/snapshot/v3_snapshot.go` `saveDB`"),
    Feature::since(
        &[(3, 5, 31), (3, 6, 12)],
        "the snapshot tool checks its file first; before, it panics or fills it",
    )
    .here("an archive is given to the tool only after our own reader has read it")
    .source("CHANGELOG-3.5.md v3.5.31, CHANGELOG-3.6.md v3.6.12, pull request 21768"),
    STORES_PROMOTIONS,
    NEEDS_ETCDUTL,
    CHECKS_DATA_VERSIONS,
    Feature::since(&[(3, 6, 0)], "`snapshot status` counts live keys; before, every record")
        .here("keys and records are counted by our own reader")
        .source("`etcdutl/snapshot/v3_snapshot.go` `Status`"),
    Feature::since(
        &[(3, 6, 0)],
        "`endpoint status` has `storageVersion`, and `endpoint hashkv` has `hash_revision`",
    )
    .here("fields that are not needed are ignored, and missing ones have a default")
    .source("CHANGELOG-3.6.md v3.6.0, pull requests 13773 and 14812"),
    Feature::since(&[(3, 6, 0)], "the v2 API and `--enable-v2` are gone")
        .here("data of older versions is searched for v2 keys before a restore")
        .source("CHANGELOG-3.6.md v3.6.0"),
    Feature::since(&[(3, 7, 0)], "the `--experimental-` options are gone")
        .here("none is passed")
        .source("CHANGELOG-3.7.md v3.7.0, pull request 19959"),
    CANNOT_READ_OLD_LOGS,
    Feature::since(&[(3, 7, 0)], "`snapshot status` reports a failed integrity check before it panics")
        .here("damage is found by our own reader, which runs first")
        .source("`etcdutl/snapshot/v3_snapshot.go` `Status`"),
];

impl Feature {
    /// Returns the first version with the feature, of the minor version `minor` if that ever got it.
    fn first_in(self, minor: Minor) -> String {
        let since = self.since.iter().find(|since| (since.0, since.1) >= minor.rank());
        since
            .or(self.since.last())
            .map(|(major, minor, patch)| format!("{major}.{minor}.{patch}"))
            .unwrap_or_default()
    }
}

/// A minor version of etcd, such as 3.5. The members of a cluster must agree on it, and the format of the data depends
/// on it.
///
/// It has no order for other modules, so that all comparisons are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Minor {
    major: u32,
    minor: u32,
}

/// A version of etcd, such as 3.5.16 or 3.6.0-rc.1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    minor: Minor,
    patch: u32,
    pre_release: Option<String>,
}

impl Version {
    /// Reads `MAJOR.MINOR.PATCH`, with or without `-PRE.RELEASE` and `+BUILD`; `None` if it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.split_once('+').map_or(text, |(version, _build)| version);
        let (numbers, pre_release) = match text.split_once('-') {
            Some((numbers, pre_release)) => (numbers, Some(pre_release)),
            None => (text, None),
        };
        let is_sound = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        };
        if !pre_release.is_none_or(is_sound) {
            return None;
        }
        let mut numbers = numbers.split('.').map(number);
        let (major, minor, patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let pre_release = pre_release.map(str::to_owned);
        numbers.next().is_none().then_some(Self { minor: Minor { major, minor }, patch, pre_release })
    }

    /// Reads the version from the output of an etcd program, on the line that begins with `label`: `etcdctl
    /// version:`, `etcdutl version:` or `etcd Version:`.
    pub fn from_output(text: &str, label: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label))?;
        Self::parse(line.trim())
    }

    /// Reads the version in the tag of a container image, such as `registry.k8s.io/etcd:3.5.16-0`. Returns `None` for
    /// an image that is not called etcd, or has a tag that does not begin with a version.
    pub fn from_image(image: &str) -> Option<Self> {
        let image = image.split_once('@').map_or(image, |(image, _digest)| image);
        let (repository, tag) = image.rsplit_once(':')?;
        let name = repository.rsplit('/').next().unwrap_or(repository);
        // The suffix counts builds of the image; it is not a pre-release of etcd.
        let version = tag.strip_prefix('v').unwrap_or(tag).split(['-', '_']).next()?;
        name.contains("etcd").then(|| Self::parse(version)).flatten()
    }

    /// Returns the minor version.
    pub fn minor(&self) -> Minor {
        self.minor
    }

    /// Whether its minor version is older than `other`.
    pub fn is_older_than(&self, other: Minor) -> bool {
        self.minor.rank() < other.rank()
    }

    /// Whether its minor version is newer than `other`.
    pub fn is_newer_than(&self, other: Minor) -> bool {
        self.minor.rank() > other.rank()
    }

    /// Returns the oldest of these versions. It decides the version of their cluster.
    pub fn oldest(versions: impl Iterator<Item = Self>) -> Option<Self> {
        versions.min_by_key(|version| (version.minor.rank(), version.patch))
    }

    /// Whether it can become a member of a cluster whose oldest member is an etcd `oldest`. etcd refuses a member that is
    /// older than its cluster, and supports a difference of one minor version.
    pub fn can_join(&self, oldest: &Self) -> bool {
        let (own, oldest) = (self.minor, oldest.minor);
        own.major == oldest.major && (own.minor == oldest.minor || own.minor == oldest.minor + 1)
    }

    /// Returns why members of etcd `from` cannot be upgraded to this version, one after the other while they serve.
    pub fn upgrade_obstacle(&self, from: &Self) -> Option<String> {
        let is_other_minor = self.minor != from.minor;
        if self.is_older_than(from.minor) {
            return Some(format!("etcd {from} cannot be downgraded to {self}"));
        }
        if !self.can_join(from) {
            let next = Minor { minor: from.minor.minor + 1, ..from.minor };
            return Some(format!(
                "etcd {from} must be upgraded to etcd {next} first, and not to {self} at once"
            ));
        }
        if is_other_minor && self.has(CANNOT_READ_OLD_LOGS) {
            return Some(format!(
                "etcd {self} does not start on a log that 3.5 or older wrote, and the log of etcd {from} may be older"
            ));
        }
        (is_other_minor && self.has(CHECKS_DATA_VERSIONS) && !from.has(STORES_PROMOTIONS)).then(|| {
            let first = STORES_PROMOTIONS.first_in(from.minor);
            format!("etcd {from} must be upgraded to etcd {first} or newer first: etcd {self} could take its voters for learners")
        })
    }

    /// Whether it cannot start on a data directory that etcd `data` served last.
    pub fn cannot_start_on(&self, data: Minor) -> bool {
        self.is_older_than(data) || (self.has(CANNOT_READ_OLD_LOGS) && data.rank() < FIRST_NEW_LOG)
    }

    /// Whether it has a feature. A pre-release counts as the release that it precedes.
    pub fn has(&self, feature: Feature) -> bool {
        let minor = self.minor.rank();
        if feature.until.is_some_and(|until| minor >= until) {
            return false;
        }
        let in_line = feature.since.iter().find(|since| (since.0, since.1) == minor);
        match in_line {
            Some((_, _, patch)) => self.patch >= *patch,
            None => feature.since.last().is_some_and(|last| minor > (last.0, last.1)),
        }
    }
}

impl Minor {
    /// Returns the numbers by which minor versions are ordered.
    fn rank(self) -> (u32, u32) {
        (self.major, self.minor)
    }
}

/// Returns the versions whose programs can raise the revision of a snapshot, in words.
pub fn versions_that_bump() -> String {
    BUMPS_REVISIONS.versions()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.minor, self.patch)?;
        self.pre_release.as_ref().map_or(Ok(()), |pre_release| write!(f, "-{pre_release}"))
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Parses a part of a version. It must consist of digits; `parse` alone would accept a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// An etcd program on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its path.
    pub path: PathBuf,
    /// The version that it prints.
    pub version: Version,
}

impl Installed {
    /// Returns its name and version, such as `etcdctl 3.5.16`.
    pub fn name_and_version(&self) -> String {
        format!("{} {}", self.path.file_name().unwrap_or_default().display(), self.version)
    }
}

impl fmt::Display for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.path.display(), self.version)
    }
}

/// etcd's programs on this machine, and the version of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The client.
    pub etcdctl: Installed,
    /// The program for snapshot files, if it is installed.
    pub etcdutl: Option<Installed>,
    /// The server, if it is installed.
    pub etcd: Option<Installed>,
}

impl Programs {
    /// Returns the program that reads and restores snapshot files.
    pub fn snapshot_program(&self) -> &Installed {
        self.etcdutl.as_ref().unwrap_or(&self.etcdctl)
    }

    /// Whether that program can raise the revision of a snapshot.
    pub fn can_bump(&self) -> bool {
        self.snapshot_program().version.has(BUMPS_REVISIONS)
    }

    /// Returns the program that would have to be replaced to raise revisions, with the first version that can: of the
    /// same minor version if possible, because the other programs must have it too.
    pub fn first_that_bumps(&self) -> String {
        let program = if self.etcdutl.is_some() { "etcdutl" } else { "etcdctl" };
        let first = BUMPS_REVISIONS.first_in(self.snapshot_program().version.minor());
        format!("{program} {first}")
    }

    /// Returns all installed programs.
    pub fn iter(&self) -> impl Iterator<Item = &Installed> {
        self.etcd.iter().chain([&self.etcdctl]).chain(&self.etcdutl)
    }

    /// Returns the first two programs with different minor versions.
    pub fn first_mismatch(&self) -> Option<(&Installed, &Installed)> {
        let mut each = self.iter();
        let first = each.next()?;
        each.find(|other| other.version.minor() != first.version.minor()).map(|other| (first, other))
    }

    /// Returns the first program with another minor version than `version`.
    pub fn first_of_other_minor(&self, version: &Version) -> Option<&Installed> {
        self.iter().find(|program| program.version.minor() != version.minor())
    }
}

/// Returns the reason why `etcdctl` of this version requires `etcdutl`; `None` if it does not.
pub fn requires_etcdutl(etcdctl: &Version) -> Option<String> {
    etcdctl.has(NEEDS_ETCDUTL).then(|| {
        format!(
            "etcdctl {etcdctl} needs etcdutl next to it: since etcd 3.6 only etcdutl reads and restores snapshots"
        )
    })
}

/// The versions that are stored in the data, in a member directory or a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DataVersions {
    /// The version of the format. etcd 3.6 and later set it to their own minor version.
    pub storage: Option<Minor>,
    /// The minor version on which the members agreed. A restore keeps it (`etcdutl/snapshot/v3_snapshot.go`, which
    /// trims the members and not the cluster).
    pub cluster: Option<Minor>,
}

impl DataVersions {
    /// Returns the minor version of the etcd that wrote the data, if the data shows it.
    pub fn written_by(&self) -> Option<Minor> {
        self.storage.into_iter().chain(self.cluster).max_by_key(|minor| minor.rank())
    }

    /// Returns the lowest minor version that can serve the data, if `etcd` is older than that.
    ///
    /// A higher storage version is refused by etcd 3.6 and later (`server/storage/schema/schema.go` `Validate`), and by
    /// etcd 3.4.31 and later (`mvcc/kvstore.go` `restore`). Older versions of 3.4 and all of 3.5 do not look at it and
    /// leave it in place, for a later etcd to refuse. The cluster version in the data counts since etcd 3.6; before,
    /// etcd goes by its v2 store (`server/etcdserver/api/membership/cluster.go` `Recover`), which a restore begins
    /// anew.
    pub fn too_new_for(&self, etcd: &Version) -> Option<Minor> {
        let cluster = self.cluster.filter(|_| etcd.has(CHECKS_DATA_VERSIONS));
        let newest = Self { cluster, ..*self }.written_by();
        newest.filter(|data| etcd.is_older_than(*data))
    }
}

/// Returns the steps to restore data of etcd `data` on the older version `etcd`, if there are any.
pub fn downgrade_steps(data: Minor, etcd: &Version) -> Option<String> {
    let target = etcd.minor();
    if !etcd.has(CHECKS_DATA_VERSIONS) {
        // The lowest version that it converts to (`etcdutl/etcdutl/migrate_command.go`); etcd 3.4 serves that too.
        return Some(format!(
            "convert the archive's db with etcdutl {data}: etcdutl snapshot restore db --data-dir=converted && etcdutl \
             migrate --data-dir=converted --target-version=3.5, and run restore snapshot=converted/member/snap/db \
             allow-unhashed=true"
        ));
    }
    // etcdutl does not lower the cluster version. A server does, by one minor version at a time.
    (data == Minor { minor: target.minor + 1, ..target }).then(|| {
        format!(
            "restore it on another machine with etcd {data}, run etcdctl downgrade enable {target} there, and restore a \
             snapshot of that"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    fn installed(name: &str, text: &str) -> Installed {
        Installed { path: format!("/usr/bin/{name}").into(), version: version(text) }
    }

    fn programs(etcdctl: &str, etcdutl: Option<&str>, etcd: Option<&str>) -> Programs {
        Programs {
            etcdctl: installed("etcdctl", etcdctl),
            etcdutl: etcdutl.map(|text| installed("etcdutl", text)),
            etcd: etcd.map(|text| installed("etcd", text)),
        }
    }

    #[test]
    fn parses_only_versions() {
        for text in ["3.4.23", "3.6.0-rc.1", "3.7.0-alpha.0", "3.10.0", "10.0.1"] {
            assert_eq!(version(text).to_string(), text);
        }
        assert_eq!(version("3.5.30+git").to_string(), "3.5.30");
        for text in
            ["", "3", "3.5", "3.5.", "3.5.x", "3.5.1.2", "+3.5.1", "3.+5.1", "v3.5.1", "3.5.1-", "3.5.1-a b"]
        {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
        assert_eq!(Version::parse("99999999999.0.0"), None);
    }

    #[test]
    fn parses_the_output_of_the_programs() {
        for (text, label, expected) in [
            ("etcdctl version: 3.4.23\nAPI version: 3.4\n", "etcdctl version:", Some("3.4.23")),
            ("etcdctl version: 3.6.0-rc.1\nAPI version: 3.6\n", "etcdctl version:", Some("3.6.0-rc.1")),
            ("etcdutl version: 3.7.3\nAPI version: 3.7\n", "etcdutl version:", Some("3.7.3")),
            (
                "etcd Version: 3.5.16\nGit SHA: Not provided\nGo Version: go1.24.0\n",
                "etcd Version:",
                Some("3.5.16"),
            ),
            ("a warning\netcd Version: 3.5.16\n", "etcd Version:", Some("3.5.16")),
            ("etcdctl version: \n", "etcdctl version:", None),
            ("etcdctl version: 3.4.23\n", "etcdutl version:", None),
            ("nonsense", "etcdctl version:", None),
        ] {
            let found = Version::from_output(text, label).map(|version| version.to_string());
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn reads_the_version_of_an_image() {
        for (image, expected) in [
            ("registry.k8s.io/etcd:3.5.16-0", Some("3.5.16")),
            ("quay.io/coreos/etcd:v3.6.5", Some("3.6.5")),
            ("localhost:5000/hardened-etcd:v3.5.13-k3s1-build20240910", Some("3.5.13")),
            ("registry.k8s.io/etcd:3.5.16-0@sha256:0123", Some("3.5.16")),
            ("registry.k8s.io/etcd@sha256:0123", None),
            ("localhost:5000/etcd", None),
            ("registry.k8s.io/etcd:latest", None),
            ("registry.k8s.io/kube-apiserver:1.34.4", None),
        ] {
            let found = Version::from_image(image).map(|version| version.to_string());
            assert_eq!(found.as_deref(), expected, "{image}");
        }
    }

    #[test]
    fn minor_versions_are_ordered_by_number() {
        assert!(version("3.10.0").is_newer_than(version("3.9.9").minor()));
        assert!(version("3.10.0").is_older_than(version("4.0.0").minor()));
        assert!(!version("3.6.1").is_newer_than(version("3.6.0").minor()));
        assert_eq!(version("3.6.0-rc.1").minor(), version("3.6.16").minor());
    }

    #[test]
    fn the_features_of_each_version() {
        assert!(!version("3.3.27").has(READS_CONFIG_FILE_VARIABLE));
        assert!(version("3.4.0").has(READS_CONFIG_FILE_VARIABLE));
        assert!(version("3.10.0").has(READS_CONFIG_FILE_VARIABLE));
        for (text, bumps, needs_etcdutl) in [
            ("3.3.27", false, false),
            ("3.4.23", false, false),
            ("3.4.26", false, false),
            ("3.4.27", true, false),
            ("3.4.45", true, false),
            ("3.5.0", false, false),
            ("3.5.9", false, false),
            ("3.5.10", true, false),
            ("3.5.16", true, false),
            ("3.6.0-rc.0", true, true),
            ("3.6.16", true, true),
            ("3.7.3", true, true),
            ("3.10.0", true, true),
            ("4.0.0", true, true),
        ] {
            let version = version(text);
            assert_eq!(version.has(BUMPS_REVISIONS), bumps, "{text}");
            assert_eq!(version.has(NEEDS_ETCDUTL), needs_etcdutl, "{text}");
        }
    }

    #[test]
    fn etcd_starts_on_data_of_its_own_and_of_some_older_versions() {
        for (etcd, data, cannot) in [
            ("3.5.16", "3.4.0", false),
            ("3.4.23", "3.5.0", true),
            ("3.6.16", "3.4.0", false),
            ("3.7.3", "3.5.0", true),
            ("3.7.3", "3.6.0", false),
            ("3.7.3", "3.7.0", false),
        ] {
            assert_eq!(version(etcd).cannot_start_on(version(data).minor()), cannot, "{etcd} on {data}");
        }
    }

    #[test]
    fn a_feature_ends_with_its_minor_version() {
        let gateway = TABLE.iter().find(|feature| feature.what.contains("gateway")).unwrap();
        for (text, has) in
            [("3.4.27", false), ("3.4.28", true), ("3.4.45", true), ("3.5.0", false), ("3.7.3", false)]
        {
            assert_eq!(version(text).has(*gateway), has, "{text}");
        }
        assert_eq!(gateway.versions(), "3.4.28 to before 3.5");
        assert_eq!(versions_that_bump(), "3.4.27, 3.5.10, 3.6.0 and later");
    }

    #[test]
    fn the_documentation_lists_every_difference() {
        let page = include_str!("../../docs/reference/versions.md");
        for feature in TABLE {
            let Feature { what, here, source, .. } = feature;
            let row = format!("| {} | {what} | {here} | {source} |", feature.versions());
            assert!(page.lines().any(|line| line == row), "docs/reference/versions.md lacks:\n{row}");
        }
    }

    #[test]
    fn etcdctl_needs_etcdutl_since_3_6() {
        for (text, needs) in [("3.4.23", false), ("3.5.35", false), ("3.6.0", true), ("3.7.3", true)] {
            let why = requires_etcdutl(&version(text));
            assert_eq!(why.is_some(), needs, "{text}");
            if let Some(why) = why {
                assert!(why.starts_with(&format!("etcdctl {text} needs etcdutl next to it: ")), "{why}");
            }
        }
    }

    #[test]
    fn data_is_served_by_its_own_minor_version_and_later_ones() {
        let minor = |text: &str| (!text.is_empty()).then(|| version(text).minor());
        for (etcd, storage, cluster, needs) in [
            // Data of 3.4 and 3.5 has no storage version, and its cluster version does not count there.
            ("3.4.23", "", "3.4.0", ""),
            ("3.4.23", "", "3.5.0", ""),
            ("3.4.23", "3.6.0", "3.6.0", "3.6"),
            ("3.5.35", "3.6.0", "3.6.0", "3.6"),
            ("3.5.35", "3.7.0", "3.7.0", "3.7"),
            // The result of etcdutl migrate.
            ("3.5.35", "", "3.7.0", ""),
            ("3.6.16", "", "3.5.0", ""),
            ("3.6.16", "", "", ""),
            ("3.6.16", "3.6.0", "3.6.0", ""),
            ("3.6.0-rc.1", "3.6.0", "3.6.0", ""),
            ("3.6.16", "3.7.0", "3.7.0", "3.7"),
            // During an upgrade, and after etcdutl migrate.
            ("3.6.16", "3.6.0", "3.7.0", "3.7"),
            ("3.7.3", "3.6.0", "3.6.0", ""),
            ("3.7.3", "3.7.0", "3.7.0", ""),
        ] {
            let data = DataVersions { storage: minor(storage), cluster: minor(cluster) };
            let found = data.too_new_for(&version(etcd)).map(|minor| minor.to_string()).unwrap_or_default();
            assert_eq!(found, needs, "storage {storage:?}, cluster {cluster:?} on {etcd}");
        }
    }

    #[test]
    fn the_downgrade_steps_depend_on_the_version() {
        for (data, etcd, way) in [
            ("3.7.0", "3.5.16", Some("--target-version=3.5")),
            ("3.6.0", "3.4.23", Some("--target-version=3.5")),
            ("3.7.0", "3.6.16", Some("downgrade enable 3.6")),
            ("3.8.0", "3.6.16", None),
        ] {
            let found = downgrade_steps(version(data).minor(), &version(etcd));
            assert_eq!(found.is_some(), way.is_some(), "{data} on {etcd}");
            assert!(found.unwrap_or_default().contains(way.unwrap_or_default()), "{data} on {etcd}");
        }
    }

    #[test]
    fn programs_of_different_minor_versions_are_found() {
        let names = |programs: &Programs| {
            programs.first_mismatch().map(|(one, other)| format!("{one}, {other}")).unwrap_or_default()
        };
        assert_eq!(names(&programs("3.5.16", Some("3.5.16"), Some("3.5.16"))), "");
        assert_eq!(names(&programs("3.5.16", Some("3.5.35"), Some("3.5.1"))), "");
        assert_eq!(names(&programs("3.4.23", None, Some("3.4.45"))), "");
        assert_eq!(names(&programs("3.4.23", None, None)), "");
        let mixed = programs("3.6.16", Some("3.6.16"), Some("3.5.35"));
        assert_eq!(names(&mixed), "/usr/bin/etcd is 3.5.35, /usr/bin/etcdctl is 3.6.16");
        let mixed = programs("3.6.16", Some("3.5.35"), Some("3.6.16"));
        assert_eq!(names(&mixed), "/usr/bin/etcd is 3.6.16, /usr/bin/etcdutl is 3.5.35");
        assert_eq!(
            mixed.first_of_other_minor(&version("3.6.1")).unwrap().to_string(),
            "/usr/bin/etcdutl is 3.5.35"
        );
        assert_eq!(programs("3.5.1", None, None).first_of_other_minor(&version("3.5.16")), None);
    }

    #[test]
    fn upgrades_by_one_minor_version_while_the_members_serve() {
        for (from, to, part) in [
            ("3.4.23", "3.4.45", None),
            ("3.4.45", "3.4.23", None),
            ("3.4.45", "3.5.16", None),
            ("3.5.16", "3.5.35", None),
            ("3.5.26", "3.6.16", None),
            ("3.7.1", "3.7.3", None),
            ("3.5.16", "3.6.16", Some("3.5.26 or newer first")),
            ("3.5.25", "3.6.0", Some("3.5.26 or newer first")),
            ("3.4.45", "3.6.16", Some("etcd 3.5 first")),
            ("3.6.16", "3.7.3", Some("log")),
            ("3.6.16", "3.5.35", Some("cannot be downgraded")),
            ("3.5.35", "4.0.0", Some("first")),
        ] {
            let version = |text| Version::parse(text).unwrap();
            let obstacle = version(to).upgrade_obstacle(&version(from));
            match (part, &obstacle) {
                (None, None) => {}
                (Some(part), Some(obstacle)) if obstacle.contains(part) => {}
                _ => panic!("{from} to {to}: {obstacle:?}"),
            }
        }
    }

    #[test]
    fn etcdutl_raises_revisions_if_it_is_installed() {
        assert!(!programs("3.5.16", Some("3.5.9"), None).can_bump());
        assert!(programs("3.5.9", Some("3.5.16"), None).can_bump());
        assert!(programs("3.4.27", None, None).can_bump());
        assert_eq!(programs("3.4.23", None, None).first_that_bumps(), "etcdctl 3.4.27");
        assert_eq!(programs("3.5.16", Some("3.5.9"), None).first_that_bumps(), "etcdutl 3.5.10");
    }
}
