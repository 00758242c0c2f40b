//! Archives encrypted to age recipients: without the identity no content is readable, and with it a restore
//! works.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::command::{Out, Run};
use crate::common::fs_util::sha256sum;
use crate::common::s3::Server;
use crate::common::world::{Version, World};
use crate::list_snapshots::{listed, name, run_action};
use crate::malicious_archives::is_cheap_refusal;
use crate::refusals::WorldState;
use crate::restore::from;

/// An age key pair created by `rage`.
pub const RECIPIENT: &str = "age1a7eaj8fh9t460hn9xp6d4299285d94fmlwg4z3kq5pzmjgrvq36qjks4xu";
pub const IDENTITY: &str = "AGE-SECRET-KEY-128SA5NJA6G5KUMQEEVCRPLC586W72KDYNR6N59ELHGEDVN7LZUXS44MW08";
const OTHER_RECIPIENT: &str = "age17ednmd22d8fzrv8jvhuxq7dm3e7zjyjsca2c4cndzncz0vf4xg9s9lz6hg";
pub const OTHER_IDENTITY: &str = "AGE-SECRET-KEY-1MW2NLFFPA0Q3VWSL0CNLQG4RNDP27JTGAP5PYNATEPYU67N8G8GSCUYHPQ";
const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// Text that deflate leaves readable if it compresses only this text.
const CANARY: &str = "canary-of-a-kubernetes-secret";

/// Writes settings that encrypt all later archives.
pub fn encrypt(world: &World, more: &str) {
    fs::write(world.path("backup.yaml"), format!("encrypt-to: [{RECIPIENT}]\n{more}")).unwrap();
}

fn run(world: &World, binary: &str, words: &[&str]) -> Out {
    Run::start(command(world, binary, words), &world.path("runs")).finish()
}

pub fn command(world: &World, binary: &str, words: &[&str]) -> Command {
    let mut command = world.action(binary, words);
    command.env("ETCD_BACKUP", world.path("backup.yaml"));
    command
}

fn snapshot(world: &World) -> Out {
    run(world, program!("snapshot"), &[&world.to_target()])
}

pub fn saved(world: &World) -> PathBuf {
    PathBuf::from(snapshot(world).completed().get("snapshot.path"))
}

pub fn restore(world: &World, words: &[&str]) -> Out {
    run(world, program!("restore"), &[words, &[&world.to_target()]].concat())
}

/// Writes `secret` to an identity file and returns the parameter `identity-file=PATH`.
pub fn identity(world: &World, secret: &str) -> String {
    let path = world.path(&format!("identity-{}", &secret[16..24]));
    fs::write(&path, format!("# created: today\n{secret}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    format!("identity-file={}", path.display())
}

pub fn manifest_next_to(archive: &Path) -> PathBuf {
    PathBuf::from(format!("{}.manifest.json", archive.display()))
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_encrypted_archives_and_encrypts_the_backup(version: Version) {
    let world = World::plain(version);
    world.fill();
    encrypt(&world, "");
    let data = world.dump();
    let out = snapshot(&world).completed();
    let archive = PathBuf::from(out.get("snapshot.path"));
    assert!(name(&archive).ends_with(".tar.gz.age"), "{}", archive.display());
    assert_eq!(out.get("snapshot.encrypted-for"), RECIPIENT);
    assert_eq!(out.get("snapshot.sha256"), sha256sum(&archive));
    world.damage();
    let damaged = world.dump();
    let identity = identity(&world, IDENTITY);
    let done = restore(&world, &[&from(&archive), &identity]).completed();
    assert_same(&world.dump(), &data, "after the restore");
    let backup = PathBuf::from(done.get("backup.path"));
    assert!(fs::read(&backup).unwrap().starts_with(MAGIC), "the backup of the restore is not encrypted");
    restore(&world, &[&from(&backup), &identity, "allow-foreign=true"]).completed();
    assert_same(&world.dump(), &damaged, "after the restore of the backup");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test]
fn writes_no_plain_text_to_disk() {
    let world = World::plain(Version::V35);
    for n in 0..40 {
        let noise: Vec<u8> =
            (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761 + n) >> 24) as u8).collect();
        world.put_bytes(&format!("/registry/secrets/{n}"), &[CANARY.as_bytes(), &noise].concat());
    }
    encrypt(&world, "");
    let mut run = Run::start(
        command(&world, program!("snapshot"), &[&world.to_target(), "compression=small"]),
        &world.path("runs"),
    );
    let mut seen = 0;
    while !run.ended() {
        // The file in progress starts with the age magic at all times.
        for stage in world.in_target().iter().filter(|name| name.starts_with(".etcd-snapshot-")) {
            let archive = world.target().join(stage).join("archive");
            let bytes = fs::read(archive).unwrap_or_default();
            assert!(bytes.is_empty() || bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]));
            seen += usize::from(!bytes.is_empty());
        }
        sleep(Duration::from_millis(1));
    }
    assert!(seen > 0, "the archive was never seen while it was written");
    let archive = PathBuf::from(run.finish().completed().get("snapshot.path"));
    assert!(fs::read(&archive).unwrap().starts_with(MAGIC));
    assert_eq!(world.in_target(), [name(&archive), name(&manifest_next_to(&archive))]);
    for file in [archive.clone(), manifest_next_to(&archive)] {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
        let bytes = fs::read(&file).unwrap();
        for clear in [CANARY.as_bytes(), b"/registry/secrets", b"AGE-SECRET-KEY"] {
            assert!(!bytes.windows(clear.len()).any(|window| window == clear), "{}", file.display());
        }
    }
    let outside: Value = serde_json::from_slice(&fs::read(manifest_next_to(&archive)).unwrap()).unwrap();
    assert_eq!(outside["encrypted_for"][0], RECIPIENT);
    assert_eq!(outside["manifest"]["revision"], world.revision());
    assert_eq!(outside["sha256"], sha256sum(&archive));
}

