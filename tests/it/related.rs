//! What Juju says of backups: the relation `s3-parameters` in both versions of its interface, and the option `backup`.
//!
//! From the hook that hears of it to the action that uploads, with a real S3 server behind it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::common::s3::{Can, Faults, SECRET, Server, write_credentials};
use crate::common::unit::{Status, Unit};
use crate::common::world::{Version, World};

fn world(version: Version) -> World {
    let world = World::plain(version);
    world.fill();
    world
}

/// The words of an integrator of the first version, for this server.
fn words(server: &Server, port: u16) -> Value {
    json!({
        "access-key": server.access_key, "secret-key": SECRET, "bucket": "backups", "path": "/etcd/",
        "endpoint": format!("http://127.0.0.1:{port}/"), "region": "us-east-1", "s3-uri-style": "path",
        "data": "{\"bucket\": \"relation-7\"}",
    })
}

fn mode(world: &World, name: &str) -> u32 {
    fs::metadata(world.path(name)).unwrap().permissions().mode() & 0o777
}

/// The files that the relation has brought.
fn files(world: &World) -> Vec<&'static str> {
    ["juju.yaml", "s3-credentials", "s3-ca.crt"]
        .into_iter()
        .filter(|name| world.path(name).exists())
        .collect()
}

/// Whoever reads what the unit shows, keeps or logs finds no key, but for the one file.
#[track_caller]
fn nothing_shows(world: &World, unit: &Unit<'_>, said: &str) {
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    assert!(!settings.contains("canary") && !said.contains("canary"), "{settings}{said}");
    assert!(unit.calls().iter().all(|call| !call.contains("canary")), "{:?}", unit.calls());
}

#[test]
fn related_by_keys_in_the_databag_snapshots_are_uploaded_until_the_relation_goes() {
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    let server = Server::new(&["backups"]);
    let faults = Faults::before(server.port);
    unit.is_related(&words(&server, faults.port));
    let hooked = unit.hook("s3-parameters-relation-changed");
    hooked.says("active", &["1 member, healthy"]);
    nothing_shows(&world, &unit, &hooked.out.told());
    assert_eq!(files(&world), ["juju.yaml", "s3-credentials"]);
    assert_eq!((mode(&world, "juju.yaml"), mode(&world, "s3-credentials")), (0o644, 0o600));
    // What the older Version::V35 wants to hear before it says anything, and the newer one too.
    assert_eq!(
        unit.says_in_relation(),
        ["bucket=relation-7", "lib-version=1.0", "requested-secrets=[\"access-key\", \"secret-key\"]"]
    );

    let ended = unit.run("snapshot", &[&world.to_target()]);
    assert_eq!((ended.status, &*ended.get("destinations.s3")), (Status::Completed, "uploaded"), "{ended:?}");
    let puts = faults.seen("PUT", "/backups/etcd/");
    assert!(puts.len() == 1 && puts[0].contains("/etcd-0/"), "{puts:?}");
    assert!(!format!("{ended:?}").contains("canary"));

    // The same words again change nothing.
    let before = fs::metadata(world.path("juju.yaml")).unwrap().modified().unwrap();
    unit.hook("update-status").says("active", &["1 member, healthy"]);
    assert_eq!(fs::metadata(world.path("juju.yaml")).unwrap().modified().unwrap(), before);

    unit.unrelate().says("active", &["1 member, healthy"]);
    assert!(files(&world).is_empty(), "{:?}", files(&world));
    let ended = unit.run("snapshot", &[&world.to_target()]);
    assert_eq!(ended.status, Status::Completed, "{ended:?}");
    assert_eq!(faults.seen("PUT", "/backups/").len(), 1);
}

#[test]
fn related_by_keys_in_a_secret_snapshots_are_uploaded_and_a_new_key_is_taken_up() {
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    let server = Server::new(&["backups"]);
    let mut words = words(&server, server.port);
    for key in ["access-key", "secret-key", "data"] {
        words.as_object_mut().unwrap().remove(key);
    }
    words["secret-extra"] = json!("secret:d2gh7k5k2s7c7d0ll3q0");
    words["lib-version"] = json!("1.0");
    unit.is_related(&words);
    // Named, but not granted yet: what else there is to say of backups is written down all the same.
    unit.configure(&[("backup", json!("keep: {last: 7}\n"))]);
    unit.hook("s3-parameters-relation-changed").says("blocked", &["secret-get", "not found"]);
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    assert!(settings.contains("last: 7") && files(&world) == ["juju.yaml"], "{settings}");
    let id = "d2gh7k5k2s7c7d0ll3q0";
    unit.has_secret(id, &json!({"access-key": server.access_key, "secret-key": "canary-of-yesterday"}));
    unit.hook("s3-parameters-relation-changed").says("active", &["1 member, healthy"]);
    let ended = unit.run("snapshot", &[&world.to_target()]);
    assert_eq!(ended.status, Status::Failed);
    assert!(
        ended.message.contains("SignatureDoesNotMatch") && !ended.message.contains("canary"),
        "{ended:?}"
    );

    unit.has_secret(id, &json!({"access-key": server.access_key, "secret-key": SECRET}));
    let hooked = unit.hook("secret-changed");
    hooked.says("active", &["1 member, healthy"]);
    nothing_shows(&world, &unit, &hooked.out.told());
    let ended = unit.run("snapshot", &[&world.to_target()]);
    assert_eq!(ended.get("destinations.s3"), "uploaded (2 archives)", "{ended:?}");
}

