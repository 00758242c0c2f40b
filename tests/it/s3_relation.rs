//! Backup settings from Juju: the relation `s3-parameters` in both versions of its interface, and the option
//! `backup`.
//!
//! The tests go from the hook to the action that uploads, with a real S3 server.

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

/// Returns the relation data of an integrator of the first version, for this server.
fn relation_data(server: &Server, port: u16) -> Value {
    json!({
        "access-key": server.access_key, "secret-key": SECRET, "bucket": "backups", "path": "/etcd/",
        "endpoint": format!("http://127.0.0.1:{port}/"), "region": "us-east-1", "s3-uri-style": "path",
        "data": "{\"bucket\": \"relation-7\"}",
    })
}

fn mode(world: &World, name: &str) -> u32 {
    fs::metadata(world.path(name)).unwrap().permissions().mode() & 0o777
}

/// Returns the files that the charm has written for the relation.
fn files(world: &World) -> Vec<&'static str> {
    ["juju.yaml", "s3-credentials", "s3-ca.crt"]
        .into_iter()
        .filter(|name| world.path(name).exists())
        .collect()
}

/// Checks that no key is in the settings, the output or the calls of hook tools.
#[track_caller]
fn assert_no_key_is_shown(world: &World, unit: &Unit<'_>, output: &str) {
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    assert!(!settings.contains("canary") && !output.contains("canary"), "{settings}{output}");
    assert!(unit.calls().iter().all(|call| !call.contains("canary")), "{:?}", unit.calls());
}

#[test]
fn related_with_plain_keys_uploads_until_the_relation_ends() {
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    let server = Server::new(&["backups"]);
    let faults = Faults::before(server.port);
    unit.relate_to_s3(&relation_data(&server, faults.port));
    let run = unit.hook("s3-parameters-relation-changed");
    run.assert_status("active", &["1 member, healthy"]);
    assert_no_key_is_shown(&world, &unit, &run.out.describe());
    assert_eq!(files(&world), ["juju.yaml", "s3-credentials"]);
    assert_eq!((mode(&world, "juju.yaml"), mode(&world, "s3-credentials")), (0o644, 0o600));
    // The data that the unit sets for the older and the newer version of the interface.
    assert_eq!(
        unit.relation_data_set(),
        ["bucket=relation-7", "lib-version=1.0", "requested-secrets=[\"access-key\", \"secret-key\"]"]
    );

    let ended = unit.run("snapshot", &[&world.to_target()]);
    assert_eq!((ended.status, &*ended.get("destinations.s3")), (Status::Completed, "uploaded"), "{ended:?}");
    let puts = faults.seen("PUT", "/backups/etcd/");
    assert!(puts.len() == 1 && puts[0].contains("/etcd-0/"), "{puts:?}");
    assert!(!format!("{ended:?}").contains("canary"));

    // The same data again changes nothing.
    let before = fs::metadata(world.path("juju.yaml")).unwrap().modified().unwrap();
    unit.hook("update-status").assert_status("active", &["1 member, healthy"]);
    assert_eq!(fs::metadata(world.path("juju.yaml")).unwrap().modified().unwrap(), before);

    unit.remove_relation().assert_status("active", &["1 member, healthy"]);
    assert!(files(&world).is_empty(), "{:?}", files(&world));
    let ended = unit.run("snapshot", &[&world.to_target()]);
    assert_eq!(ended.status, Status::Completed, "{ended:?}");
    assert_eq!(faults.seen("PUT", "/backups/").len(), 1);
}

#[test]
fn related_with_keys_in_a_secret_uploads_and_uses_a_new_key() {
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    let server = Server::new(&["backups"]);
    let mut data = relation_data(&server, server.port);
    for key in ["access-key", "secret-key", "data"] {
        data.as_object_mut().unwrap().remove(key);
    }
    data["secret-extra"] = json!("secret:d2gh7k5k2s7c7d0ll3q0");
    data["lib-version"] = json!("1.0");
    unit.relate_to_s3(&data);
    // The secret is named but not granted yet. The other settings are written all the same.
    unit.configure(&[("backup", json!("keep: {last: 7}\n"))]);
    unit.hook("s3-parameters-relation-changed").assert_status("blocked", &["secret-get", "not found"]);
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    assert!(settings.contains("last: 7") && files(&world) == ["juju.yaml"], "{settings}");
    let id = "d2gh7k5k2s7c7d0ll3q0";
    unit.grant_secret(id, &json!({"access-key": server.access_key, "secret-key": "canary-old"}));
    unit.hook("s3-parameters-relation-changed").assert_status("active", &["1 member, healthy"]);
    let ended = unit.run("snapshot", &[&world.to_target()]);
    assert_eq!(ended.status, Status::Failed);
    assert!(
        ended.message.contains("SignatureDoesNotMatch") && !ended.message.contains("canary"),
        "{ended:?}"
    );

    unit.grant_secret(id, &json!({"access-key": server.access_key, "secret-key": SECRET}));
    let run = unit.hook("secret-changed");
    run.assert_status("active", &["1 member, healthy"]);
    assert_no_key_is_shown(&world, &unit, &run.out.describe());
    let ended = unit.run("snapshot", &[&world.to_target()]);
    assert_eq!(ended.get("destinations.s3"), "uploaded (2 archives)", "{ended:?}");
}

