//! A temporary etcd with a large database, an S3 server, and our program with its settings.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bench::database::{Content, Filler};
use crate::demo::server::Server;
use crate::s3_server::S3Server;
use crate::{command, workspace};

/// The first object of each thread that fills the database.
const FIRST_OBJECTS: [u64; 2] = [0, 1 << 31];
/// The first object that is put after the archives were made.
const FIRST_LATER_OBJECT: u64 = 3 << 30;
/// The bytes of values that a thread puts between two looks at the size of the database.
const STEP: u64 = 20_000_000;
/// To count the keys of a large database takes longer than etcdctl's default of five seconds on a busy machine.
const COMMAND_TIMEOUT: &str = "--command-timeout=300s";
/// A key that [`Filler`] puts.
pub const KEY: &str = "/registry/pods/namespace-0/pods-00000000";
/// An age key for these archives only.
const RECIPIENT: &str = "age1a7eaj8fh9t460hn9xp6d4299285d94fmlwg4z3kq5pzmjgrvq36qjks4xu";
const IDENTITY: &str = "AGE-SECRET-KEY-128SA5NJA6G5KUMQEEVCRPLC586W72KDYNR6N59ELHGEDVN7LZUXS44MW08";

/// The settings of a command, each with a directory of archives of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settings {
    Plain,
    /// With encryption, and a bucket as destination.
    Encrypted,
}

impl Settings {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Encrypted => "encrypted",
        }
    }
}

/// The etcd and the S3 server, which stop when the value is dropped. Then their files are removed too.
pub struct TestBed {
    server: Server,
    _s3: S3Server,
    home: TempDir,
    program: PathBuf,
}

impl TestBed {
    /// Starts an empty etcd with the programs in `bin`, and an S3 server.
    pub fn new(bin: &Path, versitygw: &Path) -> Result<Self> {
        let target = workspace::target_directory()?;
        // In the target directory, because a temporary directory may be in memory.
        let home = tempfile::Builder::new().prefix("etcd-memory-").tempdir_in(&target)?;
        let path = |name: &str| home.path().join(name);
        let more = json!({
            "quota-backend-bytes": 10_u64 << 30,
            // The database is only filled faster by it.
            "unsafe-no-fsync": true,
            // etcd keeps the transactions since the last one in memory.
            "snapshot-count": 500,
        });
        let server = Server::start_with(home.path(), bin, &more)?;
        let s3 = S3Server::start("versitygw", versitygw, &path("s3"))?;
        fs::write(path("identity"), format!("{IDENTITY}\n"))?;
        fs::set_permissions(path("identity"), Permissions::from_mode(0o600))?;
        let bucket = s3.destination(&path("credentials"))?;
        for (settings, value) in [
            (Settings::Plain, json!({})),
            (Settings::Encrypted, json!({"encrypt-to": [RECIPIENT], "destinations": {"offsite": bucket}})),
        ] {
            let file = path(&format!("{}.yaml", settings.name()));
            fs::write(file, serde_yaml::to_string(&value)?)?;
        }
        Ok(Self { server, _s3: s3, program: target.join("release/etcd-backup"), home })
    }

    /// Returns the path of a file of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Returns the path of the file with the identity that decrypts archives.
    pub fn identity(&self) -> String {
        self.path("identity").display().to_string()
    }

    /// Returns a command of our program.
    pub fn etcd_backup(&self, settings: Settings, arguments: &[&str]) -> Command {
        let mut ours = command::new(&self.program);
        ours.env("ETCD_SITE", self.server.site());
        ours.env("ETCD_BACKUP", self.path(&format!("{}.yaml", settings.name())));
        ours.args(arguments).arg("--target").arg(self.path(settings.name()));
        ours
    }

    /// Puts objects until the database has `megabytes` MB.
    pub fn fill(&self, megabytes: u64) -> Result<()> {
        let endpoint = self.server.endpoint();
        let put = |first: u64| -> Result<()> {
            let mut filler = Filler::starting_at(endpoint, Content::Kubernetes, first);
            while self.megabytes()? < megabytes {
                filler.add(STEP)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads = FIRST_OBJECTS.map(|first| scope.spawn(move || put(first)));
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(done) => done,
                Err(_) => bail!("a thread that fills the database panicked"),
            })
        })
    }

    /// Compacts the history, as an API server of Kubernetes does every five minutes. Without it, a snapshot of so many keys asks
    /// etcd for their hash.
    pub fn compact(&self) -> Result<()> {
        let revision = self.status()?["Status"]["header"]["revision"].as_i64();
        let revision = revision.context("etcd reported no revision")?.to_string();
        self.ask(&["compact", "--physical", &revision]).map(drop)
    }

    /// Puts some more objects, so that the running etcd is not what the archives hold.
    pub fn change(&self) -> Result<()> {
        Filler::starting_at(self.server.endpoint(), Content::Kubernetes, FIRST_LATER_OBJECT).add(STEP)
    }

    /// Returns the size of the database in MB, as etcd reports it.
    pub fn megabytes(&self) -> Result<u64> {
        let bytes = self.status()?["Status"]["dbSize"].as_u64().context("etcd reported no size")?;
        Ok(bytes / 1_000_000)
    }

    fn status(&self) -> Result<Value> {
        let text = self.ask(&["endpoint", "status", "--write-out=json"])?;
        let mut all: Value = serde_json::from_str(&text)?;
        Ok(all[0].take())
    }

    /// Returns the number of keys, as etcd counts them.
    pub fn keys(&self) -> Result<u64> {
        let fields = self.ask(&["get", "", "--from-key", "--count-only", "--write-out=fields"])?;
        let count = fields.lines().find_map(|line| line.strip_prefix("\"Count\" : ")?.trim().parse().ok());
        count.context("etcd reported no number of keys")
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let patient = [&[COMMAND_TIMEOUT], arguments].concat();
        command::output(&mut self.server.etcdctl(&patient))
    }
}
