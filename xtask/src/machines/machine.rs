//! One machine: a real systemd in a container, with its own files, processes and network.
//!
//! Never changes this computer: everything that the machine writes goes to a private directory, which is removed with the
//! machine. Its network has no connection to any other.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{command, interrupt};

/// The script that runs in the machine's namespaces before it boots, and after its end.
pub const SCRIPT: &str = include_str!("machine.sh");
/// Time limit of a boot. A small Debian boots within 2 s.
const BOOT_TIMEOUT: Duration = Duration::from_secs(90);
/// Time limit for the kernel to end the machine's processes.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit of a command on a machine, in seconds: longer than any time limit in a restore.
const COMMAND_TIMEOUT: &str = "300";

/// A running machine. Dropping it cuts its power, and removes everything that it wrote.
pub struct Machine {
    name: String,
    root: PathBuf,
    home: TempDir,
    variables: Vec<(String, String)>,
    power: Mutex<Option<Power>>,
}

/// The processes of a machine that is on.
struct Power {
    supervisor: Child,
    /// The pid of the machine's first process, in this computer's pid namespace.
    init: u32,
}

impl Machine {
    /// Boots a machine on the tree `root`, which it does not change.
    pub fn boot(root: &Path) -> Result<Self> {
        let parent = root.parent().context("the tree has no parent directory")?;
        let home = tempfile::Builder::new().prefix("machine-").tempdir_in(parent)?;
        let name = home.path().file_name().unwrap_or_default().to_string_lossy().replace("machine-", "etcd-");
        fs::write(home.path().join("machine.sh"), SCRIPT).context("writing machine.sh")?;
        // With owners and extended attributes.
        command::output(
            Command::new("cp").arg("--archive").args([root.join("var"), home.path().join("var")]),
        )?;
        let (variables, power) = (Vec::new(), Mutex::new(None));
        let machine = Self { name, root: root.to_owned(), home, variables, power };
        machine.switch_on()?;
        Ok(machine)
    }

