//! A bucket for tests: a real server, which no one here wrote, and between it and us a fake for faults alone.
#![allow(clippy::print_stdout, reason = "a test says what a server cannot do")]

pub mod proxy;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The secret half of the access key. It must turn up nowhere.
pub const SECRET: &str = "canary-s3-secret-0123456789abcdefghijkl";

/// The variable that says which server: moto without it. `cargo xtask buckets` sets it.
const WHICH: &str = "S3_SERVER";

/// A server of one test. It ends with it.
pub struct Server {
    child: Child,
    /// Its port on loopback.
    pub port: u16,
    /// The id of the access key.
    pub access_key: String,
    /// The id of a role's, whose secret is the same and whose token is `canary-token`.
    pub role_key: String,
    /// What it was filled with; s3s-fs works on it.
    _root: tempfile::TempDir,
}

/// What not every server can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Can {
    /// Speak TLS.
    Tls,
    /// Keep versions of objects, and lock them.
    Lock,
    /// Tell sessions from plain keys by their token.
    Sessions,
    /// Look at the time of a request.
    Clock,
    /// Say that there is no such bucket.
    MissBuckets,
    /// Answer that an object is encrypted.
    Encrypt,
}

impl Can {
    /// Whether the server of this run can do it. Where not, the test says so, and `cargo xtask buckets` shows it.
    pub fn be_tried(self) -> bool {
        let lack = match (self, is_s3s()) {
            (Self::Tls, true) => "s3s-fs speaks no TLS",
            (Self::Lock, true) => "s3s-fs has no object lock",
            (Self::Sessions, true) => "s3s-fs knows no sessions",
            (Self::MissBuckets, true) => "s3s-fs makes a bucket that is missing",
            (Self::Encrypt, true) => "s3s-fs ignores encryption",
            (Self::Clock, false) => "moto does not look at the time of a request",
            _ => return true,
        };
        println!("cannot: {lack}");
        false
    }
}

/// Whether it is s3s-fs, which compares a body with its hash, where moto does not.
pub fn is_s3s() -> bool {
    match std::env::var(WHICH).as_deref() {
        Err(_) | Ok("moto") => false,
        Ok("s3s") => true,
        Ok(other) => panic!("{WHICH}={other}: moto or s3s"),
    }
}

impl Server {
    /// A server with these buckets.
    pub fn new(buckets: &[&str]) -> Self {
        Self::filled(buckets, &|_| {})
    }

    /// The same, with objects in them: `fill` puts files into the directory whose directories are the buckets.
    pub fn filled(buckets: &[&str], fill: &dyn Fn(&Path)) -> Self {
        Self::start("", "", buckets, fill)
    }

    /// A server behind TLS.
    pub fn with_tls(certificate: &Path, key: &Path, buckets: &[&str]) -> Self {
        Self::start(certificate.to_str().unwrap(), key.to_str().unwrap(), buckets, &|_| {})
    }

    fn start(certificate: &str, key: &str, buckets: &[&str], fill: &dyn Fn(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        for bucket in buckets {
            std::fs::create_dir(root.path().join(bucket)).unwrap();
        }
        fill(root.path());
        let mut child = if is_s3s() { s3s(root.path()) } else { moto(certificate, key, root.path()) };
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let words = lines.find_map(|line| started(&line.unwrap()));
        let (port, access_key, role_key) =
            words.unwrap_or_else(|| panic!("the server does not start; its words are above"));
        Self { child, port, access_key, role_key, _root: root }
    }

    /// The keys of all versions in a bucket of moto's, and of all delete markers.
    pub fn versions(&mut self, bucket: &str) -> (Vec<String>, Vec<String>) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{bucket}").unwrap();
        let mut line = String::new();
        while !line.ends_with('\n') {
            let mut byte = [0];
            self.child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
            line.push(char::from(byte[0]));
        }
        let all: serde_json::Value = serde_json::from_str(&line).unwrap();
        let of = |kind: &str| {
            let keys = all[kind].as_array().unwrap().iter();
            keys.map(|key| key.as_str().unwrap().to_owned()).collect()
        };
        (of("versions"), of("markers"))
    }

