//! Uploads that cannot succeed, archive names that are taken, and the action `upload`, which sends or gives
//! up uploads.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::command::{Out, Run};
use crate::common::fs_util::{names, sha256sum};
use crate::common::s3::Server;
use crate::common::unit::Unit;
use crate::common::world::{Version, World};
use crate::destinations::{archives, waiting};
use crate::encryption::RECIPIENT;
use crate::list_snapshots::{name, program};
use crate::wrong_clock::hold_clock;

fn run(world: &World, action: &str, words: &[&str]) -> Out {
    let mut command = world.action(program(action), words);
    command.env("ETCD_BACKUP", world.path("backup.yaml"));
    Run::start(command, &world.path("runs")).finish()
}

/// Returns the directory of a destination.
fn destination_dir(world: &World, name: &str) -> PathBuf {
    world.path(&format!("shelf-{name}"))
}

fn write_settings(world: &World, shelves: &[&str], more: &str) {
    let mut text = format!("{more}destinations:\n");
    for name in shelves {
        text +=
            &format!("  {name}: {{directory: {}, mount: none}}\n", destination_dir(world, name).display());
    }
    fs::write(world.path("backup.yaml"), text).unwrap();
}

/// Returns the paths of the archives in a destination.
fn uploaded_archives(world: &World, name: &str) -> Vec<PathBuf> {
    let below = |dir: &PathBuf| names(dir).into_iter().map(|name| dir.join(name)).collect::<Vec<_>>();
    let members: Vec<PathBuf> = below(&destination_dir(world, name)).iter().flat_map(below).collect();
    let all = members.iter().flat_map(below);
    all.filter(|path| path.to_str().unwrap().ends_with(".tar.gz") || path.to_str().unwrap().ends_with(".age"))
        .collect()
}

/// Two snapshots of different data with the same name, because both were taken in the same second.
#[test]
fn uploads_archives_with_equal_names_from_two_targets() {
    for more in ["", &format!("encrypt-to: [{RECIPIENT}]\n")] {
        let world = World::plain(Version::V35);
        let server = Server::new(&["backups"]);
        server.write_credentials(&world.path("credentials"));
        let bucket = format!(
            "  bucket: {{s3: {{credentials-file: {}, endpoint: 'http://127.0.0.1:{}', bucket: backups}}}}\n",
            world.path("credentials").display(),
            server.port
        );
        write_settings(&world, &["near"], more);
        let text = fs::read_to_string(world.path("backup.yaml")).unwrap() + &bucket;
        fs::write(world.path("backup.yaml"), text).unwrap();
        fs::create_dir(destination_dir(&world, "near")).unwrap();
        let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let take = |target: &str| {
            let target = format!("target={}", world.path(target).display());
            let mut command = world.action(program("snapshot"), &[&target]);
            command.env("ETCD_BACKUP", world.path("backup.yaml"));
            hold_clock(&mut command, second);
            Run::start(command, &world.path("runs")).finish().completed()
        };
        let first = take("target");
        world.fill();
        let other = take("other");
        let [one, two] = [&first, &other].map(|taken| PathBuf::from(taken.get("snapshot.path")));
        assert_eq!(name(&one), name(&two));
        for destination in ["near", "bucket"] {
            assert_eq!(first.get(&format!("destinations.{destination}")), "uploaded");
            let words = other.get(&format!("destinations.{destination}"));
            assert!(words.starts_with("uploaded as ") && words.contains(&sha256sum(&two)[..12]), "{words}");
        }
        let mut found: Vec<String> =
            uploaded_archives(&world, "near").iter().map(|path| sha256sum(path)).collect();
        let mut taken = vec![sha256sum(&one), sha256sum(&two)];
        found.sort();
        taken.sort();
        assert_eq!(found, taken, "two archives share a name");
        assert!(names(&world.path("target/.uploads")).is_empty());
        assert!(names(&world.path("other/.uploads")).is_empty());
        // The longer name works like any other.
        let listed = run(&world, "list-snapshots", &["target=/nowhere", "format=json"]).completed();
        let rows: Vec<serde_json::Value> = serde_json::from_str(&listed.get("snapshots")).unwrap();
        let rows: Vec<&str> = rows.iter().map(|row| row["snapshot"].as_str().unwrap()).collect();
        assert_eq!(rows.len(), 4, "{rows:?}");
        let longer = rows.iter().filter(|name| name.contains(&sha256sum(&two)[..12]));
        for snapshot in longer {
            let to = format!("target={}", world.path("fetched").display());
            let fetched = run(&world, "fetch-snapshot", &[&format!("from={snapshot}"), &to]).completed();
            assert_eq!(fetched.get("snapshot.sha256"), sha256sum(&two));
            fs::remove_dir_all(world.path("fetched")).unwrap();
            let _ = run(&world, "delete-snapshot", &[&format!("snapshot={snapshot}")]).completed();
        }
        assert_eq!(
            uploaded_archives(&world, "near").iter().map(|path| sha256sum(path)).collect::<Vec<_>>(),
            [sha256sum(&one)]
        );
    }
}

