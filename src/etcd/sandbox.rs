//! The private boot: starts etcd on a copy of a member's data without network or clients, and stops it again.
//!
//! It shows that this etcd starts on the data and applies its whole write-ahead log, the id of the cluster, and its
//! members. [`Backend`] then reads the content from the files of the copy. So the boot needs no login, certificate or
//! user of the data: etcd reports readiness on systemd's notification socket (`etcdmain/etcd.go` `notifySystemd`), and
//! lists its members to peers without authentication (`etcdhttp/peer.go`).
//!
//! Must never run on data that will go live: etcd expires leases, raises alarms and writes its own version into the
//! data. Must never listen on a port: another program on this machine could read every Secret from it. It has an empty
//! network namespace, so the copy of a member can never vote as that member.

use super::backend::Backend;
use super::incoming::partial_name;
use super::known_messages::recognize;
use super::member::Member;
use super::timeouts;
use super::tools::{UNSUPPORTED_ARCH, go_architecture};
use crate::system::durable::Dir;
use crate::system::growing_file::GrowthSender;
use crate::system::interrupt;
use crate::system::process::{Program, Running, fd_path};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// A single voter wins its first election. After this many elections without a winner, the cluster has other voters.
const MAX_ELECTIONS: usize = 4;
/// `:0` looks like a port and is part of the file name, because etcd allows no path in these URLs.
pub(super) const CLIENT_SOCKET: &str = "client.sock:0";
const PEER_SOCKET: &str = "peer.sock:0";
const NOTIFY_SOCKET: &str = "notify.sock";
/// How an operator can see the complete output of such an etcd.
const MANUAL_STEPS: &str = "restore the archive into an empty directory with etcdutl (etcdctl before 3.5) snapshot restore, and start \
                       etcd on that with --data-dir";
/// The interval at which the process is checked while waiting for readiness.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The timeout for etcd's list of members.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest valid list of members in bytes.
const MAX_RESPONSE: u64 = 1 << 20;

/// A copy of a member's data after etcd ran on it.
#[derive(Debug)]
pub struct BootedCopy {
    /// The version of the etcd that ran on it.
    pub version: String,
    /// The cluster id in the data.
    pub cluster_id: u64,
    /// The members of that cluster. The name and client URLs of the member itself are those of the private boot.
    pub members: Vec<Member>,
    /// Whether etcd elected itself and served. Otherwise its cluster has other voting members, and the database lacks
    /// the end of the write-ahead log.
    pub served: bool,
    home: Dir,
}

impl BootedCopy {
    /// Opens the database of the copy. It includes the whole write-ahead log if etcd [served](Self::served).
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn backend(&self) -> Result<Backend> {
        let database = self.home.child("member")?.child("snap")?;
        Backend::from_file(database.read("db")?, &database.path().join("db"))
    }

    /// Saves the copy as the snapshot `name` in `dir`. As with etcdctl, the file is `NAME.part` until it is synced.
    /// `watch` is called with the number of bytes written so far, and its error cancels the export.
    ///
    /// # Errors
    /// Fails if the copy cannot be read, `dir` cannot be written, or `watch` fails.
    pub fn save(
        &self,
        dir: &Dir,
        name: &str,
        writing: &GrowthSender,
        watch: &mut dyn FnMut(u64) -> Result<(), String>,
    ) -> Result<()> {
        let backend = self.backend()?;
        let mut file = dir.create(&partial_name(name))?;
        backend.export(&mut file, &mut |size| {
            interrupt::check()?;
            watch(size).map_err(anyhow::Error::msg)
        })?;
        file.sync_all().context("syncing the snapshot")?;
        ensure!(
            dir.rename_noreplace(dir, &partial_name(name), name)?,
            "{name} is already in {}",
            dir.path().display()
        );
        writing.end(backend.export_size());
        Ok(())
    }
}

