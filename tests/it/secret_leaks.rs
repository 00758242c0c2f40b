//! A watch over an action: every program that it starts is looked at before its first step, and every file that one of
//! them makes before the next.

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
use crate::encryption::{IDENTITY, OTHERS_IDENTITY};
use crate::restore::from;

pub const SNAPSHOT: &str = program!("snapshot");
pub const RESTORE: &str = program!("restore");

/// What is in the data, and in no other place: of every key, of every value, and of the password of every user but root.
pub const KEY: &str = "canary-of-a-key";
pub const VALUE: &str = "canary-of-a-value";
pub const OTHERS_PASSWORD: &str = "canary-of-another-password";
/// What somebody took for the password, and for the secret of a bucket.
pub const WRONG: &str = "canary-of-a-wrong-password";

/// A secret, and every shape of it that somebody can read.
struct Canary {
    what: &'static str,
    shapes: Vec<String>,
    /// Whether etcdctl is told it.
    is_etcdctls: bool,
}

impl Canary {
    fn new(what: &'static str, secret: &str) -> Self {
        let mut shapes = vec![secret.to_owned()];
        let hex = |byte: &u8| format!("{byte:02x}");
        let lower: String = secret.as_bytes().iter().map(hex).collect();
        shapes.extend([lower.to_uppercase(), lower]);
        // etcd's JSON has keys and values in base64, where they may begin at each of three places.
        shapes.extend((0..3).map(|skipped| base64(&secret.as_bytes()[skipped..])));
        Self { what, shapes, is_etcdctls: false }
    }

    fn for_etcdctl(self) -> Self {
        Self { is_etcdctls: true, ..self }
    }
}

/// The base64 of the whole triples in it.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letters = |triple: &[u8]| {
        let bits = triple.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(ALPHABET[bits >> shift & 0x3f]))
    };
    bytes.chunks_exact(3).flat_map(letters).collect()
}

pub struct Watch<'w> {
    world: &'w World,
    canaries: Vec<Canary>,
    /// The names of the programs that were seen to start.
    pub programs: BTreeSet<String>,
    /// How many of them had the password.
    trusted: usize,
    /// What was seen to be made.
    made: BTreeSet<PathBuf>,
}

impl<'w> Watch<'w> {
    pub fn of(world: &'w World) -> Self {
        let mut canaries = vec![
            Canary::new("the password", PASSWORD).for_etcdctl(),
            Canary::new("a wrong password", WRONG).for_etcdctl(),
            Canary::new("another's password", OTHERS_PASSWORD),
            Canary::new("a key", KEY),
            Canary::new("a value", VALUE),
            Canary::new("the bucket's secret", SECRET),
            Canary::new("the identity", IDENTITY),
            Canary::new("another identity", OTHERS_IDENTITY),
        ];
        if world.setup().tls {
            for name in ["client.key", "server.key"] {
                // A line from the middle of it.
                let key = fs::read_to_string(world.path("tls").join(name)).unwrap();
                canaries.push(Canary::new("a private key", key.lines().nth(1).unwrap()));
            }
        }
        Self { world, canaries, programs: BTreeSet::new(), trusted: 0, made: BTreeSet::new() }
    }

    /// Where archives go. It is not there at first.
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

