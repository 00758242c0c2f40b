//! A bucket for tests: a real third-party S3 server, and a proxy before it that only injects faults.
#![allow(clippy::print_stdout, reason = "a test prints the features that a server lacks")]

pub mod proxy;

use crate::common::loopback::{Loopback, answer};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The secret of the access key. It must not appear in any output or file of the program.
pub const SECRET: &str = "canary-s3-secret-0123456789abcdefghijkl";

/// The environment variable that selects the server. The default is moto. `cargo xtask buckets` sets it.
const WHICH: &str = "S3_SERVER";

/// The server of a test. It is stopped when the value is dropped.
pub struct Server {
    child: Child,
    /// The port on the loopback address.
    pub port: u16,
    /// The id of the access key.
    pub access_key: String,
    /// The id of the access key of a role. It has the same secret, and the token `canary-token`.
    pub role_key: String,
    /// The directory of the initial objects. s3s-fs stores its objects there.
    _root: tempfile::TempDir,
}

/// A feature that not every server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Can {
    /// TLS.
    Tls,
    /// Versions of objects, and object lock.
    Lock,
    /// Session tokens.
    Sessions,
    /// Checks of the time of a request.
    Clock,
    /// Errors for missing buckets.
    MissBuckets,
    /// Response headers for encrypted objects.
    Encrypt,
    /// Requests for encrypted objects, which it may ignore.
    AskToEncrypt,
    /// Buckets that are addressed by host name.
    HostNames,
    /// Lists of unfinished uploads.
    ListUploads,
    /// Removes an object that differs from the checksum of its upload.
    RemoveAltered,
}

impl Can {
    /// Returns whether the server of this run has the feature. If not, prints that for `cargo xtask buckets`.
    pub fn is_supported(self) -> bool {
        let lack = match (self, Kind::of_this_run()) {
            (Self::Tls, Kind::S3s) => "s3s-fs has no TLS",
            (Self::Lock, Kind::S3s) => "s3s-fs has no object lock",
            (Self::Sessions, Kind::S3s) => "s3s-fs has no sessions",
            (Self::MissBuckets, Kind::S3s) => "s3s-fs creates a missing bucket",
            (Self::Encrypt, Kind::S3s) => "s3s-fs ignores encryption",
            (Self::ListUploads, Kind::S3s) => "s3s-fs does not list unfinished uploads",
            (Self::RemoveAltered, Kind::S3s) => "s3s-fs keeps an object that it refused for its checksum",
            (Self::Clock, Kind::Moto) => "moto ignores the time of a request",
            (Self::Encrypt, Kind::Versitygw) => "versitygw ignores encryption",
            (Self::HostNames, Kind::Versitygw) => "versitygw is set up without host names",
            (Self::Sessions, Kind::Versitygw) => "versitygw has no sessions",
            (Self::HostNames, Kind::Ceph) => "Ceph is set up without host names",
            (Self::Encrypt | Self::AskToEncrypt, Kind::Ceph) => {
                "Ceph 16 refuses encryption without TLS and keys"
            }
            (Self::Sessions, Kind::Ceph) => "the sessions of Ceph are not set up by the tests",
            (Self::Sessions, Kind::Minio) => "the sessions of MinIO are not set up by the tests",
            _ => return true,
        };
        println!("cannot: {lack}");
        false
    }
}

/// A server that the tests can run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Moto,
    S3s,
    Versitygw,
    Minio,
    Ceph,
}

impl Kind {
    /// Returns the server of this run.
    pub fn of_this_run() -> Self {
        match std::env::var(WHICH).as_deref() {
            Err(_) | Ok("moto") => Self::Moto,
            Ok("s3s") => Self::S3s,
            Ok("versitygw") => Self::Versitygw,
            Ok("minio") => Self::Minio,
            Ok("ceph") => Self::Ceph,
            Ok(other) => panic!("{WHICH}={other}: moto, s3s, versitygw, minio or ceph"),
        }
    }

    fn start(self, certificate: &str, key: &str, root: &Path) -> Child {
        match self {
            Self::Moto => python("s3_server.py", &[SECRET, certificate, key], root),
            Self::S3s => s3s(root),
            Self::Versitygw => program("versitygw", "VERSITYGW_BIN", certificate, key, root),
            Self::Minio => program("minio", "MINIO_BIN", certificate, key, root),
            Self::Ceph => program("ceph", "CEPH_ROOT", certificate, key, root),
        }
    }
}

