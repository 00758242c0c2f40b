//! Tests of discovery on processes that are simulated with files.

use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use tempfile::TempDir;

/// A process in a tree that looks like `/proc`.
pub struct Process {
    pub pid: i32,
    pub comm: &'static str,
    pub program: &'static str,
    pub words: Vec<String>,
    pub environment: &'static str,
    pub cgroup: &'static str,
    /// Whether it sees files that are not ours.
    pub contained: bool,
}

impl Process {
    pub fn etcd(pid: i32, flags: &[&str]) -> Self {
        let words = std::iter::once(&"/usr/bin/etcd").chain(flags).map(|word| (*word).to_owned()).collect();
        let cgroup = "0::/system.slice/etcd.service\n";
        let (comm, program) = ("etcd", "/usr/bin/etcd");
        Self { pid, comm, program, words, environment: "", cgroup, contained: false }
    }

    pub fn put(&self, root: &Path) {
        let home = root.join("proc").join(self.pid.to_string());
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("comm"), format!("{}\n", self.comm)).unwrap();
        fs::write(
            home.join("cmdline"),
            self.words.iter().map(|word| format!("{word}\0")).collect::<String>(),
        )
        .unwrap();
        fs::write(home.join("environ"), self.environment).unwrap();
        fs::write(home.join("cgroup"), self.cgroup).unwrap();
        symlink("/home", home.join("cwd")).unwrap();
        if self.contained {
            make_dir(&home.join("root"), "data/a");
        } else {
            symlink(root, home.join("root")).unwrap();
        }
        let program = under(&home.join("root"), Path::new(self.program));
        symlink(&program, home.join("exe")).unwrap();
        let dir = Path::new(self.program).parent().unwrap();
        make_dir(&home.join("root"), dir.strip_prefix("/").unwrap().to_str().unwrap());
        fs::write(&program, "").unwrap();
        set_mode(&program, 0o755);
    }
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Directories that their owner alone may write to, whatever the umask.
fn make_dir(root: &Path, path: &str) {
    fs::create_dir_all(root.join(path)).unwrap();
    let dirs = Path::new(path).ancestors();
    dirs.for_each(|dir| set_mode(&root.join(dir), 0o755));
}

/// A machine with two directories for data and no process.
pub fn machine() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for dir in ["proc/self", "data/a", "data/b", "home"] {
        make_dir(root.path(), dir);
    }
    root
}

fn found_with(process: &Process, main_pid: Option<i32>) -> Running {
    let root = machine();
    fs::write(root.path().join("home/etcd.yml"), "name: c\ndata-dir: /data/b\n").unwrap();
    process.put(root.path());
    look(root.path(), &Systemd { main_pid: &|_| main_pid, ..Systemd::missing() }).unwrap()
}

#[test]
fn reads_flags_variables_and_the_configuration_file() {
    for (flags, environment, data_dir) in [
        (&["--data-dir=/data/a"][..], "", "/data/a"),
        (&["--name", "m1"], "HOME=/\0", "/home/m1.etcd"),
        (&[], "ETCD_DATA_DIR=/data/b\0PATH=/bin\0", "/data/b"),
        (&["--data-dir=/data/a"], "ETCD_DATA_DIR=/data/b\0", "/data/a"),
        (&["--data-dir=/data/a", "--config-file=/home/etcd.yml"], "", "/data/b"),
        (&["--data-dir=/data/a"], "ETCD_CONFIG_FILE=etcd.yml\0", "/data/b"),
    ] {
        let running = found_with(&Process { environment, ..Process::etcd(42, flags) }, None);
        let [found] = &running.local[..] else { panic!("{running:?}") };
        assert_eq!(*found.site.data_dir, Path::new(data_dir), "{flags:?} {environment:?}");
        assert_eq!(found.site.description, "pid 42");
        assert_eq!(found.site.pid, Some(42));
    }
}

