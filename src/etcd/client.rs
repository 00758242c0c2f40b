//! The client of a running member, through `etcdctl`: status, members and their changes, content hash, snapshot.
//!
//! Reads answers as JSON, never as columns. Must never pass certificates or passwords as arguments: they go into the
//! environment, which starts empty. So an `ETCDCTL_*` variable of the caller cannot leak in, and cannot clash (etcdctl
//! fails if a flag and its variable are both set).

mod answers;
mod conditional_put;
mod membership;

#[cfg(feature = "fuzz")]
pub(crate) use answers::read_as_all_answers;
pub use answers::{ContentHash, Status};
pub use conditional_put::{ConditionalPut, MAX_BYTES, MAX_PUTS, Unanswered};
pub use membership::{CurrentMembers, MembershipRefusal};

use super::certificates::CertificateProblems;
use super::diagnose::{Query, diagnose, is_auth_failure, is_vague};
use super::incoming::partial_name;
use super::member::Member;
use super::site::{Login, Site, socket_path};
use super::timeouts;
use super::tls::Tls;
use crate::error::quoted;
use crate::system::durable::Dir;
use crate::system::growing_file::GrowthSender;
use crate::system::priority;
use crate::system::process::{ProcessError, Program, fd_path};
use answers::{HashAnswer, HashBody, MembersAnswer, RangeAnswer, StatusAnswer};
use anyhow::{Context, Result, bail};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The interval at which a waiting query checks whether etcd still listens. It gives up after two refused connections
/// in a row.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A transfer that wrote no byte for this long has stalled. etcdctl's keepalive detects a vanished member within 6 s,
/// but waits forever for a member that is alive and silent.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The timeout of a cheap query. etcdctl itself gives up after [`DEFAULT_COMMAND_TIMEOUT`].
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(15);
/// etcdctl's default time limit of a query (`--command-timeout`). A login gets this time too: etcd writes it to its log
/// (`etcdserver/v3_server.go` `Authenticate`), and a disk that syncs a large file may need more than etcdctl's 2 s.
const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// The time that a member has at least for its status: on a busy computer, etcdctl needs that to start.
const MIN_STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// etcdctl is a Go program that holds a few MiB while it saves. So Go collects garbage every few MiB that arrive, on
/// all cores at once. If it collects at five times the memory in use, and on half of the cores, it needs 3.6 s of
/// processor time for 1.4 GB instead of 5.9 s, and 70 MiB of memory instead of 45; etcd needs 4.8 s instead of 6
/// (3.5.16, two cores, measured).
const GOGC: &str = "400";

/// A client of one member.
#[derive(Debug, Clone)]
pub struct Client {
    etcdctl: PathBuf,
    endpoint: String,
    tls: Tls,
    certificate_problems: CertificateProblems,
    login: Option<Login>,
}

impl Client {
    /// Returns a client of the site's member.
    pub fn new(site: &Site) -> Self {
        Self {
            etcdctl: site.tools.etcdctl.clone(),
            endpoint: site.endpoint.value.clone(),
            tls: site.tls.value.clone(),
            certificate_problems: site.certificate_problems.clone(),
            login: site.login.clone(),
        }
    }

    /// Returns etcdctl with the options that reach the member, as typed in a shell. It asks for the password of a login.
    pub fn typed(&self) -> String {
        let mut words =
            vec![quoted(self.etcdctl.as_os_str()), format!("--endpoints={}", quoted(self.endpoint.as_ref()))];
        let files = [("cacert", &self.tls.cacert), ("cert", &self.tls.cert), ("key", &self.tls.key)];
        words.extend(
            files
                .into_iter()
                .filter_map(|(name, file)| Some(format!("--{name}={}", quoted(file.as_ref()?.as_os_str())))),
        );
        words.extend(self.login.as_ref().map(|login| format!("--user={}", quoted(login.user.as_ref()))));
        words.join(" ")
    }

    /// Returns the member's status.
    ///
    /// # Errors
    /// The member does not answer.
    pub fn status(&self) -> Result<Status> {
        self.status_within(QUERY_TIMEOUT)
    }

