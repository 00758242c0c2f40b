//! The verdict on an archive: verified, intact but not fully verifiable, or damaged. Only the program's own
//! reading of an archive proves damage. A failing disk, network, tool or login does not.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::archive::unpack;
use crate::common::command::{Out, Results, Run};
use crate::common::fs_util::sha256sum;
use crate::common::mount;
use crate::common::world::{Version, World, is_root};
use crate::encryption::{self, IDENTITY, OTHER_IDENTITY, command, encrypt, identity, manifest_next_to};
use crate::hostile::{file, gzip, tar_of};
use crate::list_snapshots::{listed, name, program, run_action};
use crate::refusals::WorldState;
use crate::restore::from;

/// Messages that only a damaged archive may cause.
const DAMAGE_MESSAGES: [&str; 6] =
    ["damaged", "broken", "etcd-backup delete", "restore another", "take another", "do not trust"];

fn verify(world: &World, words: &[&str]) -> Out {
    run_action(world, "verify-snapshot", &[&[&*world.to_target()], words].concat())
}

fn snapshot(path: &Path) -> String {
    format!("snapshot={}", name(path))
}

fn counts(results: &Value) -> [String; 3] {
    ["good", "failed", "not-fully-verified"]
        .map(|key| crate::common::command::find(results, &format!("verify.{key}")).unwrap_or_default())
}

/// Parses the results that a failed action printed.
fn results_of(out: &Out) -> Value {
    let text: String =
        out.stdout.lines().filter(|line| !line.starts_with("failed:")).collect::<Vec<_>>().join("\n");
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{error}: {}", out.describe()))
}

/// Asserts that neither the output nor the list reports damage.
#[track_caller]
fn assert_no_damage(world: &World, out: &Out) {
    let output = format!("{}{}", out.stdout, out.stderr).to_lowercase();
    for word in DAMAGE_MESSAGES {
        assert!(!output.contains(word), "{word}: {}", out.describe());
    }
    for one in listed(world) {
        assert!(one["broken"].is_null() && one["damage"].is_null(), "{one}");
    }
}

fn row(world: &World, path: &Path) -> Value {
    listed(world).into_iter().find(|one| one["name"] == name(path)).unwrap()
}

