//! A member that serves, asked through `etcdctl`: status, members, content hash, snapshot.
//!
//! Answers are read as JSON, never as columns. Certificates and passwords go by environment, never by argument, and
//! the environment of a child is built from nothing: an `ETCDCTL_*` of the caller's can neither leak in nor clash
//! (etcdctl dies when a flag and its variable are both set).

mod answers;

#[cfg(feature = "fuzz")]
pub(crate) use answers::read_as_all_answers;
pub use answers::{ContentHash, Status};

use super::certificates::CertificateProblems;
use super::diagnose::{Asked, explained, is_auth_failure, is_vague};
use super::incoming::partial_name;
use super::member::Member;
use super::site::{Login, Site};
use super::timeouts;
use super::tls::Tls;
use crate::system::durable::Dir;
use crate::system::growing_file::GrowthSender;
use crate::system::priority;
use crate::system::process::{ProcessError, Program, fd_path};
use answers::{HashAnswer, HashBody, MembersAnswer, RangeAnswer, StatusAnswer};
use anyhow::{Context, Result, bail};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often it is looked whether etcd still listens, while an answer is waited for; after two times that nothing does,
/// nobody waits.
const PROBE: Duration = Duration::from_secs(5);

/// A transfer that wrote nothing for this long has stalled. etcdctl's own keepalive finds a vanished member within
/// 6 s, but waits for ever for one that is alive and silent.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// What an answer may take that costs etcd nothing. etcdctl itself gives up after 5 s.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(15);
/// etcdctl is a Go program that holds a few MiB while it saves, and so collects its garbage every few MiB that arrive, on
/// all cores at once. Collecting at five times what it holds, and on etcd's half of the cores, it takes 3.6 s of processor
/// time for 1.4 GB instead of 5.9, and 70 MiB of memory instead of 45; etcd 4.8 s instead of 6 (3.5.16, two cores, measured).
const GOGC: &str = "400";

/// A client of one member.
#[derive(Debug, Clone)]
pub struct Client {
    etcdctl: PathBuf,
    endpoint: String,
    tls: Tls,
    trouble: CertificateProblems,
    login: Option<Login>,
}

impl Client {
    /// A client of the site's member.
    pub fn new(site: &Site) -> Self {
        Self {
            etcdctl: site.tools.etcdctl.clone(),
            endpoint: site.endpoint.value.clone(),
            tls: site.tls.value.clone(),
            trouble: site.certificate_problems.clone(),
            login: site.login.clone(),
        }
    }

    /// What the member says of itself.
    pub fn status(&self) -> Result<Status> {
        let answer: Vec<StatusAnswer> =
            self.ask(&["endpoint", "status"]).context("asking etcd for its status")?;
        match <[StatusAnswer; 1]>::try_from(answer) {
            Ok([one]) => Ok(one.into()),
            Err(all) => bail!("asking etcd for its status: {} members answered instead of one", all.len()),
        }
    }