    /// A credentials file for it, written to `path`.
    pub fn write_credentials(&self, path: &Path) {
        write_credentials(path, &self.access_key, SECRET);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn moto(certificate: &str, key: &str, root: &Path) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/common/s3/s3_server.py");
    let mut command = Command::new(python());
    command.arg("-I").arg(script).args([SECRET, certificate, key]).arg(root);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// The server s3s-fs, from where `cargo xtask buckets` put it.
fn s3s(root: &Path) -> Child {
    let program = std::env::var_os("S3S_BIN");
    assert!(program.is_some(), "S3S_BIN names s3s-fs: cargo xtask buckets sets it");
    let mut command = Command::new(program.unwrap_or_default());
    command.args(["--host=127.0.0.1", "--port=0", "--access-key=AKIAS3STESTS", "--secret-key", SECRET]);
    command.args(["--domain=s3.us-east-1.amazonaws.com", "--domain=127.0.0.1"]).arg(root);
    command.env("RUST_LOG", "s3s_fs=info").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Port and access keys, out of a line that a server begins with: moto's own, or s3s-fs' log.
fn started(line: &str) -> Option<(u16, String, String)> {
    if let Some((_, port)) = line.split_once("server is running at http://127.0.0.1:") {
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();
        return Some((port.parse().unwrap(), "AKIAS3STESTS".to_owned(), "AKIAS3STESTS".to_owned()));
    }
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        [port, access_key, role_key] => {
            Some((port.parse().ok()?, access_key.to_owned(), role_key.to_owned()))
        }
        _ => None,
    }
}

/// A credentials file as Amazon's tools have it.
pub fn write_credentials(path: &Path, access_key: &str, secret: &str) {
    use std::os::unix::fs::PermissionsExt;
    let text = format!("[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret}\n");
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The Python that has moto.
fn python() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/s3/moto");
    let home = std::env::var_os("MOTO_HOME").map_or(fetched, PathBuf::from);
    let python = home.join("bin/python");
    assert!(python.exists(), "moto is missing: run cargo xtask test");
    python
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It never reaches the server, which seems to say this: status, code, and further header lines.
    Answer(u16, &'static str, &'static str),
    /// The connection breaks after so many bytes of the request's body.
    CutRequest(usize),
    /// The server gets it, and the answer never arrives.
    LoseAnswer,
    /// The connection breaks after so many bytes of the answer.
    CutAnswer(usize),
    /// The last byte of the request is another when it arrives.
    FlipRequest,
    /// The last byte of the answer is another.
    FlipAnswer,
    /// The answer arrives without the headers whose names begin so.
    DropHeader(&'static str),
    /// So many bytes a second, both ways.
    Slow(usize),
    /// So many milliseconds until it arrives: a server far away.
    Late(u64),
}

#[derive(Default)]
struct State {
    faults: Vec<(&'static str, &'static str, Fault, usize)>,
    seen: Vec<String>,
    /// How many are late now, and the most at a time.
    late: (usize, usize),
}

/// A fake that stands before a real server, passes everything on, and makes faults where a test says so.
pub struct Faults {
    /// Its port on loopback.
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl Faults {
    /// Stands before the server on `to`.
    pub fn before(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || pass(client, to, &shared));
            }
        });
        Self { port, state }
    }

    /// The next `times` requests with this method and this in their head suffer this.
    pub fn make(&self, method: &'static str, holds: &'static str, fault: Fault, times: usize) {
        self.state.lock().unwrap().faults.push((method, holds, fault, times));
    }