/// Takes a snapshot whose upload can never succeed, because its archive changes afterwards. Returns its name.
fn stuck_upload(world: &World, destination: &str) -> String {
    run(world, "snapshot", &[&world.to_target()]).failed(&[&format!("uploading to {destination}: ")]);
    let archive = archives(world).remove(0);
    let mut file = fs::OpenOptions::new().append(true).open(world.target().join(&archive)).unwrap();
    file.write_all(b"x").unwrap();
    archive
}

#[test]
fn a_stuck_upload_fails_no_backup_and_can_be_given_up() {
    let world = World::plain(Version::V35);
    let target = world.to_target();
    write_settings(&world, &["near"], "keep: {last: 1}\n");
    let stuck = stuck_upload(&world, "near");
    fs::create_dir(destination_dir(&world, "near")).unwrap();
    let before = run(&world, "backup", &[&target]).completed();
    assert_eq!(before.get("destinations.near"), format!("uploaded; still waiting: {stuck}"));
    let warning = before.get("upload.warning");
    assert!(warning.contains(&stuck) && warning.contains("has changed since it was made"), "{warning}");
    // The archive of this run was uploaded, so retention is applied. It never deletes an archive with a
    // pending upload.
    assert_eq!(before.get("retention.deleted"), "0");
    world.put(0..2, "later");
    assert_eq!(run(&world, "backup", &[&target]).completed().get("retention.deleted"), "1");
    assert!(archives(&world).contains(&stuck));
    let check = run(&world, "check", &[&target]);
    assert!(
        check.status.code() == Some(1) && check.stdout.contains("; 1 upload is pending"),
        "{}",
        check.describe()
    );
    assert!(check.stdout.contains("the last good backup is "), "{}", check.describe());

    let unit = Unit::new(&world);
    let listed = run(&world, "upload", &[&target, "plan=true"]).completed();
    assert_eq!(listed.get("count"), "1");
    for word in [&*stuck, "near", "has changed since it was made"] {
        assert!(listed.get("uploads").contains(word), "{}", listed.get("uploads"));
    }
    run(&world, "upload", &[&target]).failed(&[
        "near: ",
        "has changed since it was made",
        &stuck,
        "give-up=",
    ]);
    run(&world, "upload", &[&target, "give-up=other.tar.gz"]).refused(&["no upload of other.tar.gz"]);
    assert_eq!(waiting(&world).len(), 1);
    let planned = run(&world, "upload", &[&target, &format!("give-up={stuck}"), "plan=true"]).completed();
    assert_eq!(planned.get("would-give-up"), format!("near/{stuck}"));
    assert_eq!(waiting(&world).len(), 1);
    let given = run(&world, "upload", &[&target, &format!("give-up={stuck}")]).completed();
    assert_eq!((given.get("given-up"), given.get("count")), (format!("near/{stuck}"), "0".to_owned()));
    assert!(waiting(&world).is_empty());
    assert!(world.target().join(&stuck).exists(), "giving up the upload removed the archive");
    // It is not as long as its run has recorded.
    let check = run(&world, "check", &[&target]);
    let is_damaged = check.stdout.contains(&format!("; {stuck} is damaged"));
    assert!(check.status.code() == Some(1) && is_damaged, "{}", check.describe());
    assert!(check.stdout.contains("pending=0"), "{}", check.describe());
    let none = unit.run("upload", &[&target, "plan=true"]).completed();
    assert_eq!((none.get("uploads"), none.get("count")), ("none".to_owned(), "0".to_owned()));
}

