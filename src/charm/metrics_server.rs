//! A server of the metrics of backups, for an observability agent on this machine. The charm installs it with the relation
//! `cos-agent`, because agents there read metrics by HTTP, and not from files as the node exporter does.
//!
//! Must never listen on any address but loopback, run as root, or serve any other file.

use super::etcd_config::HEADER;
use super::files::{open_or_create_dir, remove_if_exists, split_path, write_if_changed};
use super::hook::Hook;
use crate::commands::{CHARM_METRICS, environment, now};
use crate::schedule::metrics;
use crate::system::durable::{Dir, PUBLIC, RUNNABLE, read_small_file};
use crate::system::stderr;
use crate::system::systemd::{daemon_reload, is_in_effect, is_older, started_at, systemctl};
use anyhow::{Context, Result, bail, ensure};
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The directory of the administrator's systemd units.
const UNITS: &str = "/etc/systemd/system";
const UNIT: &str = "etcd-backup-metrics.service";
/// The path of the program in the charm: a link to the charm's only program.
const PROGRAM: &str = "bin/serve-metrics";
/// How long a client may take to send its request, and to take the answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a connection could not be accepted, as when no file descriptor is left.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest request. Those of Prometheus have less than 1 KiB.
const MAX_REQUEST: usize = 8 << 10;

/// Installs the server of the charm in `charm_dir`, which listens on `port` of loopback, and starts it. It also creates the
/// directory into which backups then write their metrics.
///
/// # Errors
/// If a file cannot be written, or systemd does not start the server.
pub fn install(charm_dir: &Path, port: u16, hook: Hook) -> Result<()> {
    let (parent, name) = split_path(Path::new(CHARM_METRICS))?;
    open_or_create_dir(parent)?.ensure_child(name, RUNNABLE, None)?;
    let program = charm_dir.join(PROGRAM);
    let program = program.to_str().context("the charm directory is not UTF-8")?;
    // Other characters have a meaning in units.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_".contains(c);
    ensure!(program.chars().all(is_plain), "the path {program} cannot be in a systemd unit");
    let has_changed = write_if_changed(&Dir::open(Path::new(UNITS))?, UNIT, &unit(program, port), PUBLIC)?;
    // An earlier hook may have been killed after it wrote the file.
    let is_ready = !has_changed && is_in_effect(UNIT)? && !has_old_process()?;
    if !is_ready {
        daemon_reload()?;
        systemctl(&["enable", "--quiet", "--", UNIT])?;
    }
    // An upgrade of the charm replaces the program.
    if !is_ready || hook == Hook::UpgradeCharm {
        systemctl(&["restart", "--", UNIT])?;
    }
    Ok(())
}

/// Whether the server was started before its unit was written.
fn has_old_process() -> Result<bool> {
    let written = Path::new(UNITS).join(UNIT).metadata()?.mtime();
    Ok(started_at(UNIT).is_none_or(|started| is_older(started, written, now())))
}

/// Removes the server and its directory, if they exist.
///
/// # Errors
/// If systemd does not stop the server, or a file cannot be removed.
pub fn remove() -> Result<()> {
    if Path::new(UNITS).join(UNIT).exists() {
        systemctl(&["disable", "--quiet", "--now", "--", UNIT])?;
        remove_if_exists(&Dir::open(Path::new(UNITS))?, UNIT)?;
        daemon_reload()?;
    }
    let directory = Path::new(CHARM_METRICS);
    if directory.exists() {
        let (parent, name) = split_path(directory)?;
        Dir::open(parent)?.remove_tree(name)?;
    }
    Ok(())
}

/// Returns the systemd unit. Its user has no rights: the metrics are readable by everyone.
fn unit(program: &str, port: u16) -> String {
    format!(
        "{HEADER}[Unit]\nDescription=Metrics of etcd backups, on loopback\n\n[Service]\nExecStart={program} {port}\n\
         DynamicUser=yes\nCapabilityBoundingSet=\nRestrictAddressFamilies=AF_INET\nRestart=always\nRestartSec=10\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

/// Serves the metrics on the port of loopback that the command line names, until it is ended.
pub fn serve_metrics() -> ExitCode {
    let Err(error) = serve_on_named_port();
    stderr::print(&format!("{error:#}"));
    ExitCode::FAILURE
}

fn serve_on_named_port() -> Result<Infallible> {
    let words = environment::words();
    let port = words.first().and_then(|word| word.to_str()?.parse::<u16>().ok());
    let (Some(port), 1) = (port, words.len()) else { bail!("usage: serve-metrics PORT") };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("listening on port {port} of loopback"))?;
    serve(&listener, &Path::new(CHARM_METRICS).join(metrics::FILE_NAME))
}

/// Answers one request after the other: an agent scrapes once a minute.
fn serve(listener: &TcpListener, file: &Path) -> ! {
    loop {
        match listener.accept() {
            // The client may go away at any time.
            Ok((stream, _)) => drop(answer(stream, file)),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn answer(mut stream: TcpStream, file: &Path) -> io::Result<()> {
    let request = read_request(&mut stream)?;
    let words: Vec<&str> = request.lines().next().unwrap_or_default().split(' ').collect();
    let (status, body) = match words[..] {
        ["GET", "/metrics", _] => match read_small_file(file) {
            Ok(text) => ("200 OK", text),
            // No backup has run yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => ("200 OK", Vec::new()),
            Err(_) => ("500 Internal Server Error", Vec::new()),
        },
        _ => ("404 Not Found", Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

/// Reads the request up to the empty line. A connection that is closed with unread bytes would be reset, and the answer lost.
fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let deadline = Instant::now() + TIMEOUT;
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() || request.len() > MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.set_read_timeout(Some(rest))?;
        let mut part = [0; 1024];
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => request.extend_from_slice(&part[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&request).into_owned())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not be durable")]
mod tests {
    use super::*;

    /// Returns what the server answers to these bytes.
    fn ask(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn serves_only_the_file_of_metrics() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("etcd_backup.prom");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = file.clone();
        std::thread::spawn(move || serve(&listener, &served));
        let scrape = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/plain\r\n\r\n";
        let empty = ask(port, scrape);
        assert!(empty.starts_with("HTTP/1.1 200 OK\r\n") && empty.ends_with("\r\n\r\n"), "{empty}");
        std::fs::write(&file, "etcd_backup_info 1\n").unwrap();
        let answer = ask(port, scrape);
        assert!(answer.contains("\r\nContent-Length: 19\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\netcd_backup_info 1\n"), "{answer}");
        for other in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET /etc/passwd HTTP/1.1\r\n\r\n",
            "GET /metrics/../../etc/passwd HTTP/1.1\r\n\r\n",
            "POST /metrics HTTP/1.1\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert!(ask(port, other).starts_with("HTTP/1.1 404 "), "{other}");
        }
    }

    #[test]
    fn gives_up_a_client_that_sends_no_request() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || serve(&listener, Path::new("/nowhere")));
        let _silent = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        // The next client is answered, after the time limit of the silent one.
        assert!(ask(port, "GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
    }
}
