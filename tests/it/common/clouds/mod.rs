//! A bucket of Azure or Google for tests: an emulator that others wrote. The proxy for faults is that of `s3`.
#![allow(clippy::print_stdout, reason = "a test prints the features that an emulator lacks")]

pub mod amazon;
pub mod identities;

use anyhow::Result;
use etcd_backup::inventory::Repository;
use etcd_backup::inventory::destinations::{Destination, Destinations};
use etcd_backup::store::cloud::MetadataServices;
use etcd_backup::store::cloud_environment::CloudEnvironment;
use etcd_backup::system::clock::Clock;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The key of the account in Azurite: Base64 of `canary-azure-key-0123456789`. It must not appear in any output.
pub const AZURE_KEY: &str = "Y2FuYXJ5LWF6dXJlLWtleS0wMTIzNDU2Nzg5";
/// A line of the key of the service account. It must not appear in any output.
pub const GOOGLE_KEY: &str = include_str!("../../../data/rfc7515-a2-key.pem");

/// The environment variable that selects the server: that of the tests of S3.
const WHICH: &str = "S3_SERVER";

/// An emulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Azurite,
    Gcs,
}

/// A feature that not every emulator has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Can {
    /// TLS.
    Tls,
    /// Checks of keys.
    CheckKeys,
    /// Several parts at a time.
    ParallelParts,
    /// Tokens with limited permissions.
    Tokens,
    /// Recognizes bytes that it was sent before.
    RepeatParts,
    /// Conditions of uploads in one request.
    Conditions,
}

impl Can {
    /// Returns whether the emulator of this run has the feature. If not, prints that for `cargo xtask buckets`.
    pub fn is_supported(self) -> bool {
        let lack = match (self, Kind::of_this_run()) {
            (Self::Tls, Kind::Gcs) => "the TLS of fake-gcs-server needs HTTP/2",
            (Self::CheckKeys, Kind::Gcs) => "fake-gcs-server accepts every key",
            (Self::ParallelParts, Kind::Gcs) => "parts are sent one after the other to Google",
            (Self::Tokens, Kind::Gcs) => "Google has no such tokens",
            (Self::RepeatParts, Kind::Gcs) => "fake-gcs-server appends a repeated part",
            (Self::Conditions, Kind::Gcs) => "fake-gcs-server ignores conditions of uploads in one request",
            _ => return true,
        };
        println!("cannot: {lack}");
        false
    }
}

/// A request of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Asks whether the object exists.
    Head,
    /// Sends a small file.
    Whole,
    /// Sends the second part of a file.
    SecondPart,
    /// Makes the parts an object.
    Finish,
    /// Reads the object.
    Read,
    /// Lists objects.
    List,
}

impl Kind {
    /// Returns the emulator of this run.
    pub fn of_this_run() -> Self {
        match std::env::var(WHICH).as_deref() {
            Ok("azurite") => Self::Azurite,
            Ok("gcs") => Self::Gcs,
            other => panic!("{WHICH} is {other:?}: azurite or gcs, as cargo xtask buckets sets it"),
        }
    }

    /// Returns the method of a request, and a part of its head.
    pub fn request(self, step: Step) -> (&'static str, &'static str) {
        match (self, step) {
            (Self::Azurite, Step::Head) => ("HEAD", "20.49.17.tar.gz "),
            (Self::Azurite, Step::Whole) => ("PUT", "20.49.17.tar.gz "),
            // The end of Base64 of the number.
            (Self::Azurite, Step::SecondPart) => ("PUT", "LTAwMDAwMg%3D%3D"),
            (Self::Azurite, Step::Finish) => ("PUT", "comp=blocklist"),
            (Self::Azurite, Step::Read) => ("GET", "20.49.17.tar.gz "),
            (Self::Azurite, Step::List) => ("GET", "comp=list"),
            (Self::Gcs, Step::Head) => ("GET", "20.49.17.tar.gz "),
            (Self::Gcs, Step::Whole) => ("PUT", "content-range: bytes 0-"),
            (Self::Gcs, Step::SecondPart | Step::Finish) => ("PUT", "content-range: bytes 8388608-"),
            (Self::Gcs, Step::Read) => ("GET", "alt=media"),
            (Self::Gcs, Step::List) => ("GET", "prefix="),
        }
    }
}

