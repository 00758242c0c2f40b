//! A client that writes all the time, and records which writes etcd has acknowledged, and when.

use std::collections::BTreeSet;
use std::fs;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fake_juju::model::Databag;

use super::machine::Machine;

/// Where the client keeps its record on the machine.
const DIR: &str = "/root/load";
/// Writes the keys `load-1`, `load-2` and so on until it is told to stop.
const SCRIPT: &str = "\
export ETCDCTL_ENDPOINTS
n=0
while [ ! -e /root/load/stop ]; do
    n=$((n + 1))
    ETCDCTL_ENDPOINTS=$(cat /root/load/endpoints)
    if etcdctl put load-$n $n >/dev/null 2>>/root/load/errors; then
        echo \"$n $(date +%s%N)\" >>/root/load/acknowledged
    else
        date +%s%N >>/root/load/errors
    fi
    sleep \"$PAUSE\"
done
";

/// A running client.
pub struct Load<'m> {
    machine: &'m Machine,
    script: Child,
    variables: Vec<String>,
}

/// A write that etcd has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: String,
    /// The time since the Unix epoch.
    pub time: Duration,
}

impl<'m> Load<'m> {
    /// Gives the client on `machine` the content `text` of the relation `db`: starts it, or has it use other endpoints.
    pub fn serve(
        client: &mut Option<Self>,
        machine: &'m Machine,
        text: &Databag,
        tls: &str,
        pause: Duration,
    ) -> Result<()> {
        write_credentials(machine, tls, text)?;
        let endpoints = &text["connection_string"];
        match client {
            Some(load) => load.use_endpoints(endpoints)?,
            None => *client = Some(Self::start(machine, endpoints, tls, pause)?),
        }
        Ok(())
    }

    /// Starts to write to `endpoints`, with the client certificate in `tls`. Pauses between the writes.
    pub fn start(machine: &'m Machine, endpoints: &str, tls: &str, pause: Duration) -> Result<Self> {
        let variables = vec![
            format!("ETCDCTL_CACERT={tls}/ca.crt"),
            format!("ETCDCTL_CERT={tls}/client.crt"),
            format!("ETCDCTL_KEY={tls}/client.key"),
            "ETCDCTL_DIAL_TIMEOUT=1s".to_owned(),
            // With the default of 5 s, a write that reached a stopping etcd would be the longest pause.
            "ETCDCTL_COMMAND_TIMEOUT=2s".to_owned(),
            "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
            format!("PAUSE={}", pause.as_secs_f64()),
        ];
        machine.run(&["rm", "-rf", DIR])?;
        machine.write(&format!("{DIR}/script"), SCRIPT)?;
        machine.write(&format!("{DIR}/endpoints"), endpoints)?;
        let script = machine.start_service(&words(&variables, &["sh", &format!("{DIR}/script")]))?;
        Ok(Self { machine, script, variables })
    }

    /// Makes the client use other endpoints from its next write on.
    pub fn use_endpoints(&self, endpoints: &str) -> Result<()> {
        self.machine.write(&format!("{DIR}/new"), endpoints)?;
        self.machine.run(&["mv", &format!("{DIR}/new"), &format!("{DIR}/endpoints")]).map(drop)
    }

    /// Returns the acknowledged writes.
    pub fn acknowledged(&self) -> Result<Vec<Write>> {
        let record =
            fs::read_to_string(self.machine.path(&format!("{DIR}/acknowledged"))?).unwrap_or_default();
        let write = |line: &str| {
            let (number, nanoseconds) = line.split_once(' ').context("a line without a time")?;
            Ok(Write { key: format!("load-{number}"), time: Duration::from_nanos(nanoseconds.parse()?) })
        };
        record.lines().map(write).collect()
    }

    /// Checks that the client still writes, or tries to.
    pub fn check_runs(&mut self) -> Result<()> {
        let ended = self.script.try_wait()?;
        ensure!(ended.is_none(), "the client that writes has ended: {ended:?}");
        Ok(())
    }

    /// Stops writing. Checks that every acknowledged key is there. Returns the number of writes, and the longest time without
    /// an acknowledged one.
    pub fn finish(mut self) -> Result<(usize, Duration)> {
        self.check_runs()?;
        self.machine.write(&format!("{DIR}/stop"), "")?;
        self.script.wait()?;
        let writes = self.acknowledged()?;
        ensure!(!writes.is_empty(), "no write was acknowledged");
        let endpoints = fs::read_to_string(self.machine.path(&format!("{DIR}/endpoints"))?)?;
        self.variables.push(format!("ETCDCTL_ENDPOINTS={endpoints}"));
        let get = ["etcdctl", "get", "load-", "--prefix", "--keys-only"];
        check_present(&writes, &self.machine.run(&words(&self.variables, &get))?)?;
        Ok((writes.len(), longest_pause(&writes)))
    }
}

/// Writes the files of a client into `dir`, from what it gets in the relation `db`.
pub fn write_credentials(machine: &Machine, dir: &str, text: &Databag) -> Result<()> {
    for (key, file) in [("client_ca", "ca.crt"), ("client_cert", "client.crt"), ("client_key", "client.key")]
    {
        machine.write(&format!("{dir}/{file}"), &text[key])?;
    }
    Ok(())
}

/// Checks that the keys of all these writes are in `listed`, one a line.
pub fn check_present(writes: &[Write], listed: &str) -> Result<()> {
    let present: BTreeSet<&str> = listed.lines().collect();
    let is_lost = |write: &&Write| !present.contains(write.key.as_str());
    let lost: Vec<&str> = writes.iter().filter(is_lost).map(|write| write.key.as_str()).collect();
    ensure!(lost.is_empty(), "acknowledged writes are lost: {lost:?}");
    Ok(())
}

/// Returns the longest time between two writes.
pub fn longest_pause(writes: &[Write]) -> Duration {
    let pauses = writes.windows(2).map(|pair| pair[1].time.saturating_sub(pair[0].time));
    pauses.max().unwrap_or_default()
}

fn words<'w>(variables: &'w [String], words: &[&'w str]) -> Vec<&'w str> {
    [&["env"][..], &variables.iter().map(String::as_str).collect::<Vec<_>>(), words].concat()
}