#[test]
fn refuses_a_configuration_file_that_cannot_be_read() {
    let root = machine();
    Process::etcd(42, &["--config-file=/none.yml"]).put(root.path());
    let refusal = look(root.path(), &Systemd::missing()).unwrap_err();
    assert!(refusal.reason.contains("pid 42") && refusal.reason.contains("/none.yml"), "{refusal}");
}

#[test]
fn ignores_proxies_clients_and_private_servers() {
    let none: [&str; 0] = [];
    for other in [
        Process { words: Vec::new(), ..Process::etcd(42, &none) },
        Process { comm: "sh", program: "/bin/dash", ..Process::etcd(42, &none) },
        Process {
            program: "/bin/dash",
            words: vec!["/bin/sh".into(), "/bin/etcd".into()],
            ..Process::etcd(42, &none)
        },
        Process { comm: "etcdctl", program: "/usr/bin/etcdctl", ..Process::etcd(42, &none) },
        Process::etcd(42, &["gateway", "start"]),
        Process::etcd(42, &["--listen-client-urls=unix://client.sock:0"]),
    ] {
        let running = found_with(&other, None);
        assert!(running.local.is_empty() && running.contained.is_empty(), "{running:?}");
    }
    let replaced = Process { comm: "3.5", program: "/opt/3.5/etcd (deleted)", ..Process::etcd(42, &none) };
    assert_eq!(found_with(&replaced, None).local.len(), 1);
}

/// Returns what is found if the machine was changed after `process` started.
fn changed(process: &Process, change: impl Fn(&Path)) -> Running {
    let root = machine();
    process.put(root.path());
    change(root.path());
    look(root.path(), &Systemd::missing()).unwrap()
}

#[test]
fn does_not_trust_a_program_that_others_can_change() {
    // Its configuration is not even read.
    let etcd = Process::etcd(42, &["--config-file=/none.yml"]);
    let gone = Process { program: "/usr/bin/etcd (deleted)", ..Process::etcd(42, &["--data-dir=/data/a"]) };
    for process in [etcd, gone] {
        for (path, mode) in [(process.program, 0o757), ("/usr/bin", 0o757), ("/usr", 0o777), ("/", 0o777)] {
            let running = changed(&process, |root| set_mode(&under(root, Path::new(path)), mode));
            let [untrusted] = &running.untrusted[..] else { panic!("{path} {mode:o}: {running:?}") };
            assert_eq!((untrusted.pid, &*untrusted.program), (42, Path::new("/usr/bin/etcd")));
            assert!(
                untrusted.reason.contains("users other than root can change"),
                "{path} {mode:o}: {untrusted:?}"
            );
            assert!(running.local.is_empty() && running.contained.is_empty(), "{running:?}");
        }
    }
}

/// Gives a process to another user than root and us. Returns `false` if we may not.
pub fn give_away(root: &Path, pid: i32) -> bool {
    let given = chown(root.join("proc").join(pid.to_string()), Some(12345), None).is_ok();
    if !given {
        eprintln!("skipped: only root gives files away");
    }
    given
}

#[test]
fn trusts_the_process_of_another_user_only_in_a_system_unit() {
    let user = "0::/user.slice/user-12345.slice/user@12345.service/app.slice/etcd.service\n";
    // The configuration of an untrusted process is not even read.
    let etcd = |config: &str| Process::etcd(42, &["--data-dir=/data/a", &format!("--config-file={config}")]);
    for (process, main_pid, counts) in [
        (etcd("/home/etcd.yml"), Some(42), true),
        (etcd("/none.yml"), Some(1), false),
        (etcd("/none.yml"), None, false),
        (Process { cgroup: user, ..etcd("/none.yml") }, Some(42), false),
        (Process { cgroup: "0::/kubepods.slice/x.scope\n", ..etcd("/none.yml") }, Some(42), false),
        (Process { contained: true, ..etcd("/none.yml") }, None, false),
    ] {
        let root = machine();
        fs::write(root.path().join("home/etcd.yml"), "data-dir: /data/b\n").unwrap();
        process.put(root.path());
        if !give_away(root.path(), 42) {
            return;
        }
        let running = look(root.path(), &Systemd { main_pid: &|_| main_pid, ..Systemd::missing() }).unwrap();
        assert_eq!((running.local.len(), running.contained.len()), (usize::from(counts), 0), "{running:?}");
        let whose = |found: &Untrusted| found.pid == 42 && found.reason.contains("runs as user 12345");
        assert_eq!(running.untrusted.iter().filter(|found| whose(found)).count(), usize::from(!counts));
    }
}

