//! Single system calls that fail. The action must name the failure and remove its files.

use std::fs;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::fixture::{Action, Fixture};
use crate::common::command::Out;
use crate::common::tracer::{Call, Fate, trace};
use crate::common::world::{Version, World};

/// Returns the children of all threads of a process.
fn children(pid: Pid) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    children.flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Runs the action and makes each call for which `strikes` returns true fail. Returns the number of failed
/// calls.
fn failing(fixture: &Fixture, errno: Errno, strikes: &mut dyn FnMut(&Call) -> bool) -> (Out, usize) {
    let mut struck = 0;
    let out = fixture.run(&mut |call, _| {
        if !strikes(call) {
            return Fate::Made;
        }
        struck += 1;
        Fate::Fails(errno)
    });
    (out, struck)
}

#[test]
fn reports_a_thread_that_cannot_be_started() {
    let fixture = Fixture::new(Action::Snapshot, None);
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
        let (out, struck) = failing(&fixture, Errno::EAGAIN, &mut |call| {
            let one = call.name == "clone3" && name_of(call.thread) == maker;
            made += usize::from(one);
            one && made == nth
        });
        assert_eq!(struck, 1, "{maker}: {}", out.describe());
        out.assert_no_panic();
        assert!(fixture.world.in_target().is_empty());
        out.failed(&[&format!("{step}Resource temporarily unavailable")]);
    }
}

/// Returns the name of a thread. The main thread has the name of the program.
fn name_of(thread: Pid) -> String {
    fs::read_to_string(format!("/proc/{thread}/comm")).unwrap().trim_end().to_owned()
}

#[test]
fn a_tool_that_cannot_be_read_is_not_reported_missing() {
    let fixture = Fixture::new(Action::Snapshot, None);
    let looks = |call: &Call| call.name == "statx" && call.about.ends_with("/etcdctl");
    let (out, struck) = failing(&fixture, Errno::EIO, &mut |call| looks(call));
    assert!(struck > 1, "{}", out.describe());
    out.failed(&["etcdctl: Input/output error"]);
    // A single failed call may be tolerated.
    let mut looked = false;
    let (out, _) = failing(&fixture, Errno::EIO, &mut |call| {
        let is_first = looks(call) && !looked;
        looked |= is_first;
        is_first
    });
    let _ = out.completed();
}

#[test]
fn kills_a_child_process_that_it_cannot_watch() {
    let fixture = Fixture::new(Action::Snapshot, None);
    let (mut struck, mut left) = (false, None);
    let out = fixture.run(&mut |call, pid| {
        // The second of two tools that run at the same time; the first tool may keep running.
        if call.name == "pidfd_open" && call.number == 4 {
            struck = true;
            return Fate::Fails(Errno::EMFILE);
        }
        if struck && call.name == "write" {
            left.get_or_insert_with(|| children(pid));
        }
        Fate::Made
    });
    assert_eq!(left.as_deref(), Some([].as_slice()), "{}", out.describe());
    out.assert_no_panic();
    out.failed(&["Too many open files"]);
}

#[test]
fn removes_an_archive_whose_name_cannot_be_synced() {
    for action in [Action::Snapshot, Action::Restore] {
        let fixture = Fixture::new(action, None);
        let mut named = false;
        let (out, struck) = failing(&fixture, Errno::EIO, &mut |call| {
            let named_before = named;
            named |= call.name == "renameat2" && call.about == "archive";
            named_before && call.name == "fsync" && call.about == "target"
        });
        assert!(struck > 0, "{}", out.describe());
        out.assert_no_panic();
        assert!(fixture.world.in_target().is_empty(), "{}", out.describe());
        assert_eq!(fixture.outcome(&out), if action == Action::Snapshot { "SAME" } else { "OLD" });
        out.failed(&["syncing directory"]);
    }
}

#[test]
fn reports_an_archive_that_cannot_be_removed() {
    let fixture = Fixture::new(Action::Snapshot, None);
    let mut named = false;
    let (out, _) = failing(&fixture, Errno::EIO, &mut |call| {
        let named_before = named;
        named |= call.name == "renameat2" && call.about == "archive";
        named_before && (call.name == "renameat2" || (call.name == "fsync" && call.about == "target"))
    });
    assert_eq!(fixture.outcome(&out), "PLUS");
    let archive = fixture.world.target().join(&fixture.world.in_target()[0]);
    assert!(!out.stderr.contains("no archive was published"), "{}", out.describe());
    out.failed(&[&format!("{} is complete, but its directory entry could not be synced", archive.display())]);
}

#[test]
fn removes_a_new_directory_that_it_cannot_open() {
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
    out.assert_no_panic();
    assert!(world.in_target().is_empty(), "{}", out.describe());
    out.failed(&["opening", "deeper: Too many open files"]);
}

/// When the write fails, the thread that reads the archive back sees a truncated archive. The message must
/// name the cause from the writing thread.
#[test]
fn reports_a_failed_write_and_not_the_truncated_archive() {
    let fixture = Fixture::new(Action::Snapshot, None);
    for number in 1.. {
        let (out, struck) = failing(&fixture, Errno::ENOSPC, &mut |call| {
            let writes = ["write", "pwrite64"].contains(&call.name) && call.about.ends_with("/archive");
            writes && call.number == number
        });
        if struck == 0 {
            let _ = out.completed();
            assert!(number > 2, "the archive took only one write");
            break;
        }
        assert!(!out.stderr.contains("cut short"), "{}", out.describe());
        out.failed(&["No space left on device"]);
    }
}