#[test]
fn related_units_report_missing_and_invalid_settings() {
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    unit.relate_to_s3(&json!({}));
    unit.hook("s3-parameters-relation-joined").assert_status("waiting", &["s3-integrator"]);
    assert!(files(&world).is_empty());
    for (data, parts) in [
        (
            json!({"endpoint": "https://x", "bucket": "b"}),
            &["missing access-key", "juju config s3-integrator"][..],
        ),
        (json!({"access-key": "a", "secret-key": "canary"}), &["missing bucket"]),
        (
            json!({"access-key": "a", "secret-key": "canary", "bucket": "b", "endpoint": "http://10.0.0.1"}),
            &["sent unencrypted"],
        ),
    ] {
        unit.relate_to_s3(&data);
        let run = unit.hook("s3-parameters-relation-changed");
        run.assert_status("blocked", parts);
        assert!(files(&world).is_empty() && !run.out.describe().contains("canary"), "{data}");
    }
    // CA certificates are written to a file. Data that becomes invalid later leaves the files as they are.
    let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";
    let mut good = json!({"access-key": "a", "secret-key": "canary", "bucket": "b", "endpoint": "https://x"});
    good["tls-ca-chain"] = json!(json!([pem]).to_string());
    unit.relate_to_s3(&good);
    unit.hook("s3-parameters-relation-changed").assert_status("active", &["1 member, healthy"]);
    assert_eq!(files(&world), ["juju.yaml", "s3-credentials", "s3-ca.crt"]);
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    assert!(settings.contains(&format!("ca: {}", world.path("s3-ca.crt").display())), "{settings}");
    good["bucket"] = json!("");
    unit.relate_to_s3(&good);
    unit.hook("s3-parameters-relation-changed").assert_status("blocked", &["missing bucket"]);
    assert_eq!(fs::read_to_string(world.path("juju.yaml")).unwrap(), settings);
    // A hook never fails if a tool does.
    for tool in ["relation-ids", "relation-list", "relation-get", "relation-set", "is-leader"] {
        unit.break_tools(&[tool]);
        unit.hook("update-status")
            .assert_status("blocked", &["applying Juju's backup settings", tool, "connection refused"]);
    }
    unit.break_tools(&[]);
    unit.remove_relation().assert_status("active", &["1 member, healthy"]);
    assert!(files(&world).is_empty());
}

#[test]
fn related_units_set_data_only_if_they_are_leader() {
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    let server = Server::new(&["backups"]);
    unit.relate_to_s3(&relation_data(&server, server.port));
    unit.lose_leadership();
    unit.hook("s3-parameters-relation-changed").assert_status("active", &["1 member, healthy"]);
    assert!(unit.relation_data_set().is_empty());
    assert_eq!(files(&world), ["juju.yaml", "s3-credentials"]);
}

#[test]
fn related_or_not_a_unit_uses_or_refuses_the_option_backup() {
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
    unit.hook("config-changed").assert_status("active", &["1 member, healthy"]);
    unit.relate_to_s3(&relation_data(&server, server.port));
    unit.hook("s3-parameters-relation-changed").assert_status("active", &["1 member, healthy"]);
    let ended = unit.run("snapshot", &[&world.to_target()]);
    for name in ["destinations.offsite", "destinations.s3"] {
        assert_eq!(ended.get(name), "uploaded", "{ended:?}");
    }
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    for (text, reason) in [
        ("destinations: [", "option backup cannot be used"),
        ("destination: {}", "line 1: unknown key destination: did you mean destinations?"),
        ("destinations: {a: {s3: {bucket: 'a/b'}}}", "destinations.a.s3: bucket"),
        ("destinations: {s3: {s3: {bucket: b}}}", "destination s3 comes from the relation"),
    ] {
        unit.configure(&[("backup", json!(text))]);
        unit.hook("config-changed")
            .assert_status("blocked", &[reason, "juju config etcd backup=@backup.yaml"]);
        assert_eq!(fs::read_to_string(world.path("juju.yaml")).unwrap(), settings, "{text}");
    }
    // The keys are removed with the relation, also if the option is invalid.
    unit.remove_relation().assert_status("blocked", &["option backup"]);
    assert_eq!(files(&world), ["juju.yaml"]);
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    assert!(settings.contains("offsite") && !settings.contains("s3-credentials"), "{settings}");
    unit.configure(&[]);
    unit.hook("config-changed").assert_status("active", &["1 member, healthy"]);
    assert!(files(&world).is_empty());
    // They are removed with the unit too.
    unit.relate_to_s3(&relation_data(&server, server.port));
    unit.hook("s3-parameters-relation-changed").assert_status("active", &["1 member, healthy"]);
    assert_eq!(files(&world), ["juju.yaml", "s3-credentials"]);
    assert_eq!(unit.hook("remove").out.status.code(), Some(0));
    assert!(files(&world).is_empty());
}