    /// No more faults.
    pub fn none(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// How many requests were late at the same time, at the most.
    pub fn most_late_at_once(&self) -> usize {
        self.state.lock().unwrap().late.1
    }

    /// The heads of all requests so far that begin with `method` and hold `text`.
    pub fn seen(&self, method: &str, text: &str) -> Vec<String> {
        let seen = &self.state.lock().unwrap().seen;
        seen.iter().filter(|head| head.starts_with(method) && head.contains(text)).cloned().collect()
    }
}

/// One more or one less of the requests that are late.
fn late(state: &Mutex<State>, change: isize) {
    let mut state = state.lock().unwrap();
    let now = state.late.0.checked_add_signed(change).unwrap();
    state.late = (now, state.late.1.max(now));
}

impl State {
    fn fault_of(&mut self, head: &str) -> Option<Fault> {
        let fits = |(method, holds, _, left): &&mut (&str, &str, Fault, usize)| {
            *left > 0 && head.starts_with(*method) && head.contains(*holds)
        };
        let (_, _, fault, left) = self.faults.iter_mut().find(fits)?;
        *left -= 1;
        Some(fault.clone())
    }
}

/// Passes one request on; the connection ends with it.
fn pass(client: TcpStream, to: u16, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let fault = {
        let mut state = state.lock().unwrap();
        state.seen.push(head.clone());
        state.fault_of(&head)
    };
    let length = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    match &fault {
        Some(Fault::CutRequest(bytes)) => {
            let bytes = (*bytes).min(body.len());
            reader.read_exact(&mut body[..bytes]).ok()?;
            return client.shutdown(Shutdown::Both).ok();
        }
        Some(Fault::Slow(rate)) => read_slowly(&mut reader, &mut body, *rate)?,
        Some(Fault::Late(millis)) => {
            late(state, 1);
            thread::sleep(Duration::from_millis(*millis));
            late(state, -1);
            reader.read_exact(&mut body).ok()?;
        }
        _ => reader.read_exact(&mut body).ok()?,
    }
    if let Some(Fault::FlipRequest) = &fault {
        *body.last_mut()? ^= 1;
    }
    let answer = match &fault {
        Some(Fault::Answer(status, code, more)) => told(*status, code, more),
        _ => ask(to, &head, &body)?,
    };
    give(client, answer, fault)
}

fn read_slowly(from: &mut impl Read, body: &mut [u8], rate: usize) -> Option<()> {
    for chunk in body.chunks_mut((rate / 20).max(1)) {
        from.read_exact(chunk).ok()?;
        thread::sleep(Duration::from_millis(50));
    }
    Some(())
}

fn told(status: u16, code: &str, more: &str) -> Vec<u8> {
    let body = format!(
        "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>the words for it</Message>\
         <RequestId>REQUEST7</RequestId></Error>"
    );
    format!("HTTP/1.1 {status} No\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n{body}", body.len())
        .into()
}

fn ask(to: u16, head: &str, body: &[u8]) -> Option<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", to)).ok()?;
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes()).ok()?;
    server.write_all(body).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    Some(answer)
}

fn without_header(answer: &[u8], name: &str) -> Option<Vec<u8>> {
    let end = answer.windows(4).position(|at| at == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let stays = |line: &&str| !line.to_lowercase().starts_with(name);
    let head = head.split("\r\n").filter(stays).collect::<Vec<_>>().join("\r\n");
    Some([head.as_bytes(), &answer[end..]].concat())
}

fn give(mut client: TcpStream, mut answer: Vec<u8>, fault: Option<Fault>) -> Option<()> {
    match fault {
        Some(Fault::LoseAnswer) => answer.clear(),
        Some(Fault::CutAnswer(bytes)) => answer.truncate(bytes),
        Some(Fault::FlipAnswer) => *answer.last_mut()? ^= 1,
        Some(Fault::DropHeader(name)) => answer = without_header(&answer, name)?,
        Some(Fault::Slow(rate)) => {
            for chunk in answer.chunks((rate / 20).max(1)) {
                client.write_all(chunk).ok()?;
                thread::sleep(Duration::from_millis(50));
            }
            return client.shutdown(Shutdown::Both).ok();
        }
        _ => {}
    }
    client.write_all(&answer).ok()?;
    client.shutdown(Shutdown::Both).ok()
}

/// A fake of the metadata service of Amazon's machines, on loopback: version 2 of it, which wants a token first. Gives its
/// port.
pub fn metadata_service(access_key: &str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let role = format!(
        "{{\"Code\": \"Success\", \"AccessKeyId\": \"{access_key}\", \"SecretAccessKey\": \"{SECRET}\", \
         \"Token\": \"canary-token\", \"Expiration\": \"2099-01-01T00:00:00Z\"}}"
    );
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut reader = BufReader::new(client.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {}
            let has_token = head.contains("x-aws-ec2-metadata-token: the-token");
            let line = head.lines().next().unwrap_or_default();
            let (status, body) = match line.split(' ').nth(1).unwrap_or_default() {
                "/latest/api/token" if line.starts_with("PUT") => (200, "the-token"),
                "/latest/meta-data/iam/security-credentials/" if has_token => (200, "the-role"),
                "/latest/meta-data/iam/security-credentials/the-role" if has_token => (200, role.as_str()),
                _ => (401, ""),
            };
            let answer = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = (&client).write_all(answer.as_bytes());
        }
    });
    port
}
