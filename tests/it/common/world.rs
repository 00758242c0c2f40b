//! Temporary etcds: real servers on the loopback address. Each has its own directory, which is removed with
//! the [`World`].

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::common::command::{Out, Run};
use crate::common::fs_util::{names, succeed};
use crate::common::ports::free_port;
use crate::common::tls;
use crate::common::tools::Tools;

/// The directory of the records of runs, next to the archives.
pub const RUNS: &str = ".runs";

/// The password of `root` in worlds with auth. It must not appear in any output or file of the program.
pub const PASSWORD: &str = "canary-root-password";

/// An etcd to test with. `cargo xtask versions` puts each supported version into one of the places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The older one: any 3.4, by default 3.4.23. It has no etcdutl and, before 3.4.27, no `--bump-revision`.
    V34,
    /// The newer one: any later version, by default 3.5.16. It has both.
    V35,
    /// The newest one that this machine has.
    Newest,
}

impl Version {
    /// Returns the directory of the binaries.
    pub fn bin_dir(self) -> PathBuf {
        let (variable, number) = match self {
            Self::V34 => ("ETCD_3_4_BIN", "3.4"),
            Self::V35 => ("ETCD_3_5_BIN", "3.5"),
            Self::Newest => match std::env::var_os("ETCD_NEWEST_BIN") {
                Some(dir) => return dir.into(),
                None => return Self::V35.bin_dir(),
            },
        };
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/etcd").join(number).join("usr/bin");
        let dir = std::env::var_os(variable).map_or(unpacked, PathBuf::from);
        assert!(dir.join("etcd").exists(), "etcd {number} is missing: run cargo xtask test");
        dir
    }

    /// Returns the version that the server prints, such as 3.5.16.
    pub fn number(self) -> String {
        let output = succeed(
            Command::new(self.bin_dir().join("etcd")).arg("--version").output().unwrap(),
            "etcd --version",
        );
        output.lines().find_map(|line| line.strip_prefix("etcd Version: ")).unwrap().trim().to_owned()
    }

    /// Returns its minor version, such as 3.5.
    pub fn minor(self) -> String {
        self.number().rsplit_once('.').unwrap().0.to_owned()
    }

    /// Returns whether its tools can raise the revision of a snapshot.
    pub fn can_bump(self) -> bool {
        let number = self.number();
        let old_patch = number.strip_prefix("3.4.").and_then(|patch| patch.parse::<u32>().ok());
        old_patch.is_none_or(|patch| patch >= 27)
    }

    /// Returns whether its client has only `snapshot save`, and etcdutl is needed for the rest.
    pub fn needs_etcdutl(self) -> bool {
        !["3.4", "3.5"].contains(&&*self.minor())
    }

    /// Returns whether its server cannot start on data of the older etcd.
    pub fn cannot_start_on_old_data(self) -> bool {
        self.needs_etcdutl() && self.minor() != "3.6"
    }

    /// Returns the option of the server that etcd 3.6 moved out of its experimental ones.
    pub fn former_experimental(self, option: &str) -> String {
        format!("--{}{option}", if self.needs_etcdutl() { "" } else { "experimental-" })
    }
}

/// The kind of a world.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// The version of etcd.
    pub version: Version,
    /// Whether TLS is on. Clients then need a certificate.
    pub tls: bool,
    /// Whether auth is on, with a root password.
    pub auth: bool,
    /// The name of the member.
    pub name: &'static str,
    /// The host on which etcd listens to clients, as in a URL.
    pub host: &'static str,
    /// The user and group that etcd runs as, instead of the current ones. Needs root.
    pub user: Option<u32>,
}

impl Setup {
    /// Returns a setup without TLS and auth.
    pub const fn plain(version: Version) -> Self {
        Self { version, tls: false, auth: false, name: "m1", host: "127.0.0.1", user: None }
    }

    /// Returns four setups: plain, with TLS, with auth, and with both.
    pub fn each(version: Version) -> [Self; 4] {
        [(false, false), (true, false), (false, true), (true, true)].map(|(tls, auth)| Self {
            tls,
            auth,
            ..Self::plain(version)
        })
    }
}

