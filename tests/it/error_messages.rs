//! Why an etcd that runs does not answer: the message names the true cause, in every case on a real server.

use std::fs;
use std::path::Path;
use std::process::Command;

use test_case::test_case;

use crate::common::command::Run;
use crate::common::world::{PASSWORD, Setup, Version, World, is_root};

/// What `site` says of the world's etcd when the site file is changed by replacing `from` with `to`.
fn error_with(world: &World, from: &str, to: &str) -> String {
    let text = world.site_text(&world.setup().version.bin_dir());
    assert!(text.contains(from), "{text}");
    world.set_site(&text.replace(from, to));
    let error = error_of(world, world.action(SITE, &[]));
    world.set_site(&text);
    error
}

const SITE: &str = program!("site");

/// What `site`, run by this command, says of an etcd that it cannot ask.
fn error_of(world: &World, command: Command) -> String {
    let results = Run::start(command, &world.path("runs")).finish().completed();
    assert_eq!(results.get("site.answers"), "false", "{}", results.out.told());
    results.get("site.error")
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn what_is_wrong_with_certificates_is_told(version: Version) {
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    for (from, to, told) in [
        ("/client.", "/expired.", "expired.crt expired on 2001-01-01T00:00:00Z"),
        ("/client.", "/servers-only.", "servers-only.crt is a certificate for servers only"),
        ("/ca.crt", "/other-ca.crt", "not signed by the authority in cacert"),
        ("/client.key", "/none.key", "no such file"),
        ("/client.key", "/server.key", "server.key does not belong to the certificate "),
    ] {
        let error = error_with(&world, from, to);
        assert!(error.contains(told), "{to}: {error}");
    }
    let lines = world.site_text(&version.bin_dir());
    let pair: String = lines
        .lines()
        .filter(|line| line.starts_with("cert:") || line.starts_with("key:"))
        .map(|line| format!("{line}\n"))
        .collect();
    let error = error_with(&world, &pair, "");
    assert!(error.contains("certificate"), "no pair: {error}");
}

/// etcd reads its pair anew for every connection.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn what_is_wrong_with_the_servers_certificate_is_told(version: Version) {
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    for (pair, told) in [
        ("expired-server", "this is about the server's certificate, or its authority's"),
        ("nowhere", "does not name this endpoint"),
    ] {
        for ending in ["crt", "key"] {
            let file = |name: &str| world.path("tls").join(format!("{name}.{ending}"));
            fs::copy(file(pair), file("server")).unwrap();
        }
        let error = error_of(&world, world.action(SITE, &[]));
        assert!(error.contains("x509") && error.contains(told), "{pair}: {error}");
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_key_that_may_not_be_read_is_told(version: Version) {
    if !is_root() {
        return eprintln!("skipped: only root runs as somebody else");
    }
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    world.set_mode("", 0o711);
    world.set_mode("tls/client.key", 0o600);
    let as_user = |program: &str| {
        let mut command =
            world.action("setpriv", &["--reuid=12345", "--regid=12345", "--clear-groups", program]);
        command.current_dir(world.path(""));
        command
    };
    let reaches = |program: &Path| as_user("test").arg("-x").arg(program).status().unwrap().success();
    if ![Path::new(SITE), &version.bin_dir().join("etcdctl")].into_iter().all(reaches) {
        return eprintln!("skipped: the programs are where only root can go");
    }
    let error = error_of(&world, as_user(SITE));
    assert!(error.contains("client.key") && error.contains("permission denied"), "{error}");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn what_is_wrong_with_a_login_is_told(version: Version) {
    let world = World::new(Setup { auth: true, ..Setup::plain(version) });
    let login = format!("username: root\npassword-file: {}\n", world.path("password").display());
    let error = error_with(&world, &login, "");
    assert!(error.contains("user name is empty") && error.contains("ETCDCTL_PASSWORD"), "{error}");
    fs::write(world.path("password"), "wrong").unwrap();
    let error = error_with(&world, "username", "username");
    assert!(error.contains("the password is not this user's"), "{error}");
    assert!(!error.contains(PASSWORD) && !error.contains("wrong"), "{error}");

    fs::write(world.path("password"), PASSWORD).unwrap();
    world.etcdctl(&["user", "add", "bob:secret-of-bob"]);
    fs::write(world.path("password"), "secret-of-bob").unwrap();
    world.set_site(&world.site_text(&version.bin_dir()).replace("username: root", "username: bob"));
    let out = world.snapshot(&[&world.to_target()]);
    out.says_one_of(&["which etcd's user root has", "only to its user root"]);
    assert!(!out.stderr.contains("secret-of-bob"), "{}", out.told());
    out.failed(&["permission denied"]);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn what_is_wrong_with_an_endpoint_is_told(version: Version) {
    let plain = World::new(Setup::plain(version));
    let error = error_with(&plain, "endpoint: http:", "endpoint: https:");
    assert!(error.contains("speak plain http"), "{error}");
    let error = error_with(&plain, "127.0.0.1", "nowhere.invalid");
    assert!(error.contains("cannot resolve") || error.contains("no such host"), "{error}");
    let tls = World::new(Setup { tls: true, ..Setup::plain(version) });
    let error = error_with(&tls, "endpoint: https:", "endpoint: http:");
    assert!(error.contains("may speak TLS"), "{error}");
}
