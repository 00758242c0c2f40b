//! etcd tools that are missing, fail, die, hang or print false results during `snapshot`, and two runs at
//! once. The stand-in tools here call the real ones.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use test_case::test_case;

use crate::common::command::Run;
use crate::common::deadlines;
use crate::common::service::alive;
use crate::common::tools::Tools;
use crate::common::world::{Version, World};
use crate::snapshot::snapshot_again;

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn reports_the_missing_or_broken_tool(version: Version) {
    let world = World::plain(version);
    let tools = world.stand_in_tools();
    let fails = |step: &str, reason: &str| {
        let out = world.snapshot(&[&world.to_target()]);
        out.assert_stderr_contains_one_of(&["/etcdctl ", "/etcdutl "]);
        out.failed_at(step, &format!("{reason}. State: "), &snapshot_again(&world));
        assert!(world.in_target().is_empty(), "{:?}", world.in_target());
        assert!(world.leftovers().is_empty());
    };
    let (save, status) = ("etcdctl *snapshot*save*", "*snapshot*status*");
    let (saving, reading) = ("saving a snapshot", "reading the snapshot's structure");
    tools.answer(save, "", "some talk\nError: the disk ate it\n", 5);
    fails(saving, "exited with status 5; its last output: Error: the disk ate it");
    tools.answer(save, "", "", 42);
    fails(saving, "exited with status 42 without any output");
    tools.answer(save, "", PANIC, 2);
    fails(
        saving,
        "exited with status 2; its last output: panic: runtime error: index out of range [5] with length 3",
    );
    tools.kill(save);
    fails(saving, "was killed by SIGKILL without any output");
    tools.kill(status);
    fails(reading, "was killed by SIGKILL without any output");
    tools.answer(status, "utter garbage", "", 0);
    let withheld = "printed no JSON (expected value at line 1 column 1); its output is withheld because it may quote data; to \
                    see it, unpack db from the archive and run ";
    let out = world.snapshot(&[&world.to_target()]);
    out.failed(&[&format!("{reading}: `")]);
    let out = world.snapshot(&[&world.to_target()]);
    out.failed(&[withheld]);
    tools.answer(status, "", "", 0);
    fails(reading, "printed no JSON (EOF while parsing a value at line 1 column 0) without any output");
    let asking = "asking etcd for its status";
    tools.answer("*-w*json*", "<html>no</html>", "", 0);
    fails(asking, "printed no JSON (expected value at line 1 column 1); its last output: <html>no</html>");
    tools.answer("*", "", "Error: unknown command\n", 1);
    // Without etcdutl, the version of etcdctl decides whether it can read snapshots.
    let first = if version == Version::V34 { "asking etcdctl for its version" } else { asking };
    fails(first, "exited with status 1; its last output: Error: unknown command");
    tools.remove("etcdctl");
    let out = world.snapshot(&[&world.to_target()]);
    out.failed(&[&format!(
        "failed: the program etcdctl was not found in {}.",
        world.path("tools").display()
    )]);
    assert!(world.in_target().is_empty());
}

/// The output of a Go program that panics.
const PANIC: &str = r#"{"level":"info","msg":"created temporary db file"}
panic: runtime error: index out of range [5] with length 3

goroutine 1 [running]:
go.etcd.io/etcd/etcdctl/v3/ctlv3/command.snapshotSaveCommandFunc(0xc0001a4f08, {0xc0000b2a10, 0x1, 0x1})
	/go/src/etcd/etcdctl/ctlv3/command/snapshot_command.go:112 +0x3b1
main.main()
	/go/src/etcd/etcdctl/main.go:32 +0x17
