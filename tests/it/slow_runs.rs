//! Long runs: each step uses the current time, not the time at which the run started.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;

use crate::common::command::{Out, Run};
use crate::common::s3::{Faults, Server};
use crate::common::world::{Version, World, root_only_dir};
use crate::destinations::archives;
use crate::list_snapshots::program;

/// Returns settings with a hook that delays each run by three seconds. `dir` must be a directory that only
/// root can change.
fn slow_hook(dir: &Path) -> String {
    let path = dir.join("before");
    fs::write(&path, "#!/bin/sh\nsleep 3\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("hooks: {{before: {}}}\n", path.display())
}

fn run(world: &World, action: &str) -> Out {
    let mut command = world.action(program(action), &[&world.to_target()]);
    command.env("ETCD_BACKUP", world.path("backup.yaml"));
    Run::start(command, &world.path("runs")).finish()
}

#[test]
fn signs_a_request_with_the_time_when_it_is_sent() {
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    let server = Server::new(&["backups"]);
    server.write_credentials(&world.path("credentials"));
    let faults = Faults::before(server.port);
    let text = format!(
        "{}destinations:\n  offsite: {{s3: {{credentials-file: {}, endpoint: 'http://127.0.0.1:{}', bucket: backups}}}}\n",
        slow_hook(dir.path()),
        world.path("credentials").display(),
        faults.port
    );
    fs::write(world.path("backup.yaml"), text).unwrap();
    let began = Timestamp::try_from(SystemTime::now()).unwrap();
    let _ = run(&world, "snapshot").completed();
    let sent = faults.seen("PUT", "");
    let head = sent.first().unwrap();
    let date =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("x-amz-date:").map(str::to_owned));
    let date = date.unwrap().trim().to_uppercase();
    let signed: Timestamp = date.parse().unwrap();
    assert!(signed.duration_since(began).as_secs() >= 2, "{date}, three seconds after {began}");
}

#[test]
fn an_archive_of_a_slow_run_is_not_dated_in_the_future() {
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    fs::write(world.path("backup.yaml"), "keep: {last: 1}\n").unwrap();
    let _ = run(&world, "snapshot").completed();
    fs::write(world.path("backup.yaml"), format!("keep: {{last: 1}}\n{}", slow_hook(dir.path()))).unwrap();
    let done = run(&world, "backup").completed();
    assert_eq!(done.get("retention.deleted"), "1", "the older one");
    let left = archives(&world).len();
    assert_eq!(left, 1);
}
