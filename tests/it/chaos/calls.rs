//! Single calls that fail, of which more is asked than of any: that their failure is named, and that nothing of it stays.

use std::fs;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::fixture::{Action, Ground};
use crate::common::command::Out;
use crate::common::tracer::{Call, Fate, trace};
use crate::common::world::{Version, World};

/// The children of a process, whichever of its threads they are of.
fn children(pid: Pid) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    children.flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Runs the action with each call that `strikes` tells made to fail; how often one did.
fn failing(ground: &Ground, errno: Errno, strikes: &mut dyn FnMut(&Call) -> bool) -> (Out, usize) {
    let mut struck = 0;
    let out = ground.run(&mut |call, _| {
        if !strikes(call) {
            return Fate::Made;
        }
        struck += 1;
        Fate::Fails(errno)
    });
    (out, struck)
}

#[test]
fn a_thread_that_cannot_be_made_is_told() {
    let ground = Ground::new(Action::Snapshot, None);
    for (maker, nth, step) in [
        ("snapshot", 1, "starting the thread `members`: "),
        ("snapshot", 2, "starting the thread `pack`: "),
        ("snapshot", 3, "starting the thread `read back`: "),
        ("snapshot", 4, "starting the thread `inspect`: "),
        ("inspect", 1, "starting the thread `structure`: "),
        ("pack", 1, ""),
        ("read back", 1, "reading the archive back: unpacking the snapshot: "),
    ] {
        let mut made = 0;
        let (out, struck) = failing(&ground, Errno::EAGAIN, &mut |call| {
            let one = call.name == "clone3" && name_of(call.thread) == maker;
            made += usize::from(one);
            one && made == nth
        });
        assert_eq!(struck, 1, "{maker}: {}", out.told());
        out.is_in_good_order();
        assert!(ground.world.in_target().is_empty());
        out.failed(&[&format!("{step}Resource temporarily unavailable")]);
    }
}

/// What a thread is called; the first of a process has the program's name.
fn name_of(thread: Pid) -> String {
    fs::read_to_string(format!("/proc/{thread}/comm")).unwrap().trim_end().to_owned()
}

#[test]
fn a_tool_that_cannot_be_looked_at_is_not_called_missing() {
    let ground = Ground::new(Action::Snapshot, None);
    let looks = |call: &Call| call.name == "statx" && call.about.ends_with("/etcdctl");
    let (out, struck) = failing(&ground, Errno::EIO, &mut |call| looks(call));
    assert!(struck > 1, "{}", out.told());
    out.failed(&["etcdctl: Input/output error"]);
    // Once may pass.
    let (out, _) = failing(&ground, Errno::EIO, &mut |call| looks(call) && call.number == 1);
    let _ = out.completed();
}

#[test]
fn a_child_that_cannot_be_watched_does_not_run_on() {
    let ground = Ground::new(Action::Snapshot, None);
    let (mut struck, mut left) = (false, None);
    let out = ground.run(&mut |call, pid| {
        // The second tool of two at a time: the first may live.
        if call.name == "pidfd_open" && call.number == 4 {
            struck = true;
            return Fate::Fails(Errno::EMFILE);
        }
        if struck && call.name == "write" {
            left.get_or_insert_with(|| children(pid));
        }
        Fate::Made
    });
    assert_eq!(left.as_deref(), Some([].as_slice()), "{}", out.told());
    out.is_in_good_order();
    out.failed(&["Too many open files"]);
}

#[test]
fn a_name_that_its_disk_does_not_take_is_taken_back() {
    for action in [Action::Snapshot, Action::Restore] {
        let ground = Ground::new(action, None);
        let mut named = false;
        let (out, struck) = failing(&ground, Errno::EIO, &mut |call| {
            let named_before = named;
            named |= call.name == "renameat2" && call.about == "archive";
            named_before && call.name == "fsync" && call.about == "target"
        });
        assert!(struck > 0, "{}", out.told());
        out.is_in_good_order();
        assert!(ground.world.in_target().is_empty(), "{}", out.told());
        assert_eq!(ground.stands(&out), if action == Action::Snapshot { "SAME" } else { "OLD" });
        out.failed(&["syncing directory"]);
    }
}

#[test]
fn a_name_that_cannot_be_taken_back_is_told() {
    let ground = Ground::new(Action::Snapshot, None);
    let mut named = false;
    let (out, _) = failing(&ground, Errno::EIO, &mut |call| {
        let named_before = named;
        named |= call.name == "renameat2" && call.about == "archive";
        named_before && (call.name == "renameat2" || (call.name == "fsync" && call.about == "target"))
    });
    assert_eq!(ground.stands(&out), "PLUS");
    let archive = ground.world.target().join(&ground.world.in_target()[0]);
    assert!(!out.stderr.contains("no archive was published"), "{}", out.told());
    out.failed(&[&format!("{} is whole and stands there", archive.display())]);
}

#[test]
fn a_directory_that_cannot_be_entered_is_not_left() {
    let world = World::plain(Version::V35);
    let target = format!("target={}/deeper/still", world.target().display());
    let command = world.action(program!("snapshot"), &[&target]);
    let mut made = false;
    let out = trace(&command, &world.path("runs"), &mut |call, _| {
        if made && call.name == "openat" {
            return Fate::FailsAlone(Errno::EMFILE);
        }
        made |= call.name == "mkdirat" && call.about == "deeper";
        Fate::Made
    });
    out.is_in_good_order();
    assert!(world.in_target().is_empty(), "{}", out.told());
    out.failed(&["opening", "deeper: Too many open files"]);
}

/// The reader of an archive that is given up sees one that is cut short; why it was, the writer knows.
#[test]
fn a_write_that_fails_is_told_and_not_what_is_read_then() {
    let ground = Ground::new(Action::Snapshot, None);
    for number in 1.. {
        let (out, struck) = failing(&ground, Errno::ENOSPC, &mut |call| {
            let writes = ["write", "pwrite64"].contains(&call.name) && call.about.ends_with("/archive");
            writes && call.number == number
        });
        if struck == 0 {
            let _ = out.completed();
            assert!(number > 2, "an archive of one write");
            break;
        }
        assert!(!out.stderr.contains("cut short"), "{}", out.told());
        out.failed(&["No space left on device"]);
    }
}
