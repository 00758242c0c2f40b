//! A client that writes all the time, and records which writes etcd has acknowledged, and when.

use std::collections::BTreeSet;
use std::fs;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::machine::Machine;

/// Where the client keeps its record on the machine.
const DIR: &str = "/root/load";
/// Writes the keys `load-1`, `load-2` and so on until it is told to stop.
const SCRIPT: &str = "\
n=0
while [ ! -e /root/load/stop ]; do
    n=$((n + 1))
    if etcdctl put load-$n $n >/dev/null 2>>/root/load/errors; then
        echo \"$n $(date +%s%N)\" >>/root/load/acknowledged
    fi
done
";

/// A running client.
pub struct Load<'m> {
    machine: &'m Machine,
    script: Child,
    variables: Vec<String>,
}

impl<'m> Load<'m> {
    /// Starts to write to `endpoints`, with the client certificate in `tls`.
    pub fn start(machine: &'m Machine, endpoints: &[&str], tls: &str) -> Result<Self> {
        let variables = vec![
            format!("ETCDCTL_ENDPOINTS={}", endpoints.join(",")),
            format!("ETCDCTL_CACERT={tls}/ca.crt"),
            format!("ETCDCTL_CERT={tls}/client.crt"),
            format!("ETCDCTL_KEY={tls}/client.key"),
            "ETCDCTL_DIAL_TIMEOUT=1s".to_owned(),
            // With the default of 5 s, a write that reached a stopping etcd would be the longest pause.
            "ETCDCTL_COMMAND_TIMEOUT=2s".to_owned(),
            "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
        ];
        machine.run(&["rm", "-rf", DIR])?;
        machine.write(&format!("{DIR}/script"), SCRIPT)?;
        let script = machine.start(&words(&variables, &["sh", &format!("{DIR}/script")]))?;
        Ok(Self { machine, script, variables })
    }

    /// Stops writing. Checks that every acknowledged key is there. Returns the number of writes, and the longest time without
    /// an acknowledged one.
    pub fn finish(mut self) -> Result<(usize, Duration)> {
        self.machine.write(&format!("{DIR}/stop"), "")?;
        self.script.wait()?;
        let record = fs::read_to_string(self.machine.path(&format!("{DIR}/acknowledged"))?)
            .context("no write was acknowledged")?;
        let writes: Vec<(&str, u64)> = record
            .lines()
            .map(|line| {
                let (number, nanoseconds) = line.split_once(' ').context("a line without a time")?;
                Ok((number, nanoseconds.parse()?))
            })
            .collect::<Result<_>>()?;
        let get = ["etcdctl", "get", "load-", "--prefix", "--keys-only"];
        let printed = self.machine.run(&words(&self.variables, &get))?;
        let present: BTreeSet<&str> = printed.lines().filter_map(|line| line.strip_prefix("load-")).collect();
        let lost: Vec<&str> =
            writes.iter().map(|(number, _)| *number).filter(|number| !present.contains(number)).collect();
        ensure!(lost.is_empty(), "acknowledged writes are lost: {lost:?}");
        let pauses = writes.windows(2).map(|pair| pair[1].1.saturating_sub(pair[0].1));
        Ok((writes.len(), Duration::from_nanos(pauses.max().unwrap_or_default())))
    }
}

fn words<'w>(variables: &'w [String], words: &[&'w str]) -> Vec<&'w str> {
    [&["env"][..], &variables.iter().map(String::as_str).collect::<Vec<_>>(), words].concat()
}
