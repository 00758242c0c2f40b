//! The contents of an archive, as other tools read them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};
use test_case::test_case;

use crate::common::fs_util::{names, sha256sum, succeed};
use crate::common::world::{PASSWORD, Setup, Version, World};

/// Unpacks an archive with GNU tar.
pub fn unpack(world: &World, archive: &Path) -> PathBuf {
    let dir = world.path(&format!("unpacked-{}", names(&world.path("")).len()));
    fs::create_dir(&dir).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("xzf").arg(archive).arg("-C").arg(&dir);
    let _ = succeed(tar.output().unwrap(), "tar xzf");
    dir
}

/// Returns the text of an archive's manifest.
pub fn manifest(world: &World, archive: &Path) -> String {
    fs::read_to_string(unpack(world, archive).join("manifest.json")).unwrap()
}

/// The file names that every reader must print.
const NAMES: &str = "db manifest.json";

const PYTHON: &str = "import sys, tarfile
t = tarfile.open(sys.argv[1])
assert all(m.isreg() and len(t.extractfile(m).read()) == m.size for m in t)
print(*t.getnames())";

const GO: &str = r#"package main

import ("archive/tar"; "compress/gzip"; "fmt"; "io"; "os")

func must(err error) { if err != nil { panic(err) } }

func main() {
	file, err := os.Open(os.Args[1]); must(err)
	unzip, err := gzip.NewReader(file); must(err)
	unzip.Multistream(false)
	files := tar.NewReader(unzip)
	for {
		header, err := files.Next()
		if err == io.EOF { break }
		must(err)
		n, err := io.Copy(io.Discard, files); must(err)
		if n != header.Size { panic("cut short") }
		fmt.Println(header.Name)
	}
	_, err = io.Copy(io.Discard, unzip); must(err)
	rest, err := io.Copy(io.Discard, file); must(err)
	if rest != 0 { panic("a second member") }
}
"#;

/// Readers of other vendors, because implementations of gzip and tar differ.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn archive_can_be_read_by_other_tools(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    let archive = archive.to_str().unwrap();
    let program = world.path("reader.go");
    // The first compilation of Go's standard library takes a minute.
    let go = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    fs::write(&program, GO).unwrap();
    for (reader, words, expected) in [
        ("tar", vec!["-tzf", archive], NAMES),
        ("bsdtar", vec!["-tf", archive], NAMES),
        ("python3", vec!["-c", PYTHON, archive], NAMES),
        ("go", vec!["run", program.to_str().unwrap(), archive], NAMES),
        ("gzip", vec!["-t", archive], ""),
    ] {
        let mut command = Command::new(reader);
        match command.args(words).env("GOCACHE", &go).env("GOFLAGS", "").output() {
            Err(_) => eprintln!("skipped: {reader} is not installed"),
            Ok(out) => {
                let text = succeed(out, reader);
                assert_eq!(text.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{reader}");
            }
        }
    }
    assert_eq!(names(&unpack(&world, Path::new(archive))), ["db", "manifest.json"]);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn archive_contains_a_snapshot_that_etcd_accepts(version: Version) {
    let world = World::plain(version);
    world.fill();
    let dir = unpack(&world, &world.saved());
    let db = fs::read(dir.join("db")).unwrap();
    assert_eq!(db.len() % 512, 32);
    let (content, trailer) = db.split_at(db.len() - 32);
    assert_eq!(Sha256::digest(content).as_slice(), trailer);

    let tool = if version == Version::V34 { "etcdctl" } else { "etcdutl" };
    let run = |args: &[&str]| {
        let mut command = Command::new(version.bin_dir().join(tool));
        command.arg("snapshot").args(args).env_clear().env("ETCDCTL_API", "3");
        succeed(command.current_dir(&dir).output().unwrap(), tool)
    };
    let status: Value = serde_json::from_str(&run(&["status", "db", "-w", "json"])).unwrap();
    assert_eq!(status["revision"], world.revision());
    let _ = run(&["restore", "db", "--data-dir", "restored"]);
    assert!(dir.join("restored/member/snap/db").exists());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn archive_describes_its_content_without_secrets(version: Version) {
    let world = World::new(Setup { auth: true, ..Setup::plain(version) });
    let tools = world.stand_in_tools();
    world.fill();
    let dir = unpack(&world, &world.saved());
    let text = fs::read_to_string(dir.join("manifest.json")).unwrap();
    assert!(!text.contains(PASSWORD));
    let calls = tools.calls();
    assert!(!calls.is_empty());
    assert!(calls.iter().all(|(_, call)| !call.contains(PASSWORD)), "{calls:?}");

    let mut values = Vec::new();
    collect(&serde_json::from_str(&text).unwrap(), &mut values);
    let member = &world.members()[0];
    let size = fs::metadata(dir.join("db")).unwrap().len();
    let whole = sha256sum(&dir.join("db"));
    let content = fs::read(dir.join("db")).unwrap();
    let trailer: String = content[content.len() - 32..].iter().map(|byte| format!("{byte:02x}")).collect();
    let either_base = |id: u64| vec![id.to_string(), format!("{id:x}"), format!("{id:016x}")];
    for (what, forms) in [
        ("snapshot revision", vec![world.revision().to_string()]),
        ("db size", vec![size.to_string(), (size - 32).to_string()]),
        ("db sha256", vec![whole, trailer]),
        ("etcd version", vec![version.number()]),
        ("cluster id", either_base(world.cluster_id())),
        ("member id", either_base(member.id)),
        ("member name", vec![member.name.clone()]),
        ("member count", vec!["1".to_owned()]),
    ] {
        assert!(
            forms.iter().any(|form| values.contains(form)),
            "the manifest has no {what} {forms:?}: {text}"
        );
    }
    let today = succeed(Command::new("date").args(["-u", "+%Y-%m-%d"]).output().unwrap(), "date");
    assert!(values.iter().any(|value| value.starts_with(today.trim())), "no time: {text}");
}

/// Collects all strings and numbers in a document.
fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.values().for_each(|value| collect(value, found)),
        Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
        Value::String(text) => found.push(text.clone()),
        other => found.push(other.to_string()),
    }
}
