//! The status of the unit during a command that changes etcd.

use crate::juju::{Juju, Status};

/// Shows the current activity in the status of the unit, and restores the previous status when it is dropped. If the
/// process is killed in between, the next hook corrects the status. An error in setting the status is ignored.
pub struct Maintenance<'a> {
    juju: &'a Juju,
    before: Status,
}

impl<'a> Maintenance<'a> {
    /// Sets the status to the text `what`. Returns `None` if the present status cannot be read.
    pub(super) fn begin(juju: &'a Juju, what: &str) -> Option<Self> {
        let before = juju.status().ok()?;
        let now = Status::maintenance(what);
        juju.set_status(&now).ok().map(|()| Self { juju, before })
    }

    /// Ends the maintenance after a restore. The restore may have solved the cause of the previous blocked status,
    /// above all lost data, so that message is not restored. The next hook reports remaining problems.
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
