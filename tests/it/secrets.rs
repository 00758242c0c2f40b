//! Secrets stay where they belong: watched at every call that an action makes, not at its end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::Pid;

use crate::chaos::tracer::{Fate, trace};
use crate::destinations::write_destinations;
use crate::encryption::{IDENTITY, command, encrypt, identity};
use crate::restore::from;
use crate::run::Results;
use crate::s3::{SECRET, Server};
use crate::world::{PASSWORD, Setup, Version, World};

on_both_versions! {
    tells_no_secret_and_leaves_none_open_at_any_moment,
}

on_one_version! {
    tells_no_secret_of_a_bucket_and_of_an_identity_either,
}

/// What is in the data, and in no other place.
const KEY: &str = "canary-of-a-key";
const VALUE: &str = "canary-of-a-value";

fn tells_no_secret_and_leaves_none_open_at_any_moment(version: Version) {
    let world = guarded(version);
    Watch::of(&world).there_and_back(World::action, &[]);
}

fn tells_no_secret_of_a_bucket_and_of_an_identity_either(version: Version) {
    let world = guarded(version);
    let server = Server::new(&["backups"]);
    server.write_credentials(&world.path("credentials"));
    write_destinations(&world, &[("offsite", server.port, "backups", "")]);
    encrypt(&world, &fs::read_to_string(world.path("backup.yaml")).unwrap());
    let mut watch = Watch::of(&world);
    watch.canaries.push(("the bucket's secret", SECRET.to_owned()));
    watch.canaries.push(("the identity", IDENTITY.to_owned()));
    let results = watch.there_and_back(command, &[&identity(&world, IDENTITY)]);
    assert_eq!(results.get("destinations.offsite"), "uploaded");
}

/// An etcd behind TLS and a password, with canaries in it.
fn guarded(version: Version) -> World {
    let world = World::new(Setup { tls: true, auth: true, ..Setup::plain(version) });
    world.fill();
    world.put_bytes(&format!("/registry/secrets/{KEY}"), VALUE.as_bytes());
    world
}

/// How many looks at a child there were, and at one that may know the password.
#[derive(Debug, Default)]
struct Tools {
    seen: usize,
    trusted: usize,
}

struct Watch<'w> {
    world: &'w World,
    /// Every secret, and a name for it.
    canaries: Vec<(&'static str, String)>,
}

impl<'w> Watch<'w> {
    fn of(world: &'w World) -> Self {
        let site = fs::read_to_string(world.site()).unwrap();
        let key_file = site.lines().find_map(|line| line.strip_prefix("key: ")).unwrap();
        // A line from the middle of the client's private key.
        let key = fs::read_to_string(key_file.trim_matches('"')).unwrap().lines().nth(1).unwrap().to_owned();
        let canaries = vec![
            ("the password", PASSWORD.to_owned()),
            ("a key", KEY.to_owned()),
            ("a value", VALUE.to_owned()),
            ("the client's private key", key),
        ];
        Self { world, canaries }
    }

    /// A snapshot, which gives its results back, and a restore of it.
    fn there_and_back(&self, action: impl Fn(&World, &str, &[&str]) -> Command, restore: &[&str]) -> Results {
        let target = self.world.to_target();
        let results = self.runs(&action(self.world, env!("CARGO_BIN_EXE_snapshot"), &[&target]), 2);
        let archive = from(Path::new(&results.get("snapshot.path")));
        let words = [&[archive.as_str(), &target], restore].concat();
        self.runs(&action(self.world, env!("CARGO_BIN_EXE_restore"), &words), 4);
        self.reads_what_stays(&self.world.target());
        results
    }

    /// Runs it, looks around before each of its calls, and at `least` so often at a child.
    fn runs(&self, command: &Command, least: usize) -> Results {
        let mut tools = Tools::default();
        let out = trace(command, &self.world.path("runs"), &mut |_, pid| {
            self.looks_at_processes(pid, &mut tools);
            self.looks_at_modes(&self.world.target());
            self.looks_at_modes(&self.world.data_dir().join(".etcd-restore"));
            Fate::Made
        });
        self.reads("its words", format!("{}{}", out.stdout, out.stderr).as_bytes(), true);
        // The watch saw what it watches for: our children, some of which have the password.
        assert!(tools.seen >= least && tools.trusted > 0, "{tools:?}");
        out.completed()
    }

    /// Names, and what is noted beside the archives: the records of the runs, what waits to be uploaded.
    fn reads_what_stays(&self, dir: &Path) {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy();
            self.reads("a file's name", name.as_bytes(), true);
            if path.is_dir() {
                self.reads_what_stays(&path);
            } else if !name.ends_with(".tar.gz") {
                self.reads(&name, &fs::read(&path).unwrap(), true);
            }
        }
    }

    /// Of ours and its children: the words that started them, and what they were given along. etcdctl alone is told the
    /// password.
    fn looks_at_processes(&self, ours: Pid, tools: &mut Tools) {
        for pid in family(ours) {
            let read = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let (argv, environ) = (read("cmdline"), read("environ"));
            if read("cmdline") != argv {
                // It has become another program between the two, which is looked at at the next call.
                continue;
            }
            let program = argv.split(|byte| *byte == 0).next().unwrap_or_default();
            let is_etcdctl = program.ends_with(b"etcdctl");
            tools.seen += usize::from(pid != ours.as_raw());
            tools.trusted += usize::from(is_etcdctl && contains(&environ, PASSWORD));
            self.reads("an argument", &argv, true);
            self.reads("an environment", &environ, !is_etcdctl);
        }
    }

    /// Nobody else may read what is there, nor enter.
    fn looks_at_modes(&self, dir: &Path) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        // What goes away meanwhile needs no mode.
        for entry in entries.flatten() {
            let Ok(found) = entry.metadata() else { continue };
            let mode = found.permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} is open to others: {mode:o}", entry.path().display());
            if found.is_dir() {
                self.looks_at_modes(&entry.path());
            }
        }
    }

    fn reads(&self, place: &str, bytes: &[u8], password_too: bool) {
        for (what, canary) in &self.canaries {
            let allowed = canary == PASSWORD && !password_too;
            assert!(allowed || !contains(bytes, canary), "{what} stands in {place}");
        }
    }
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

/// A process and all below it.
fn family(root: Pid) -> Vec<i32> {
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids: Vec<(i32, i32)> = all
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    let mut family = vec![root.as_raw()];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(pids.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    family
}