    /// A snapshot, which gives its results back, and a restore of it.
    pub fn there_and_back(
        mut self,
        action: impl Fn(&World, &str, &[&str]) -> Command,
        restore: &[&str],
    ) -> Results {
        let target = self.to_target();
        let results = self.runs(&action(self.world, SNAPSHOT, &[&target])).completed();
        let archive = from(Path::new(&results.get("snapshot.path")));
        let words = [&[archive.as_str(), &target], restore].concat();
        let _ = self.runs(&action(self.world, RESTORE, &words)).completed();
        self.reads_what_stays();

        // It saw what it watches for.
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

    /// Runs it, and looks at all that it starts and all that is made.
    pub fn runs(&mut self, command: &Command) -> Out {
        let out = trace_with_children(command, &self.world.path("runs"), &mut |seen| {
            if let Some(flaw) = self.flaw_in(seen) {
                panic!("{flaw}");
            }
            match seen {
                Seen::Program(pid) => {
                    // A script comes second, after its shell.
                    let argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
                    let words = argv.split(|byte| *byte == 0).take(2).map(String::from_utf8_lossy);
                    self.programs.extend(words.map(|word| word.rsplit('/').next().unwrap().to_owned()));
                    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap();
                    self.trusted += usize::from(contains(&environ, PASSWORD) || contains(&environ, WRONG));
                }
                Seen::Made(made) => {
                    self.made.insert(made.path.clone());
                    self.looks_at_all();
                }
            }
        });
        self.looks_at_all();
        self.reads("its words", format!("{}{}", out.stdout, out.stderr).as_bytes(), false);
        out
    }

    /// What is wrong with what one of the family did.
    pub fn flaw_in(&self, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Program(pid) => {
                let read = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap();
                let name = program(*pid);
                self.flaw("an argument", &read("cmdline"), false)
                    .or_else(|| self.flaw("the environment", &read("environ"), name == "etcdctl"))
                    .map(|flaw| format!("{flaw} of {name}"))
            }
            // A device of the machine is everybody's.
            Seen::Made(made) if made.found.file_type().is_char_device() => None,
            Seen::Made(made) => {
                let (call, mode) = (made.call, made.found.mode());
                let is_open = mode & 0o077 != 0;
                is_open.then(|| format!("{} is open to others after {call}: {mode:o}", made.path.display()))
            }
        }
    }

    /// The target and etcd's data directory, what lies beside the data, and everything in them.
    fn looks_at_all(&self) {
        looks_at_modes(&self.target());
        for beside in fs::read_dir(self.world.path("data")).unwrap() {
            looks_at_modes(&beside.unwrap().path());
        }
    }

    /// Names, and what is noted beside the archives: the records of the runs, what waits to be uploaded.
    pub fn reads_what_stays(&self) {
        self.reads_all_in(&self.target());
        for path in below(&self.world.path("data")) {
            self.reads("a file's name", path.as_os_str().as_encoded_bytes(), false);
        }
    }

    pub fn reads_all_in(&self, dir: &Path) {
        let all = below(dir);
        assert!(!all.is_empty(), "nothing is in {}", dir.display());
        for path in all {
            self.reads("a file's name", path.as_os_str().as_encoded_bytes(), false);
            // An archive in clear holds what it is for.
            if fs::symlink_metadata(&path).unwrap().is_file()
                && path.extension().is_none_or(|end| end != "gz")
            {
                self.reads(&path.display().to_string(), &fs::read(&path).unwrap(), false);
            }
        }
    }

    #[track_caller]
    pub fn reads(&self, place: &str, bytes: &[u8], by_etcdctl: bool) {
        if let Some(flaw) = self.flaw(place, bytes, by_etcdctl) {
            panic!("{flaw}");
        }
    }

    fn flaw(&self, place: &str, bytes: &[u8], by_etcdctl: bool) -> Option<String> {
        let told = |canary: &&Canary| canary.shapes.iter().any(|shape| contains(bytes, shape));
        let told = self.canaries.iter().filter(|canary| !(by_etcdctl && canary.is_etcdctls)).find(told)?;
        Some(format!("{} stands in {place}", told.what))
    }
}

/// Nobody else may read what is there, nor enter.
fn looks_at_modes(path: &Path) {
    // What goes away meanwhile needs no mode, and a symlink has none of its own.
    let Ok(found) = fs::symlink_metadata(path) else { return };
    let mode = found.mode();
    assert!(found.is_symlink() || mode & 0o077 == 0, "{} is open to others: {mode:o}", path.display());
    if found.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            looks_at_modes(&entry.path());
        }
    }
}

/// Everything below a directory, without what symlinks lead to.
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

/// The name of the program that a process is, whatever it calls itself.
fn program(pid: Pid) -> String {
    let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}
