//! Files that are read, refused and combined.

use super::*;
use crate::inventory::destinations::Location;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

fn read_with_mode(text: &str, mode: u32) -> Result<Settings, Refusal> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
    Settings::read(Some(file.path()))
}

#[test]
fn a_file_may_only_have_known_keys() {
    let good = "destinations:\n  offsite:\n    s3: {bucket: backups, region: eu-central-1}\n  b2: {s3: {bucket: b}}\n";
    let names = read_with_mode(good, 0o644).unwrap().destinations.into_keys().collect::<Vec<_>>();
    assert_eq!(names, ["b2", "offsite"]);
    assert!(read_with_mode("# nothing yet\n", 0o644).unwrap().destinations.is_empty());
    for (text, mode, why) in [
        (good, 0o666, "users other than root can change it"),
        ("destinations: {Off: {s3: {bucket: b}}}", 0o600, "lower-case letters"),
        (
            "destinations: {a: {s3: {bucket: b, secret-key: canary}}}",
            0o600,
            "line 1: unknown key destinations.a.s3.secret-key: ",
        ),
        (
            "destinations: {a: {s3: {}}}",
            0o600,
            "line 1: destinations.a.s3 has no bucket, for example {bucket: NAME}",
        ),
        ("destinations: [", 0o600, "it is not valid YAML: "),
        ("destination: {}", 0o600, "line 1: unknown key destination: did you mean destinations?"),
        ("destinations: {a: {}}", 0o600, "exactly one of s3, azure, google and directory"),
        (
            "destinations: {a: {directory: /d, s3: {bucket: b}}}",
            0o600,
            "exactly one of s3, azure, google and directory",
        ),
        ("destinations: {a: {s3: {bucket: b}, mount: /m}}", 0o600, "mount is only used with directory"),
        (
            "destinations: {a: {directory: /d, keep: {latest: 7}}}",
            0o600,
            "unknown key destinations.a.keep.latest: did you mean last?",
        ),
        ("keep: {within: 30}", 0o600, "within is \"30\""),
        ("keep: {max-size: 50GB}", 0o600, "such as 50G"),
    ] {
        let refusal = read_with_mode(text, mode).unwrap_err().to_string();
        assert!(refusal.contains(why) && !refusal.contains("canary"), "{refusal}");
    }
    assert!(Settings::read(Some(Path::new("/nowhere"))).is_err());
}

#[test]
fn the_target_and_each_destination_have_rules_of_their_own() {
    let text = "keep: {last: 7, within: 30d}\ndestinations:\n  a: {directory: /d, mount: none, keep: {max-size: 50G}}\n  \
                b: {s3: {bucket: b}, keep: {hourly: 1, daily: 2, weekly: 3, monthly: 4, max-size: 1024}}\n";
    let read = read_with_mode(text, 0o600).unwrap();
    let within = Some(jiff::SignedDuration::from_hours(720));
    assert_eq!(read.keep, Policy { last: 7, within, ..Policy::default() });
    assert_eq!(read.destinations["a"].keep, Policy { max_size: Some(50 << 30), ..Policy::default() });
    let b = Policy { hourly: 1, daily: 2, weekly: 3, monthly: 4, max_size: Some(1024), ..Policy::default() };
    assert_eq!(read.destinations["b"].keep, b);
    assert!(
        matches!(&read.destinations["a"].location, Location::Directory(found) if found.directory == Path::new("/d"))
    );
}

#[test]
fn only_one_file_may_have_a_schedule_hooks_and_metrics() {
    let text = "schedule: {when: every 12h, retries: 0}\nhooks: {before: /b, timeout: 5m}\nmetrics: /m\n";
    let all = Settings::parse(text).unwrap();
    assert_eq!(all.schedule.as_ref().unwrap().when, "every 12h");
    assert_eq!(all.hooks.as_ref().unwrap().before.as_deref(), Some(Path::new("/b")));
    let refusal = all.clone().merge(all.clone()).unwrap_err().to_string();
    assert!(refusal.contains("both have a schedule"), "{refusal}");
    assert_eq!(Settings::default().merge(all).unwrap().metrics.as_deref(), Some(Path::new("/m")));
    for wrong in ["schedule: {every: 12h}", "hooks: {afterwards: /b}", "schedule: {}"] {
        assert!(Settings::parse(wrong).is_err(), "{wrong}");
    }
    // Only the commands that use the schedule report a mistake in it.
    assert!(Settings::parse("schedule: {when: nonsense!}").is_ok());
}