#[test]
fn related_units_say_what_they_wait_for_and_what_is_wrong() {
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    unit.is_related(&json!({}));
    unit.hook("s3-parameters-relation-joined").says("waiting", &["s3-integrator"]);
    assert!(files(&world).is_empty());
    for (words, parts) in [
        (
            json!({"endpoint": "https://x", "bucket": "b"}),
            &["missing access-key", "juju config s3-integrator"][..],
        ),
        (json!({"access-key": "a", "secret-key": "canary"}), &["missing bucket"]),
        (
            json!({"access-key": "a", "secret-key": "canary", "bucket": "b", "endpoint": "http://10.0.0.1"}),
            &["in clear"],
        ),
    ] {
        unit.is_related(&words);
        let hooked = unit.hook("s3-parameters-relation-changed");
        hooked.says("blocked", parts);
        assert!(files(&world).is_empty() && !hooked.out.told().contains("canary"), "{words}");
    }
    // A chain of authorities is a file; and words that go wrong later leave what was there.
    let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";
    let mut good = json!({"access-key": "a", "secret-key": "canary", "bucket": "b", "endpoint": "https://x"});
    good["tls-ca-chain"] = json!(json!([pem]).to_string());
    unit.is_related(&good);
    unit.hook("s3-parameters-relation-changed").says("active", &["1 member, healthy"]);
    assert_eq!(files(&world), ["juju.yaml", "s3-credentials", "s3-ca.crt"]);
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    assert!(settings.contains(&format!("ca: {}", world.path("s3-ca.crt").display())), "{settings}");
    good["bucket"] = json!("");
    unit.is_related(&good);
    unit.hook("s3-parameters-relation-changed").says("blocked", &["missing bucket"]);
    assert_eq!(fs::read_to_string(world.path("juju.yaml")).unwrap(), settings);
    // A hook never fails, whatever tool does.
    for tool in ["relation-ids", "relation-list", "relation-get", "relation-set", "is-leader"] {
        unit.break_tools(&[tool]);
        unit.hook("update-status")
            .says("blocked", &["applying Juju's backup settings", tool, "connection refused"]);
    }
    unit.break_tools(&[]);
    unit.unrelate().says("active", &["1 member, healthy"]);
    assert!(files(&world).is_empty());
}

#[test]
fn related_units_that_follow_leave_the_words_to_their_leader() {
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    let server = Server::new(&["backups"]);
    unit.is_related(&words(&server, server.port));
    unit.follows();
    unit.hook("s3-parameters-relation-changed").says("active", &["1 member, healthy"]);
    assert!(unit.says_in_relation().is_empty());
    assert_eq!(files(&world), ["juju.yaml", "s3-credentials"]);
}

#[test]
fn related_or_not_the_option_backup_is_taken_or_told_to_be_wrong() {
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    let server = Server::new(&["backups", "second"]);
    write_credentials(&world.path("credentials"), &server.access_key, SECRET);
    let offsite = format!(
        "destinations:\n  offsite:\n    s3:\n      bucket: second\n      endpoint: http://127.0.0.1:{}\n      \
         credentials-file: {}\n",
        server.port,
        world.path("credentials").display()
    );
    unit.configure(&[("backup", json!(offsite))]);
    unit.hook("config-changed").says("active", &["1 member, healthy"]);
    unit.is_related(&words(&server, server.port));
    unit.hook("s3-parameters-relation-changed").says("active", &["1 member, healthy"]);
    let ended = unit.run("snapshot", &[&world.to_target()]);
    for name in ["destinations.offsite", "destinations.s3"] {
        assert_eq!(ended.get(name), "uploaded", "{ended:?}");
    }
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    for (text, why) in [
        ("destinations: [", "option backup cannot be used"),
        ("destination: {}", "unknown field `destination`"),
        ("destinations: {a: {s3: {bucket: 'a/b'}}}", "destination a: bucket"),
        ("destinations: {s3: {s3: {bucket: b}}}", "destination s3 comes from the relation"),
    ] {
        unit.configure(&[("backup", json!(text))]);
        unit.hook("config-changed").says("blocked", &[why, "juju config APPLICATION backup=@backup.yaml"]);
        assert_eq!(fs::read_to_string(world.path("juju.yaml")).unwrap(), settings, "{text}");
    }
    // Also with a wrong option, no key outlives its relation.
    unit.unrelate().says("blocked", &["option backup"]);
    assert_eq!(files(&world), ["juju.yaml"]);
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    assert!(settings.contains("offsite") && !settings.contains("s3-credentials"), "{settings}");
    unit.configure(&[]);
    unit.hook("config-changed").says("active", &["1 member, healthy"]);
    assert!(files(&world).is_empty());
    // Nor does one outlive its unit.
    unit.is_related(&words(&server, server.port));
    unit.hook("s3-parameters-relation-changed").says("active", &["1 member, healthy"]);
    assert_eq!(files(&world), ["juju.yaml", "s3-credentials"]);
    assert_eq!(unit.hook("remove").out.status.code(), Some(0));
    assert!(files(&world).is_empty());
}

