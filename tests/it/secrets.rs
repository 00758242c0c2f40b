//! Secrets stay where they belong, and what is made is for its owner alone: whatever an action starts, and however it ends.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::chaos::family::trace_with_children;
use crate::destinations::write_destinations;
use crate::encryption::{IDENTITY, OTHERS_IDENTITY, command, encrypt, identity};
use crate::restore::from;
use crate::s3::{SECRET, Server, write_credentials};
use crate::unit::Unit;
use crate::watch::{KEY, OTHERS_PASSWORD, RESTORE, SNAPSHOT, VALUE, WRONG, Watch};
use crate::world::{PASSWORD, Setup, Version, World};

on_both_versions! {
    tells_no_secret_and_leaves_none_open_at_any_moment,
    tells_no_secret_when_it_fails_and_leaves_none_open,
}

on_one_version! {
    tells_juju_no_secret,
    tells_no_key_that_a_broken_tool_printed,
    tells_no_secret_of_a_bucket_and_of_an_identity_either,
    tells_no_secret_of_a_bucket_and_of_an_identity_that_are_wrong,
    the_watch_sees_what_it_watches_for,
}

fn tells_no_secret_and_leaves_none_open_at_any_moment(version: Version) {
    let world = guarded(version);
    Watch::of(&world).there_and_back(World::action, &[]);
}

fn tells_no_secret_of_a_bucket_and_of_an_identity_either(version: Version) {
    let (world, _server) = with_bucket(version, SECRET);
    let results = Watch::of(&world).there_and_back(command, &[&identity(&world, IDENTITY)]);
    assert_eq!(results.get("destinations.offsite"), "uploaded");
}

fn tells_no_secret_of_a_bucket_and_of_an_identity_that_are_wrong(version: Version) {
    let (world, _server) = with_bucket(version, WRONG);
    let mut watch = Watch::of(&world);
    let out = watch.runs(&command(&world, SNAPSHOT, &[&watch.to_target()]));
    out.failed(&["uploading to offsite: "]);
    let archive = watch.archives().pop().unwrap();
    let words = [from(&archive), watch.to_target(), identity(&world, OTHERS_IDENTITY)];
    let words = words.each_ref().map(String::as_str);
    watch.runs(&command(&world, RESTORE, &words)).refused(&["identity"]);
    watch.reads_what_stays();
}

/// Each way to fail before anything is stopped, and one after.
fn tells_no_secret_when_it_fails_and_leaves_none_open(version: Version) {
    let world = guarded(version);
    let mut watch = Watch::of(&world);
    let to = watch.to_target();
    let saved = watch.runs(&world.action(SNAPSHOT, &[&to])).completed();
    let archive = world.path("the-archive.tar.gz");
    fs::copy(saved.get("snapshot.path"), &archive).unwrap();
    let restore = |archive: &Path, more: &[&str]| {
        world.action(RESTORE, &[&[from(archive).as_str(), &to], more].concat())
    };

    world.arm("only-tree", world.tree());
    watch.runs(&restore(&archive, &["skip-backup=true"])).failed(&["etcd does not run: 15 s after"]);
    world.disarm("only-tree");

    let bytes = fs::read(&archive).unwrap();
    let broken = world.path("broken.tar.gz");
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    watch.runs(&restore(&broken, &[])).refused(&["cut short"]);
    watch.runs(&restore(&world.path("none.tar.gz"), &[])).refused(&["cannot be opened"]);

    fs::write(world.path("password"), WRONG).unwrap();
    let told = ["the password that was given is not this user's"];
    watch.runs(&world.action(SNAPSHOT, &[&to])).failed(&told);
    watch.runs(&restore(&archive, &[])).refused(&told);
    fs::write(world.path("password"), PASSWORD).unwrap();

    world.stop();
    watch.runs(&world.action(SNAPSHOT, &[&to])).failed(&["asking etcd for its status: "]);
    watch.reads_what_stays();
}