"#;

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn publishes_only_verified_snapshots(version: Version) {
    let world = World::plain(version);
    world.fill();
    let tools = world.stand_in_tools();
    let save = "etcdctl *snapshot*save*";
    type Fault<'a> = (&'a dyn Fn(&Tools), &'a [&'a str]);
    let faults: [Fault<'_>; 5] = [
        (
            &|tools| tools.answer(save, "Snapshot saved at nowhere\n", "", 0),
            &["etcdctl succeeded but saved no snapshot"],
        ),
        (&|tools| tools.corrupt(save), &["does not match the hash at its end"]),
        (
            &|tools| tools.cut(save),
            &["but the snapshot's first page announces", "bytes were read of a file of"],
        ),
        (&|tools| tools.answer_after(save, "", "Error: at the very end\n", 1), &["at the very end"]),
        (
            &|tools| {
                tools.answer(
                    "*snapshot*status*",
                    "",
                    "Error: snapshot file integrity check failed. 3 errors found.\n",
                    1,
                )
            },
            &["integrity check failed"],
        ),
    ];
    for (fault, expected) in faults {
        fault(&tools);
        let out = world.snapshot(&[&world.to_target()]);
        // A file that is cut may be noticed while it grows, or at its end.
        out.assert_stderr_contains_one_of(expected);
        out.failed(&[]);
        assert!(world.in_target().is_empty(), "{:?}", world.in_target());
        assert!(world.leftovers().is_empty());
    }
}

#[test]
fn fails_if_the_transfer_hangs() {
    let world = World::plain(Version::V35);
    let tools = world.stand_in_tools();
    tools.hang("etcdctl *snapshot*save*");
    let run = world.start_snapshot(&[&world.to_target()]);
    await_call(&tools, "snapshot save", &run);
    let out = run.finish_in(deadlines::save());
    let expected = "stalled (no bytes for 30 s after 0 bytes) and was stopped without any output. State: ";
    out.failed_at("saving a snapshot", expected, &snapshot_again(&world));
    assert!(world.in_target().is_empty());
    assert_all_gone(&tools);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_second_run_at_the_same_time(version: Version) {
    let world = World::plain(version);
    let archive = world.saved();
    let tools = world.stand_in_tools();
    tools.hang("etcdctl *snapshot*save*");
    let first = world.start_snapshot(&[&world.to_target()]);
    await_call(&tools, "snapshot", &first);
    let holder = first.pid().to_string();
    // One late refusal may be due to a busy machine, but three mean that the run waits for the lock.
    let busy = |run: &dyn Fn() -> crate::common::command::Out| {
        let soon = |_| {
            let out = run();
            let took = out.took;
            out.refused(&[&holder]);
            took < Duration::from_secs(1)
        };
        assert!((0..3).any(soon), "refused late three times");
    };
    busy(&|| world.snapshot(&[&world.to_target()]));
    busy(&|| world.restore(&[&format!("snapshot={}", archive.display()), &world.to_target()]));

    // A kill releases the lock at once and ends the child process, and the next run cleans up.
    assert!(!first.kill().status.success());
    assert_all_gone(&tools);
    let _ = fs::remove_file(world.path("tools/fault"));
    let _ = world.snapshot(&[&world.to_target()]).completed();
    assert_eq!(world.in_target().len(), 2);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn cleans_up_after_a_kill_at_every_call(version: Version) {
    let world = World::plain(version);
    world.fill();
    let tools = world.stand_in_tools();
    for call in 1.. {
        assert!(call < 60, "too many calls");
        tools.crash_at(call);
        let out = world.snapshot(&[&world.to_target()]);
        if tools.crash_pending() {
            let _ = out.completed();
            // The snapshot queries etcd, saves, and reads the saved file.
            tools.assert_killed_before_each(call - 1, 4);
            break;
        }
        assert_eq!(out.status.code(), None, "killed before call {call}: {}", out.describe());
        assert!(world.in_target().iter().all(|name| !name.ends_with(".tar.gz")));
    }
    assert_eq!(world.in_target().len(), 1, "{:?}", world.in_target());
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

/// Waits until a tool is called with `word` among its arguments.
pub fn await_call(tools: &Tools, word: &str, run: &Run) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !tools.calls().iter().any(|(_, call)| call.contains(word)) {
        assert!(Instant::now() < deadline, "no call of {word}: {}", run.stderr_so_far());
        sleep(Duration::from_millis(2));
    }
}

/// Asserts that all tools that were called have exited, or exit within 3 s.
pub fn assert_all_gone(tools: &Tools) {
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut living = tools.calls();
    while !living.is_empty() {
        assert!(Instant::now() < deadline, "these outlive their parent: {living:?}");
        sleep(Duration::from_millis(10));
        living.retain(|(pid, _)| alive(*pid));
    }
}