#[test]
fn refuses_an_encrypted_archive_without_identity_at_once() {
    let world = World::plain(Version::V35);
    world.fill();
    encrypt(&world, "");
    let archive = saved(&world);
    let (right, wrong) = (identity(&world, IDENTITY), identity(&world, OTHER_IDENTITY));
    let state = WorldState::record(&world);
    let out = restore(&world, &[&from(&archive)]);
    assert!(
        !out.stderr.contains("looking at etcd"),
        "the refusal came after etcd was examined: {}",
        out.describe()
    );
    out.assert_stderr_contains(&[&format!("is encrypted for {RECIPIENT}")]);
    out.refused(&["identity-file=PATH"]);
    let out = restore(&world, &[&from(&archive), &wrong]);
    out.assert_stderr_contains(&[&format!("is the identity of {OTHER_RECIPIENT}")]);
    out.refused(&[&format!("is encrypted for {RECIPIENT}")]);
    // The manifest file next to the archive only improves the message; the refusal does not depend on it.
    fs::rename(manifest_next_to(&archive), world.path("aside")).unwrap();
    restore(&world, &[&from(&archive)]).refused(&["unknown recipients"]);
    fs::rename(world.path("aside"), manifest_next_to(&archive)).unwrap();
    let path = Path::new(right.strip_prefix("identity-file=").unwrap()).to_owned();
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        restore(&world, &[&from(&archive), &right]).refused(&["users other than root can"]);
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    for (text, reason) in
        [("", "no AGE-SECRET-KEY-1"), (RECIPIENT, "is not AGE-SECRET-KEY-1"), (CANARY, "is not AGE")]
    {
        fs::write(&path, text).unwrap();
        let out = restore(&world, &[&from(&archive), &right]);
        assert!(!out.describe().contains(CANARY), "{}", out.describe());
        out.refused(&[reason]);
    }
    state.assert_unchanged("refused");
}

