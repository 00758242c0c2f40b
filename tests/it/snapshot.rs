//! The results and the refusals of `snapshot`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use test_case::test_case;

use crate::common::client::Data;
use crate::common::cluster;
use crate::common::command::wrap;
use crate::common::fs_util::{names, sha256sum, succeed};
use crate::common::world::{PASSWORD, Setup, Version, World, is_root};

/// Returns the next step of a snapshot that failed before anything was stopped.
pub fn snapshot_again(world: &World) -> String {
    format!("pgrep -a etcd, then `sudo etcd-backup snapshot --target={}`", world.target().display())
}

/// Returns whether the name has the documented form. A suffix before the extension distinguishes names of the
/// same second.
pub fn is_archive_name(name: &str) -> bool {
    let pattern = "etcd-snapshot-0000-00-00-00.00.00";
    let fits = |(at, wanted): (usize, char)| {
        name[at..].starts_with(
            |found: char| {
                if wanted == '0' { found.is_ascii_digit() } else { found == wanted }
            },
        )
    };
    name.is_ascii()
        && name.len() > pattern.len()
        && pattern.char_indices().all(fits)
        && name.ends_with(".tar.gz")
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn reports_the_path_and_the_contents_of_the_archive(version: Version) {
    for setup in Setup::each(version) {
        let world = World::new(setup);
        world.fill();
        let results = world.snapshot(&[&world.to_target()]).completed();

        let path = PathBuf::from(results.get("snapshot.path"));
        assert_eq!(path.parent().unwrap(), world.target());
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(is_archive_name(name), "{name}");
        assert_eq!(world.in_target(), [name]);

        assert_eq!(results.get("snapshot.sha256"), sha256sum(&path));
        assert_eq!(results.number("snapshot.revision"), world.revision());
        assert!(results.number("snapshot.keys") >= 281);
        assert!(results.get("snapshot.version").contains(&version.number()));
        assert!(!["", "false", "no"].contains(&results.get("snapshot.verified").as_str()));
        let size = results.get("snapshot.size");
        let (digits, unit) = size.split_at(size.len() - 1);
        assert!(digits.parse::<f64>().is_ok() && "BKMG0123456789".contains(unit), "{size}");
        let copy = results.get("copy.cmd");
        assert!(copy.starts_with("scp ") && copy.contains(path.to_str().unwrap()), "{copy}");

        assert_private(&path);
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        let out = &results.out;
        assert!(!out.stdout.contains(PASSWORD) && !out.stderr.contains(PASSWORD));
    }
}

/// Only its owner can read the archive. `juju scp` logs in as that owner: `ubuntu`, or root if there is no
/// such user.
fn assert_private(path: &Path) {
    let meta = fs::metadata(path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
    if is_root() {
        let ubuntu = nix::unistd::User::from_name("ubuntu").unwrap();
        assert_eq!(meta.uid(), ubuntu.map_or(0, |user| user.uid.as_raw()));
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn saves_an_empty_etcd(version: Version) {
    let world = World::plain(version);
    let path = world.saved();
    world.put(0..5, "later");
    let _ = world.restore(&[&format!("snapshot={}", path.display()), &world.to_target()]).completed();
    assert_eq!(world.dump(), Data::new());
}

#[test]
fn creates_a_missing_target_as_a_private_directory() {
    let world = World::plain(Version::V35);
    let target = world.target().join("not/yet");
    let results = world.snapshot(&[&format!("target={}", target.display())]).completed();
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o700);
    let path = PathBuf::from(results.get("snapshot.path"));
    assert_eq!(path.parent().unwrap(), target);
    assert_private(&path);
}

#[test]
fn gives_archives_of_the_same_second_different_names() {
    let world = World::plain(Version::V35);
    let paths: Vec<_> = (0..3).map(|_| world.saved()).collect();
    let found = world.in_target();
    assert_eq!(found.len(), paths.len());
    assert!(found.iter().all(|name| is_archive_name(name)), "{found:?}");

    // Each concurrent run either publishes its own name or refuses with the process that holds the lock.
    let runs: Vec<_> = (0..4).map(|_| world.start_snapshot(&[&world.to_target()])).collect();
    let mut made = 0;
    for run in runs {
        let out = run.finish();
        if out.status.success() {
            made += 1;
        } else {
            out.refused(&["(pid ", "is working on"]);
        }
    }
    assert!(made > 0);
    assert_eq!(world.in_target().len(), paths.len() + made);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn accepts_only_keys_version_v3(version: Version) {
    let world = World::plain(version);
    let _ = world.snapshot(&[&world.to_target(), "keys-version=v3"]).completed();
    world.snapshot(&[&world.to_target(), "keys-version=v2"]).refused(&["v2"]);
    world.snapshot(&[&world.to_target(), "keys-version=v4"]).refused(&["v4"]);
    assert_eq!(world.in_target().len(), 1);
}

#[test]
fn compresses_at_the_requested_level() {
    let world = World::plain(Version::V35);
    world.fill();
    let size = |word: &str| {
        let results = world.snapshot(&[&world.to_target(), &format!("compression={word}")]).completed();
        fs::metadata(results.get("snapshot.path")).unwrap().len()
    };
    // The packer fills waiting time with empty blocks, more of them on a busy machine. Empty blocks only add
    // bytes.
    let [balanced, small] = ["balanced", "small"].map(|word| (0..3).map(|_| size(word)).min().unwrap());
    assert!(balanced > small, "{balanced} {small}");
    world.snapshot(&[&world.to_target(), "compression=9"]).refused(&["balanced or small"]);
    assert_eq!(world.in_target().len(), 6);
}

#[test]
fn refuses_a_target_that_other_users_can_change() {
    let world = World::plain(Version::V35);
    let open = world.path("open");
    fs::create_dir(&open).unwrap();
    world.set_mode("open", 0o777);
    fs::write(world.path("file"), "").unwrap();
    symlink(world.target(), world.path("link")).unwrap();
    let path = |name| world.path(name).to_str().unwrap().to_owned();
    for target in
        [path("file"), path("file/below"), path("link"), path("link/below"), path("open"), path("open/below")]
    {
        world
            .snapshot(&[&format!("target={target}")])
            .refused(&["target: ", world.path("").to_str().unwrap()]);
    }
    // A refused run does not even write its record.
    assert!(names(&world.target()).is_empty());
    assert!(names(&open).is_empty());
}

#[test]
fn refuses_a_target_without_free_space() {
    if !is_root() {
        return eprintln!("skipped: only root can mount a small file system");
    }
    let world = World::plain(Version::V35);
    world.fill();
    let small = crate::common::mount::small(&world.target(), "40k");
    world.snapshot(&[&world.to_target()]).refused(&["but only", "are free"]);
    assert!(world.in_target().is_empty());
    drop(small);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_learner(version: Version) {
    let (_voter, learner) = cluster::with_learner(version);
    let out = learner.snapshot(&[&learner.to_target()]);
    assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.describe());
    out.assert_stderr_contains(&["learner"]);
    assert!(learner.in_target().is_empty());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn fails_without_a_leader(version: Version) {
    let world = World::plain(version);
    cluster::lose_quorum(&world);
    let out = world.snapshot(&[&world.to_target()]);
    assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.describe());
    out.assert_stderr_contains_one_of(&["has no leader", "deadline exceeded"]);
    assert!(world.in_target().is_empty());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn fails_if_etcd_is_down(version: Version) {
    for setup in Setup::each(version) {
        let world = World::new(setup);
        world.stop();
        let out = world.snapshot(&[&world.to_target()]);
        // With auth, etcdctl 3.4 prints only the second reason.
        out.assert_stderr_contains_one_of(&["connection refused", "TransientFailure"]);
        out.failed(&["asking etcd for its status"]);
        assert!(world.in_target().is_empty());
        assert!(!world.running());
    }
}

/// The snapshot runs in its own session, as an action does.
#[test]
fn runs_at_a_low_session_priority() {
    let world = World::plain(Version::V35);
    for n in 0..20 {
        world.put_bytes(&format!("large-{n}"), &[n; 1 << 20]);
    }
    let action = world.action(program!("snapshot"), &[&world.to_target()]);
    let watched = r#""$0" "$@" >/dev/null & while kill -0 $! 2>/dev/null; do cat /proc/$!/autogroup; done
        wait $! && { cat /proc/self/autogroup || true; }"#;
    let mut command = Command::new("setsid");
    command.args(["--wait", "sh", "-c", watched]);
    let output = succeed(wrap(command, &action).output().unwrap(), "snapshot in a session of its own");
    let Some(after) = output.lines().last() else {
        eprintln!("skipped: this kernel has no session priorities");
        return;
    };
    assert!(after.ends_with("nice 0"), "{output}");
    assert!(output.lines().any(|during| during.ends_with("nice 10")), "{output}");
}

/// No thread of the program lowers the `nice` value that it was started with.
#[test]
fn keeps_the_nice_value_it_was_started_with() {
    let world = World::plain(Version::V35);
    for n in 0..20 {
        world.put_bytes(&format!("large-{n}"), &[n; 1 << 20]);
    }
    let action = world.action(program!("snapshot"), &[&world.to_target()]);
    let watched =
        r#""$0" "$@" >/dev/null & while kill -0 $! 2>/dev/null; do cat /proc/$!/task/*/stat; done; wait $!"#;
    let mut command = Command::new("nice");
    command.args(["-n", "19", "sh", "-c", watched]);
    let output = succeed(wrap(command, &action).output().unwrap(), "snapshot at the lowest priority");
    // The thread name is in parentheses and may contain spaces.
    let threads: BTreeSet<(&str, &str)> = output
        .lines()
        .filter_map(|stat| stat.rsplit_once(") "))
        .filter_map(|(name, rest)| Some((name, rest.split(' ').nth(16)?)))
        .collect();
    assert!(threads.iter().any(|(name, _)| name.ends_with("(deflate")), "{output}");
    let forward: Vec<_> = threads.iter().filter(|(_, nice)| *nice != "19").collect();
    assert!(forward.is_empty(), "{forward:?}");
}