#[test]
fn two_files_are_combined_unless_they_contradict_each_other() {
    let with_destination =
        |name: &str| Settings::parse(&format!("destinations: {{{name}: {{s3: {{bucket: b}}}}}}")).unwrap();
    assert_eq!(with_destination("a").merge(with_destination("b")).unwrap().destinations.len(), 2);
    let rules = Settings::parse("keep: {last: 7}").unwrap();
    let labels = Settings::parse("keep: {labels: [keep=forever]}").unwrap();
    let both = Settings::parse("keep: {last: 7, labels: [keep=forever]}").unwrap();
    assert_eq!(labels.clone().merge(rules.clone()).unwrap().keep, both.keep);
    assert_eq!(rules.merge(labels).unwrap().keep, both.keep);
    let refusal = with_destination("a").merge(with_destination("a")).unwrap_err().to_string();
    assert!(refusal.contains("both have a destination a"), "{refusal}");
}

/// The message of a mistake, without the line if there is only one.
fn mistake(text: &str) -> String {
    let error = format!("{:#}", Settings::parse(text).unwrap_err());
    for word in ["struct", "enum", "untagged", "variant", "expected", "sequence", "u64", "canary"] {
        assert!(!error.contains(word), "{text}: {error}");
    }
    error.strip_prefix("line 1: ").map_or(error.clone(), str::to_owned)
}

/// Mistakes in the kind of a value, each with its explanation.
const WRONG_KINDS: &[(&str, &str)] = &[
    ("keep: 7", "keep must be a list of rules: did you mean keep: {last: 7}?"),
    ("keep: 30d", "keep must be a list of rules: did you mean keep: {within: 30d}?"),
    ("keep: canary", "keep must be a list of rules, such as keep: {last: 7}"),
    ("keep: [last]", "keep must be a list of rules, such as keep: {last: 7}"),
    ("keep: {last: canary}", "keep.last must be a whole number, such as last: 7"),
    ("keep: {labels: keep=forever}", "keep.labels must be a list of texts, such as labels: [keep=forever]"),
    (
        "include: /etc/etcd",
        "include must be a list of absolute paths without .., such as include: [/etc/kubernetes/pki]",
    ),
    (
        "include: [pki]",
        "include must be a list of absolute paths without .., such as include: [/etc/kubernetes/pki]",
    ),
    ("keep: {last: -1}", "keep.last must be a whole number, such as last: 7"),
    ("schedule: 12h", "schedule must be a mapping: did you mean schedule: {when: every 12h}?"),
    ("schedule: '@daily'", "schedule must be a mapping, such as schedule: {when: every 12h}"),
    ("schedule: {every: 12h}", "unknown key schedule.every: did you mean when: every 12h?"),
    ("schedule: {when: {every: canary}}", "schedule.when must be a single value"),
    ("schedule: {zone: UTC}", "schedule has no when, for example {when: every 12h}"),
    ("hooks: canary", "hooks must be a mapping, such as hooks: {before: /usr/local/bin/before-backup}"),
    ("hooks: {afterwards: /b}", "unknown key hooks.afterwards: did you mean after?"),
    ("hooks: {x: canary}", "unknown key hooks.x: the keys here are before, after, failure, timeout"),
    (
        "metrics: [canary]",
        "metrics must be an absolute path without .., such as metrics: /var/lib/prometheus/node-exporter",
    ),
    (
        "destinations: {a: {directory: canary/x}}",
        "destinations.a.directory must be an absolute path without .., such as directory: /mnt/backups",
    ),
    (
        "destinations: {a: {directory: /x, mount: canary}}",
        "destinations.a.mount must be an absolute path without .., or none",
    ),
    (
        "schedule: {when: every 12h, target: /canary/../x}",
        "schedule.target must be an absolute path without .., such as target: /var/backups/etcd",
    ),
    (
        "destinations: {a: {s3: {bucket: b, credentials-file: canary}}}",
        "destinations.a.s3.credentials-file must be an absolute path without .., such as credentials-file: \
         /etc/etcd-backup/credentials",
    ),
    (
        "hooks: {before: canary}",
        "hooks.before must be an absolute path without .., such as before: /usr/local/bin/before-backup",
    ),
    (
        "destinations: [canary]",
        "destinations must be a mapping from names, such as destinations: {offsite: {directory: /mnt/backups}}",
    ),
    (
        "destinations: {a: /canary}",
        "destinations.a must be a mapping with s3, azure, google or directory, such as a: {directory: /mnt/backups}",
    ),
    ("destinations: {a: {s3: canary}}", "destinations.a.s3 must be a mapping, such as s3: {bucket: NAME}"),
    (
        "destinations: {a: {s3: {bucket: b, instance-role: canary}}}",
        "destinations.a.s3.instance-role must be true or false",
    ),
    ("destinations: {a: {s3: {bucket: b, style: canary}}}", "destinations.a.s3.style must be path or host"),
    ("encrypt-to: canary", "encrypt-to must be a list of texts, such as encrypt-to: [age1…]"),
    ("canary", "the file must be a mapping, such as {keep: {last: 7}}"),
    ("keep: {within: [canary]}", "keep.within must be a whole number with its unit, such as within: 30d"),
    ("keep: {within: 1.5}", "keep.within must be a whole number with its unit, such as within: 30d"),
];