#[test]
fn refuses_a_pipe_as_configuration_file_without_waiting() {
    let root = machine();
    Process::etcd(42, &["--config-file=/home/pipe"]).put(root.path());
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.path().join("home/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    let refusal = look(root.path(), &Systemd::missing()).unwrap_err();
    assert!(
        refusal.reason.contains("/home/pipe") && refusal.reason.contains("not a regular file"),
        "{refusal}"
    );
}

#[test]
fn does_not_trust_a_program_that_is_not_the_file_at_its_path() {
    let running = changed(&Process::etcd(42, &[]), |root| {
        let exe = root.join("proc/42/exe");
        fs::remove_file(root.join("usr/bin/etcd")).unwrap();
        assert!(!exe.exists());
    });
    assert_eq!(running.untrusted.len(), 1);
}

#[test]
fn trusts_a_symlink_named_etcd_only_if_it_is_owned_by_root() {
    let link = |root: &Path, from: &str| symlink("/opt/etcd-server", under(root, Path::new(from))).unwrap();
    let named = |name: &str| Process {
        program: "/opt/etcd-server",
        words: vec![name.to_owned()],
        ..Process::etcd(42, &[])
    };
    let running = changed(&named("/home/etcd"), |root| link(root, "/home/etcd"));
    assert_eq!(running.local.len(), 1, "{running:?}");
    for (name, mode) in [("/home/etcd", 0o777), ("etcd", 0o755), ("/none/etcd", 0o755), ("/data/etcd", 0o755)]
    {
        let running = changed(&named(name), |root| {
            link(root, "/home/etcd");
            symlink("/bin/other", root.join("data/etcd")).unwrap();
            set_mode(&root.join("home"), mode);
        });
        let [untrusted] = &running.untrusted[..] else { panic!("{name} {mode:o}: {running:?}") };
        assert_eq!((untrusted.pid, &*untrusted.program), (42, Path::new("/opt/etcd-server")));
    }
}

#[test]
fn the_service_is_the_unit_that_has_etcd_as_main_process() {
    let service = |cgroup, main_pid| {
        let running = found_with(&Process { cgroup, ..Process::etcd(42, &[]) }, main_pid);
        running.local.into_iter().next().unwrap().site.service.value
    };
    let cgroup = "0::/system.slice/etcd.service\n";
    assert_eq!(service(cgroup, Some(42)), Service::Systemd { systemd: "etcd.service".to_owned() });
    for main_pid in [Some(1), None] {
        assert_eq!(service(cgroup, main_pid), Service::Unknown { pid: 42 });
    }
    assert_eq!(service("0::/\n", Some(42)), Service::Unknown { pid: 42 });
}

#[test]
fn the_unit_is_the_last_part_of_the_cgroup() {
    for (cgroup, expected) in [
        ("0::/system.slice/etcd.service\n", Some("etcd.service")),
        (
            "8:pids:/x\n1:name=systemd:/system.slice/snap.etcd.etcd.service\n0::/\n",
            Some("snap.etcd.etcd.service"),
        ),
        ("0::/system.slice/system-etcd.slice/etcd@m1.service\n", Some("etcd@m1.service")),
        ("0::/system.slice/containerd.service/kubepods-pod1:cri:2\n", None),
        ("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-2.scope\n", None),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/etcd.service\n", None),
        ("0::/user.slice/user-0.slice/session-1.scope\n", None),
        ("0::/\n", None),
        ("", None),
    ] {
        assert_eq!(unit_in(cgroup), expected, "{cgroup:?}");
    }
}
