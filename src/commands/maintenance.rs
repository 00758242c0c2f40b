//! The status of the unit during a command that changes etcd.

use crate::juju::{Juju, Status};

/// Shows in the status of the unit what a command is doing, and restores the previous status when it is dropped. If the
/// process is killed in between, the next hook corrects the status. Nothing fails because a status could not be set.
pub struct Maintenance<'a> {
    juju: &'a Juju,
    before: Status,
}

impl<'a> Maintenance<'a> {
    /// Sets the status to `what`. Returns `None` if the present status cannot be read.
    pub(super) fn begin(juju: &'a Juju, what: &str) -> Option<Self> {
        let before = juju.status().ok()?;
        let now = Status::maintenance(what);
        juju.set_status(&now).ok().map(|()| Self { juju, before })
    }

    /// Ends the maintenance after a restore. What blocked the unit before, lost data above all, may be solved by it, so
    /// that message does not come back. The next hook reports what is still wrong.
    pub(super) fn restored(mut self) {
        if self.before.is_blocked() {
            self.before =
                Status::active("etcd serves the restored snapshot; the next hook checks everything else");
        }
    }
}

impl Drop for Maintenance<'_> {
    fn drop(&mut self) {
        let _ = self.juju.set_status(&self.before);
    }
}
