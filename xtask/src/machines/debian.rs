//! The home of Debian's and Ubuntu's package: `etcd.service` with `Type=notify` and a user of its own.

use anyhow::{Result, ensure};

use super::{Stage, story};

/// As it is installed; what was restored outlives the machine's power.
pub fn plain(stage: &Stage) -> Result<String> {
    let mut machine = stage.unit()?;
    let told = story::tell(&machine)?;
    let restored = story::digest(&machine)?;
    machine.reboot()?;
    ensure!(story::digest(&machine)? == restored, "after a reboot the keys are others");
    let owners = machine.run(&["find", "/var/lib/etcd", "-printf", "%u:%g\n"])?;
    ensure!(owners.lines().all(|owner| owner == "etcd:etcd"), "not all files are etcd's own:\n{owners}");
    Ok(told)
}

/// With authentication on; the password comes by the environment.
pub fn auth(stage: &Stage) -> Result<String> {
    let mut machine = stage.unit()?;
    machine.feed(&["etcdctl", "user", "add", "root", "--interactive=false"], "hunter2\n")?;
    machine.run(&["etcdctl", "user", "grant-role", "root", "root"])?;
    machine.run(&["etcdctl", "auth", "enable"])?;
    story::failed(&machine, "snapshot", &[], &["user name is empty", "ETCDCTL_PASSWORD"])?;
    machine.set("ETCDCTL_USER", "root");
    machine.set("ETCDCTL_PASSWORD", "hunter2");
    story::tell(&machine)
}