/// Results, words on the way and the message of a failure are words that hook tools are started with.
fn tells_juju_no_secret(version: Version) {
    let world = guarded(version);
    let unit = Unit::new(&world);
    let mut watch = Watch::of(&world);
    let to = watch.to_target();
    let ended = unit.judge(watch.runs(&unit.queued("snapshot", &[&to]))).completed();
    let archive = from(Path::new(&ended.get("snapshot.path")));
    let _ = unit.judge(watch.runs(&unit.queued("restore", &[&archive, &to]))).completed();
    fs::write(world.path("password"), WRONG).unwrap();
    let out = watch.runs(&unit.queued("snapshot", &[&to]));
    unit.judge(out).failed(&["the password that was given is not this user's"]);
    assert!(
        watch.programs.is_superset(&["action-set", "action-log", "action-fail"].map(String::from).into())
    );
    watch.reads_what_stays();
    watch.reads_all_in(&world.path("juju"));
}

/// A question for keys that ends badly has printed some by then.
fn tells_no_key_that_a_broken_tool_printed(version: Version) {
    let world = World::plain(version);
    put_canaries(&world);
    let archive = world.saved();
    let tools = world.stand_in_tools();
    let watch = Watch::of(&world);
    for (garbage, status) in [("", 3), ("{", 0)] {
        tools.answer_after("etcdctl *get*", garbage, "", status);
        let out = world.snapshot(&[&world.to_target()]);
        watch.reads("its words", out.told().as_bytes(), false);
        out.failed(&["reading a key through etcd's leader"]);
        let out = world.restore(&[&from(&archive), &world.to_target()]);
        watch.reads("its words", out.told().as_bytes(), false);
        out.failed(&["asking etcd for its number of keys"]);
    }
}

/// Neither a secret nor a mode is missed, however short the life of who has it.
fn the_watch_sees_what_it_watches_for(version: Version) {
    let world = guarded(version);
    let flaws = [
        ("/bin/true $SECRET", "the password stands in an argument of true"),
        ("PASSWORD=$SECRET /bin/true", "the password stands in the environment of true"),
        ("(mkdir $IN/open; chmod 700 $IN/open)", "/open is open to others after mkdir: 40755"),
        ("(: >$IN/open; chmod 600 $IN/open)", "/open is open to others after openat: 100644"),
        ("(umask 077; : >$IN/open; chmod 640 $IN/open)", "/open is open to others after fchmodat: 100640"),
        ("mkfifo $IN/open", "/open is open to others after mknod"),
        ("(umask 077; mkdir $IN/private; : >$IN/private/file; /bin/true not-the-secret)", ""),
    ];
    for (script, told) in flaws {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "umask 022; IN=$2 SECRET=$(cat $1); eval \"$0\" || exit", script]);
        command.args([world.path("password"), dir.path().to_owned()]);
        command.env_clear().env("PATH", "/usr/bin:/bin");
        let mut flaws = Vec::new();
        let watch = Watch::of(&world);
        let _ = trace_with_children(&command, &world.path("runs"), &mut |seen| {
            flaws.extend(watch.flaw_in(seen));
        });
        assert!(flaws.len() == usize::from(!told.is_empty()), "{script}: {flaws:?}");
        assert!(flaws.iter().all(|flaw| flaw.contains(told)), "{script}: {flaws:?}");
    }
}

/// An etcd behind TLS and passwords, with canaries in it.
fn guarded(version: Version) -> World {
    let world = World::new(Setup { tls: true, auth: true, ..Setup::plain(version) });
    world.etcdctl(&["user", "add", &format!("bob:{OTHERS_PASSWORD}")]);
    put_canaries(&world);
    world
}

/// Some keys, one of them deleted and one overwritten.
fn put_canaries(world: &World) {
    let key = |number: usize| format!("/registry/secrets/{KEY}-{number}");
    for number in [1, 2, 3, 4, 1] {
        world.put_bytes(&key(number), format!("{VALUE} {number}").as_bytes());
    }
    world.etcdctl(&["del", &key(2)]);
}

/// The same with a bucket, and archives that are encrypted; somebody took `secret` for the bucket's.
fn with_bucket(version: Version, secret: &str) -> (World, Server) {
    let world = guarded(version);
    let server = Server::new(&["backups"]);
    write_credentials(&world.path("credentials"), &server.access_key, secret);
    write_destinations(&world, &[("offsite", server.port, "backups", "")]);
    encrypt(&world, &fs::read_to_string(world.path("backup.yaml")).unwrap());
    (world, server)
}