/// Writes an archive of this database and manifest, packed as `snapshot` packs it.
fn packed(world: &World, name: &str, db: &[u8], manifest: &str) -> PathBuf {
    let tar = tar_of(&[file("db", db), file("manifest.json", manifest.as_bytes())]);
    let (db, rest) = tar.split_at(512 + db.len().next_multiple_of(512));
    let path = world.target().join(name);
    let mut gzip = GzEncoder::new(File::create(&path).unwrap(), Compression::none());
    gzip.write_all(db).and_then(|()| gzip.flush()).and_then(|()| gzip.write_all(rest)).unwrap();
    gzip.finish().unwrap();
    path
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the database with a changed body and a matching trailer hash.
fn with_new_trailer(db: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut body = db[..db.len() - 32].to_vec();
    change(&mut body);
    let trailer = Sha256::digest(&body);
    [&body[..], trailer.as_slice()].concat()
}

/// Makes all leaf pages unreadable: their first elements point far beyond the end of the page.
fn flip_pages(body: &mut [u8]) {
    let is_leaf =
        |page: &[u8], id: u64| page[8..10] == [2, 0] && page[..8] == id.to_le_bytes() && page[10] > 0;
    for (id, page) in body.chunks_mut(4096).enumerate().skip(2) {
        if is_leaf(page, id as u64) {
            page[16 + 8..][..8].fill(0xff);
        }
    }
}

/// Returns an archive with one flipped bit in the checksum at the end of its gzip stream. No other check
/// detects this.
fn altered(archive: &[u8]) -> Vec<u8> {
    let mut altered = archive.to_vec();
    altered[archive.len() - 8] ^= 1;
    altered
}

struct Parts {
    db: Vec<u8>,
    manifest: String,
}

fn parts(world: &World, archive: &Path) -> Parts {
    let dir = unpack(world, archive);
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    Parts { db: read("db"), manifest: String::from_utf8(read("manifest.json")).unwrap() }
}

impl Parts {
    fn manifest_of(&self, db: &[u8]) -> String {
        let mut manifest: Value = serde_json::from_str(&self.manifest).unwrap();
        manifest["db_sha256"] = hex(db).into();
        manifest["db_size"] = db.len().into();
        format!("{manifest:#}\n")
    }
}

#[test]
fn each_kind_of_damage_is_named_and_recorded() {
    let world = World::plain(Version::V35);
    world.fill();
    let good = world.saved();
    let Parts { db, manifest } = &parts(&world, &good);
    let parts = Parts { db: db.clone(), manifest: manifest.clone() };
    let bytes = fs::read(&good).unwrap();
    let flipped_gzip = world.target().join("gzip.tar.gz");
    fs::write(&flipped_gzip, altered(&bytes)).unwrap();
    let mut untrue = db.clone();
    *untrue.last_mut().unwrap() ^= 1;
    let page = with_new_trailer(db, flip_pages);
    let value = with_new_trailer(db, |body| {
        let all: Vec<usize> =
            (0..body.len() - 10).filter(|at| body[*at..].starts_with(b"/registry/")).collect();
        all.into_iter().for_each(|at| body[at + 1] = b'R');
    });
    let mut foreign: Value = serde_json::from_str(manifest).unwrap();
    foreign["db_sha256"] = "ab".repeat(32).into();
    let each = [
        (flipped_gzip, "framing"),
        (packed(&world, "trailer.tar.gz", &untrue, &parts.manifest_of(&untrue)), "trailer"),
        (packed(&world, "manifest.tar.gz", db, &foreign.to_string()), "manifest"),
        (packed(&world, "page.tar.gz", &page, &parts.manifest_of(&page)), "structure"),
        (packed(&world, "value.tar.gz", &value, &parts.manifest_of(&value)), "content"),
    ];
    for (path, check) in &each {
        let out = verify(&world, &[&snapshot(path)]);
        assert!(out.stderr.contains(&format!("{} is damaged: ", name(path))), "{check}: {}", out.describe());
        assert_eq!(counts(&results_of(&out)), ["0", "1", "0"], "{check}: {}", out.describe());
        let delete = format!("delete --target={} {}`.", world.target().display(), name(path));
        assert!(out.stderr.contains(&delete), "{}", out.describe());
        out.failed(&["is damaged"]);
        let row = row(&world, path);
        assert_eq!(row["damage"]["check"], *check, "{row}");
        assert!(row["verified"].is_null() && row["broken"].is_string(), "{row}");
    }
    // `verify-snapshot` names one damaged archive among good ones, and no other.
    let out = verify(&world, &["snapshot=all"]);
    assert_eq!(counts(&results_of(&out)), ["1", "5", "0"], "{}", out.describe());
    let (_, failed) = out.stderr.split_once("failed: ").unwrap();
    assert!(!failed.contains(&name(&good)), "{}", out.describe());
    out.failed(&["is damaged"]);

    // The content of the file is correct, but its bytes are not those that were verified.
    let mut other = bytes;
    other[4] ^= 1;
    fs::write(&good, other).unwrap();
    verify(&world, &[&snapshot(&good)]).failed(&["is damaged"]);
    assert_eq!(row(&world, &good)["damage"]["check"], "sha256");
}

#[test]
fn a_truncated_archive_is_damaged() {
    let world = World::plain(Version::V35);
    world.fill();
    let good = world.saved();
    let bytes = fs::read(&good).unwrap();
    let path = world.target().join("cut.tar.gz");
    for length in [40, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        let out = verify(&world, &[&snapshot(&path)]);
        assert_eq!(counts(&results_of(&out)), ["0", "1", "0"], "{}", out.describe());
        out.failed(&["cut.tar.gz is damaged: its gzip layer is cut short or altered"]);
    }
}

#[test]
fn restore_and_fetch_refuse_a_damaged_archive() {
    let world = World::plain(Version::V35);
    world.fill();
    let good = world.saved();
    let parts = parts(&world, &good);
    let page = with_new_trailer(&parts.db, flip_pages);
    let path = packed(&world, "page.tar.gz", &page, &parts.manifest_of(&page));
    let mut trailer = parts.db.clone();
    *trailer.last_mut().unwrap() ^= 1;
    let bare = world.target().join("bare.db");
    fs::write(&bare, trailer).unwrap();
    let state = WorldState::record(&world);
    for (path, word) in [(&path, "structure"), (&bare, "trailer")] {
        let out = world.restore(&[&from(path), "allow-unhashed=true", "skip-backup=true"]);
        assert!(out.stderr.contains(word), "{}", out.describe());
        out.refused(&[&format!("{} is damaged", path.display())]);
    }
    state.assert_unchanged("refused");
    let elsewhere = format!("target={}", world.path("elsewhere").display());
    fs::write(&good, altered(&fs::read(&good).unwrap())).unwrap();
    let from = format!("from={}", good.display());
    run_action(&world, "fetch-snapshot", &[&from, &elsewhere]).refused(&["is damaged: its gzip layer"]);
}

/// Takes an encrypted snapshot and returns its path.
fn encrypted(world: &World) -> PathBuf {
    world.fill();
    encrypt(world, "");
    encryption::saved(world)
}

fn assert_intact(out: Out, missing: &str) -> Results {
    let results = out.completed();
    let of = |key: &str| results.get(&format!("verify.{key}"));
    assert_eq!(
        [of("good"), of("failed"), of("not-fully-verified")],
        ["0", "0", "1"],
        "{}",
        results.out.describe()
    );
    assert!(of("warning").contains(missing), "{}", results.out.describe());
    results
}

#[test]
fn an_encrypted_archive_without_its_identity_is_intact() {
    let world = World::plain(Version::V35);
    let archive = encrypted(&world);
    let reason = "not fully verifiable: it is encrypted";
    let results = assert_intact(verify(&world, &[]), reason);
    assert_eq!(results.get("verify.sha256"), sha256sum(&archive));
    assert!(results.get("verify.warning").contains("identity-file=PATH"));
    assert_no_damage(&world, &results.out);
    let wrong = identity(&world, OTHER_IDENTITY);
    let results = assert_intact(verify(&world, &[&wrong, "drill=true"]), reason);
    assert_no_damage(&world, &results.out);
    assert!(row(&world, &archive)["drilled"].is_null());
    // Without the manifest file next to the archive, the hash cannot be compared.
    fs::remove_file(manifest_next_to(&archive)).unwrap();
    assert_no_damage(&world, &assert_intact(verify(&world, &[&snapshot(&archive)]), reason).out);
}

#[test]
fn an_altered_encrypted_archive_is_damaged_without_identity() {
    let world = World::plain(Version::V35);
    let archive = encrypted(&world);
    let good = fs::read(&archive).unwrap();
    let mut bytes = good.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&archive, &bytes).unwrap();
    let out = verify(&world, &[]);
    assert_eq!(counts(&results_of(&out)), ["0", "1", "0"], "{}", out.describe());
    out.failed(&["is damaged: "]);
    assert_eq!(row(&world, &archive)["damage"]["check"], "sha256");
    // After the published bytes are written back, the archive is intact again.
    fs::write(&archive, &good).unwrap();
    let results = assert_intact(verify(&world, &[&snapshot(&archive)]), "it is encrypted");
    assert_no_damage(&world, &results.out);
    // An intact archive next to the wrong manifest.
    let text = fs::read_to_string(manifest_next_to(&archive)).unwrap();
    fs::write(manifest_next_to(&archive), text.replace("\"member_count\": 1", "\"member_count\": 3"))
        .unwrap();
    let out = verify(&world, &[&identity(&world, IDENTITY)]);
    out.failed(&["is damaged: "]);
    assert_eq!(row(&world, &archive)["damage"]["check"], "manifest");
    // A comparison of the bytes does not revoke the damage that reading the content detected.
    let out = verify(&world, &[&snapshot(&archive)]);
    assert_eq!(counts(&results_of(&out)), ["0", "1", "0"], "{}", out.describe());
    out.failed(&["is damaged: "]);
}