#[test]
fn related_buckets_get_the_overrides_of_the_option() {
    if !Can::Encrypt.is_supported() {
        return;
    }
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    let server = Server::new(&["backups"]);
    let faults = Faults::before(server.port);
    let settings =
        || -> Value { serde_yaml::from_str(&fs::read_to_string(world.path("juju.yaml")).unwrap()).unwrap() };
    // Without a relation, the overrides have no effect.
    let more = "destinations: {s3: {keep: {last: 1}, s3: {encryption: s3}}}\n";
    unit.configure(&[("backup", json!(more))]);
    unit.hook("config-changed").assert_status("active", &["1 member, healthy"]);
    assert!(files(&world).is_empty());
    unit.relate_to_s3(&relation_data(&server, faults.port));
    unit.hook("s3-parameters-relation-changed").assert_status("active", &["1 member, healthy"]);
    let written = settings();
    assert_eq!(written["destinations"]["s3"]["keep"], json!({"last": 1}));
    assert_eq!(written["destinations"]["s3"]["s3"]["bucket"], "backups");
    for _ in 0..2 {
        world.put(0..1, "again");
        let ended = unit.run("backup", &[&world.to_target()]);
        assert_eq!(ended.get("destinations.s3"), "uploaded", "{ended:?}");
    }
    // A multipart upload requests encryption when it starts, a single upload when it is put.
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
    // An invalid override changes nothing, but new relation data is used.
    let mut data = relation_data(&server, faults.port);
    data["path"] = json!("elsewhere");
    unit.relate_to_s3(&data);
    unit.configure(&[("backup", json!("destinations: {s3: {s3: {bucket: mine}}}"))]);
    unit.hook("config-changed")
        .assert_status("blocked", &["destination s3 comes from the relation", "keep", "kms-key"]);
    let written = settings();
    assert_eq!(written["destinations"]["s3"]["s3"]["encryption"], "s3");
    assert_eq!(written["destinations"]["s3"]["s3"]["folder"], "elsewhere");
    unit.configure(&[]);
    unit.hook("config-changed").assert_status("active", &["1 member, healthy"]);
    assert!(settings()["destinations"]["s3"].get("keep").is_none());
    // A server without TLS on another machine is refused unless the option allows it.
    data["endpoint"] = json!("http://192.0.2.7:9000");
    unit.relate_to_s3(&data);
    unit.hook("s3-parameters-relation-changed").assert_status("blocked", &["sent unencrypted"]);
    unit.configure(&[("backup", json!("destinations: {s3: {s3: {allow-http: true}}}"))]);
    unit.hook("config-changed").assert_status("active", &["1 member, healthy"]);
    assert_eq!(settings()["destinations"]["s3"]["s3"]["endpoint"], "http://192.0.2.7:9000");
    unit.remove_relation().assert_status("active", &["1 member, healthy"]);
    assert!(files(&world).is_empty());
}

#[test]
fn related_units_keep_the_settings_of_another_unit() {
    let world = world(Version::V35);
    let unit = Unit::new(&world);
    let server = Server::new(&["backups"]);
    unit.relate_to_s3(&relation_data(&server, server.port));
    unit.hook("s3-parameters-relation-changed").assert_status("active", &["1 member, healthy"]);
    let settings = fs::read_to_string(world.path("juju.yaml")).unwrap();
    assert!(settings.contains("# Owned by unit etcd/0 of model "), "{settings}");
    let assert_unchanged = || {
        assert_eq!(fs::read_to_string(world.path("juju.yaml")).unwrap(), settings);
        assert_eq!(files(&world), ["juju.yaml", "s3-credentials"]);
    };
    // A unit of another application on the same machine, first without backup settings and then with some.
    let relations = world.path("juju/agents/unit-etcd-0/relations");
    fs::rename(&relations, world.path("aside")).unwrap();
    unit.set_units(&["other/0"]);
    for hook in ["install", "config-changed", "update-status"] {
        unit.hook_as("other/0", hook).assert_status("active", &["1 member, healthy"]);
        assert_unchanged();
    }
    unit.configure(&[("backup", json!("keep: {last: 7}\n"))]);
    unit.hook_as("other/0", "config-changed")
        .assert_status("blocked", &["belong to unit etcd/0 of model", "rm "]);
    assert_unchanged();
    assert_eq!(unit.hook_as("other/0", "remove").out.status.code(), Some(0));
    assert_unchanged();
    unit.set_units(&["etcd/0"]);
    assert_eq!(unit.hook("remove").out.status.code(), Some(0));
    assert!(files(&world).is_empty());
}
