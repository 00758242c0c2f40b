//! Labels, and files that encrypted archives keep with the database.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::client::assert_same;
use crate::common::command::{Out, Run};
use crate::common::fs_util::sha256sum;
use crate::common::world::{Version, World};
use crate::encryption::{IDENTITY, command, encrypt, identity, manifest_next_to, restore};
use crate::list_snapshots::name;

/// The content of a private key.
const CANARY: &str = "canary-of-a-private-key";

fn run(world: &World, binary: &str, words: &[&str]) -> Out {
    Run::start(command(world, binary, &[words, &[&*world.to_target()]].concat()), &world.path("runs"))
        .finish()
}

/// Makes certificates, and returns their directory.
fn certificates(world: &World) -> PathBuf {
    let pki = world.path("pki");
    fs::create_dir_all(pki.join("etcd")).unwrap();
    fs::write(pki.join("etcd/ca.key"), CANARY).unwrap();
    fs::set_permissions(pki.join("etcd/ca.key"), Permissions::from_mode(0o400)).unwrap();
    symlink("etcd/ca.key", pki.join("ca.key")).unwrap();
    pki
}

#[test]
fn an_archive_keeps_labels_and_certificates_and_gives_them_back() {
    let world = World::plain(Version::V35);
    world.fill();
    let (data, pki) = (world.dump(), certificates(&world));
    let include = format!("include: [{}]\n", pki.display());
    let snapshot = |words: &[&str]| run(&world, program!("snapshot"), words);

    // Private keys are only kept in encrypted archives.
    fs::write(world.path("backup.yaml"), &include).unwrap();
    snapshot(&[]).refused(&["encrypt-to is missing"]);
    assert!(world.in_target().is_empty(), "{:?}", world.in_target());
    encrypt(&world, &format!("include: [{}]\n", world.data_dir().display()));
    snapshot(&[]).refused(&["etcd's data directory"]);

    encrypt(&world, "");
    let older = PathBuf::from(snapshot(&[]).completed().get("snapshot.path"));
    encrypt(&world, &include);
    let socket = UnixListener::bind(pki.join("a.sock")).unwrap();
    let done = snapshot(&["label=name=before-upgrade,team=storage", "note=etcd 3.5 to 3.6"]).completed();
    let archive = PathBuf::from(done.get("snapshot.path"));
    assert_eq!(done.get("snapshot.labels"), "name=before-upgrade,team=storage");
    assert_eq!(done.get("snapshot.note"), "etcd 3.5 to 3.6");
    assert!(done.get("snapshot.warning").contains("a.sock is not included: it is a socket"));
    assert!(done.get("snapshot.included").starts_with("2 files of "), "{}", done.get("snapshot.included"));
    drop(socket);
    for file in [&archive, &manifest_next_to(&archive)] {
        let bytes = fs::read(file).unwrap();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "{}", file.display());
    }

    selects_by_label(&world, &archive, &older);
    let identity = identity(&world, IDENTITY);
    gives_the_files_back(&world, &archive, &identity, &pki);

    // A restore leaves the files alone, and reports them.
    world.damage();
    fs::write(pki.join("etcd/other"), "newer").unwrap();
    let done = restore(&world, &["from=before-upgrade", &identity]).completed();
    assert_same(&world.dump(), &data, "after the restore");
    let note = done.get("restore.note");
    assert!(note.contains("2 files of") && note.contains("fetch"), "{note}");
    assert!(pki.join("etcd/other").exists());
}