#[test]
fn an_archive_without_a_trailer_is_intact() {
    let world = World::plain(Version::V35);
    world.fill();
    let db = parts(&world, &world.saved()).db;
    let old = world.target().join("old.tar.gz");
    let unhashed = &db[..db.len() - 32];
    fs::write(&old, gzip(&tar_of(&[file("./db", unhashed)]))).unwrap();
    for drill in ["drill=false", "drill=true"] {
        let results = assert_intact(verify(&world, &[&snapshot(&old), drill]), "no SHA-256 trailer");
        assert!(results.get("verify.warning").contains("allow-unhashed=true"));
        assert_no_damage(&world, &results.out);
    }
    // The program's own reader detects the damage that the missing trailer would detect.
    let mut page = unhashed.to_vec();
    flip_pages(&mut page);
    fs::write(&old, gzip(&tar_of(&[file("./db", &page)]))).unwrap();
    let out = verify(&world, &[&snapshot(&old)]);
    assert_eq!(counts(&results_of(&out)), ["0", "1", "0"], "{}", out.describe());
    out.failed(&["old.tar.gz is damaged: the structure of its database"]);
}

#[test]
fn an_archive_of_a_newer_version_is_intact() {
    let world = World::plain(Version::V35);
    world.fill();
    let Parts { db, manifest } = parts(&world, &world.saved());
    let newer = packed(&world, "newer.tar.gz", &db, &manifest.replace("\"format\": 1", "\"format\": 9"));
    let results = assert_intact(verify(&world, &[&snapshot(&newer)]), "newer version");
    assert_no_damage(&world, &results.out);
    let out = world.restore(&[&from(&newer), "skip-backup=true"]);
    assert_no_damage(&world, &out);
    out.refused(&["newer version"]);
}

