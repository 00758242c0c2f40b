//! Which versions of etcd take part in a restore, and whether they work together: the server, the programs, the data and the
//! snapshot.
//!
//! Programs of another minor version than the server are refused before anything stops: what they restore and boot proves
//! nothing about a server that may refuse their format or their cluster version (etcd
//! `etcdserver/api/membership/cluster.go` `mustDetectDowngrade`).

use super::facts::Old;
use crate::error::Refusal;
use crate::etcd::backend::Backend;
use crate::etcd::site::{ProgramSource, Site};
use crate::etcd::versions::{DataVersions, Minor, Programs, Version, downgrade_steps};
use crate::exchange::{DataDir, MEMBER};
use crate::system::lock::try_lock;
use anyhow::Result;

/// The versions that are known before etcd is asked for its own.
#[derive(Debug, Clone)]
pub struct Versions {
    /// The programs on this machine.
    pub programs: Programs,
    /// Where other programs are to be had.
    pub supply: ProgramSource,
    /// The version of the server that the manifest of a static pod names.
    pub image: Option<Version>,
    /// The command that restarts etcd, as typed.
    pub restart: String,
    /// The version that data at rest was last served by; `None` if an etcd uses it, or it does not tell.
    pub data: Option<Minor>,
}

impl Versions {
    /// Asks the programs, and looks at the data if no etcd uses it.
    ///
    /// # Errors
    /// A refusal if the programs could not restore anything; or one of them prints no version.
    pub fn gather(site: &Site, data: &DataDir) -> Result<Self> {
        site.tools.check_can_read_snapshots()?;
        let programs = site.tools.versions()?;
        Ok(Self {
            programs,
            supply: site.program_source(),
            image: site.image_version(),
            restart: site.service.restart_command(),
            data: last_served_by(data).ok().flatten(),
        })
    }

    /// Refuses programs that do not belong together, before any of them is given data.
    pub fn admit_programs(&self) -> Result<(), Refusal> {
        self.supply.check_same_minor(&self.programs)
    }

    /// Refuses programs of another minor version than the etcd that is to serve the restored data, as far as the existing data
    /// `old` shows which one that is.
    pub fn admit_server(&self, old: &Old) -> Result<(), Refusal> {
        match old {
            Old::Serving { status, .. } => {
                let server = Version::parse(&status.version).ok_or_else(|| {
                    Refusal::new(
                        format!("the running etcd reports {:?} as its version", status.version),
                        "install a released version of etcd",
                    )
                })?;
                self.must_match("the running etcd", &server)
            }
            Old::Damaged(why) | Old::Unknown(why) => self.must_read_the_data(why),
            Old::Stopped { .. } | Old::Empty => match &self.image {
                Some(image) => self.must_match("the etcd of the static pod", image),
                None => Ok(()),
            },
            Old::Silent(_) | Old::NoLog | Old::Elsewhere => Ok(()),
        }
    }

    fn must_match(&self, called: &str, server: &Version) -> Result<(), Refusal> {
        self.supply.check_matches_server(&self.programs, called, server, &self.restart)
    }

    /// Reports that data could not be read because its etcd was newer: it is not lost.
    fn must_read_the_data(&self, why: &str) -> Result<(), Refusal> {
        match (&self.programs.etcd, self.data) {
            (Some(etcd), Some(data)) if data > etcd.version.minor() => Err(Refusal::new(
                format!(
                    "the existing data was last served by etcd {data}, but {etcd} and could not read it: {why}"
                ),
                self.supply.how_to_get(data),
            )),
            _ => Ok(()),
        }
    }

    /// What the operator must know of the versions.
    pub fn warning(&self) -> Option<String> {
        let (Some(etcd), Some(data)) = (&self.programs.etcd, self.data) else { return None };
        (data < etcd.version.minor()).then(|| {
            format!(
                "the existing data was last served by etcd {data}, and the restored data needs etcd {} or later ({etcd})",
                etcd.version.minor()
            )
        })
    }

    /// Refuses a snapshot, called `shown`, if its data is of a newer etcd than the one here. It was taken from an etcd of the
    /// version `taken_from`.
    pub fn admit_snapshot(
        &self,
        shown: &str,
        data: &DataVersions,
        taken_from: Option<&str>,
    ) -> Result<(), Refusal> {
        let Some(etcd) = &self.programs.etcd else { return Ok(()) };
        let Some(data) = data.too_new_for(&etcd.version) else { return Ok(()) };
        let taken = taken_from.map(|version| format!(" (taken from {version})")).unwrap_or_default();
        let or = downgrade_steps(data, &etcd.version).map(|way| format!("; or {way}")).unwrap_or_default();
        Err(Refusal::new(
            format!(
                "{shown} holds data of etcd {data}{taken}, and {etcd}, which does not support newer data"
            ),
            format!("install etcd {data} and run restore again{or}"),
        ))
    }
}