/// The destination may come back, or its uploads may be moved to its new name.
#[test]
fn retention_keeps_archives_for_a_destination_that_was_renamed() {
    let world = World::plain(Version::V35);
    let target = world.to_target();
    write_settings(&world, &["old"], "keep: {last: 1}\n");
    for number in 0..3 {
        world.put(number..number + 1, "more");
        run(&world, "snapshot", &[&target]).failed(&["uploading to old: "]);
    }
    write_settings(&world, &["new"], "keep: {last: 1}\n");
    fs::create_dir(destination_dir(&world, "new")).unwrap();
    world.put(0..2, "later");
    let _ = run(&world, "backup", &[&target]);
    assert_eq!((archives(&world).len(), uploaded_archives(&world, "new").len()), (4, 1));
    let _ = run(&world, "upload", &[&target, "move=old/new"]).completed();
    let _ = run(&world, "upload", &[&target]).completed();
    assert_eq!(uploaded_archives(&world, "new").len(), 4);
    let _ = run(&world, "backup", &[&target]).completed();
    assert_eq!(archives(&world).len(), 1);
}

#[test]
fn the_state_line_lists_archives_with_pending_uploads() {
    let world = World::plain(Version::V35);
    write_settings(&world, &["good", "bad"], "");
    fs::create_dir(destination_dir(&world, "good")).unwrap();
    let state = |out: &Out| {
        let message = out.describe();
        message[message.find("State: ").unwrap()..message.find("Next: ").unwrap()].to_owned()
    };
    let first = run(&world, "snapshot", &[&world.to_target()]);
    let one = archives(&world).remove(0);
    let state_line = state(&first);
    assert!(state_line.contains(&format!("waiting to be uploaded: bad/{one}; etcd")), "{state_line}");
    first.failed(&["Next: `sudo etcd-backup upload --target="]);
    let second = run(&world, "snapshot", &[&world.to_target()]);
    let two = archives(&world).into_iter().find(|name| *name != one).unwrap();
    let state_line = state(&second);
    for name in [&one, &two] {
        assert!(
            state_line.contains(&format!("bad/{name}")) && !state_line.contains(&format!("good/{name}")),
            "{state_line}"
        );
    }
    // The destination is back. Only the altered archive still waits, and no other archive is reported as
    // waiting.
    fs::create_dir(destination_dir(&world, "bad")).unwrap();
    fs::write(world.target().join(&one), "altered").unwrap();
    let third = run(&world, "snapshot", &[&world.to_target()]).completed();
    assert_eq!(third.get("destinations.bad"), format!("uploaded (2 archives); still waiting: {one}"));
    assert_eq!(waiting(&world), [format!("{one}@bad")]);
}

#[test]
fn upload_sends_pending_archives_and_gives_up_named_ones() {
    let world = World::plain(Version::V35);
    let target = world.to_target();
    write_settings(&world, &["far", "near"], "");
    run(&world, "snapshot", &[&target]).failed(&["uploading to far: "]);
    let archive = archives(&world).remove(0);
    assert_eq!(waiting(&world).len(), 2);
    fs::create_dir(destination_dir(&world, "near")).unwrap();
    let sent = run(&world, "upload", &[&target]);
    assert!(sent.stdout.contains("near: uploaded"), "{}", sent.describe());
    sent.failed(&["far: ", &format!("State: waiting to be uploaded: far/{archive}")]);
    assert_eq!(uploaded_archives(&world, "near").len(), 1);
    assert_eq!(waiting(&world), [format!("{archive}@far")]);
    run(&world, "upload", &[&target, &format!("give-up=near/{archive}")]).refused(&["no upload of near/"]);
    fs::create_dir(destination_dir(&world, "far")).unwrap();
    let sent = run(&world, "upload", &[&target]).completed();
    assert_eq!(
        (sent.get("destinations.far"), sent.get("destinations.near")),
        ("uploaded".to_owned(), "nothing waits".to_owned())
    );
    assert_eq!(sha256sum(&uploaded_archives(&world, "far")[0]), sha256sum(&world.target().join(&archive)));
    // The pending uploads of a destination that is no longer in the settings are listed and can be given up.
    fs::remove_dir_all(destination_dir(&world, "far")).unwrap();
    run(&world, "snapshot", &[&target]).failed(&["uploading to far: "]);
    write_settings(&world, &["near"], "");
    let listed = run(&world, "upload", &[&target, "plan=true"]).completed();
    assert!(listed.get("uploads").contains("far is not in the settings"), "{}", listed.get("uploads"));
    let given = run(&world, "upload", &[&target, "give-up=all"]).completed();
    assert_eq!(given.get("count"), "0");
    // Without a target directory, no upload is pending, and `upload` does not create the directory.
    let nowhere = format!("target={}", world.path("nowhere").display());
    assert_eq!(run(&world, "upload", &[&nowhere]).completed().get("count"), "0");
    assert!(!world.path("nowhere").exists());
}
