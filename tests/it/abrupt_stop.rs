//! etcd is ended during a restore while clients write, without its graceful stop: `restore` does this to a systemd
//! unit, and a stop command may do it too. The old data then ends in the write-ahead log.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{Scope, ScopedJoinHandle, sleep};
use std::time::Duration;

use test_case::test_case;

use crate::common::command::Results;
use crate::common::world::{Version, World};
use crate::restore::from;

/// The number of clients that write at the same time.
const WRITERS: usize = 4;
/// How the supervisor stops etcd: not at all gracefully, or in the middle of its graceful stop.
const KILL: &str = "kill -KILL \"$pid\"";
const TERM_AND_HANG_UP: &str = "kill -TERM \"$pid\"; sleep 0.0$(($$ % 10)); kill -HUP \"$pid\"";

/// A client that puts keys one after the other, and counts those that etcd has acknowledged.
struct Writer {
    name: String,
    acknowledged: AtomicU32,
}

impl Writer {
    fn key(&self, number: u32) -> Vec<u8> {
        format!("{}-{number:06}", self.name).into_bytes()
    }

    /// Writes until `over`, and stops at the first write without an acknowledgement.
    fn write(&self, address: &str, over: &AtomicBool) {
        let Ok(mut stream) = TcpStream::connect(address) else { return };
        let mut number = self.acknowledged.load(Ordering::Relaxed);
        while !over.load(Ordering::Relaxed) {
            number += 1;
            let key = encode_base64(&self.key(number));
            let body = format!("{{\"key\":\"{key}\",\"value\":\"{key}\"}}");
            let request = format!(
                "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut answer = [0; 4096];
            match stream.write_all(request.as_bytes()).and_then(|()| stream.read(&mut answer)) {
                Ok(length) if answer[..length].starts_with(b"HTTP/1.1 200 ") => {
                    self.acknowledged.store(number, Ordering::Relaxed);
                }
                _ => return,
            }
        }
    }
}

fn encode_base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place > three.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

fn start_writers<'scope>(
    scope: &'scope Scope<'scope, '_>,
    writers: &'scope [Writer],
    address: &'scope str,
    over: &'scope AtomicBool,
) -> Vec<ScopedJoinHandle<'scope, ()>> {
    let started = writers.iter().map(|writer| scope.spawn(move || writer.write(address, over))).collect();
    while writers.iter().any(|writer| writer.acknowledged.load(Ordering::Relaxed) < 5) {
        sleep(Duration::from_millis(5));
    }
    started
}

/// The number of rounds: a few, or those that `ETCD_BACKUP_ROUNDS` asks for.
fn rounds() -> usize {
    std::env::var("ETCD_BACKUP_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2)
}

#[test_case(Version::V34, KILL; "etcd_3_4_killed")]
#[test_case(Version::V35, KILL; "etcd_3_5_killed")]
#[test_case(Version::V34, TERM_AND_HANG_UP; "etcd_3_4_hung_up")]
#[test_case(Version::V35, TERM_AND_HANG_UP; "etcd_3_5_hung_up")]
fn no_acknowledged_write_is_missing_from_the_kept_data(version: Version, stop: &str) {
    for round in 0..rounds() {
        let world = World::plain(version);
        world.fill();
        let archive = world.saved();
        world.arm("before-stop", format!("if [ ! -e \"$dir/ended\" ]; then : >\"$dir/ended\"; {stop}; fi"));
        let writers: Vec<Writer> = (0..WRITERS)
            .map(|n| Writer { name: format!("writer-{n}"), acknowledged: AtomicU32::new(0) })
            .collect();
        let (over, address) = (AtomicBool::new(false), world.client_address());
        let (before, results) = std::thread::scope(|scope| {
            let started = start_writers(scope, &writers, &address, &over);
            let before: Vec<u32> =
                writers.iter().map(|writer| writer.acknowledged.load(Ordering::Relaxed)).collect();
            let out = world.restore(&[&from(&archive), &world.to_target()]);
            over.store(true, Ordering::Relaxed);
            started.into_iter().for_each(|writer| writer.join().unwrap());
            (before, out.completed())
        });
        check(&world, &writers, &before, &results, &format!("round {round}"));
    }
}

/// Compares the kept directory and the backup with the writes that were acknowledged.
fn check(world: &World, writers: &[Writer], before: &[u32], results: &Results, round: &str) {
    let lost = results.number("restore.lost-revisions");
    if let Some(warning) = results.find("restore.warning").filter(|text| text.contains("goes back by")) {
        assert!(warning.contains(&format!("goes back by {lost} (")), "{round}: {lost}: {warning}");
    }
    let ahead_by = results.number("backup.old-data-ahead-by");
    let backup = results.get("backup.path");
    let kept = results.get("backup.old-data");
    assert!(results.get("remove.cmd").ends_with(&kept), "{round}");
    world.stop();
    let member = world.data_dir().join("member");
    std::fs::rename(&member, world.path("restored-member")).unwrap();
    std::fs::rename(&kept, &member).unwrap();
    world.start();

    let held = world.dump();
    for writer in writers {
        let acknowledged = writer.acknowledged.load(Ordering::Relaxed);
        let missing = (1..=acknowledged).find(|number| !held.contains_key(&writer.key(*number)));
        assert_eq!(missing, None, "{round}: {} of {acknowledged} acknowledged", writer.name);
    }
    let saved_at = world.revision() - ahead_by;
    let expected = world.dump_at(saved_at);
    let _ = world.restore(&[&from(backup.as_ref()), "skip-backup=true"]).completed();
    let saved = world.dump();
    for (writer, before) in writers.iter().zip(before) {
        assert!(saved.contains_key(&writer.key(*before)), "{round}: the backup lacks a write from before it");
    }
    assert!(saved == expected, "{round}: the backup differs from the old data at its revision {saved_at}");
}

/// The database does not contain the last write, which passes the restored revision. Clients would see the revision
/// decrease without a warning.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_write_that_only_the_log_holds_counts_as_written(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    let put = world.put_command("late", "arrival");
    world.arm("before-stop", format!("{put}\nkill -KILL \"$pid\""));
    let out = world.restore(&[&from(&archive), "skip-backup=true"]);
    world.disarm("before-stop");
    out.failed(&["clients wrote up to revision"]);
    assert_eq!(world.etcdctl(&["get", "late", "--print-value-only"]).trim(), "arrival");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

/// Without a backup, the number is read from a copy of the old data before that is removed.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn lost_revisions_include_the_log(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (archive, at) = (world.saved(), world.revision());
    world.damage();
    let old = world.revision();
    let put = world.put_command("late", "arrival");
    world.arm("before-stop", format!("{put}\nkill -KILL \"$pid\""));
    let results = world.restore(&[&from(&archive), "skip-backup=true", "bump-revision=off"]).completed();
    let lost = old + 1 - at;
    assert_eq!(results.number("restore.lost-revisions"), lost);
    let warning = results.get("restore.warning");
    assert!(warning.contains(&format!("goes back by {lost} (")), "{warning}");
}