/// The version that data at rest was last served by. Data that an etcd uses is not read: that etcd knows its version.
fn last_served_by(data: &DataDir) -> Result<Option<Minor>> {
    let file = data.dir().child(MEMBER)?.child("snap")?.read("db")?;
    if !try_lock(&file)? {
        return Ok(None);
    }
    Ok(Backend::from_file(file, &data.backend_path())?.versions()?.written_by())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::client::Status;
    use crate::etcd::versions::Installed;

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

    fn serving(version: &str) -> Old {
        let status = Status {
            cluster_id: 1,
            member_id: 7,
            revision: 9,
            version: version.to_owned(),
            db_size: 20480,
            db_in_use: 16384,
            has_leader: true,
            is_learner: false,
            errors: Vec::new(),
        };
        Old::Serving { status, members: Vec::new() }
    }

    fn stopped() -> Old {
        Old::Stopped { revision: 9, members: Vec::new() }
    }

    #[track_caller]
    fn refuses(outcome: Result<(), Refusal>, reasons: &[&str], next: &str) {
        let refusal = outcome.unwrap_err();
        for reason in reasons {
            assert!(refusal.reason.contains(reason), "{reason}: {refusal}");
        }
        assert!(refusal.next.contains(next), "{next}: {refusal}");
    }

    #[test]
    fn programs_must_have_the_minor_version_of_the_running_etcd() {
        for (server, programs) in [("3.5.1", "3.5.16"), ("3.4.45", "3.4.23"), ("3.6.0-rc.1", "3.6.16")] {
            versions(programs).admit_server(&serving(server)).unwrap();
        }
        for (server, programs, minor) in
            [("3.4.23", "3.5.16", "3.4"), ("3.5.35", "3.6.16", "3.5"), ("3.6.16", "3.5.35", "3.6")]
        {
            let refused = versions(programs).admit_server(&serving(server));
            let reasons = [format!("the running etcd is {server}"), format!("/opt/etcd is {programs}")];
            let next = format!("install the programs of etcd {minor} in /opt");
            refuses(refused, &[&reasons[0], &reasons[1]], &next);
        }
        refuses(versions("3.5.16").admit_server(&serving("")), &["reports \"\""], "released version");
        let mut mixed = versions("3.5.16");
        mixed.programs.etcdutl.as_mut().unwrap().version = version("3.6.16");
        refuses(
            mixed.admit_programs(),
            &["/opt/etcd is 3.5.16", "/opt/etcdutl is 3.6.16"],
            "etcd 3.5 in /opt",
        );
    }

    #[test]
    fn programs_must_have_the_minor_version_of_a_stopped_pods_image() {
        let mut versions = versions("3.5.16");
        for old in [stopped(), Old::Empty] {
            versions.image = None;
            versions.admit_server(&old).unwrap();
            versions.image = Some(version("3.5.1"));
            versions.admit_server(&old).unwrap();
            versions.image = Some(version("3.4.23"));
            let reasons = ["the etcd of the static pod is 3.4.23", "/opt/etcd is 3.5.16"];
            refuses(versions.admit_server(&old), &reasons, "etcd 3.4");
        }
        // The running one knows its own version.
        versions.admit_server(&serving("3.5.16")).unwrap();
    }

    #[test]
    fn data_of_a_newer_etcd_is_not_lost() {
        let unreadable = Old::Damaged("cannot be downgraded".to_owned());
        let mut versions = versions("3.5.16");
        for data in [None, Some("3.4.0"), Some("3.5.0")] {
            versions.data = data.map(|data| version(data).minor());
            versions.admit_server(&unreadable).unwrap();
        }
        versions.data = Some(version("3.6.0").minor());
        let reasons = ["last served by etcd 3.6", "/opt/etcd is 3.5.16", "cannot be downgraded"];
        refuses(versions.admit_server(&unreadable), &reasons, "etcd 3.6");
        versions.admit_server(&stopped()).unwrap();
    }

    #[test]
    fn warns_that_an_older_etcd_could_not_serve_the_restored_data() {
        let mut versions = versions("3.5.16");
        for (data, warns) in [(None, false), (Some("3.5.0"), false), (Some("3.4.0"), true)] {
            versions.data = data.map(|data| version(data).minor());
            assert_eq!(versions.warning().is_some(), warns, "{data:?}");
        }
    }

    #[test]
    fn a_snapshot_of_a_newer_etcd_is_refused_by_the_version_of_its_data() {
        let data = |text: &str| {
            let minor = Some(version(text).minor());
            DataVersions { storage: minor, cluster: minor }
        };
        versions("3.7.3").admit_snapshot("a.tar.gz", &data("3.7.0"), Some("3.7.3")).unwrap();
        // Taken while that etcd was being downgraded.
        versions("3.6.16").admit_snapshot("a.tar.gz", &data("3.6.0"), Some("3.7.3")).unwrap();
        versions("3.5.16").admit_snapshot("a.tar.gz", &DataVersions::default(), Some("3.5.35")).unwrap();
        let refused = versions("3.6.16").admit_snapshot("a.tar.gz", &data("3.7.0"), Some("3.7.3"));
        let reasons = ["a.tar.gz holds data of etcd 3.7 (taken from 3.7.3)", "/opt/etcd is 3.6.16"];
        refuses(refused, &reasons, "install etcd 3.7");
        let refused = versions("3.5.16").admit_snapshot("db", &data("3.6.0"), None);
        refuses(refused, &["db holds data of etcd 3.6, and /opt/etcd is 3.5.16"], "etcdutl migrate");
    }
}