impl Server {
    /// Starts a server with these buckets.
    pub fn new(buckets: &[&str]) -> Self {
        Self::filled(buckets, &|_| {})
    }

    /// Starts a server with these buckets. `fill` writes the initial objects into a directory that contains a
    /// directory for each bucket.
    pub fn filled(buckets: &[&str], fill: &dyn Fn(&Path)) -> Self {
        Self::start("", "", buckets, fill)
    }

    /// Starts a server with TLS.
    pub fn with_tls(certificate: &Path, key: &Path, buckets: &[&str]) -> Self {
        Self::start(certificate.to_str().unwrap(), key.to_str().unwrap(), buckets, &|_| {})
    }

    fn start(certificate: &str, key: &str, buckets: &[&str], fill: &dyn Fn(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        for bucket in buckets {
            std::fs::create_dir(root.path().join(bucket)).unwrap();
        }
        fill(root.path());
        let mut child = Kind::of_this_run().start(certificate, key, root.path());
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let words = lines.find_map(|line| started(&line.unwrap()));
        let (port, access_key, role_key) =
            words.unwrap_or_else(|| panic!("the server does not start; see its output above"));
        Self { child, port, access_key, role_key, _root: root }
    }

    /// Returns the keys of all versions and of all delete markers in a bucket. s3s-fs has none.
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

    /// Writes a credentials file for this server.
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

/// Runs one of our scripts, which starts a server.
fn python(script: &str, words: &[&str], root: &Path) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/common/s3").join(script);
    let mut command = Command::new(interpreter());
    command.arg("-I").arg(script).args(words).arg(root);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Starts a server that is a program, which the variable names: `cargo xtask` builds it and sets the variable.
fn program(kind: &str, variable: &str, certificate: &str, key: &str, root: &Path) -> Child {
    let program = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} does not name {kind}"));
    python("program_server.py", &[kind, &program, SECRET, certificate, key], root)
}

/// Starts s3s-fs, which `cargo xtask buckets` has built.
fn s3s(root: &Path) -> Child {
    let program = std::env::var_os("S3S_BIN");
    assert!(program.is_some(), "S3S_BIN names s3s-fs: cargo xtask buckets sets it");
    let mut command = Command::new(program.unwrap_or_default());
    command.args(["--host=127.0.0.1", "--port=0", "--access-key=AKIAS3STESTS", "--secret-key", SECRET]);
    command.args(["--domain=s3.us-east-1.amazonaws.com", "--domain=127.0.0.1"]).arg(root);
    command.env("RUST_LOG", "s3s_fs=info").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Returns the port and the access keys from a line of the server's first output: the line of moto, or the
/// log of s3s-fs.
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

/// Writes a credentials file in the format of the AWS tools.
pub fn write_credentials(path: &Path, access_key: &str, secret: &str) {
    use std::os::unix::fs::PermissionsExt;
    let text = format!("[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret}\n");
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Returns the path of the Python interpreter with moto.
fn interpreter() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/s3/moto");
    let home = std::env::var_os("MOTO_HOME").map_or(fetched, PathBuf::from);
    let python = home.join("bin/python");
    assert!(python.exists(), "moto is missing: run cargo xtask test");
    python
}

/// A fault in a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The proxy answers instead of the server: status, error code, and further header lines.
    Answer(u16, &'static str, &'static str),
    /// The connection breaks after this number of bytes of the request body.
    CutRequest(usize),
    /// The server gets the request, but the response is lost.
    LoseAnswer,
    /// The connection breaks after this number of bytes of the response.
    CutAnswer(usize),
    /// The last byte of the request is changed.
    FlipRequest,
    /// The last byte of the response is changed.
    FlipAnswer,
    /// The response lacks the headers whose names start with this.
    DropHeader(&'static str),
    /// The rate in bytes per second, in both directions.
    Slow(usize),
    /// The delay in milliseconds until the request arrives.
    Late(u64),
    /// The request is read, and never answered.
    Hang,
    /// The answer is status 200 with this content type and body.
    Page(&'static str, &'static str),
    /// The text of the body is changed.
    Rewrite(fn(&str) -> String),
}

#[derive(Default)]
struct State {
    faults: Vec<(&'static str, &'static str, Fault, usize)>,
    seen: Vec<String>,
    /// The number of requests that are delayed now, and its maximum.
    late: (usize, usize),
}

/// A proxy for a real server. It forwards all requests and injects the faults that a test sets.
pub struct Faults {
    /// The port on the loopback address.
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl Faults {
    /// Starts a proxy for the server on the port `to`.
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

    /// Injects a fault into the next `times` requests with this method whose head contains `holds`.
    pub fn inject(&self, method: &'static str, holds: &'static str, fault: Fault, times: usize) {
        self.state.lock().unwrap().faults.push((method, holds, fault, times));
    }

    /// Removes all faults.
    pub fn clear(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// Returns the maximum number of requests that were delayed at the same time.
    pub fn most_late_at_once(&self) -> usize {
        self.state.lock().unwrap().late.1
    }

    /// Returns the heads of all requests so far that start with `method` and contain `text`.
    pub fn seen(&self, method: &str, text: &str) -> Vec<String> {
        let seen = &self.state.lock().unwrap().seen;
        seen.iter().filter(|head| head.starts_with(method) && head.contains(text)).cloned().collect()
    }
}

/// Changes the number of delayed requests by 1 or -1.
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

/// Forwards a request and closes the connection.
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
        Some(Fault::Answer(status, code, more)) => error_response(*status, code, more),
        Some(Fault::Page(content_type, body)) => page(content_type, body),
        Some(Fault::Hang) => return hang(client),
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

fn error_response(status: u16, code: &str, more: &str) -> Vec<u8> {
    let body = format!(
        "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>the words for it</Message>\
         <RequestId>REQUEST7</RequestId></Error>"
    );
    format!("HTTP/1.1 {status} No\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n{body}", body.len())
        .into()
}

fn page(content_type: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into()
}

/// Waits until the client closes the connection.
fn hang(mut client: TcpStream) -> Option<()> {
    while client.read(&mut [0; 64]).ok()? > 0 {}
    None
}

/// Changes the text of a body, and its length in the head.
fn rewritten(answer: &[u8], change: fn(&str) -> String) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let has_name = |line: &str, name: &str| line.to_lowercase().starts_with(name);
    let is_chunked = head.lines().any(|line| has_name(line, "transfer-encoding: chunked"));
    let body = change(&if is_chunked { without_chunks(body)? } else { body.to_owned() });
    let is_length = |line: &&str| !has_name(line, "content-length:") && !has_name(line, "transfer-encoding:");
    let head: Vec<&str> = head.split("\r\n").filter(is_length).collect();
    Some(format!("{}\r\nContent-Length: {}\r\n\r\n{body}", head.join("\r\n"), body.len()).into())
}

/// Joins the chunks of a body. Each has its length in hexadecimal digits before it, and the last is empty (RFC 9112, section 7.1).
fn without_chunks(mut body: &str) -> Option<String> {
    let mut joined = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n")?;
        let (chunk, rest) = rest.split_at_checked(usize::from_str_radix(length, 16).ok()?)?;
        if chunk.is_empty() {
            return Some(joined);
        }
        joined.push_str(chunk);
        body = rest.strip_prefix("\r\n")?;
    }
}

fn ask(to: u16, head: &str, body: &[u8]) -> Option<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", to)).ok()?;
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes()).ok()?;
    // A server may answer and close the connection before it has read the body.
    let _ = server.write_all(body);
    let mut answer = Vec::new();
    let read = server.read_to_end(&mut answer);
    (read.is_ok() || !answer.is_empty()).then_some(answer)
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
        Some(Fault::Rewrite(change)) => answer = rewritten(&answer, change)?,
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

/// Starts a fake of the EC2 instance metadata service on the loopback address, version 2, which requires a
/// token. Returns the port.
pub fn metadata_service(access_key: &str) -> u16 {
    let role = format!(
        "{{\"Code\": \"Success\", \"AccessKeyId\": \"{access_key}\", \"SecretAccessKey\": \"{SECRET}\", \
         \"Token\": \"canary-token\", \"Expiration\": \"2099-01-01T00:00:00Z\"}}"
    );
    let server = Loopback::start(move |request| {
        let has_token = request.has("x-aws-ec2-metadata-token: the-token");
        match request.line.as_str() {
            "PUT /latest/api/token" => answer(200, "the-token"),
            "GET /latest/meta-data/iam/security-credentials/" if has_token => answer(200, "the-role"),
            "GET /latest/meta-data/iam/security-credentials/the-role" if has_token => {
                answer(200, role.clone())
            }
            _ => answer(401, ""),
        }
    });
    server.port
}