/// Starts the program `etcd` on the data directory `home`, waits until it serves, and stops it.
///
/// # Errors
/// Fails if etcd does not start, ends early, or does not serve in time. The cause may be the program, the machine or
/// the data.
pub fn boot(etcd: &Path, home: Dir) -> Result<BootedCopy> {
    let (mut booted, mut stopped) = run_alone(etcd, &home)?;
    if stopped.is_err() {
        interrupt::check()?;
        // etcd 3.5.35 was seen to exit with status 1 after SIGTERM, once in our tests. Its last changes may be in the log
        // only, from which another start takes them.
        (booted, stopped) = run_alone(etcd, &home)?;
    }
    stopped?;
    let (version, cluster_id, members, served) = booted;
    Ok(BootedCopy { version, cluster_id, members, served, home })
}

/// Runs an etcd, without the sockets of earlier ones. The second result is that of its end.
fn run_alone(etcd: &Path, home: &Dir) -> Result<(BootResult, Result<()>)> {
    remove_sockets(home)?;
    let booted = run(etcd, home);
    let removed = remove_sockets(home);
    let booted = booted?;
    removed?;
    Ok(booted)
}

type BootResult = (String, u64, Vec<Member>, bool);

fn run(etcd: &Path, home: &Dir) -> Result<(BootResult, Result<()>)> {
    let notify = UnixDatagram::bind(home.handle(NOTIFY_SOCKET))
        .and_then(|socket| socket.set_read_timeout(Some(POLL_INTERVAL)).map(|()| socket))
        .context("opening a socket for a private etcd")?;
    let timeout = timeouts::for_database(
        std::fs::metadata(home.handle("member/snap/db")).map_or(0, |database| database.len()),
    );
    let mut running = start(etcd, home)?;
    let served = wait_until_ready(&mut running, &notify, timeout).context("booting a private etcd")?;
    let (header, members) = get(home, "/members")?;
    let cluster_id = header.context("a private etcd did not report its cluster")?;
    let members = serde_json::from_slice(&members).context("reading the members of a private etcd")?;
    let (_, version) = get(home, "/version")?;
    let VersionResponse { etcdserver } =
        serde_json::from_slice(&version).context("reading the version of a private etcd")?;
    // etcd writes its remaining changes when it terminates.
    let stopped = running.terminate(timeout).context("stopping a private etcd");
    Ok(((etcdserver, cluster_id, members, served), stopped))
}

/// The response of `/version` (`etcdhttp/version.go`).
#[derive(Deserialize)]
struct VersionResponse {
    etcdserver: String,
}

/// The data has a write-ahead log, so etcd takes the name, peers and cluster from there (`etcdserver/bootstrap.go`).
fn start(etcd: &Path, home: &Dir) -> Result<Running> {
    let program = Program::new(etcd).without_network().redact_output(recognize, MANUAL_STEPS);
    // The copy is temporary. Syncing it would write the whole database to the disk. Versions that do not know the variable
    // ignore it.
    let program = program.env("ETCD_UNSAFE_NO_FSYNC", "true").env(UNSUPPORTED_ARCH, go_architecture());
    let program = program.cwd(fd_path(home)).env("NOTIFY_SOCKET", NOTIFY_SOCKET).args([
        "--data-dir=.".to_owned(),
        format!("--listen-client-urls=unix://{CLIENT_SOCKET}"),
        format!("--listen-peer-urls=unix://{PEER_SOCKET}"),
        "--advertise-client-urls=http://localhost:2379".to_owned(),
        // Since 3.4.28 the gateway cannot reach a server on a unix socket, and etcd exits.
        "--enable-grpc-gateway=false".to_owned(),
        "--logger=zap".to_owned(),
        // A single member can elect itself at once.
        "--heartbeat-interval=10".to_owned(),
        "--election-timeout=50".to_owned(),
    ]);
    program.start().context("starting a private etcd")
}