/// An emulator, which is stopped when the value is dropped.
pub struct Server {
    child: Child,
    /// The port on the loopback address.
    pub port: u16,
    /// A token that allows everything, and one that only lists.
    pub tokens: [String; 2],
    /// The directory with the files that hold keys.
    pub home: tempfile::TempDir,
}

impl Server {
    /// Starts an emulator with these buckets.
    pub fn new(buckets: &[&str]) -> Self {
        Self::start(buckets, "", "")
    }

    /// Starts an emulator with TLS.
    pub fn with_tls(certificate: &Path, key: &Path, buckets: &[&str]) -> Self {
        Self::start(buckets, certificate.to_str().unwrap(), key.to_str().unwrap())
    }

    fn start(buckets: &[&str], certificate: &str, key: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        for bucket in buckets {
            std::fs::create_dir_all(root.join(bucket)).unwrap();
        }
        let (kind, variable) = match Kind::of_this_run() {
            Kind::Azurite => ("azurite", "AZURITE_HOME"),
            Kind::Gcs => ("gcs", "FAKE_GCS_SERVER_BIN"),
        };
        let program = std::env::var_os(variable).map(PathBuf::from);
        let program = program.unwrap_or_else(|| panic!("{variable} is not set: cargo xtask buckets sets it"));
        let program = match Kind::of_this_run() {
            Kind::Azurite => program.join("node_modules/azurite/dist/src/blob/main.js"),
            Kind::Gcs => program,
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/common/clouds/cloud_server.py");
        let mut command = Command::new("python3");
        command.arg("-I").arg(script).arg(kind).arg(program).args([AZURE_KEY, certificate, key]).arg(root);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let [port, all, list] = words[..] else {
            panic!("the emulator does not start; see its output above")
        };
        let server =
            Self { child, port: port.parse().unwrap(), tokens: [all.to_owned(), list.to_owned()], home };
        server.secret("azure-key", AZURE_KEY);
        server.secret("google.json", &service_account());
        server
    }

    /// Writes a file with a secret. Returns its path.
    pub fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Returns the settings of a destination in `bucket`, which is reached at `endpoint`. `more` is added to them.
    pub fn settings(&self, endpoint: &str, bucket: &str, more: &str) -> String {
        let home = self.home.path().display();
        match Kind::of_this_run() {
            Kind::Azurite if more.contains("sas-file") || more.contains("managed-identity") => format!(
                "{{azure: {{account: etcdtests, container: {bucket}, folder: folder, endpoint: '{endpoint}'{more}}}}}"
            ),
            Kind::Azurite => format!(
                "{{azure: {{account: etcdtests, container: {bucket}, folder: folder, key-file: {home}/azure-key, \
                 endpoint: '{endpoint}'{more}}}}}"
            ),
            Kind::Gcs if more.contains("instance-service-account") => {
                format!("{{google: {{bucket: {bucket}, folder: folder, endpoint: '{endpoint}'{more}}}}}")
            }
            Kind::Gcs => format!(
                "{{google: {{bucket: {bucket}, folder: folder, credentials-file: {home}/google.json, \
                 endpoint: '{endpoint}'{more}}}}}"
            ),
        }
    }

    /// Opens a bucket that is reached at the port.
    pub fn open(&self, port: u16, bucket: &str, more: &str) -> Repository {
        opened(&self.settings(&format!("http://127.0.0.1:{port}"), bucket, more))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Opens the destination with these settings.
pub fn opened(settings: &str) -> Repository {
    opened_with(settings, MetadataServices::default())
}

/// Opens the destination with these settings, on a machine with these metadata services.
pub fn opened_with(settings: &str, metadata: MetadataServices) -> Repository {
    open_in(settings, CloudEnvironment { metadata, ..CloudEnvironment::default() }).unwrap()
}

/// Opens the destination with these settings, in this environment.
pub fn open_in(settings: &str, environment: CloudEnvironment) -> Result<Repository> {
    let destination: Destination = serde_yaml::from_str(settings).unwrap();
    destination.location.check().unwrap();
    let all = BTreeMap::from([("offsite".to_owned(), destination)]);
    let destinations = Destinations::new(all, environment, Clock::at(Timestamp::now()));
    destinations.open("offsite")
}

/// Returns the file of a service account.
fn service_account() -> String {
    serde_json::json!({
        "type": "service_account",
        "client_email": "etcd@tests.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": GOOGLE_KEY,
    })
    .to_string()
}