/// A temporary etcd.
pub struct World {
    dir: TempDir,
    setup: Setup,
    client: u16,
    peer: u16,
    /// The port of the harness. Without TLS, it is that of all clients.
    gateway: u16,
}

impl World {
    /// Starts an etcd without TLS and auth.
    pub fn plain(version: Version) -> Self {
        Self::new(Setup::plain(version))
    }

    /// Starts an etcd of this kind.
    pub fn new(setup: Setup) -> Self {
        for _ in 0..5 {
            let world = Self::prepare(setup);
            world.write_command_line(&world.as_initial_member(), "new");
            match world.try_start() {
                Ok(()) => {
                    if setup.auth {
                        world.turn_auth_on();
                    }
                    return world;
                }
                Err(log) if log.contains("address already in use") => {}
                Err(log) => panic!("etcd does not start: {log}"),
            }
        }
        panic!("found no free port in five tries");
    }

    /// Prepares an etcd that has never run and has no data directory. [`Self::write_command_line`] must be
    /// called next.
    pub fn prepare(setup: Setup) -> Self {
        let dir = tempfile::Builder::new().prefix("etcd-world-").tempdir().unwrap();
        let (client, peer) = (free_port(), free_port());
        let gateway = if setup.tls { free_port() } else { client };
        let world = Self { dir, setup, client, peer, gateway };
        world.set_mode("", if setup.user.is_some() { 0o711 } else { 0o700 });
        for name in ["data", "supervisor", "target", "runs"] {
            fs::create_dir(world.path(name)).unwrap();
        }
        world.set_mode("target", 0o700);
        fs::write(world.path("supervisor/owner"), std::process::id().to_string()).unwrap();
        if setup.tls {
            tls::write_certificates(&world.path("tls"));
        }
        if setup.auth {
            fs::write(world.path("password"), format!("{PASSWORD}\n")).unwrap();
            world.set_mode("password", 0o600);
        }
        if let Some(user) = setup.user {
            chown(world.path("data"), Some(user), Some(user)).unwrap();
            fs::write(world.path("supervisor/user"), user.to_string()).unwrap();
            fs::write(world.path("supervisor/group"), user.to_string()).unwrap();
        }
        world.write_site(&setup.version.bin_dir());
        world
    }

    /// Writes the command line of etcd, with this initial cluster and its state.
    pub fn write_command_line(&self, initial_cluster: &str, state: &str) {
        let mut words: Vec<String> = [
            self.setup.version.bin_dir().join("etcd").to_str().unwrap(),
            "--name",
            self.setup.name,
            "--data-dir",
            self.data_dir().to_str().unwrap(),
            "--listen-peer-urls",
            &self.peer_url(),
            "--initial-advertise-peer-urls",
            &self.peer_url(),
            "--initial-cluster",
            initial_cluster,
            "--initial-cluster-state",
            state,
            // A test sets hundreds of keys in one transaction, and does not wait for elections or bcrypt.
            "--max-txn-ops=10000",
            "--bcrypt-cost=4",
            "--heartbeat-interval=20",
            "--election-timeout=200",
            "--logger=zap",
        ]
        .map(String::from)
        .to_vec();
        let mut listen = self.endpoint();
        if self.setup.tls {
            write!(listen, ",{}", self.gateway_url()).unwrap();
        }
        words.extend(["--listen-client-urls".to_owned(), listen]);
        words.extend(["--advertise-client-urls".to_owned(), self.endpoint()]);
        if self.setup.tls {
            for (flag, file) in
                [("--trusted-ca-file", "ca.crt"), ("--cert-file", "server.crt"), ("--key-file", "server.key")]
            {
                words.extend([flag.to_owned(), self.path("tls").join(file).to_str().unwrap().to_owned()]);
            }
            words.push("--client-cert-auth".to_owned());
        }
        fs::write(self.path("supervisor/argv"), words.join("\n") + "\n").unwrap();
    }

