//! Searches an action for leaked secrets: checks every program that it starts before its first instruction,
//! and every file that one of them creates directly after the call.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Pid;

use crate::common::command::{Out, Results};
use crate::common::process_tracer::{Seen, trace_with_children};
use crate::common::s3::SECRET;
use crate::common::world::{PASSWORD, World};
use crate::encryption::{IDENTITY, OTHER_IDENTITY};
use crate::restore::from;

pub const SNAPSHOT: &str = program!("snapshot");
pub const RESTORE: &str = program!("restore");

/// Secrets that may appear only in the data: a part of every key, of every value, and of the passwords of all
/// users but root.
pub const KEY: &str = "canary-of-a-key";
pub const VALUE: &str = "canary-of-a-value";
pub const OTHERS_PASSWORD: &str = "canary-of-another-password";
/// A wrong password, which is also used as the wrong secret of a bucket.
pub const WRONG: &str = "canary-of-a-wrong-password";

/// A secret, in all readable encodings.
struct Canary {
    what: &'static str,
    shapes: Vec<String>,
    /// Whether etcdctl may have the secret in its environment.
    is_etcdctls: bool,
}

impl Canary {
    fn new(what: &'static str, secret: &str) -> Self {
        let mut shapes = vec![secret.to_owned()];
        let hex = |byte: &u8| format!("{byte:02x}");
        let lower: String = secret.as_bytes().iter().map(hex).collect();
        shapes.extend([lower.to_uppercase(), lower]);
        // The JSON of etcd has keys and values in base64. The secret can start at each of three offsets.
        shapes.extend((0..3).map(|skipped| base64(&secret.as_bytes()[skipped..])));
        Self { what, shapes, is_etcdctls: false }
    }

    fn for_etcdctl(self) -> Self {
        Self { is_etcdctls: true, ..self }
    }
}

/// Returns the base64 of all complete groups of three bytes.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letters = |triple: &[u8]| {
        let bits = triple.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(ALPHABET[bits >> shift & 0x3f]))
    };
    bytes.chunks_exact(3).flat_map(letters).collect()
}

pub struct LeakDetector<'w> {
    world: &'w World,
    canaries: Vec<Canary>,
    /// The names of the programs that were seen to start.
    pub programs: BTreeSet<String>,
    /// The number of programs that had the password.
    trusted: usize,
    /// The files that were created.
    made: BTreeSet<PathBuf>,
}

impl<'w> LeakDetector<'w> {
    pub fn new(world: &'w World) -> Self {
        let mut canaries = vec![
            Canary::new("the password", PASSWORD).for_etcdctl(),
            Canary::new("a wrong password", WRONG).for_etcdctl(),
            Canary::new("another's password", OTHERS_PASSWORD),
            Canary::new("a key", KEY),
            Canary::new("a value", VALUE),
            Canary::new("the bucket's secret", SECRET),
            Canary::new("the identity", IDENTITY),
            Canary::new("another identity", OTHER_IDENTITY),
        ];
        if world.setup().tls {
            for name in ["client.key", "server.key"] {
                // Takes a line from the middle of the key.
                let key = fs::read_to_string(world.path("tls").join(name)).unwrap();
                canaries.push(Canary::new("a private key", key.lines().nth(1).unwrap()));
            }
        }
        Self { world, canaries, programs: BTreeSet::new(), trusted: 0, made: BTreeSet::new() }
    }

    /// Returns the directory for archives. It does not exist at first.
    pub fn target(&self) -> PathBuf {
        self.world.path("archives")
    }

    pub fn to_target(&self) -> String {
        format!("target={}", self.target().display())
    }

