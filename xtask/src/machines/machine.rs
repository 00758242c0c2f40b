//! Owns one machine: a real systemd over a tree of its own, with processes and a network of its own.
//!
//! It must never touch this machine: all that the other writes goes to a private directory that is removed with it, and
//! its network has no way out.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{command, interrupt};

/// What happens in namespaces of its own before a machine boots, and after its end.
pub const SCRIPT: &str = include_str!("machine.sh");
/// A small Debian boots within 2 s.
const BOOT: Duration = Duration::from_secs(90);
/// How long the kernel may take to end what ran there.
const END: Duration = Duration::from_secs(20);
/// How long a command on a machine may take, in seconds: longer than a restore waits for anything in it.
const PATIENCE: &str = "300";

/// A machine that runs; dropping it is pulling its plug, and removes what it wrote.
pub struct Machine {
    name: String,
    root: PathBuf,
    home: TempDir,
    variables: Vec<(String, String)>,
    power: Option<Power>,
}

/// What runs while the machine is on.
struct Power {
    supervisor: Child,
    /// The machine's first process, as this machine numbers it.
    init: u32,
}

impl Machine {
    /// Boots a machine on the tree `root`, which stays as it is.
    pub fn boot(root: &Path) -> Result<Self> {
        let shelf = root.parent().context("the machines' tree has no parent")?;
        let home = tempfile::Builder::new().prefix("machine-").tempdir_in(shelf)?;
        let name = home.path().file_name().unwrap_or_default().to_string_lossy().replace("machine-", "etcd-");
        fs::write(home.path().join("machine.sh"), SCRIPT).context("writing machine.sh")?;
        // Every file with its owner and its labels, as it was unpacked.
        command::output(
            Command::new("cp").arg("--archive").args([root.join("var"), home.path().join("var")]),
        )?;
        let mut machine = Self { name, root: root.to_owned(), home, variables: Vec::new(), power: None };
        machine.switch_on()?;
        Ok(machine)
    }