#[test]
fn intact_archives_stay_latest_and_are_not_pruned() {
    let world = World::plain(Version::V35);
    let first = encrypted(&world);
    world.put(3000..3010, "more");
    let second = encryption::saved(&world);
    let run = |action: &str, words: &[&str]| {
        let target = world.to_target();
        let words = [&[&*target], words].concat();
        Run::start(command(&world, program(action), &words), &world.path("runs")).finish()
    };
    let all = run("verify-snapshot", &["snapshot=all"]).completed();
    assert_eq!(all.get("verify.not-fully-verified"), "2");
    let latest = run("verify-snapshot", &["snapshot=latest"]).completed();
    assert_eq!(latest.get("verify.sha256"), sha256sum(&second));
    let plan = run("prune-snapshots", &["keep=2", "plan=true"]).completed();
    assert_eq!(plan.get("would-delete"), "0");
    let kept = row(&world, &second)["kept_because"][0].clone();
    assert_eq!(kept, "the newest verified");
    assert!(row(&world, &first)["verified"].is_string());
}

#[test]
fn a_failing_etcd_tool_is_not_damage() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    let tools = world.stand_in_tools();
    let status = "*snapshot*status*";
    let faults: [(&dyn Fn(), &str); 3] = [
        (
            &|| {
                let words = "Error: snapshot file integrity check failed. 3 errors found.\n";
                tools.answer(status, "", words, 1);
            },
            "integrity check failed",
        ),
        (&|| tools.kill(status), "was killed by SIGKILL"),
        (&|| tools.answer(status, "utter garbage", "", 0), "printed no JSON"),
    ];
    let state = WorldState::record(&world);
    for (fault, cause) in faults {
        fault();
        for out in [verify(&world, &[]), world.restore(&[&from(&archive), "skip-backup=true"])] {
            assert_no_damage(&world, &out);
            out.failed(&[cause]);
        }
        let out = verify(&world, &[]);
        assert_eq!(counts(&results_of(&out)), ["0", "0", "0"], "{}", out.describe());
        out.failed(&["could not be verified: "]);
    }
    tools.remove_fault();
    tools.remove("etcdutl");
    tools.remove("etcdctl");
    let out = verify(&world, &[]);
    assert_no_damage(&world, &out);
    out.failed(&["the program etcdctl was not found"]);
    state.assert_unchanged("failed");
}

#[test]
fn a_full_disk_is_not_damage() {
    if !is_root() {
        return eprintln!("skipped: only root can mount a small file system");
    }
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    let bytes = fs::read(&archive).unwrap();
    for size in [bytes.len() as u64 + (64 << 10), bytes.len() as u64 + (24 << 10)] {
        let mounted = mount::small(&world.target(), &size.to_string());
        fs::write(&archive, &bytes).unwrap();
        let out = verify(&world, &[&snapshot(&archive)]);
        assert_no_damage(&world, &out);
        assert!(
            ["room", "free", "No space"].iter().any(|word| out.stderr.contains(word)),
            "{}",
            out.describe()
        );
        out.failed(&["could not be verified: "]);
        drop(mounted);
    }
}

