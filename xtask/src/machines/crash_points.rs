//! Hooks are killed and the power fails at each step of joining and leaving a cluster: the next hooks complete it.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::charm::empty;
use super::deployment::{APPLICATION, Accident, AccidentKind, Deployment, When};
use super::machine::Machine;
use super::network::Network;
use super::scaling::{check_cluster, client, deployment_on, etcdctl, release, remove_files_of_earlier_unit};
use super::test_bed::TestBed;

/// The program waits at the point that this file names.
const POINT: &str = "/run/stop-at";
/// This file exists while a program waits.
const REACHED: &str = "/run/reached";
/// Waits if its argument is the point.
const STOP_AT: &str = "\
#!/bin/sh
[ \"$(cat /run/stop-at 2>/dev/null)\" = \"$1\" ] || exit 0
rm /run/stop-at
touch /run/reached
exec sleep 10
";
/// An etcdctl that can wait before and after each change of the members.
const ETCDCTL: &str = "\
#!/bin/sh
change=
for word in add promote remove; do
    case \" $* \" in *\" member $word \"*) change=$word ;; esac
done
/usr/local/bin/stop-at \"before-$change\"
/usr/local/lib/etcdctl \"$@\"
status=$?
/usr/local/bin/stop-at \"after-$change\"
exit $status
";
/// Makes the start of etcd wait.
const DROP_IN: &str = "\
[Service]
ExecStartPre=+/usr/local/bin/stop-at before-start
ExecStartPost=+/usr/local/bin/stop-at after-start
";

const KINDS: [AccidentKind; 2] = [AccidentKind::HookKilled, AccidentKind::PowerFailure];
const FOUNDING: [&str; 2] = ["before-start", "after-start"];
const JOINING: [&str; 6] =
    ["before-add", "after-add", "before-start", "after-start", "before-promote", "after-promote"];
const LEAVING: [&str; 2] = ["before-remove", "after-remove"];
/// The rounds of `update-status` after an accident.
const MAX_UPDATES: usize = 2;

/// One unit starts a cluster, and another one joins it and leaves it again: with each accident at each point.
pub fn all(test_bed: &TestBed) -> Result<String> {
    let hub = Machine::boot(&test_bed.root)?;
    hub.run(&["systemctl", "disable", "--now", "etcd.service"])?;
    let machines = [empty(test_bed)?, empty(test_bed)?];
    let network = Network::create(&hub, &machines)?;
    let release = release(hub.path("/root")?.as_path())?;
    let mut accidents = 0;
    for kind in KINDS {
        for point in FOUNDING {
            let cluster = Cluster::found(test_bed, &machines, &network, &release, Some((kind, point)));
            cluster.with_context(|| format!("{kind:?} at {point} of the first unit"))?;
            accidents += 1;
        }
    }
    let mut cluster = Cluster::found(test_bed, &machines, &network, &release, None)?;
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the accidents"])?;
    for kind in KINDS {
        for point in JOINING {
            cluster.join(Some((kind, point))).with_context(|| format!("{kind:?} at {point}"))?;
            cluster.leave(None)?;
            accidents += 1;
        }
        for point in LEAVING {
            cluster.join(None)?;
            cluster.leave(Some((kind, point))).with_context(|| format!("{kind:?} at {point}"))?;
            accidents += 1;
        }
    }
    Ok(format!(
        "{accidents} accidents: the next hooks completed it each time, with at most {MAX_UPDATES} update-status"
    ))
}

/// A cluster of one or two units.
struct Cluster<'m> {
    test_bed: &'m TestBed,
    machines: &'m [Machine; 2],
    network: &'m Network<'m>,
    release: &'m Path,
    deployment: Deployment<'m>,
    first: String,
    second: String,
}

impl<'m> Cluster<'m> {
    /// Starts a cluster of one unit.
    fn found(
        test_bed: &'m TestBed,
        machines: &'m [Machine; 2],
        network: &'m Network<'m>,
        release: &'m Path,
        accident: Option<(AccidentKind, &str)>,
    ) -> Result<Self> {
        let deployment = deployment_on(network)?;
        let (first, second) = (String::new(), String::new());
        let mut cluster = Self { test_bed, machines, network, release, deployment, first, second };
        cluster.first = cluster.add_unit(0)?;
        let first = cluster.first.clone();
        cluster.settle(&first, accident)?;
        cluster.deployment.check_status(&first, &["active 1 member, healthy"])?;
        Ok(cluster)
    }

    /// Adds a unit on a machine, from which everything of an earlier unit is removed. The start of its etcd can wait.
    fn add_unit(&mut self, place: usize) -> Result<String> {
        let machine = &self.machines[place];
        let _ = machine.attempt(&["systemctl", "disable", "--now", "etcd.service"])?;
        remove_files_of_earlier_unit(machine)?;
        write_program(machine, "/usr/local/bin/stop-at", STOP_AT)?;
        machine.write("/etc/systemd/system/etcd.service.d/stop.conf", DROP_IN)?;
        let address = self.network.address(place);
        self.deployment.add_unit(self.test_bed, machine, &address, self.release)
    }

    /// Runs all hooks, with an accident of `unit` at a point.
    fn settle(&mut self, unit: &str, accident: Option<(AccidentKind, &str)>) -> Result<()> {
        if let Some((kind, point)) = accident {
            let machine = self.deployment.machine(unit)?;
            machine.run(&["rm", "-f", REACHED])?;
            machine.write(POINT, point)?;
            let when = When::File { unit: unit.to_owned(), path: REACHED.to_owned() };
            self.deployment.accident = Some(Accident { kind, when });
        }
        self.deployment.settle()?;
        ensure!(self.deployment.accident.is_none(), "no hook has reached the point");
        for _ in 0..MAX_UPDATES {
            self.deployment.update_all()?;
            self.deployment.settle()?;
        }
        Ok(())
    }

    fn join(&mut self, accident: Option<(AccidentKind, &str)>) -> Result<()> {
        self.second = self.add_unit(1)?;
        let second = self.second.clone();
        self.deployment.run_next_hook(&second)?;
        let machine = &self.machines[1];
        machine.run(&["mv", "/usr/local/bin/etcdctl", "/usr/local/lib/etcdctl"])?;
        write_program(machine, "/usr/local/bin/etcdctl", ETCDCTL)?;
        self.settle(&second, accident)?;
        for unit in [&self.first, &self.second] {
            self.deployment.check_status(unit, &["active voter, 2 members: none may fail"])?;
        }
        check_cluster(&self.deployment, &[&self.first, &self.second])?;
        self.check_clients(2)
    }

    fn leave(&mut self, accident: Option<(AccidentKind, &str)>) -> Result<()> {
        let second = self.second.clone();
        self.deployment.model.remove_unit(&second);
        self.settle(&second, accident)?;
        ensure!(self.deployment.model.units(APPLICATION) == [self.first.clone()], "the unit is still there");
        let active = self.machines[1].attempt(&["systemctl", "is-active", "etcd.service"])?;
        ensure!(!active.status.success(), "etcd of the removed unit runs");
        self.deployment.check_status(&self.first, &["active 1 member, healthy"])?;
        check_cluster(&self.deployment, &[&self.first])?;
        self.check_clients(1)
    }

    fn check_clients(&self, count: usize) -> Result<()> {
        let addresses: Vec<String> = (0..count).map(|place| self.network.address(place)).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        client(&self.deployment)?.check(&self.deployment.model, &addresses).map(drop)
    }
}

fn write_program(machine: &Machine, path: &str, text: &str) -> Result<()> {
    machine.write(path, text)?;
    machine.run(&["chmod", "755", path]).map(drop)
}