/// Waits until etcd serves, and returns whether it does; `false` if it cannot elect itself.
fn wait_until_ready(running: &mut Running, notify: &UnixDatagram, timeout: Duration) -> Result<bool> {
    let until = Instant::now() + timeout;
    let mut message = [0; 256];
    while Instant::now() < until {
        interrupt::check()?;
        match notify.recv(&mut message) {
            Ok(length) if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") => {
                return Ok(true);
            }
            Ok(_) => {}
            Err(error)
                if [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted]
                    .contains(&error.kind()) => {}
            Err(error) => return Err(error).context("waiting for its readiness"),
        }
        running.check()?;
        if running.stderr_tail().matches("is starting a new election").count() > MAX_ELECTIONS {
            return Ok(false);
        }
    }
    bail!("it did not serve within {} s", timeout.as_secs())
}

/// Sends a peer request for `path`. Returns the cluster id and the body of the response.
fn get(home: &Dir, path: &str) -> Result<(Option<u64>, Vec<u8>)> {
    let response = || {
        let mut socket = UnixStream::connect(home.handle(PEER_SOCKET))?;
        socket.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        write!(socket, "GET {path} HTTP/1.0\r\n\r\n")?;
        // etcd 3.4 keeps the connection open for seconds after its response.
        read_response(&mut BufReader::new(socket.take(MAX_RESPONSE)))
    };
    response().with_context(|| format!("asking a private etcd for {path}"))
}

fn read_response(from: &mut dyn BufRead) -> Result<(Option<u64>, Vec<u8>)> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let status = line.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "200", "it answered with status {status:?}");
    let (mut length, mut cluster_id) = (None, None);
    loop {
        line.clear();
        ensure!(from.read_line(&mut line)? > 0, "its response ends early");
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse::<u64>().ok(),
            "x-etcd-cluster-id" => cluster_id = u64::from_str_radix(value.trim(), 16).ok(),
            _ => {}
        }
    }
    let length = length.filter(|length| *length <= MAX_RESPONSE).context("its response has no length")?;
    let mut body = vec![0; usize::try_from(length)?];
    from.read_exact(&mut body)?;
    Ok((cluster_id, body))
}

/// Reads bytes as the response of a private etcd, for the fuzzer.
#[cfg(feature = "fuzz")]
pub(crate) fn read_as_response(bytes: &[u8]) {
    if let Ok((_, body)) = read_response(&mut std::io::Cursor::new(bytes)) {
        let _ = serde_json::from_slice::<Vec<Member>>(&body);
        let _ = serde_json::from_slice::<VersionResponse>(&body);
    }
}

/// Removes the sockets: etcd 3.4 leaves its own, and a killed boot leaves all of them.
fn remove_sockets(home: &Dir) -> Result<()> {
    [CLIENT_SOCKET, PEER_SOCKET, NOTIFY_SOCKET].into_iter().try_for_each(|socket| home.remove_file(socket))
}

#[cfg(test)]
mod tests {
    use super::read_response;

    #[test]
    fn reads_an_answer_of_a_peer() {
        let text = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nX-Etcd-Cluster-Id: cdf818194e3a8c32\r\n\
                    Content-Length: 2\r\n\r\n[]and what another response would be";
        let (cluster_id, body) = read_response(&mut text.as_bytes()).unwrap();
        assert_eq!((cluster_id, &*body), (Some(0xcdf8_1819_4e3a_8c32), b"[]".as_slice()));
    }

    #[test]
    fn refuses_an_answer_that_is_not_one() {
        for (text, reason) in [
            ("", "status"),
            ("HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status \"404\""),
            ("HTTP/1.0 200 OK\r\nContent-Length: 9\r\n", "ends early"),
            ("HTTP/1.0 200 OK\r\n\r\n[]", "no length"),
            ("HTTP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n[]", "no length"),
        ] {
            let error = read_response(&mut text.as_bytes()).unwrap_err();
            assert!(format!("{error:#}").contains(reason), "{text:?}: {error:#}");
        }
    }
}