    /// From now on every program that is run there finds this in its environment.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Runs a program there to its end, as root, and returns what it printed; an error has its last words.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        command::output(&mut self.enter(words)?)
            .with_context(|| format!("on the machine: {}", words.join(" ")))
    }

    /// The same for a program whose failure is the caller's to judge.
    pub fn attempt(&self, words: &[&str]) -> Result<Output> {
        let output = self.enter(words)?.stdin(Stdio::null()).output();
        interrupt::check()?;
        output.with_context(|| format!("entering the machine {}", self.name))
    }

    /// Runs a program there with `input` as its standard input.
    pub fn feed(&self, words: &[&str], input: &str) -> Result<()> {
        let mut child = self.enter(words)?.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).with_context(|| format!("telling {}", words.join(" ")))?;
        }
        let status = child.wait()?;
        interrupt::check()?;
        if !status.success() {
            bail!("on the machine, {} failed ({status})", words.join(" "));
        }
        Ok(())
    }

    /// A program there that is not waited for.
    pub fn start(&self, words: &[&str]) -> Result<Child> {
        let mut command = self.enter(words)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("entering the machine {}", self.name))
    }

    /// Copies a file of this machine there, modes kept, directories made.
    pub fn copy_in(&self, from: &Path, to: &str) -> Result<()> {
        let inside = self.path(to)?;
        fs::create_dir_all(inside.parent().unwrap_or(Path::new("/")))?;
        let copied = match fs::read_link(from) {
            Ok(to) => symlink(to, &inside),
            Err(_) => fs::copy(from, &inside).map(drop),
        };
        copied.with_context(|| format!("copying {} to the machine", from.display()))
    }

    /// Writes a file there, of root, readable by all, directories made.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let inside = self.path(path)?;
        fs::create_dir_all(inside.parent().unwrap_or(Path::new("/")))?;
        fs::write(&inside, text).with_context(|| format!("writing {path} on the machine"))
    }

    /// Where a path there is on this machine. Good until the next reboot. A symlink there would lead elsewhere here.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.init()?)))
    }

    /// The machine's first process, as this machine numbers it: for its network.
    pub fn init(&self) -> Result<u32> {
        Ok(self.power.as_ref().context("the machine is off")?.init)
    }

    /// Runs this machine's `ip` in the network of that one.
    pub fn ip(&self, words: &[&str]) -> Result<()> {
        let mut ip = Command::new("nsenter");
        ip.args(["--net", "--target", &self.init()?.to_string(), "ip"]).args(words);
        command::output(&mut ip).map(drop)
    }

    /// Pulls the plug and boots again: nothing there hears of it, and what was written to files is kept.
    pub fn reboot(&mut self) -> Result<()> {
        self.switch_off()?;
        self.switch_on()
    }

    fn enter(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", PATIENCE, "nsenter", "--all", "--target"])
            .arg(self.init()?.to_string())
            .arg("--")
            .args(words)
            .env_clear()
            .envs([("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C")])
            .envs([("HOME", "/root"), ("ETCDCTL_API", "3")])
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    fn script(&self) -> PathBuf {
        self.home.path().join("machine.sh")
    }

    fn switch_on(&mut self) -> Result<()> {
        let console = fs::File::create(self.home.path().join("console"))?;
        let supervisor = Command::new("setpriv")
            // Whatever becomes of us, no machine is left running: the kernel ends a namespace with its first process.
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh"])
            .arg(self.script())
            .args(["boot", &self.name])
            .args([&self.root, self.home.path()])
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .context("setpriv could not be started")?;
        self.power = Some(Power { supervisor, init: 0 });
        let until = Instant::now() + BOOT;
        while !self.is_up()? {
            if Instant::now() > until {
                bail!("the machine did not boot within {} s:\n{}", BOOT.as_secs(), self.console());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Whether its systemd says that all was started, or that all was tried.
    fn is_up(&mut self) -> Result<bool> {
        interrupt::check()?;
        let console = self.console();
        let power = self.power.as_mut().context("the machine is off")?;
        if let Some(status) = power.supervisor.try_wait()? {
            bail!("the machine did not boot ({status}):\n{console}");
        }
        let Some(init) = first_process(power.supervisor.id()) else { return Ok(false) };
        power.init = init;
        let said = self.attempt(&["systemctl", "is-system-running"])?;
        Ok(["running", "degraded"].contains(&String::from_utf8_lossy(&said.stdout).trim()))
    }

    fn console(&self) -> String {
        fs::read_to_string(self.home.path().join("console")).unwrap_or_default()
    }

    fn switch_off(&mut self) -> Result<()> {
        let Some(mut power) = self.power.take() else { return Ok(()) };
        power.supervisor.kill().context("pulling a machine's plug")?;
        power.supervisor.wait().context("waiting for a machine's end")?;
        let until = Instant::now() + END;
        while power.init != 0 && Path::new("/proc").join(power.init.to_string()).exists() {
            if Instant::now() > until {
                bail!("the machine {} did not end: pid {}", self.name, power.init);
            }
            sleep(Duration::from_millis(10));
        }
        let mut sweep = Command::new("unshare");
        sweep.args(["--mount", "--net", "sh"]).arg(self.script()).args(["sweep", &self.name]);
        command::output(&mut sweep).map(drop)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.switch_off() {
            eprintln!("error: {error:#}");
        }
    }
}

/// The machine's first process: under unshare comes systemd-nspawn, the first of a namespace, and under that the machine.
fn first_process(unshare: u32) -> Option<u32> {
    children(unshare)?.into_iter().find_map(|nspawn| {
        children(nspawn)?.into_iter().find(|child| numbers(*child).is_some_and(|all| all.ends_with(" 1")))
    })
}

fn children(pid: u32) -> Option<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().map(|child| child.parse().ok()).collect()
}

/// A process's number in every namespace that it is in, the innermost last: `4711 17 1`.
fn numbers(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    Some(numbers.split_whitespace().collect::<Vec<_>>().join(" "))
}