    /// Returns the member's status, if it answers within `limit`. etcdctl gives up earlier by itself if that is long.
    ///
    /// # Errors
    /// The member does not answer.
    pub fn status_within(&self, limit: Duration) -> Result<Status> {
        let answer: Vec<StatusAnswer> = self
            .ask_within(QUERY_TIMEOUT, limit.min(DEFAULT_COMMAND_TIMEOUT), &["endpoint", "status"])
            .context("asking etcd for its status")?;
        match <[StatusAnswer; 1]>::try_from(answer) {
            Ok([one]) => Ok(one.into()),
            Err(all) => bail!("asking etcd for its status: {} members answered instead of one", all.len()),
        }
    }

    /// Waits until the member answers and has a leader.
    ///
    /// # Errors
    /// The timeout has passed; or `alive`, which is called before every attempt, failed; or the member gave an answer
    /// that waiting cannot change, such as a refused password.
    pub fn wait_until_serving(
        &self,
        timeout: Duration,
        alive: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Status> {
        let until = Instant::now() + timeout;
        let mut last = "nothing listens there".to_owned();
        while Instant::now() < until {
            alive()?;
            // etcdctl waits for seconds for a listener that comes up within milliseconds.
            if self.is_listening() {
                let left = until.saturating_duration_since(Instant::now()).max(MIN_STATUS_TIMEOUT);
                match self.status_within(left) {
                    Ok(status) if status.has_leader => return Ok(status),
                    Ok(status) => last = format!("no leader {}", status.errors.join("; ")),
                    Err(error) if !may_be_temporary(&error) => return Err(error),
                    Err(error) => last = format!("{error:#}"),
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("etcd did not serve at {} within {} s: {last}", self.endpoint, timeout.as_secs())
    }

    /// Whether something listens at the endpoint. etcdctl would wait for its whole timeout to find that out.
    pub fn is_listening(&self) -> bool {
        if let Some(socket) = socket_path(&self.endpoint) {
            return UnixStream::connect(socket).is_ok();
        }
        let address = self.endpoint.split_once("://").map_or(&*self.endpoint, |(_, address)| address);
        match address.trim_end_matches('/').to_socket_addrs() {
            Ok(mut addresses) => {
                addresses.any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
            }
            // etcdctl reports the problem with the address.
            Err(_) => true,
        }
    }

    /// Returns the id of the member at each of these endpoints that answers.
    pub(super) fn member_ids(&self, endpoints: &[&str]) -> Result<Vec<(String, u64)>> {
        let program = self.program().env("ETCDCTL_ENDPOINTS", endpoints.join(","));
        let answers: Option<Vec<StatusAnswer>> = self
            .partial_answers(program.args(["endpoint", "status"]))
            .context("asking etcd's members for their ids")?;
        Ok(answers.into_iter().flatten().map(StatusAnswer::endpoint_and_member).collect())
    }

    /// Returns the answers of those endpoints that answer. If one of several does not, etcdctl fails, but prints the
    /// others' answers.
    pub(super) fn partial_answers<T: serde::de::DeserializeOwned>(&self, program: Program) -> Result<T> {
        let answer = program.args(["--write-out=json"]).run();
        let read = match answer {
            Ok(output) => output.json(),
            Err(error) => serde_json::from_str(&error.stdout).map_err(|_| error),
        };
        read.map_err(|error| self.diagnose(error))
    }

    /// Returns the members of the cluster, also those that have not started yet.
    ///
    /// # Errors
    /// The member does not answer.
    pub fn members(&self) -> Result<Vec<Member>> {
        let answer: MembersAnswer = self.ask(&["member", "list"]).context("asking etcd for its members")?;
        Ok(answer.members)
    }

    /// Returns the hash over all keys and values up to `revision`. etcd blocks writes until it is done.
    ///
    /// # Errors
    /// The member does not answer, or `revision` is compacted.
    pub fn content_hash(&self, revision: i64) -> Result<ContentHash> {
        let refused = match self.hash(revision) {
            Err(error) if is_compacted(&error) => error,
            answer => return Ok(answer?.hash),
        };
        // 3.4 refuses the revision at which it was compacted (`mvcc/kvstore.go` `HashByRev`), but not the current one.
        match self.hash(0) {
            Ok(now) if now.header.revision == revision => Ok(now.hash),
            _ => Err(refused),
        }
    }

    /// Returns the hash up to `revision`; 0 is the current one.
    fn hash(&self, revision: i64) -> Result<HashBody> {
        let rev = format!("--rev={revision}");
        let answer: Vec<HashAnswer> =
            self.ask(&["endpoint", "hashkv", &rev]).context("asking etcd for its content hash")?;
        answer.into_iter().next().map(|one| one.hash_kv).context("etcd gave no content hash")
    }

    /// Reads one key through the leader, as `endpoint health` does. The key need not exist.
    ///
    /// # Errors
    /// The member does not answer, or has no leader.
    pub fn linearizable_read(&self) -> Result<()> {
        let _: RangeAnswer =
            self.ask(&["get", "health", "--keys-only"]).context("reading a key through etcd's leader")?;
        Ok(())
    }

    /// Checks without a login that the member serves. The leader confirms a read before the member refuses it because
    /// the user is missing (`etcdserver/v3_server.go` `Range`).
    ///
    /// # Errors
    /// It does not answer, or has no leader.
    pub fn check_serving_without_login(&self) -> Result<()> {
        let anonymous = Self { login: None, ..self.clone() };
        match anonymous.linearizable_read() {
            Err(error) if is_auth_failure(&error) => Ok(()),
            answer => answer,
        }
    }

    /// Returns the number of keys at `revision`; 0 is the current one. This is a linearizable read, so the cluster has
    /// a leader.
    ///
    /// # Errors
    /// The member does not answer, or has no leader, or `revision` is compacted.
    pub fn count_keys(&self, revision: i64) -> Result<u64> {
        let rev = format!("--rev={revision}");
        // `--count-only` works only with `--write-out=fields`. The JSON of a range has the whole count regardless of
        // its limit.
        let answer: RangeAnswer = self
            .ask(&["get", "", "--from-key", "--keys-only", "--limit=1", &rev])
            .context("asking etcd for its number of keys")?;
        Ok(answer.count)
    }

    /// Saves a snapshot as the file `name` in `dir`, and notifies the readers of `writing` when it is complete.
    /// `expected` is the approximate size in bytes. `watch` is called with the number of bytes so far.
    ///
    /// # Errors
    /// No byte arrived for 30 s (a transfer that makes progress has no other time limit), or `watch` returned an error,
    /// or etcdctl failed.
    pub fn save(
        &self,
        dir: &Dir,
        name: &str,
        expected: u64,
        writing: &GrowthSender,
        watch: &mut dyn FnMut(u64) -> Result<(), String>,
    ) -> Result<()> {
        let part = partial_name(name);
        let mut seen = (0, Duration::ZERO);
        let mut watch = |passed: Duration| {
            let size = std::fs::metadata(dir.handle(&part)).map_or(seen.0, |metadata| metadata.len());
            if size != seen.0 {
                seen = (size, passed);
            }
            watch(size)?;
            // After the last byte, etcdctl syncs the file.
            let timeout = if size >= expected {
                STALL_TIMEOUT.max(timeouts::for_database(size))
            } else {
                STALL_TIMEOUT
            };
            if passed.saturating_sub(seen.1) < timeout {
                return Ok(());
            }
            Err(format!("stalled (no bytes for {} s after {size} bytes)", timeout.as_secs()))
        };
        self.program()
            .cwd(fd_path(dir))
            .env("GOGC", GOGC)
            .env("GOMAXPROCS", priority::half_the_cores().to_string())
            // Otherwise it preempts etcd with every frame: 3.6 s instead of 2.9, and etcd 4.8 s instead of 4.3.
            .batch_scheduled()
            // Our session has a lower priority meanwhile. On a busy machine, etcd's stream would be open longer.
            .own_session()
            .args(["snapshot", "save", name])
            .start()
            .and_then(|running| running.finish(Duration::MAX, &mut watch))
            .map_err(|error| diagnose(error, &self.query(true)))
            .context("saving a snapshot")?;
        let saved = dir.read(name).context("etcdctl succeeded but saved no snapshot")?;
        writing.end(saved.metadata().context("measuring the snapshot")?.len());
        Ok(())
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let (timeout, command_timeout) = timeouts_of(words);
        self.ask_within(timeout, command_timeout, words)
    }

    /// Asks with a time limit, and one after which etcdctl gives up by itself.
    fn ask_within<T: serde::de::DeserializeOwned>(
        &self,
        deadline: Duration,
        command_timeout: Duration,
        words: &[&str],
    ) -> Result<T> {
        let asked = || {
            let command = self.program().args(words).args(["--write-out=json"]);
            let limit = format!("{}ms", command_timeout.as_millis());
            let running = command.env("ETCDCTL_COMMAND_TIMEOUT", limit).start()?;
            running.finish(deadline, &mut self.while_it_listens()).and_then(|output| output.json())
        };
        // etcdctl may end before its connection has reported why it fails.
        let answer = asked().or_else(|error| if is_vague(&error) { asked() } else { Err(error) });
        answer.map_err(|error| self.diagnose(without_keys(error, words)))
    }

    /// Returns a check that ends a query if etcd no longer listens. etcdctl would wait for its whole timeout, which is
    /// long for some queries.
    fn while_it_listens(&self) -> impl FnMut(Duration) -> Result<(), String> {
        let (mut next, mut was_refused) = (PROBE_INTERVAL, false);
        move |passed| {
            if passed < next {
                return Ok(());
            }
            next = passed + PROBE_INTERVAL;
            match (self.is_listening(), was_refused) {
                (false, true) => Err(format!("given up: nothing listens at {} any more", self.endpoint)),
                (listens, _) => {
                    was_refused = !listens;
                    Ok(())
                }
            }
        }
    }

    pub(super) fn diagnose(&self, error: ProcessError) -> anyhow::Error {
        diagnose(error, &self.query(false))
    }

    fn query(&self, is_snapshot: bool) -> Query<'_> {
        Query {
            endpoint: &self.endpoint,
            shows_certificate: self.tls.cert.is_some(),
            is_snapshot,
            certificate_problems: &self.certificate_problems,
        }
    }

    pub(super) fn program(&self) -> Program {
        let mut program = Program::new(&self.etcdctl).env("ETCDCTL_ENDPOINTS", &self.endpoint);
        let files = [
            ("ETCDCTL_CACERT", &self.tls.cacert),
            ("ETCDCTL_CERT", &self.tls.cert),
            ("ETCDCTL_KEY", &self.tls.key),
        ];
        for (name, path) in files {
            if let Some(path) = path {
                program = program.env(name, path);
            }
        }
        if let Some(login) = &self.login {
            program = program
                .env("ETCDCTL_USER", &login.user)
                .env("ETCDCTL_PASSWORD", login.password.reveal())
                .env("ETCDCTL_DIAL_TIMEOUT", format!("{}s", DEFAULT_COMMAND_TIMEOUT.as_secs()));
        }
        program
    }
}

/// Returns the time limit of a query, and the one after which etcdctl gives up.
fn timeouts_of(words: &[&str]) -> (Duration, Duration) {
    let seconds = Duration::from_secs;
    match words {
        // The default is too short for the hash of a large database on a busy disk.
        ["endpoint", "hashkv", ..] => (seconds(310), seconds(300)),
        // Counting millions of keys takes long on a busy disk. `status`, which comes first, detects a dead member sooner.
        ["get", ..] => (seconds(70), seconds(60)),
        _ => (QUERY_TIMEOUT, DEFAULT_COMMAND_TIMEOUT),
    }
}

/// Removes etcdctl's output from the error of a query for keys: the name of a Secret does not belong in a log.
fn without_keys(mut error: ProcessError, words: &[&str]) -> ProcessError {
    if let ["get", ..] = words {
        error.stdout.clear();
    }
    error
}

/// Returns whether etcd reported that the revision of a query is compacted.
pub fn is_compacted(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("required revision has been compacted")
}

/// Returns whether the error of a member that is starting may be temporary.
fn may_be_temporary(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    ["deadline", "connection", "Unavailable", "leader"].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::service::Service;
    use crate::etcd::site::tests::site;
    use std::net::TcpListener;
    use std::path::Path;

    #[test]
    fn gives_up_a_query_if_nothing_listens_any_more() {
        let mut site = site(Path::new("/d"), Service::Unknown { pid: 1 });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        site.endpoint.value = format!("http://{}", listener.local_addr().unwrap());
        let client = Client::new(&site);
        let mut watch = client.while_it_listens();
        let mut at = |second| watch(Duration::from_secs(second));
        assert_eq!((at(1), at(5), at(10), at(15)), (Ok(()), Ok(()), Ok(()), Ok(())));
        let address = listener.local_addr().unwrap();
        drop(listener);
        // A child that another test has just forked keeps the socket open until it executes its program.
        while TcpStream::connect(address).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The first time may be a restart.
        assert_eq!((at(20), at(21)), (Ok(()), Ok(())));
        assert!(at(25).unwrap_err().contains("nothing listens at http://127.0.0.1:"));
    }
}
