//! Why an etcd that runs does not answer: the message names the true cause, in every case on a real server.

use crate::world::{PASSWORD, Setup, Version, World};

on_both_versions!(
    what_is_wrong_with_certificates_is_told,
    what_is_wrong_with_a_login_is_told,
    what_is_wrong_with_an_endpoint_is_told,
);

/// What `site` says of the world's etcd when the site file is changed by replacing `from` with `to`.
fn error_with(world: &World, from: &str, to: &str) -> String {
    let text = world.site_text(&world.setup().version.bin_dir());
    assert!(text.contains(from), "{text}");
    world.set_site(&text.replace(from, to));
    let out =
        crate::run::Run::start(world.action(env!("CARGO_BIN_EXE_site"), &[]), &world.path("runs")).finish();
    world.set_site(&text);
    let results = out.completed();
    assert_eq!(results.get("site.answers"), "false", "{to}");
    results.get("site.error")
}

fn what_is_wrong_with_certificates_is_told(version: Version) {
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    for (from, to, told) in [
        ("/client.", "/expired.", "expired.crt expired on 2001-01-01T00:00:00Z"),
        ("/client.", "/servers-only.", "servers-only.crt is a certificate for servers only"),
        ("/ca.crt", "/other-ca.crt", "not of the authority in cacert"),
        ("/client.key", "/none.key", "no such file"),
        ("/client.key", "/server.key", "private key does not match"),
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

fn what_is_wrong_with_a_login_is_told(version: Version) {
    let world = World::new(Setup { auth: true, ..Setup::plain(version) });
    let login = format!("username: root\npassword-file: {}\n", world.path("password").display());
    let error = error_with(&world, &login, "");
    assert!(error.contains("user name is empty") && error.contains("ETCDCTL_PASSWORD"), "{error}");
    std::fs::write(world.path("password"), "wrong").unwrap();
    let error = error_with(&world, "username", "username");
    assert!(error.contains("password that was given is not this user's"), "{error}");
    assert!(!error.contains(PASSWORD) && !error.contains("wrong"), "{error}");
}

fn what_is_wrong_with_an_endpoint_is_told(version: Version) {
    let plain = World::new(Setup::plain(version));
    let error = error_with(&plain, "endpoint: http:", "endpoint: https:");
    assert!(error.contains("speak plain http"), "{error}");
    let error = error_with(&plain, "127.0.0.1", "nowhere.invalid");
    assert!(error.contains("not known on this machine") || error.contains("no such host"), "{error}");
    let tls = World::new(Setup { tls: true, ..Setup::plain(version) });
    let error = error_with(&tls, "endpoint: https:", "endpoint: http:");
    assert!(error.contains("may speak TLS"), "{error}");
}
