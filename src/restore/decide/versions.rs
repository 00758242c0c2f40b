//! Decides whether the versions of the programs, the server, the data and the snapshot are compatible.
//!
//! Programs whose minor version differs from the server's are refused before anything stops. A successful restore and
//! boot with them do not prove that the server accepts their format or their cluster version (etcd
//! `etcdserver/api/membership/cluster.go` `mustDetectDowngrade`).

use crate::etcd::versions::{DataVersions, Version, downgrade_steps};
use crate::restore::existing::ExistingData;
use crate::restore::refusals::Obstacle;
use crate::restore::versions::Versions;
use crate::restore::warnings;

/// Refuses programs of different minor versions, before any of them reads data.
///
/// # Errors
/// Two programs differ.
pub fn check_programs(versions: &Versions) -> Result<(), Obstacle> {
    Ok(versions.supply.check_same_minor(&versions.programs)?)
}

/// Refuses programs whose minor version differs from that of the etcd that will serve the restored data. The existing
/// data may show that version; otherwise it is not checked.
///
/// # Errors
/// The minor versions differ, or the server's version cannot be parsed.
pub fn check_server(versions: &Versions, existing: &ExistingData) -> Result<(), Obstacle> {
    let check = |called: &str, server: &Version| {
        Ok(versions.supply.check_matches_server(&versions.programs, called, server, &versions.restart)?)
    };
    match existing {
        ExistingData::Served { status, .. } => {
            let server = Version::parse(&status.version)
                .ok_or_else(|| Obstacle::UnknownServerVersion { reported: status.version.clone() })?;
            check("the running etcd", &server)
        }
        ExistingData::Damaged(reason) | ExistingData::NotReadable(reason) => {
            check_can_read_data(versions, reason)
        }
        ExistingData::Stopped { .. } | ExistingData::Empty => match &versions.image {
            Some(image) => check("the etcd of the static pod", image),
            None => Ok(()),
        },
        ExistingData::NotAnswering(_) | ExistingData::WithoutLog | ExistingData::OfAnotherEtcd { .. } => {
            Ok(())
        }
    }
}

/// Reports the true cause if data could not be read because of the version that wrote it: the data is not lost.
fn check_can_read_data(versions: &Versions, reason: &str) -> Result<(), Obstacle> {
    match (&versions.programs.etcd, versions.data) {
        (Some(etcd), Some(data)) if etcd.version.cannot_start_on(data) => Err(Obstacle::DataOfOtherEtcd {
            data,
            program: etcd.to_string(),
            reason: reason.to_owned(),
            remedy: versions.supply.how_to_get(data),
        }),
        _ => Ok(()),
    }
}

/// Returns a warning if the restored data needs a newer etcd than the existing data.
pub(super) fn warn_of_upgrade(versions: &Versions) -> Option<String> {
    let (Some(etcd), Some(data)) = (&versions.programs.etcd, versions.data) else { return None };
    let is_newer = etcd.version.is_newer_than(data);
    is_newer.then(|| warnings::needs_newer_etcd(data, etcd.version.minor(), &etcd.to_string()))
}