#[test]
fn a_value_of_the_wrong_kind_is_explained_in_the_operators_words() {
    for (text, message) in WRONG_KINDS {
        assert_eq!(mistake(text), *message, "{text}");
    }
}

#[test]
fn a_bucket_that_cannot_be_used_is_refused_when_the_file_is_read() {
    let bucket =
        |more: &str| Settings::parse(&format!("destinations:\n  a:\n    s3: {{bucket: b, {more}}}\n"));
    for (more, message) in [
        ("endpoint: 'ftp://a'", "endpoint \"ftp://a\" must be https://HOST[:PORT] only"),
        ("endpoint: 'http://10.0.0.1'", "plain http: archives would be sent unencrypted"),
        (
            "folder: a//b",
            "folder \"a//b\" has an empty part, `.`, `..` or a control character; write folder: a/b",
        ),
        ("folder: a/./b", "write folder: a/b"),
        ("folder: ../b", "write folder: b"),
    ] {
        let error = bucket(more).unwrap_err().to_string();
        assert!(error.starts_with("line 3: destinations.a.s3: ") && error.contains(message), "{error}");
    }
    for good in ["folder: /a/b/", "folder: ''", "folder: /", "endpoint: 'http://10.0.0.1', allow-http: true"]
    {
        bucket(good).unwrap();
    }
}

#[test]
fn an_endpoint_without_its_port_is_refused_when_the_file_is_read() {
    for (key, more) in [
        ("s3", "bucket: b"),
        ("azure", "account: etcd, container: backups, key-file: /k"),
        ("google", "bucket: backups, credentials-file: /k"),
    ] {
        let text = format!("destinations:\n  a:\n    {key}: {{{more}, endpoint: 'http://127.0.0.1:'}}\n");
        let error = Settings::parse(&text).unwrap_err().to_string();
        let start = format!(
            "line 3: destinations.a.{key}: endpoint \"http://127.0.0.1:\" has no valid host and port"
        );
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn a_mistake_is_reported_with_its_line_and_file() {
    for (text, message) in [
        (
            "metrics: /m\nkeep:\n  last: 7\n  hurly: 1\n",
            "line 4: unknown key keep.hurly: did you mean hourly?",
        ),
        (
            "destinations:\n  a: {directory: /d}\n  b:\n    directory: /d\n    keep: 3\n",
            "line 5: destinations.b.keep must",
        ),
        ("metrics: /m\nkeep: {within: 30}\n", "line 2: keep: within is \"30\""),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let refusal = Settings::read(Some(file.path())).unwrap_err();
        let expected = format!("the settings file {} cannot be used: {message}", file.path().display());
        assert!(refusal.reason.starts_with(&expected), "{refusal}");
        assert_eq!(refusal.next, format!("correct {}", file.path().display()));
    }
}

#[test]
fn files_are_included_in_encrypted_archives_only() {
    let settings = Settings::parse("include: [/etc/kubernetes/pki]").unwrap();
    let refusal = settings.included().unwrap_err().to_string();
    assert!(refusal.contains("encrypt-to is missing") && refusal.contains("age-keygen"), "{refusal}");
    assert!(Settings::default().included().unwrap().is_empty());
}