#[test]
fn an_unreadable_disk_is_not_damage() {
    if !is_root() {
        return eprintln!("skipped: only root can mount a file system");
    }
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    let broken = mount::broken(&archive);
    let state = WorldState::record(&world);
    let all = listed(&world);
    assert!(all.iter().all(|one| one["broken"].is_null()), "{all:?}");
    let out = verify(&world, &["snapshot=all"]);
    assert!(
        !out.stderr.contains("damaged") && !out.stderr.contains("etcd-backup delete"),
        "{}",
        out.describe()
    );
    out.failed(&["Input/output error"]);
    let out = world.restore(&[&from(&archive), "skip-backup=true"]);
    assert!(!out.stderr.contains("damaged") && !out.stderr.contains("altered"), "{}", out.describe());
    out.failed(&["Input/output error"]);
    state.assert_unchanged("failed");
    drop(broken);
    let _ = verify(&world, &[]).completed();
}

#[test]
fn a_drill_that_cannot_boot_is_not_damage() {
    let world = World::plain(Version::V35);
    world.fill();
    let _ = world.saved();
    let tools = world.stand_in_tools();
    tools.answer("etcd --data-dir*", "", "panic: no luck\n", 2);
    let out = verify(&world, &["drill=true"]);
    assert_no_damage(&world, &out);
    out.failed(&["could not be verified: the drill: booting a private etcd: "]);
    tools.kill("*snapshot*restore*");
    let out = verify(&world, &["drill=true"]);
    assert_no_damage(&world, &out);
    out.failed(&["could not be verified: "]);
}

#[test]
fn a_file_of_another_kind_is_not_damaged() {
    let world = World::plain(Version::V35);
    let _ = world.saved();
    for (file_name, bytes) in [
        ("notes.gz", gzip(b"a text that somebody packed")),
        ("photo.zip", b"\x89PNG and so on".to_vec()),
        ("home.tar.gz", gzip(&tar_of(&[file("home/me/.profile", b"umask 077")]))),
    ] {
        let path = world.target().join(file_name);
        fs::write(&path, bytes).unwrap();
        let out = verify(&world, &[&snapshot(&path)]);
        assert_eq!(counts(&results_of(&out)), ["0", "0", "0"], "{}", out.describe());
        assert_no_damage(&world, &out);
        out.failed(&["could not be verified: "]);
        assert_no_damage(&world, &world.restore(&[&from(&path), "skip-backup=true"]));
    }
}

#[test]
fn a_destination_that_is_down_is_not_damage() {
    let world = World::plain(Version::V35);
    let archive = world.saved();
    crate::common::s3::write_credentials(&world.path("credentials"), "key", "secret");
    let settings = format!(
        "destinations: {{offsite: {{s3: {{credentials-file: {}, endpoint: 'http://127.0.0.1:9', bucket: b}}}}}}\n",
        world.path("credentials").display()
    );
    fs::write(world.path("backup.yaml"), settings).unwrap();
    let words = [&*world.to_target(), "snapshot=all"];
    let out = Run::start(command(&world, program("verify-snapshot"), &words), &world.path("runs")).finish();
    assert_no_damage(&world, &out);
    assert_eq!(counts(&results_of(&out)), ["1", "0", "0"], "{}", out.describe());
    out.failed(&["reading offsite: "]);
    assert!(row(&world, &archive)["verified"].is_string());
}

#[test]
fn check_does_not_count_a_damaged_archive() {
    let world = World::plain(Version::V35);
    world.fill();
    fs::write(world.path("backup.yaml"), "").unwrap();
    let run = |binary: &str, words: &[&str]| {
        let target = world.to_target();
        let words = [&[&*target], words].concat();
        Run::start(command(&world, binary, &words), &world.path("runs")).finish()
    };
    let check = || run(program!("check"), &[]);
    let _ = run(program("backup"), &[]).completed();
    assert_eq!(check().status.code(), Some(0), "{}", check().describe());
    let archive = world.in_target().into_iter().find(|name| name.ends_with(".tar.gz")).unwrap();
    let path = world.target().join(&archive);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, altered(&bytes)).unwrap();
    verify(&world, &[&snapshot(&path)]).failed(&["is damaged"]);
    let out = check();
    assert_eq!(out.status.code(), Some(2), "{}", out.describe());
    fs::write(&path, &bytes).unwrap();
    let _ = verify(&world, &[&snapshot(&path)]).completed();
    assert_eq!(check().status.code(), Some(0), "{}", check().describe());
}