    /// Waits until the member answers and has a leader. `alive` is asked before every try and ends the waiting when
    /// it fails; so does an answer that no waiting will change, such as one about a password.
    pub fn wait_until_serving(
        &self,
        patience: Duration,
        alive: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Status> {
        let until = Instant::now() + patience;
        let mut last = "nothing listens there".to_owned();
        while Instant::now() < until {
            alive()?;
            // etcdctl would wait for seconds for a listener that comes up within milliseconds.
            if self.is_listening() {
                match self.status() {
                    Ok(status) if status.has_leader => return Ok(status),
                    Ok(status) => last = format!("no leader {}", status.errors.join("; ")),
                    Err(error) if !may_pass(&error) => return Err(error),
                    Err(error) => last = format!("{error:#}"),
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("etcd did not serve at {} within {} s: {last}", self.endpoint, patience.as_secs())
    }

    fn is_listening(&self) -> bool {
        let address = self.endpoint.split_once("://").map_or(&*self.endpoint, |(_, address)| address);
        match address.trim_end_matches('/').to_socket_addrs() {
            Ok(mut addresses) => {
                addresses.any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
            }
            // Not for us to judge: etcdctl will say what is wrong with it.
            Err(_) => true,
        }
    }

    /// The members behind these endpoints, as far as they answer: which endpoint, and whose id.
    pub(super) fn member_ids(&self, endpoints: &[&str]) -> Result<Vec<(String, u64)>> {
        let program = self.program().env("ETCDCTL_ENDPOINTS", endpoints.join(","));
        let answers: Option<Vec<StatusAnswer>> = self
            .even_of_some(program.args(["endpoint", "status"]))
            .context("asking etcd's members for their ids")?;
        Ok(answers.into_iter().flatten().map(StatusAnswer::whose).collect())
    }

    /// What those of several endpoints say that answer well: where one does not, etcdctl fails and answers all the same.
    pub(super) fn even_of_some<T: serde::de::DeserializeOwned>(&self, program: Program) -> Result<T> {
        let answer = program.args(["--write-out=json"]).run();
        let read = match answer {
            Ok(output) => output.json(),
            Err(error) => serde_json::from_str(&error.stdout).map_err(|_| error),
        };
        Ok(read.map_err(|error| self.explained(error))?)
    }

    /// The members of its cluster, started or not.
    pub fn members(&self) -> Result<Vec<Member>> {
        let answer: MembersAnswer = self.ask(&["member", "list"]).context("asking etcd for its members")?;
        Ok(answer.members)
    }

    /// The hash over all keys and values up to `revision`. Nobody can write meanwhile.
    pub fn content_hash(&self, revision: i64) -> Result<ContentHash> {
        let refused = match self.hash(revision) {
            Err(error) if is_compacted(&error) => error,
            answer => return Ok(answer?.hash),
        };
        // 3.4 refuses the very revision that it is compacted at (`mvcc/kvstore.go` `HashByRev`), but not to hash what is now.
        match self.hash(0) {
            Ok(now) if now.header.revision == revision => Ok(now.hash),
            _ => Err(refused),
        }
    }

    /// The hash up to `revision` (0: now).
    fn hash(&self, revision: i64) -> Result<HashBody> {
        let rev = format!("--rev={revision}");
        let answer: Vec<HashAnswer> =
            self.ask(&["endpoint", "hashkv", &rev]).context("asking etcd for its content hash")?;
        answer.into_iter().next().map(|one| one.hash_kv).context("etcd gave no content hash")
    }

    /// A read that goes through the leader, of one key that need not be there: what `endpoint health` does.
    pub fn linearizable_read(&self) -> Result<()> {
        let _: RangeAnswer =
            self.ask(&["get", "health", "--keys-only"]).context("reading a key through etcd's leader")?;
        Ok(())
    }

    /// Checks without a login that the member serves: its leader has confirmed a read before the member refuses it for want of a
    /// user (`etcdserver/v3_server.go` `Range`).
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

    /// The number of keys alive at `revision` (0: now). A linearizable read: it shows that the cluster has a leader.
    pub fn count_keys(&self, revision: i64) -> Result<u64> {
        let rev = format!("--rev={revision}");
        // `--count-only` prints only as `fields`; a range's JSON carries the whole count whatever its limit.
        let answer: RangeAnswer = self
            .ask(&["get", "", "--from-key", "--keys-only", "--limit=1", &rev])
            .context("asking etcd for its number of keys")?;
        Ok(answer.count)
    }

    /// Saves a snapshot as the file `name` in `dir`, and tells its followers when it is whole. Fails when no byte arrives
    /// for 30 s; a transfer that moves may take as long as it takes. `expected` is about how many bytes it will have;
    /// `watch` hears how many there are, and ends the transfer by an error.
    pub fn save(
        &self,
        dir: &Dir,
        name: &str,
        expected: u64,
        writing: GrowthSender,
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
            // When all is there, etcdctl makes it durable, which no byte shows.
            let patience = if size >= expected {
                STALL_TIMEOUT.max(timeouts::for_database(size))
            } else {
                STALL_TIMEOUT
            };
            if passed.saturating_sub(seen.1) < patience {
                return Ok(());
            }
            Err(format!("stalled (no bytes for {} s after {size} bytes)", patience.as_secs()))
        };
        self.program()
            .cwd(fd_path(dir))
            .env("GOGC", GOGC)
            .env("GOMAXPROCS", priority::half_the_cores().to_string())
            // So that etcd need not make way for it with every frame: 2.9 s instead of 3.6, and etcd 4.3 s instead of 4.8.
            .batch_scheduled()
            .args(["snapshot", "save", name])
            .start()
            .and_then(|running| running.finish(Duration::MAX, &mut watch))
            .map_err(|error| explained(error, &self.asked(true)))
            .context("saving a snapshot")?;
        let saved = dir.read(name).context("etcdctl succeeded but saved no snapshot")?;
        writing.end(saved.metadata().context("measuring the snapshot")?.len());
        Ok(())
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let asked = || {
            let (question, deadline) = self.question(words);
            let running = question.start()?;
            running.finish(deadline, &mut self.while_it_listens()).and_then(|output| output.json())
        };
        // etcdctl may end before its connection has told it why it fails.
        let answer = asked().or_else(|error| if is_vague(&error) { asked() } else { Err(error) });
        Ok(answer.map_err(|error| self.explained(without_keys(error, words)))?)
    }

    /// Ends a question that nobody can answer any more: etcdctl would wait for its whole time, which is long for some.
    fn while_it_listens(&self) -> impl FnMut(Duration) -> Result<(), String> {
        let (mut next, mut deaf) = (PROBE, false);
        move |passed| {
            if passed < next {
                return Ok(());
            }
            next = passed + PROBE;
            match (self.is_listening(), deaf) {
                (false, true) => Err(format!("given up: nothing listens at {} any more", self.endpoint)),
                (listens, _) => {
                    deaf = !listens;
                    Ok(())
                }
            }
        }
    }

    /// What etcdctl is asked with, and how long it may take.
    fn question(&self, words: &[&str]) -> (Program, Duration) {
        let program = self.program().args(words).args(["--write-out=json"]);
        // The default of 5 s is short for the hash of a large database on a busy disk.
        match words {
            ["endpoint", "hashkv", ..] => {
                (program.env("ETCDCTL_COMMAND_TIMEOUT", "300s"), Duration::from_secs(310))
            }
            // Counting millions of keys on a busy disk; `status`, which is asked first, finds a dead member sooner.
            ["get", ..] => (program.env("ETCDCTL_COMMAND_TIMEOUT", "60s"), Duration::from_secs(70)),
            _ => (program, QUERY_TIMEOUT),
        }
    }

    pub(super) fn explained(&self, error: ProcessError) -> ProcessError {
        explained(error, &self.asked(false))
    }

    fn asked(&self, saves: bool) -> Asked<'_> {
        let shows_certificate = self.tls.cert.is_some();
        Asked { endpoint: &self.endpoint, shows_certificate, saves, trouble: &self.trouble }
    }

    pub(super) fn program(&self) -> Program {
        let mut program =
            Program::new(&self.etcdctl).env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", &self.endpoint);
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
            program =
                program.env("ETCDCTL_USER", &login.user).env("ETCDCTL_PASSWORD", login.password.reveal());
        }
        program
    }
}

/// An error without what etcdctl had answered by then, where that tells keys: of a Secret's, the name is not for a log.
fn without_keys(mut error: ProcessError, words: &[&str]) -> ProcessError {
    if let ["get", ..] = words {
        error.stdout.clear();
    }
    error
}

/// Whether an error says that the revision asked for is compacted away.
pub fn is_compacted(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("required revision has been compacted")
}

/// Whether an error of a member that is just starting may pass by itself.
fn may_pass(error: &anyhow::Error) -> bool {
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
    fn a_question_that_nobody_can_answer_any_more_is_given_up() {
        let mut site = site(Path::new("/d"), Service::Unknown { pid: 1 });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        site.endpoint.value = format!("http://{}", listener.local_addr().unwrap());
        let client = Client::new(&site);
        let mut watch = client.while_it_listens();
        let mut at = |second| watch(Duration::from_secs(second));
        assert_eq!((at(1), at(5), at(10), at(15)), (Ok(()), Ok(()), Ok(()), Ok(())));
        let address = listener.local_addr().unwrap();
        drop(listener);
        // A child that another test has just forked holds the socket until it executes its program.
        while TcpStream::connect(address).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Once may be a restart.
        assert_eq!((at(20), at(21)), (Ok(()), Ok(())));
        assert!(at(25).unwrap_err().contains("nothing listens at http://127.0.0.1:"));
    }
}