#[test]
fn refuses_a_truncated_or_altered_encrypted_archive() {
    let world = World::plain(Version::V35);
    world.fill();
    encrypt(&world, "");
    let archive = saved(&world);
    let identity = identity(&world, IDENTITY);
    let good = fs::read(&archive).unwrap();
    let path = world.path("changed.tar.gz.age");
    let refuses = |what: &str, bytes: &[u8], reasons: &[&str]| {
        fs::write(&path, bytes).unwrap();
        let (source, target) = (from(&path), world.to_target());
        let restore = || command(&world, program!("restore"), &[&source, &target, &identity]);
        is_cheap_refusal(&world, what, reasons, &restore).unwrap();
    };
    for length in [30, 150, 240, 1000, good.len() - 16, good.len() - 1] {
        refuses(&format!("{length} bytes"), &good[..length], &["cut short or altered"]);
    }
    // A change in the header stanza alters the wrapped file key, so the identity no longer matches.
    for at in [60, 100, 160, 230, 1000, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        refuses(&format!("byte {at}"), &bytes, &["cut short or altered", "is encrypted for"]);
    }
    refuses("a byte after the archive", &[&good[..], b"x"].concat(), &["cut short or altered"]);
}

#[test]
fn refuses_a_snapshot_with_an_invalid_recipient() {
    let world = World::plain(Version::V35);
    let archive = world.saved();
    let state = WorldState::record(&world);
    for recipient in ["age1nonsense", &RECIPIENT.replace("age1a", "age1c"), "ssh-ed25519", IDENTITY] {
        fs::write(world.path("backup.yaml"), format!("encrypt-to: [{RECIPIENT}, {recipient}]\n")).unwrap();
        for out in [snapshot(&world), restore(&world, &[&from(&archive)])] {
            assert!(!out.describe().contains("44MW08"), "{}", out.describe());
            out.refused(&["the settings file"]);
        }
    }
    state.assert_unchanged("refused");
}

#[test]
fn lists_verifies_and_deletes_encrypted_archives() {
    let world = World::plain(Version::V35);
    world.fill();
    encrypt(&world, "");
    let (first, second) = (saved(&world), saved(&world));
    let all = listed(&world);
    assert_eq!(all.len(), 2, "{all:?}");
    for one in &all {
        assert_eq!(one["revision"], world.revision());
        assert_eq!(one["encrypted_for"][0], RECIPIENT);
        assert!(one["verified"].is_string());
    }
    let verify =
        |words: &[&str]| run_action(&world, "verify-snapshot", &[&[&*world.to_target()], words].concat());
    let warning = verify(&[]).completed().get("verify.warning");
    assert!(warning.contains("identity-file=PATH"), "{warning}");
    let warning = verify(&[&identity(&world, OTHER_IDENTITY)]).completed().get("verify.warning");
    assert!(warning.contains(&format!("is encrypted for {RECIPIENT}")), "{warning}");
    assert!(
        listed(&world).iter().all(|one| one["broken"].is_null()),
        "an encrypted archive is listed as broken"
    );
    // Without the identity, no etcd is booted.
    verify(&["drill=true"]).completed();
    let drill = world.target().join(".runs/drill.json");
    assert!(!drill.exists(), "a drill that booted no etcd is recorded");
    let done = verify(&[&identity(&world, IDENTITY), "snapshot=all", "drill=true"]).completed();
    assert!(drill.exists());
    assert_eq!((done.get("verify.good"), done.get("verify.failed")), ("2".to_owned(), "0".to_owned()));
    assert_eq!(listed(&world)[0]["sha256"], sha256sum(&second));

    // With the identity, `verify-snapshot` detects a wrong manifest next to the archive.
    let text = fs::read_to_string(manifest_next_to(&second)).unwrap();
    fs::write(manifest_next_to(&second), text.replace("\"member_count\": 1", "\"member_count\": 3")).unwrap();
    verify(&[&identity(&world, IDENTITY)])
        .failed(&["its manifest differs from the one that it is listed with"]);
    fs::write(manifest_next_to(&second), text).unwrap();
    // Until it verifies again, it does not count as a good archive, so the other one could not be deleted.
    verify(&[&identity(&world, IDENTITY), "snapshot=all"]).completed();

    run_action(&world, "prune-snapshots", &[&world.to_target(), "keep=1"]).completed();
    assert!(!first.exists() && !manifest_next_to(&first).exists() && second.exists());
    run_action(&world, "delete-snapshot", &[&world.to_target(), &from(&second), "force=true"]).completed();
    assert!(world.in_target().is_empty(), "{:?}", world.in_target());
}

