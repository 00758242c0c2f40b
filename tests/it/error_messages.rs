//! The message about an etcd that runs but does not answer names the actual cause. Every case uses a real
//! server.

use std::fs;
use std::path::Path;
use std::process::Command;

use test_case::test_case;

use crate::common::command::Run;
use crate::common::ports::free_port;
use crate::common::world::{PASSWORD, Setup, Version, World, is_root};

/// Returns the error that `site` reports if `from` is replaced by `to` in the site file.
fn error_with(world: &World, from: &str, to: &str) -> String {
    let text = world.site_text(&world.setup().version.bin_dir());
    assert!(text.contains(from), "{text}");
    world.set_site(&text.replace(from, to));
    let error = error_of(world, world.action(SITE, &[]));
    world.set_site(&text);
    error
}

const SITE: &str = program!("site");

/// Returns the error that `site`, run by this command, reports for an etcd that does not answer.
fn error_of(world: &World, command: Command) -> String {
    let results = Run::start(command, &world.path("runs")).finish().completed();
    assert_eq!(results.get("site.answers"), "false", "{}", results.out.describe());
    results.get("site.error")
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn names_the_problem_of_a_client_certificate(version: Version) {
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    for (from, to, expected) in [
        ("/client.", "/expired.", "expired.crt expired on 2001-01-01T00:00:00Z"),
        ("/client.", "/servers-only.", "servers-only.crt is a certificate for servers only"),
        ("/ca.crt", "/other-ca.crt", "not signed by the authority in cacert"),
        ("/client.key", "/none.key", "no such file"),
        ("/client.key", "/server.key", "server.key does not belong to the certificate "),
    ] {
        let error = error_with(&world, from, to);
        assert!(error.contains(expected), "{to}: {error}");
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

/// etcd reads its certificate again for every connection.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn names_the_problem_of_the_server_certificate(version: Version) {
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    for (pair, expected) in [
        ("expired-server", "this is about the server's certificate, or its authority's"),
        ("nowhere", "does not name this endpoint"),
    ] {
        for ending in ["crt", "key"] {
            let file = |name: &str| world.path("tls").join(format!("{name}.{ending}"));
            fs::copy(file(pair), file("server")).unwrap();
        }
        let error = error_of(&world, world.action(SITE, &[]));
        assert!(error.contains("x509") && error.contains(expected), "{pair}: {error}");
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn names_a_key_that_cannot_be_read(version: Version) {
    if !is_root() {
        return eprintln!("skipped: only root can run as another user");
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
        return eprintln!("skipped: only root can enter the directory of the programs");
    }
    let error = error_of(&world, as_user(SITE));
    assert!(error.contains("client.key") && error.contains("permission denied"), "{error}");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn names_the_problem_of_a_login(version: Version) {
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
    out.assert_stderr_contains(&["which etcd's user root has"]);
    assert!(!out.stderr.contains("secret-of-bob"), "{}", out.describe());
    out.failed(&["permission denied"]);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn names_the_problem_of_an_endpoint(version: Version) {
    let plain = World::new(Setup::plain(version));
    let error = error_with(&plain, "endpoint: http:", "endpoint: https:");
    assert!(error.contains("speak plain http"), "{error}");
    let error = error_with(&plain, "127.0.0.1", "nowhere.invalid");
    assert!(error.contains("cannot resolve") || error.contains("no such host"), "{error}");
    let tls = World::new(Setup { tls: true, ..Setup::plain(version) });
    let error = error_with(&tls, "endpoint: https:", "endpoint: http:");
    assert!(error.contains("may speak TLS"), "{error}");
}

/// Prints one line instead of etcdctl's five, and the next step names the file to correct.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn reports_a_refused_connection_in_one_line(version: Version) {
    let world = World::new(Setup::plain(version));
    let text = world.site_text(&version.bin_dir());
    let (_, rest) = text.split_once("endpoint: ").unwrap();
    let endpoint = rest.lines().next().unwrap();
    let closed = format!("http://127.0.0.1:{}", free_port());
    let error = error_with(&world, endpoint, &closed);
    let expected = format!("etcd does not answer at {closed}: connection refused");
    assert_eq!(error, format!("asking etcd for its status: {expected}"));
    world.set_site(&text.replace(endpoint, &closed));
    let out = world.snapshot(&[&world.to_target()]);
    let file = world.site();
    out.assert_stderr_contains(&[&format!(
        ", or correct endpoint in {}, then `sudo etcd-backup snapshot --target={}`.",
        file.display(),
        world.target().display()
    )]);
    out.failed(&[&format!("{expected}. State: ")]);
}

/// Mistakes in a site file are described in the terms of that file.
#[test]
fn describes_mistakes_in_a_site_file_in_its_terms() {
    let world = World::new(Setup::plain(Version::V35));
    let text = world.site_text(&Version::V35.bin_dir());
    let (before, _) = text.split_once("service:").unwrap();
    for (mistake, reason) in [
        (
            format!("{before}service: etcd\n"),
            "service must be {systemd: UNIT}, {static-pod: MANIFEST} or {start: [COMMAND, ...], stop: [COMMAND, ...]} \
             (did you mean {systemd: etcd}?)",
        ),
        (text.replace("endpoint:", "endpont:"), "unknown key endpont (did you mean endpoint?)"),
        (
            text.replace("data-dir: ", "data-dir: relative"),
            "data-dir must be an absolute path, not relative/",
        ),
    ] {
        world.set_site(&mistake);
        let out = world.snapshot(&[&world.to_target()]);
        assert!(!out.stderr.contains("expected "), "{}", out.describe());
        out.assert_stderr_contains(&[&format!("Next: correct {}", world.site().display())]);
        out.refused(&[&format!("the site file {} cannot be used: {reason}", world.site().display())]);
    }
}