    /// Sets a variable for every program that is run on the machine from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Runs a program on the machine as root, and returns its stdout. An error contains the end of its stderr.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        command::output(&mut self.enter(words)?)
            .with_context(|| format!("on the machine: {}", words.join(" ")))
    }

    /// Runs a program on the machine as root, and returns its output even if it fails.
    pub fn attempt(&self, words: &[&str]) -> Result<Output> {
        let output = self.enter(words)?.stdin(Stdio::null()).output();
        interrupt::check()?;
        output.with_context(|| format!("entering the machine {}", self.name))
    }

    /// Runs a program on the machine with `input` as its stdin.
    pub fn feed(&self, words: &[&str], input: &str) -> Result<()> {
        let mut child = self.enter(words)?.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).with_context(|| format!("writing to {}", words.join(" ")))?;
        }
        let status = child.wait()?;
        interrupt::check()?;
        if !status.success() {
            bail!("on the machine, {} failed ({status})", words.join(" "));
        }
        Ok(())
    }

    /// Starts a program on the machine and does not wait for it.
    pub fn start(&self, words: &[&str]) -> Result<Child> {
        self.spawn(self.enter(words)?)
    }

    /// Starts a program on the machine that may run as long as the machine.
    pub fn start_service(&self, words: &[&str]) -> Result<Child> {
        self.spawn(self.enter_for("0", words)?)
    }

    fn spawn(&self, mut command: Command) -> Result<Child> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("entering the machine {}", self.name))
    }

    /// Copies a file of this computer to the machine, with its mode. Creates directories as needed.
    pub fn copy_in(&self, from: &Path, to: &str) -> Result<()> {
        let inside = self.path(to)?;
        fs::create_dir_all(inside.parent().unwrap_or(Path::new("/")))?;
        let copied = match fs::read_link(from) {
            Ok(to) => symlink(to, &inside),
            Err(_) => fs::copy(from, &inside).map(drop),
        };
        copied.with_context(|| format!("copying {} to the machine", from.display()))
    }

    /// Writes a file on the machine, owned by root and readable by everyone. Creates directories as needed.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let inside = self.path(path)?;
        fs::create_dir_all(inside.parent().unwrap_or(Path::new("/")))?;
        fs::write(&inside, text).with_context(|| format!("writing {path} on the machine"))
    }

    /// Returns the path on this computer of a path on the machine. Valid until the next reboot. The path must not contain
    /// symlinks: they would be resolved on this computer.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.init()?)))
    }

    /// Returns the pid of the machine's first process, by which its network can be entered.
    pub fn init(&self) -> Result<u32> {
        Ok(self.power().as_ref().context("the machine is off")?.init)
    }

    /// Runs this computer's `ip` in the machine's network.
    pub fn ip(&self, words: &[&str]) -> Result<()> {
        let mut ip = Command::new("nsenter");
        ip.args(["--net", "--target", &self.init()?.to_string(), "ip"]).args(words);
        command::output(&mut ip).map(drop)
    }

    /// Cuts the power and boots again, as [`Self::switch_off`] and [`Self::switch_on`] do.
    pub fn reboot(&self) -> Result<()> {
        self.switch_off()?;
        self.switch_on()
    }

    fn enter(&self, words: &[&str]) -> Result<Command> {
        self.enter_for(COMMAND_TIMEOUT, words)
    }

    /// Returns the command that runs a program on the machine, for at most so many seconds; 0 is no limit.
    fn enter_for(&self, seconds: &str, words: &[&str]) -> Result<Command> {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", seconds, "nsenter", "--all", "--target"])
            .arg(self.init()?.to_string())
            .arg("--")
            .args(words)
            .env_clear()
            .envs([("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C")])
            .envs([("HOME", "/root"), ("ETCDCTL_API", "3")])
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    fn power(&self) -> MutexGuard<'_, Option<Power>> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn script(&self) -> PathBuf {
        self.home.path().join("machine.sh")
    }

    /// Boots the machine, and waits until systemd has started everything, or has tried to. Its network has no connection to any
    /// other.
    pub fn switch_on(&self) -> Result<()> {
        self.supervise()?;
        self.wait_for_boot(&|| {
            let output = self.attempt(&["systemctl", "is-system-running"])?;
            Ok(["running", "degraded"].contains(&String::from_utf8_lossy(&output.stdout).trim()))
        })
    }

    /// Boots the machine, connects it to others with `connect`, and waits until systemd starts services: some of them may
    /// wait for other machines.
    pub fn switch_on_connected(&self, connect: &dyn Fn() -> Result<()>) -> Result<()> {
        self.supervise()?;
        self.wait_for_boot(&|| Ok(true))?;
        connect()?;
        self.wait_for_boot(&|| {
            Ok(self.attempt(&["systemctl", "is-active", "basic.target"])?.status.success())
        })
    }

    /// Starts the machine's processes.
    fn supervise(&self) -> Result<()> {
        let console = fs::File::create(self.home.path().join("console"))?;
        let supervisor = Command::new("setpriv")
            // If this process dies, the machine ends too: the kernel ends a pid namespace with its first process.
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
        *self.power() = Some(Power { supervisor, init: 0 });
        Ok(())
    }

    /// Waits until the first process exists, and `is_up`.
    fn wait_for_boot(&self, is_up: &dyn Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + BOOT_TIMEOUT;
        while !(self.find_init()? && is_up()?) {
            if Instant::now() > deadline {
                bail!("the machine did not boot within {} s:\n{}", BOOT_TIMEOUT.as_secs(), self.console());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Looks for the machine's first process, and returns whether it exists.
    fn find_init(&self) -> Result<bool> {
        interrupt::check()?;
        let mut power = self.power();
        let power = power.as_mut().context("the machine is off")?;
        if let Some(status) = power.supervisor.try_wait()? {
            bail!("the machine did not boot ({status}):\n{}", self.console());
        }
        let Some(init) = first_process(power.supervisor.id()) else { return Ok(false) };
        power.init = init;
        Ok(true)
    }

    fn console(&self) -> String {
        fs::read_to_string(self.home.path().join("console")).unwrap_or_default()
    }

    /// Cuts the power. No program gets a signal; everything that was written to files is kept.
    pub fn switch_off(&self) -> Result<()> {
        let power = self.power().take();
        let Some(mut power) = power else { return Ok(()) };
        power.supervisor.kill().context("killing the supervisor of a machine")?;
        power.supervisor.wait().context("waiting for the end of a machine")?;
        let deadline = Instant::now() + END_TIMEOUT;
        while power.init != 0 && Path::new("/proc").join(power.init.to_string()).exists() {
            if Instant::now() > deadline {
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

/// Returns the machine's first process. It is a child of systemd-nspawn, which is a child of unshare.
fn first_process(unshare: u32) -> Option<u32> {
    children(unshare)?.into_iter().find_map(|nspawn| {
        children(nspawn)?
            .into_iter()
            .find(|child| namespace_pids(*child).is_some_and(|pids| pids.ends_with(" 1")))
    })
}

fn children(pid: u32) -> Option<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().map(|child| child.parse().ok()).collect()
}

/// Returns the pids of a process in all its pid namespaces, the innermost last, such as `4711 17 1`.
fn namespace_pids(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    Some(pids.split_whitespace().collect::<Vec<_>>().join(" "))
}