#[test]
fn uploads_and_fetches_encrypted_archives() {
    let world = World::plain(Version::V35);
    world.fill();
    let data = world.dump();
    let server = Server::new(&["backups"]);
    server.write_credentials(&world.path("credentials"));
    let more = format!(
        "destinations:\n  offsite:\n    s3: {{credentials-file: {}, endpoint: 'http://127.0.0.1:{}', bucket: backups}}\n",
        world.path("credentials").display(),
        server.port
    );
    encrypt(&world, &more);
    let out = snapshot(&world).completed();
    assert_eq!(out.get("destinations.offsite"), "uploaded");
    let archive = PathBuf::from(out.get("snapshot.path"));
    let (sha256, outside) = (sha256sum(&archive), fs::read(manifest_next_to(&archive)).unwrap());
    fs::remove_dir_all(world.target()).unwrap();

    let list = run(&world, program!("list-snapshots"), &[&world.to_target(), "format=json"]);
    let all: Vec<Value> = serde_json::from_str(&list.completed().get("snapshots")).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(
        (&all[0]["revision"], &all[0]["encrypted_for"][0]),
        (&world.revision().into(), &RECIPIENT.into())
    );

    let fetch = |words: &[&str]| {
        let _ = fs::remove_dir_all(world.target());
        let target = world.to_target();
        let words = [words, &["from=offsite/latest", &target]].concat();
        run(&world, program!("fetch-snapshot"), &words)
    };
    let fetched = fetch(&[]).completed();
    assert!(fetched.get("snapshot.verified").contains("sha256 alone"), "{}", fetched.out.describe());
    assert_eq!(sha256sum(&archive), sha256, "the fetched archive differs from the uploaded one");
    assert_eq!(fs::read(manifest_next_to(&archive)).unwrap(), outside);
    fetch(&[&identity(&world, OTHER_IDENTITY)]).refused(&["is encrypted for"]);
    let identity = identity(&world, IDENTITY);
    assert_eq!(fetch(&[&identity]).completed().get("snapshot.verified"), "true");
    assert_eq!(sha256sum(&archive), sha256);
    let keys = |words: &[&str]| {
        let target = world.to_target();
        let words = [&["keys", "offsite/latest", "--quiet", &target], words].concat();
        run(&world, env!("CARGO_BIN_EXE_etcd-backup"), &words)
    };
    keys(&[]).refused(&["is encrypted"]);
    assert_eq!(
        keys(&[&identity]).stdout.lines().count(),
        data.len(),
        "the keys of the archive in the bucket"
    );
    world.damage();
    restore(&world, &[&from(&archive), &identity, "skip-backup=true"]).completed();
    assert_same(&world.dump(), &data, "after the restore");
}

/// Checks interoperability with `age` and `rage` if they are installed.
#[test]
fn exchanges_archives_with_age_and_rage() {
    let world = World::plain(Version::V35);
    world.fill();
    encrypt(&world, "");
    let archive = saved(&world);
    let identity = identity(&world, IDENTITY);
    let file = identity.strip_prefix("identity-file=").unwrap();
    for tool in ["age", "rage"] {
        match Command::new(tool).args(["-d", "-i", file]).arg(&archive).output() {
            Err(_) => eprintln!("skipped: {tool} is not installed"),
            Ok(out) => {
                assert!(out.status.success(), "{tool}: {}", String::from_utf8_lossy(&out.stderr));
                let path = world.path("opened.tar.gz");
                fs::write(&path, out.stdout).unwrap();
                let names = Command::new("tar").arg("tzf").arg(&path).output().unwrap();
                assert_eq!(String::from_utf8_lossy(&names.stdout), "db\nmanifest.json\n", "{tool}");
            }
        }
    }
    // restore accepts an archive that another tool encrypted.
    let plain = world.path("plain.tar.gz");
    fs::copy(world.saved(), &plain).unwrap();
    let by_hand = world.path("by-hand.age");
    for tool in ["age", "rage"] {
        let made = Command::new(tool).args(["-r", RECIPIENT, "-o"]).arg(&by_hand).arg(&plain).status();
        if made.is_ok_and(|status| status.success()) {
            restore(&world, &[&from(&by_hand), &identity, "skip-backup=true"]).completed();
        }
    }
}