/// Refuses a snapshot whose data needs a newer etcd than the one on this machine. `taken_from` is the recorded
/// version of the etcd that the snapshot was taken from.
///
/// # Errors
/// The data is too new.
pub fn check_snapshot(
    versions: &Versions,
    source: &str,
    data: &DataVersions,
    taken_from: Option<&str>,
) -> Result<(), Obstacle> {
    let Some(etcd) = &versions.programs.etcd else { return Ok(()) };
    let Some(data) = data.too_new_for(&etcd.version) else { return Ok(()) };
    Err(Obstacle::SnapshotOfNewerEtcd {
        source: source.to_owned(),
        data,
        taken_from: taken_from.map(str::to_owned),
        program: etcd.to_string(),
        downgrade: downgrade_steps(data, &etcd.version),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refusal;
    use crate::etcd::client::Status;
    use crate::etcd::site::ProgramSource;
    use crate::etcd::versions::{Installed, Programs};

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    fn versions(programs: &str) -> Versions {
        let at = |name: &str| Installed { path: format!("/opt/{name}").into(), version: version(programs) };
        Versions {
            programs: Programs {
                etcdctl: at("etcdctl"),
                etcdutl: Some(at("etcdutl")),
                etcd: Some(at("etcd")),
            },
            supply: ProgramSource::Directory("/opt".into()),
            image: None,
            restart: "systemctl restart etcd".to_owned(),
            data: None,
        }
    }

    fn serving(version: &str) -> ExistingData {
        let status = Status {
            cluster_id: 1,
            member_id: 7,
            revision: 9,
            version: version.to_owned(),
            db_size: 20480,
            db_in_use: 16384,
            has_leader: true,
            is_learner: false,
            raft_index: 9,
            raft_applied_index: 9,
            errors: Vec::new(),
        };
        ExistingData::Served { status, members: Vec::new() }
    }

    fn stopped() -> ExistingData {
        ExistingData::Stopped { revision: 9, members: Vec::new() }
    }

    #[track_caller]
    fn refuses(outcome: Result<(), Obstacle>, reasons: &[&str], next: &str) {
        let refusal = Refusal::from(outcome.unwrap_err());
        for reason in reasons {
            assert!(refusal.reason.contains(reason), "{reason}: {refusal}");
        }
        assert!(refusal.next.contains(next), "{next}: {refusal}");
    }

    #[test]
    fn programs_need_the_minor_version_of_the_running_etcd() {
        for (server, programs) in [("3.5.1", "3.5.16"), ("3.4.45", "3.4.23"), ("3.6.0-rc.1", "3.6.16")] {
            check_server(&versions(programs), &serving(server)).unwrap();
        }
        for (server, programs, minor) in
            [("3.4.23", "3.5.16", "3.4"), ("3.5.35", "3.6.16", "3.5"), ("3.6.16", "3.5.35", "3.6")]
        {
            let refused = check_server(&versions(programs), &serving(server));
            let reasons = [format!("the running etcd is {server}"), format!("/opt/etcd is {programs}")];
            let next = format!("install the programs of etcd {minor} in /opt");
            refuses(refused, &[&reasons[0], &reasons[1]], &next);
        }
        refuses(check_server(&versions("3.5.16"), &serving("")), &["reports \"\""], "released version");
        let mut mixed = versions("3.5.16");
        mixed.programs.etcdutl.as_mut().unwrap().version = version("3.6.16");
        refuses(
            check_programs(&mixed),
            &["/opt/etcd is 3.5.16", "/opt/etcdutl is 3.6.16"],
            "etcd 3.5 in /opt",
        );
    }

    #[test]
    fn programs_need_the_minor_version_of_a_stopped_pods_image() {
        let mut versions = versions("3.5.16");
        for old in [stopped(), ExistingData::Empty] {
            versions.image = None;
            check_server(&versions, &old).unwrap();
            versions.image = Some(version("3.5.1"));
            check_server(&versions, &old).unwrap();
            versions.image = Some(version("3.4.23"));
            let reasons = ["the etcd of the static pod is 3.4.23", "/opt/etcd is 3.5.16"];
            refuses(check_server(&versions, &old), &reasons, "etcd 3.4");
        }
        // A running etcd reports its own version.
        check_server(&versions, &serving("3.5.16")).unwrap();
    }

    #[test]
    fn data_of_a_newer_etcd_is_not_called_damaged() {
        let unreadable = ExistingData::Damaged("cannot be downgraded".to_owned());
        let mut versions = versions("3.5.16");
        for data in [None, Some("3.4.0"), Some("3.5.0")] {
            versions.data = data.map(|data| version(data).minor());
            check_server(&versions, &unreadable).unwrap();
        }
        versions.data = Some(version("3.6.0").minor());
        let reasons = ["last served by etcd 3.6", "/opt/etcd is 3.5.16", "cannot be downgraded"];
        refuses(check_server(&versions, &unreadable), &reasons, "etcd 3.6");
        let mut versions = self::versions("3.7.3");
        versions.data = Some(version("3.5.0").minor());
        let reasons = ["last served by etcd 3.5", "/opt/etcd is 3.7.3"];
        refuses(check_server(&versions, &unreadable), &reasons, "etcd 3.5");
        check_server(&versions, &stopped()).unwrap();
    }

    #[test]
    fn warns_that_an_older_etcd_could_not_serve_the_restored_data() {
        let mut versions = versions("3.5.16");
        for (data, warns) in [(None, false), (Some("3.5.0"), false), (Some("3.4.0"), true)] {
            versions.data = data.map(|data| version(data).minor());
            assert_eq!(warn_of_upgrade(&versions).is_some(), warns, "{data:?}");
        }
    }

    #[test]
    fn refuses_a_snapshot_of_a_newer_etcd_by_the_version_of_its_data() {
        let data = |text: &str| {
            let minor = Some(version(text).minor());
            DataVersions { storage: minor, cluster: minor }
        };
        check_snapshot(&versions("3.7.3"), "a.tar.gz", &data("3.7.0"), Some("3.7.3")).unwrap();
        // Taken while that etcd was being downgraded.
        check_snapshot(&versions("3.6.16"), "a.tar.gz", &data("3.6.0"), Some("3.7.3")).unwrap();
        check_snapshot(&versions("3.5.16"), "a.tar.gz", &DataVersions::default(), Some("3.5.35")).unwrap();
        let refused = check_snapshot(&versions("3.6.16"), "a.tar.gz", &data("3.7.0"), Some("3.7.3"));
        let reasons = ["a.tar.gz holds data of etcd 3.7 (taken from 3.7.3)", "/opt/etcd is 3.6.16"];
        refuses(refused, &reasons, "install etcd 3.7");
        let refused = check_snapshot(&versions("3.5.16"), "db", &data("3.6.0"), None);
        refuses(refused, &["db holds data of etcd 3.6, and /opt/etcd is 3.5.16"], "etcdutl migrate");
    }
}
