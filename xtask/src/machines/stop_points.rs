//! Programs of a unit that wait at a point, so that an accident happens exactly there.
//!
//! The points are `before-CHANGE` and `after-CHANGE`. CHANGE is `start` for the start of etcd, or one of the calls of etcdctl in
//! [`ETCDCTL`].

use anyhow::Result;

use super::deployment::{Accident, AccidentKind, Deployment, When};
use super::machine::Machine;

/// The point at which the next program waits.
const POINT: &str = "/run/stop-at";
/// This file exists while a program waits. Without it, the program goes on.
pub const REACHED: &str = "/run/reached";
/// Waits if its argument is the point, for ten seconds at most.
const STOP_AT: &str = "\
#!/bin/sh
[ \"$(cat /run/stop-at 2>/dev/null)\" = \"$1\" ] || exit 0
rm /run/stop-at
touch /run/reached
for tenth in $(seq 100); do
    [ -e /run/reached ] || exit 0
    sleep 0.1
done
";
/// An etcdctl that can wait before and after each change of the members, each question for the status, and each snapshot.
const ETCDCTL: &str = "\
#!/bin/sh
change=
for word in add promote remove update; do
    case \" $* \" in *\" member $word \"*) change=$word ;; esac
done
case \" $* \" in *\" endpoint status \"*) change=status ;; esac
case \" $* \" in *\" snapshot save \"*) change=save ;; esac
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

/// Makes the start of etcd wait at a point.
pub fn add_to_unit(machine: &Machine) -> Result<()> {
    write_program(machine, "/usr/local/bin/stop-at", STOP_AT)?;
    machine.write("/etc/systemd/system/etcd.service.d/stop.conf", DROP_IN)
}

/// Makes the installed etcdctl wait at a point. Needs [`add_to_unit`].
pub fn add_to_etcdctl(machine: &Machine) -> Result<()> {
    machine.run(&["mv", "/usr/local/bin/etcdctl", "/usr/local/lib/etcdctl"])?;
    write_program(machine, "/usr/local/bin/etcdctl", ETCDCTL)
}

/// Makes the next program on a machine that comes to this point wait there.
pub fn stop_at(machine: &Machine, point: &str) -> Result<()> {
    machine.run(&["rm", "-f", REACHED])?;
    machine.write(POINT, point)
}

/// Makes an accident happen to `victim` when a hook of `unit` reaches a point.
pub fn prepare(
    deployment: &mut Deployment<'_>,
    unit: &str,
    kind: AccidentKind,
    point: &str,
    victim: &str,
) -> Result<()> {
    stop_at(deployment.machine(unit)?, point)?;
    let (unit, victim) = (unit.to_owned(), victim.to_owned());
    deployment.accident =
        Some(Accident { kind, when: When::File { unit, path: REACHED.to_owned(), victim } });
    Ok(())
}

fn write_program(machine: &Machine, path: &str, text: &str) -> Result<()> {
    machine.write(path, text)?;
    machine.run(&["chmod", "755", path]).map(drop)
}