fn selects_by_label(world: &World, archive: &Path, older: &Path) {
    let list = |words: &[&str]| {
        let out = run(world, program!("list-snapshots"), &[words, &["format=json"]].concat()).completed();
        let rows: Vec<Value> = serde_json::from_str(&out.get("snapshots")).unwrap();
        rows
    };
    let all = list(&[]);
    assert_eq!(all.len(), 2);
    assert_eq!(all[0]["labels"]["team"], "storage");
    assert_eq!((&all[0]["note"], &all[0]["included"]["files"]), (&"etcd 3.5 to 3.6".into(), &2.into()));
    assert_eq!(list(&["label=team=storage"])[0]["name"], name(archive));
    assert!(list(&["label=team=other"]).is_empty());
    let table = run(world, program!("list-snapshots"), &[]).completed().get("snapshots");
    assert!(table.contains("LABELS") && table.contains("name=before-upgrade,team=storage"), "{table}");

    let prune = |words: &[&str]| {
        let out = run(world, program!("prune-snapshots"), &[words, &["plan=true"]].concat()).completed();
        (out.get("would-delete"), out.get("snapshots"))
    };
    let (count, verdicts) = prune(&["label=team=storage", "keep=1"]);
    assert_eq!(count, "0");
    assert!(verdicts.contains("without the label team=storage"), "{verdicts}");
    assert_eq!(prune(&["keep=1"]).0, "1");
    let text = fs::read_to_string(world.path("backup.yaml")).unwrap();
    fs::write(world.path("backup.yaml"), format!("{text}keep: {{labels: [team=storage]}}\n")).unwrap();
    assert!(prune(&["keep=1"]).1.contains("has the label team=storage"));
    fs::write(world.path("backup.yaml"), text).unwrap();
    assert!(older.exists());
}

fn gives_the_files_back(world: &World, archive: &Path, identity: &str, pki: &Path) {
    let verify = |words: &[&str]| run(world, program!("verify-snapshot"), words);
    let done = verify(&["snapshot=before-upgrade", "drill=true", identity]).completed();
    assert_eq!((done.get("verify.good"), done.get("verify.sha256")), ("1".to_owned(), sha256sum(archive)));

    let dir = world.path("extracted");
    let extract = |words: &[&str]| {
        let to = format!("extract={}", dir.display());
        run(world, program!("fetch-snapshot"), &[words, &[&*to]].concat())
    };
    extract(&["from=before-upgrade"]).refused(&["is encrypted for"]);
    assert!(!dir.exists());
    let done = extract(&["from=before-upgrade", identity]).completed();
    assert_eq!(
        (done.get("extract.files"), done.get("extract.path")),
        ("2".to_owned(), dir.display().to_string())
    );
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    let copy = dir.join(pki.strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(copy.join("etcd/ca.key")).unwrap(), CANARY);
    assert_eq!(fs::metadata(copy.join("etcd/ca.key")).unwrap().mode() & 0o7777, 0o400);
    assert_eq!(fs::read_link(copy.join("ca.key")).unwrap(), Path::new("etcd/ca.key"));
    extract(&["from=before-upgrade", identity]).refused(&["is not empty", "no file is overwritten"]);
    fs::remove_dir_all(&dir).unwrap();

    // The identity is enough if the file next to the archive is lost.
    let alone = world.path("alone");
    fs::create_dir(&alone).unwrap();
    fs::copy(archive, alone.join(name(archive))).unwrap();
    let from = format!("from={}", alone.join(name(archive)).display());
    let (target, to) = (format!("target={}", alone.display()), format!("extract={}", dir.display()));
    let words = [&*from, &*target, &*to, identity];
    Run::start(command(world, program!("fetch-snapshot"), &words), &world.path("runs")).finish().completed();
    assert!(dir.exists());
    reads_with_age(world, archive, identity);
}

/// Other tools read the database and the files, if `age` is installed.
fn reads_with_age(world: &World, archive: &Path, identity: &str) {
    let file = identity.strip_prefix("identity-file=").unwrap();
    let Ok(out) = Command::new("age").args(["-d", "-i", file]).arg(archive).output() else {
        eprintln!("skipped: age is not installed");
        return;
    };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let plain = world.path("opened.tar.gz");
    fs::write(&plain, out.stdout).unwrap();
    let names = Command::new("tar").arg("tzf").arg(&plain).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&names.stdout), "db\ninclude.tar\nmanifest-2.json\n");
}