    pub fn archives(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.target()).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| is_archive(path)).collect()
    }

    /// Takes a snapshot and restores it. Returns the results of the snapshot.
    pub fn snapshot_and_restore(
        mut self,
        action: impl Fn(&World, &str, &[&str]) -> Command,
        restore: &[&str],
    ) -> Results {
        let target = self.to_target();
        let results = self.run(&action(self.world, SNAPSHOT, &[&target])).completed();
        let archive = from(Path::new(&results.get("snapshot.path")));
        let words = [&[archive.as_str(), &target], restore].concat();
        let _ = self.run(&action(self.world, RESTORE, &words)).completed();
        self.check_remaining_files();

        // Checks that the expected programs and files were seen.
        assert!(
            self.programs.is_superset(&["etcd", "etcdctl", "snapshot", "restore"].map(String::from).into())
        );
        assert!(self.trusted > 0);
        let made = |dir: &Path, name: &str| {
            assert!(self.made.iter().any(|path| path.starts_with(dir) && path.ends_with(name)), "no {name}");
        };
        let (archives, stage) = (self.target(), self.world.data_dir().join(".etcd-restore"));
        made(&archives, "");
        made(&archives, "archive");
        made(&archives, "db.part");
        made(&stage, "");
        made(&stage, "member/snap/db");
        results
    }

    /// Runs a command, and checks all programs that it starts and all files that they create.
    pub fn run(&mut self, command: &Command) -> Out {
        let out = trace_with_children(command, &self.world.path("runs"), &mut |seen| {
            if let Some(leak) = self.leak_in(seen) {
                panic!("{leak}");
            }
            match seen {
                Seen::Program(pid) => {
                    // The second argument is the name of a script, if the first is a shell.
                    let argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
                    let words = argv.split(|byte| *byte == 0).take(2).map(String::from_utf8_lossy);
                    self.programs.extend(words.map(|word| word.rsplit('/').next().unwrap().to_owned()));
                    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap();
                    self.trusted += usize::from(contains(&environ, PASSWORD) || contains(&environ, WRONG));
                }
                Seen::Made(made) => {
                    self.made.insert(made.path.clone());
                    self.check_all_modes();
                }
            }
        });
        self.check_all_modes();
        self.check("the output", format!("{}{}", out.stdout, out.stderr).as_bytes(), false);
        out
    }

    /// Returns the leak in an event of a traced process, if any.
    pub fn leak_in(&self, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Program(pid) => {
                let read = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap();
                let name = program(*pid);
                self.leak("an argument", &read("cmdline"), false)
                    .or_else(|| self.leak("the environment", &read("environ"), name == "etcdctl"))
                    .map(|leak| format!("{leak} of {name}"))
            }
            // Devices may be open to other users.
            Seen::Made(made) if made.found.file_type().is_char_device() => None,
            Seen::Made(made) => {
                let (call, mode) = (made.call, made.found.mode());
                let is_open = mode & 0o077 != 0;
                is_open.then(|| format!("{} is open to others after {call}: {mode:o}", made.path.display()))
            }
        }
    }

    /// Checks the modes of the target, of the data directory of etcd, and of the files next to it,
    /// recursively.
    fn check_all_modes(&self) {
        check_modes(&self.target());
        for sibling in fs::read_dir(self.world.path("data")).unwrap() {
            check_modes(&sibling.unwrap().path());
        }
    }

    /// Checks the files in the target (names, records of runs and the upload queue) and the names of the
    /// other files.
    pub fn check_remaining_files(&self) {
        self.check_files_in(&self.target());
        for path in below(&self.world.path("data")) {
            self.check("a file's name", path.as_os_str().as_encoded_bytes(), false);
        }
    }

    pub fn check_files_in(&self, dir: &Path) {
        let all = below(dir);
        assert!(!all.is_empty(), "{} is empty", dir.display());
        for path in all {
            self.check("a file's name", path.as_os_str().as_encoded_bytes(), false);
            // An unencrypted archive may contain the data.
            if fs::symlink_metadata(&path).unwrap().is_file()
                && path.extension().is_none_or(|end| end != "gz")
            {
                self.check(&path.display().to_string(), &fs::read(&path).unwrap(), false);
            }
        }
    }

    #[track_caller]
    pub fn check(&self, place: &str, bytes: &[u8], by_etcdctl: bool) {
        if let Some(leak) = self.leak(place, bytes, by_etcdctl) {
            panic!("{leak}");
        }
    }

    fn leak(&self, place: &str, bytes: &[u8], by_etcdctl: bool) -> Option<String> {
        let is_leaked = |canary: &&Canary| canary.shapes.iter().any(|shape| contains(bytes, shape));
        let leaked =
            self.canaries.iter().filter(|canary| !(by_etcdctl && canary.is_etcdctls)).find(is_leaked)?;
        Some(format!("{} is in {place}", leaked.what))
    }
}

/// Checks that other users cannot access a file or a directory, nor the files below it.
fn check_modes(path: &Path) {
    // Skips files that were removed since, and the modes of symlinks, which have no effect.
    let Ok(found) = fs::symlink_metadata(path) else { return };
    let mode = found.mode();
    assert!(found.is_symlink() || mode & 0o077 == 0, "{} is open to others: {mode:o}", path.display());
    if found.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            check_modes(&entry.path());
        }
    }
}

/// Returns all files below a directory, without following symlinks.
fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let with_all_in = |path: PathBuf| match fs::symlink_metadata(&path).unwrap().is_dir() {
        true => [below(&path), vec![path]].concat(),
        false => vec![path],
    };
    entries.flat_map(with_all_in).collect()
}

fn is_archive(path: &Path) -> bool {
    [".tar.gz", ".tar.gz.age"].iter().any(|end| path.to_string_lossy().ends_with(end))
}

/// Returns the file name of the program that a process executes. The process cannot change this name.
fn program(pid: Pid) -> String {
    let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}
