//! The facts about a unit and its machine that a hook decides by. Only data: gathered by `gather`, judged by `decide`.

use super::certificates::Certificates;
use super::cluster::facts::ClusterFacts;
use super::etcd_config::{local_endpoint_in, network_peer_port_in};
use super::hook::Hook;
use super::install_method::InstallMethod;
use super::options::Options;
use super::restore_state::RestoreState;
use super::unit_record::{DataState, UnitRecord};
use crate::error::Refusal;
use std::path::PathBuf;

/// The facts about a unit and its machine.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The hook that runs.
    pub hook: Hook,
    /// The outcome of recovering from an interrupted restore.
    pub restore: RestoreState,
    /// The charm's options, or which of them is invalid.
    pub options: Result<Options, Refusal>,
    /// How etcd is installed, or will be.
    pub method: InstallMethod,
    /// Whether etcd is installed completely.
    pub is_installed: bool,
    /// Whether the installed etcd is a version that reads the charm's configuration file.
    pub version_check: Result<(), Refusal>,
    /// An etcd on this machine that the charm did not set up, described for the operator.
    pub foreign_etcd: Option<String>,
    /// The directory of the data, which may not exist yet.
    pub data_dir: PathBuf,
    /// The mount point of the attached storage.
    pub storage: Option<PathBuf>,
    /// The content of the data directory.
    pub data: DataState,
    /// The record of this unit in the data directory.
    pub record: Option<UnitRecord>,
    /// Whether etcd has started in the data directory. Then it has the data of a member.
    pub has_started: bool,
    /// The other units, and the cluster.
    pub cluster: ClusterFacts,
    /// The directory of the certificates that etcd uses, or would use.
    pub certificate_dir: PathBuf,
    /// The certificates in that directory.
    pub certificates: Certificates,
    /// Whether the present configuration file is that of this unit's cluster.
    pub has_own_config: bool,
    /// etcd's configuration file as it is, if there is one.
    pub current_config: Option<String>,
    /// etcd's configuration file as it should be. Empty if the options are invalid.
    pub wanted_config: String,
    /// Whether the systemd unit reads the configuration file, waits for the storage, and is allowed to start.
    pub is_service_set_up: bool,
    /// Whether the guard of an unfinished installation prevents the systemd unit from starting.
    pub has_install_guard: bool,
    /// Whether etcd is running.
    pub is_running: bool,
    /// Whether etcd should have started at the last boot, and has not.
    pub missed_boot: bool,
    /// The version of the release that is prepared for the next restart.
    pub prepared_upgrade: Option<String>,
    /// Why the last upgrade is not tried again. etcd runs with its earlier programs.
    pub failed_upgrade: Option<Refusal>,
    /// Whether etcd was last started before its configuration was written.
    pub runs_old_config: bool,
}

impl Facts {
    /// Whether the machine's etcd belongs to this unit, or will.
    pub fn owns_etcd(&self) -> bool {
        match self.data {
            DataState::New | DataState::Present | DataState::Lost => true,
            DataState::Absent => !self.has_own_config && self.foreign_etcd.is_none(),
            DataState::Foreign(_) | DataState::Untrusted => false,
        }
    }

    /// Whether etcd has started with the data of this unit, although the data may be missing now: its storage may not be mounted, or
    /// the data may be lost. Such a unit is still the member that it was.
    pub fn has_or_had_data(&self) -> bool {
        match self.data {
            DataState::Lost => true,
            DataState::Absent => self.has_started || self.has_own_config,
            _ => self.has_started,
        }
    }

    /// Whether peers would reach this unit's etcd at its URL. They would not if the option `management-port` was changed, which is
    /// refused while there are several units.
    pub fn listens_at_its_url(&self) -> bool {
        let port = self.current_config.as_deref().and_then(network_peer_port_in);
        let urls = self.cluster.urls.as_ref();
        port.is_none_or(|port| urls.is_none_or(|urls| urls.peer.ends_with(&format!(":{port}"))))
    }

    /// Whether etcd serves its clients at another port, or without TLS, until it is restarted.
    pub fn moves_client_port(&self) -> bool {
        self.current_config.as_deref().and_then(local_endpoint_in) != local_endpoint_in(&self.wanted_config)
    }

    /// Whether the etcd of this unit runs, with the charm's configuration and the unit's data.
    pub fn runs_own_etcd(&self) -> bool {
        self.is_running && self.has_own_config && self.data == DataState::Present
    }

    /// Whether an operator has placed certificates. They are used instead of those of a relation.
    pub fn has_manual_certificates(&self) -> bool {
        self.certificates != Certificates::None && self.certificate_dir == self.method.certificate_dir()
    }

    /// Returns how an operator gets other certificates for this unit.
    pub fn next_for_certificates(&self) -> String {
        if self.has_manual_certificates() {
            return format!("replace them in {}", self.certificate_dir.display());
        }
        match self.cluster.has_certificate_provider {
            true => "have the related application issue new ones".to_owned(),
            false => "juju integrate APPLICATION:certificates PROVIDER".to_owned(),
        }
    }

    /// Whether the data directory is on the attached storage.
    pub fn is_on_storage(&self) -> bool {
        self.storage.as_ref().is_some_and(|storage| self.data_dir.starts_with(storage))
    }
}