    /// Returns the kind of this world.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Returns `name=peer-url`, as in the list of an initial cluster.
    pub fn as_initial_member(&self) -> String {
        format!("{}={}", self.setup.name, self.peer_url())
    }

    /// Returns the peer URL.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    /// Returns the endpoint for clients.
    pub fn endpoint(&self) -> String {
        let scheme = if self.setup.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.setup.host, self.client)
    }

    /// Returns where the harness calls etcd: without TLS, because etcd accepts no login through its gateway if clients need a
    /// certificate.
    pub fn gateway_url(&self) -> String {
        format!("http://{}:{}", self.setup.host, self.gateway)
    }

    /// Returns the host and the port for clients.
    pub fn client_address(&self) -> String {
        format!("{}:{}", self.setup.host, self.client)
    }

    /// Adds an option to the command line of etcd, from its next start on.
    pub fn add_option(&self, option: &str) {
        let argv = self.path("supervisor/argv");
        let words = fs::read_to_string(&argv).unwrap();
        fs::write(&argv, format!("{words}{option}\n")).unwrap();
    }

    fn turn_auth_on(&self) {
        let mut add = self.etcdctl_command(&["user", "add", &format!("root:{PASSWORD}")]);
        let _ = succeed(add.env_remove("ETCDCTL_USER").output().unwrap(), "user add");
        let mut enable = self.etcdctl_command(&["auth", "enable"]);
        let _ = succeed(enable.env_remove("ETCDCTL_USER").output().unwrap(), "auth enable");
    }

    // ---- the site ----

    fn write_site(&self, bin_dir: &Path) {
        self.set_site(&self.site_text(bin_dir));
    }

    /// Returns the text of the site file for this world, with its tools in `bin_dir`.
    pub fn site_text(&self, bin_dir: &Path) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/common/supervisor");
        let mut site = format!("endpoint: {}\n", self.endpoint());
        if self.setup.tls {
            for (key, file) in [("cacert", "ca.crt"), ("cert", "client.crt"), ("key", "client.key")] {
                writeln!(site, "{key}: {}", self.path("tls").join(file).display()).unwrap();
            }
        }
        if self.setup.auth {
            writeln!(site, "username: root\npassword-file: {}", self.path("password").display()).unwrap();
        }
        writeln!(site, "data-dir: {}", self.data_dir().display()).unwrap();
        writeln!(site, "bin-dir: {}\nservice:", bin_dir.display()).unwrap();
        for verb in ["start", "stop"] {
            writeln!(site, "  {verb}: [{}, {verb}, {}]", script.display(), self.path("supervisor").display())
                .unwrap();
        }
        site
    }

    /// Replaces the site file.
    pub fn set_site(&self, text: &str) {
        fs::write(self.site(), text).unwrap();
    }

    /// Returns the path of the site file.
    pub fn site(&self) -> PathBuf {
        self.path("site.yaml")
    }

    /// Replaces the etcd tools in the site file by stand-ins. The running server is not changed.
    pub fn stand_in_tools(&self) -> Tools {
        let dir = self.path("tools");
        let tools = Tools::new(&dir, &self.setup.version.bin_dir());
        self.write_site(&dir);
        tools
    }

    /// Enables a fault of the supervisor. The script `supervisor` lists the faults.
    pub fn arm(&self, fault: &str, value: impl ToString) {
        fs::write(self.path("supervisor").join(fault), format!("{}\n", value.to_string())).unwrap();
    }

    /// Disables a fault of the supervisor.
    pub fn disarm(&self, fault: &str) {
        let _ = fs::remove_file(self.path("supervisor").join(fault));
    }

    /// Returns the number of `start` or `stop` requests to the supervisor.
    pub fn request_count(&self, verb: &str) -> usize {
        let asked = fs::read_to_string(self.path("supervisor/asked")).unwrap_or_default();
        asked.lines().filter(|line| *line == verb).count()
    }

    /// Returns the shell command for `verb` that the site file contains.
    pub fn service_command(&self, verb: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/common/supervisor");
        format!("{} {verb} {}", script.display(), self.path("supervisor").display())
    }

    // ---- paths ----

    /// Returns a path in the directory of this world.
    pub fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            return self.dir.path().to_owned();
        }
        self.dir.path().join(name)
    }

    /// Returns the data directory of etcd.
    pub fn data_dir(&self) -> PathBuf {
        self.path("data/default.etcd")
    }

    /// Returns the directory for archives. It is empty at first.
    pub fn target(&self) -> PathBuf {
        self.path("target")
    }

    /// Returns the sorted names in the target, without the records of runs, which every snapshot writes
    /// there.
    pub fn in_target(&self) -> Vec<String> {
        names(&self.target()).into_iter().filter(|name| name != RUNS).collect()
    }

    /// Returns `target=DIR` for the target.
    pub fn to_target(&self) -> String {
        format!("target={}", self.target().display())
    }

    /// Sets the mode of a path in this world.
    pub fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    /// Returns the inode of the live `member` directory.
    pub fn tree(&self) -> u64 {
        fs::metadata(self.data_dir().join("member")).unwrap().ino()
    }

    /// Returns the files other than the live data and the finished archives, such as staging directories and
    /// partial files. Locks are allowed. So is the unfinished record of a killed run, which is removed with
    /// the record.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut look = |dir: PathBuf, expected: &dyn Fn(&str) -> bool| {
            for name in names(&dir) {
                if !expected(&name) && !name.contains("lock") {
                    found.push(format!("{}/{name}", dir.display()));
                }
            }
        };
        look(self.path("data"), &|name| name == "default.etcd");
        look(self.data_dir(), &|name| name == "member");
        look(self.target(), &|name| {
            let archive = name.starts_with("etcd-snapshot-")
                && [
                    ".tar.gz",
                    ".tar.gz.json",
                    ".tar.gz.age",
                    ".tar.gz.age.json",
                    ".tar.gz.age.manifest.json",
                ]
                .iter()
                .any(|ending| name.ends_with(ending));
            archive || name == RUNS
        });
        let runs = self.target().join(RUNS);
        for run in names(&runs) {
            look(runs.join(run), &|name| matches!(name, "run.json" | "run.json.new"));
        }
        found
    }

    // ---- the actions ----

    /// Returns the command of one of our programs, as a terminal with an empty environment would run it.
    pub fn action(&self, binary: &str, args: &[&str]) -> Command {
        crate::common::command::link_programs();
        let mut command = Command::new(binary);
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("ETCD_SITE", self.site())
            .current_dir("/");
        command
    }

    /// Starts `snapshot`.
    pub fn start_snapshot(&self, args: &[&str]) -> Run {
        Run::start(self.action(program!("snapshot"), args), &self.path("runs"))
    }

    /// Runs `snapshot` to its end.
    pub fn snapshot(&self, args: &[&str]) -> Out {
        self.start_snapshot(args).finish()
    }

    /// Starts `restore`.
    pub fn start_restore(&self, args: &[&str]) -> Run {
        Run::start(self.action(program!("restore"), args), &self.path("runs"))
    }

    /// Runs `restore` to its end.
    pub fn restore(&self, args: &[&str]) -> Out {
        self.start_restore(args).finish()
    }

    /// Takes a snapshot of the current data. Returns the path of the archive.
    pub fn saved(&self) -> PathBuf {
        PathBuf::from(self.snapshot(&[&self.to_target()]).completed().get("snapshot.path"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The files are removed, and a rare failure must be explained by its first report.
        if std::thread::panicking() {
            eprintln!("{}\nthe last lines of etcd's log:\n{}", self.describe_processes(), self.log());
        }
        // Kills only the processes of this world: its etcd and the orphans of earlier runs.
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Returns whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Creates a directory that only root can change, outside of `/tmp`. Returns `None` if the tests do not run
/// as root.
pub fn root_only_dir() -> Option<TempDir> {
    if !is_root() {
        eprintln!("skipped: only root can create a directory that no other user can change");
        return None;
    }
    Some(tempfile::Builder::new().prefix("etcd-charm-").tempdir_in("/var/lib").unwrap())
}