#[test]
fn related_buckets_have_what_the_option_adds_to_them() {
    if !Can::Encrypt.be_tried() {
        return;
    }
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    let server = Server::new(&["backups"]);
    let faults = Faults::before(server.port);
    let settings =
        || -> Value { serde_yaml::from_str(&fs::read_to_string(world.path("juju.yaml")).unwrap()).unwrap() };
    // Before there is a relation, it says nothing.
    let more = "destinations: {s3: {keep: {last: 1}, s3: {encryption: s3}}}\n";
    unit.configure(&[("backup", json!(more))]);
    unit.hook("config-changed").says("active", &["1 member, healthy"]);
    assert!(files(&world).is_empty());
    unit.is_related(&words(&server, faults.port));
    unit.hook("s3-parameters-relation-changed").says("active", &["1 member, healthy"]);
    let written = settings();
    assert_eq!(written["destinations"]["s3"]["keep"], json!({"last": 1}));
    assert_eq!(written["destinations"]["s3"]["s3"]["bucket"], "backups");
    for _ in 0..2 {
        world.put(0..1, "again");
        let ended = unit.run("backup", &[&world.to_target()]);
        assert_eq!(ended.get("destinations.s3"), "uploaded", "{ended:?}");
    }
    // An upload in parts asks for it when it begins, and a record when it is put.
    let mut puts = faults.seen("POST", "uploads=");
    assert_eq!(puts.len(), 2, "{puts:?}");
    puts.extend(faults.seen("PUT", "/backups/etcd/").into_iter().filter(|put| !put.contains("partNumber=")));
    assert!(
        puts.iter().all(|put| put.to_lowercase().contains("x-amz-server-side-encryption: aes256")),
        "{puts:?}"
    );
    assert_eq!(
        faults.seen("DELETE", "/backups/etcd/").iter().filter(|head| head.contains(".tar.gz ")).count(),
        1
    );
    // A wrong one changes nothing of it, though the other side says something new.
    let mut words = words(&server, faults.port);
    words["path"] = json!("elsewhere");
    unit.is_related(&words);
    unit.configure(&[("backup", json!("destinations: {s3: {s3: {bucket: mine}}}"))]);
    unit.hook("config-changed")
        .says("blocked", &["destination s3 comes from the relation", "keep", "kms-key"]);
    let written = settings();
    assert_eq!(written["destinations"]["s3"]["s3"]["encryption"], "s3");
    assert_eq!(written["destinations"]["s3"]["s3"]["folder"], "elsewhere");
    unit.configure(&[]);
    unit.hook("config-changed").says("active", &["1 member, healthy"]);
    assert!(settings()["destinations"]["s3"].get("keep").is_none());
    // One without TLS on another machine is refused by what the relation says, and allowed by what the operator does.
    words["endpoint"] = json!("http://192.0.2.7:9000");
    unit.is_related(&words);
    unit.hook("s3-parameters-relation-changed").says("blocked", &["in clear"]);
    unit.configure(&[("backup", json!("destinations: {s3: {s3: {allow-http: true}}}"))]);
    unit.hook("config-changed").says("active", &["1 member, healthy"]);
    assert_eq!(settings()["destinations"]["s3"]["s3"]["endpoint"], "http://192.0.2.7:9000");
    unit.unrelate().says("active", &["1 member, healthy"]);
    assert!(files(&world).is_empty());
}

#[test]
fn related_or_not_another_units_settings_stay() {
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    let server = Server::new(&["backups"]);
    unit.is_related(&words(&server, server.port));
    unit.hook("s3-parameters-relation-changed").says("active", &["1 member, healthy"]);
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    assert!(settings.contains("# Owned by unit etcd/0 of model "), "{settings}");
    let still = || {
        assert_eq!(fs::read_to_string(world.path("juju.yaml")).unwrap(), settings);
        assert_eq!(files(&world), ["juju.yaml", "s3-credentials"]);
    };
    // A unit of another application on the same machine, which says nothing of backups, and then something.
    let relations = world.path("juju/agents/unit-etcd-0/relations");
    fs::rename(&relations, world.path("aside")).unwrap();
    unit.has_neighbours(&["other/0"]);
    for hook in ["install", "config-changed", "update-status"] {
        unit.hook_as("other/0", hook).says("active", &["1 member, healthy"]);
        still();
    }
    unit.configure(&[("backup", json!("keep: {last: 7}\n"))]);
    unit.hook_as("other/0", "config-changed").says("blocked", &["belong to unit etcd/0 of model", "rm "]);
    still();
    assert_eq!(unit.hook_as("other/0", "remove").out.status.code(), Some(0));
    still();
    unit.has_neighbours(&["etcd/0"]);
    assert_eq!(unit.hook("remove").out.status.code(), Some(0));
    assert!(files(&world).is_empty());
}
