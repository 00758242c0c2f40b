//! Snapshots in the formats of other tools: the zip files of RKE, RKE2 and k3s, the gzip files of Gardener
//! and KKP, and plain files. restore accepts each of them, and refuses altered ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use etcd_backup::archive::{self, Contents, UnpackOptions};
use test_case::test_case;

use crate::archive::unpack;
use crate::common::client::assert_same;
use crate::common::fs_util::{names, succeed};
use crate::common::world::{Version, World};
use crate::hostile::gzip;
use crate::list_snapshots::run_action;
use crate::restore::from;
use crate::zips::{Member, member, streamed, zip};

/// As k3s packs it: streamed into a pipe, which prevents the writer from seeking back.
const PYTHON_STREAM: &str = "import sys, zipfile
z = zipfile.ZipFile(sys.stdout.buffer, 'w', zipfile.ZIP_DEFLATED)
with z.open('on-demand-node-1700000000', 'w') as f: f.write(open(sys.argv[1], 'rb').read())
z.close()";

/// As RKE packs it: two files with absolute paths.
const GO: &str = r#"package main

import ("archive/zip"; "io"; "os"; "time")

func must(err error) { if err != nil { panic(err) } }

func add(out *zip.Writer, name string, from string) {
	file, err := os.Open(from); must(err)
	info, err := file.Stat(); must(err)
	header, err := zip.FileInfoHeader(info); must(err)
	header.Name = name
	header.Method = zip.Deflate
	header.Modified = time.Unix(0, 0)
	writer, err := out.CreateHeader(header); must(err)
	_, err = io.Copy(writer, file); must(err)
}

func main() {
	out := zip.NewWriter(os.Stdout)
	add(out, "/backup/c-x_etcd", os.Args[1])
	add(out, "/etc/kubernetes/c-x_etcd.rkestate", os.Args[2])
	must(out.Close())
}
"#;

/// Writes files in all formats to `dir`, each with the snapshot `db`.
fn all_formats(world: &World, db: &Path) -> Vec<PathBuf> {
    let bytes = fs::read(db).unwrap();
    let dir = world.path("foreign");
    fs::create_dir(&dir).unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let state = put("c-x_etcd.rkestate", b"{\"desiredState\": {}}");
    let python = Command::new("python3").args(["-c", PYTHON_STREAM]).arg(db).output().unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let mut files = vec![
        put("k3s.zip", &python.stdout),
        put("plain.db", &bytes),
        put("gardener.gz", &gzip(&bytes)),
        put("without-an-ending", &zip(&[streamed("snapshot", &bytes)])),
    ];
    let program = world.path("packer.go");
    let go = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    fs::write(&program, GO).unwrap();
    let mut command = Command::new("go");
    command.arg("run").args([&program, db, &state]).env("GOCACHE", &go).env("GOFLAGS", "");
    match command.output() {
        Err(_) => eprintln!("skipped: go is not installed"),
        Ok(out) => {
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            files.push(put("rke.zip", &out.stdout));
        }
    }
    let info = dir.join("info.zip");
    match Command::new("zip").args(["-q", "-j"]).arg(&info).arg(db).output() {
        Err(_) => eprintln!("skipped: zip is not installed"),
        Ok(out) => {
            let _ = succeed(out, "zip");
            files.push(info);
        }
    }
    files
}

/// Packs the snapshot `db` as operators do by hand, and returns the files.
fn packed_by_hand(world: &World, db: &Path) -> Vec<PathBuf> {
    const SHELL: &str = r#"umask 077
        tar --format=posix -czf posix.tar.gz bare.db
        tar --format=gnu -czf other-name.tar.gz bare.db
        tar -czf folder.tar.gz in/a/folder/bare.db
        tar --format=gnu -czf long-name.tar.gz in/b
        tar --format=posix -czf long-name-posix.tar.gz in/b
        tar -cf plain.tar in/a
        tar -czf with-checksum.tar.gz bare.db bare.db.sha256
        python3 -c 'import tarfile; t = tarfile.open("python.tar.gz", "w:gz"); t.add("in/a"); t.close()'
        gzip -c bare.db > padded.db.gz && head -c 5000 /dev/zero >> padded.db.gz
        gzip -c posix.tar.gz > twice.tar.gz.gz
        gzip -c bare.db | gzip > twice.db.gz
        if type zip; then
            cat bare.db | zip -q - - > pipe.zip
            zip -q two.zip bare.db bare.db.sha256
            zip -qr folder.zip in/a
        else
            echo skipped: zip is not installed >&2
        fi"#;
    let dir = world.path("by-hand");
    let long = format!("in/b/{}.db", "long-name-".repeat(15));
    for folder in ["in/a/folder", "in/b"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    for name in ["bare.db", "in/a/folder/bare.db", &long] {
        fs::copy(db, dir.join(name)).unwrap();
    }
    fs::write(dir.join("bare.db.sha256"), "0123  bare.db\n").unwrap();
    let _ = succeed(Command::new("bash").args(["-ec", SHELL]).current_dir(&dir).output().unwrap(), "packing");
    let is_packed = |name: &String| !["in", "bare.db", "bare.db.sha256"].contains(&name.as_str());
    names(&dir).into_iter().filter(is_packed).map(|name| dir.join(name)).collect()
}

/// The database is recognized by its content, under any name.
#[test]
fn restores_a_database_that_was_packed_by_hand() {
    let world = World::plain(Version::V35);
    world.fill();
    let saved = world.dump();
    let db = unpack(&world, &world.saved()).join("db");
    let bytes = fs::read(&db).unwrap();
    let files = packed_by_hand(&world, &db);
    assert!(files.len() >= 11, "{files:?}");
    let refused = |file: &&PathBuf| read(&fs::read(file).unwrap()).is_none_or(|(_, found)| found != bytes);
    let refused: Vec<&PathBuf> = files.iter().filter(refused).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let python = world.path("by-hand/python.tar.gz");
    world.damage();
    let _ = world.restore(&[&from(&python), "skip-backup=true"]).completed();
    assert_same(&world.dump(), &saved, "packed by Python");
}

/// The refusal of a file that can be repacked contains the command.
#[test]
fn repacks_a_refused_file_with_the_printed_command() {
    let world = World::plain(Version::V35);
    world.fill();
    let (saved, dir) = (world.dump(), world.path("by-hand"));
    let db = unpack(&world, &world.saved()).join("db");
    fs::create_dir(&dir).unwrap();
    for name in ["the first.db", "other.db"] {
        fs::copy(&db, dir.join(name)).unwrap();
    }
    let run = |words: &str| {
        succeed(Command::new("bash").args(["-ec", words]).current_dir(&dir).output().unwrap(), words)
    };
    for (pack, file) in [
        ("tar -czf two.tar.gz 'the first.db' other.db", "two.tar.gz"),
        ("if type zip; then zip -q two.zip 'the first.db' other.db; fi", "two.zip"),
    ] {
        let _ = run(pack);
        if !dir.join(file).exists() {
            eprintln!("skipped: zip is not installed");
            continue;
        }
        let out = world.restore(&[&from(&dir.join(file)), "skip-backup=true"]);
        out.assert_stderr_contains(&["contains more than one database: \"the first.db\" and \"other.db\""]);
        let (_, command) = out.stderr.split_once("(umask 077; ").unwrap();
        let _ = run(command.split_once(')').unwrap().0);
        world.damage();
        let _ = world.restore(&[&from(&dir.join("snapshot.db.gz")), "skip-backup=true"]).completed();
        assert_same(&world.dump(), &saved, file);
    }
}

/// A command that an operator copies must not run what the archive says.
#[test]
fn the_printed_command_contains_only_harmless_names() {
    let world = World::plain(Version::V35);
    let db = fs::read(unpack(&world, &world.saved()).join("db")).unwrap();
    for name in ["--to-command=touch /tmp/canary", "*", "a\u{1b}[2J", "$(touch canary)", "a'b"] {
        let path = world.path("two.zip");
        fs::write(&path, zip(&[member(name, &db), member("other", &db)])).unwrap();
        let out = world.restore(&[&from(&path), "skip-backup=true"]);
        out.assert_stderr_contains(&["/two.zip NAME | gzip > snapshot.db.gz)"]);
        assert!(!out.stderr.contains('\u{1b}'), "{:?}", out.stderr);
    }
}

/// A database that our own reader finds to be damaged is reported under its name.
#[test]
fn reports_damage_of_a_bare_database_under_its_name() {
    let world = World::plain(Version::V35);
    world.fill();
    let db = fs::read(unpack(&world, &world.saved()).join("db")).unwrap();
    let unhashed = &db[..db.len() - 32];
    let cut = &unhashed[..unhashed.len() / 2 / 512 * 512];
    // Turns the `_` between the two numbers of a revision in bucket `key` into another character.
    let mut key = unhashed.to_vec();
    let starts = (0..key.len() - 17)
        .filter(|at| key[*at..at + 6] == [0; 6] && key[at + 8..at + 15] == *b"_\0\0\0\0\0\0");
    for at in starts.collect::<Vec<_>>() {
        key[at + 8] = b'x';
    }
    assert_ne!(key, unhashed);
    for (name, bytes) in [("cut.db", cut), ("key.db", &key)] {
        let path = world.path(name);
        fs::write(&path, bytes).unwrap();
        let out = world.restore(&[&from(&path), "skip-backup=true", "allow-unhashed=true"]);
        out.assert_stderr_contains(&[&format!("{} is damaged: ", path.display())]);
        assert!(!out.stderr.contains("/proc/self"), "{}", out.stderr);
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_archives_of_other_tools(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (saved, revision) = (world.dump(), world.revision());
    let db = unpack(&world, &world.saved()).join("db");
    for file in all_formats(&world, &db) {
        world.damage();
        let results = world.restore(&[&from(&file), "skip-backup=true"]).completed();
        assert_same(&world.dump(), &saved, &file.display().to_string());
        assert!(results.number("restore.revision") >= revision, "{}", file.display());
    }
    // A copy of a live database file has no hash, so restore accepts it only with `allow-unhashed=true`, in
    // any format.
    let unhashed = &fs::read(&db).unwrap();
    let unhashed = &unhashed[..unhashed.len() - 32];
    for (name, bytes) in [("u.zip", zip(&[streamed("db", unhashed)])), ("u.db.gz", gzip(unhashed))] {
        let path = world.path(name);
        fs::write(&path, bytes).unwrap();
        world.restore(&[&from(&path), "skip-backup=true"]).refused(&["--allow-unhashed"]);
        world.restore(&[&from(&path), "skip-backup=true", "allow-unhashed=true"]).completed();
        assert_same(&world.dump(), &saved, name);
    }
}

#[test]
fn verifies_archives_of_other_tools() {
    let world = World::plain(Version::V35);
    world.fill();
    let db = unpack(&world, &world.saved()).join("db");
    for file in all_formats(&world, &db) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name.contains('.') {
            fs::rename(&file, world.target().join(name)).unwrap();
        }
    }
    let done = run_action(&world, "verify-snapshot", &[&world.to_target(), "snapshot=all", "drill=true"])
        .completed();
    let names = done.get("verify.snapshots");
    for name in ["k3s.zip", "plain.db", "gardener.gz"] {
        assert!(names.contains(name), "{names}");
    }
    let mut bytes = fs::read(world.target().join("k3s.zip")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(world.target().join("k3s.zip"), bytes).unwrap();
    run_action(&world, "verify-snapshot", &[&world.to_target(), "snapshot=k3s.zip"]).failed(&["altered"]);
}

fn read(bytes: &[u8]) -> Option<(Contents, Vec<u8>)> {
    let mut db = Vec::new();
    let limits = UnpackOptions {
        check_space: &|_| Ok(()),
        allow_bare: true,
        identities: None,
        encrypted_for: &[],
        on_database: &|_| (),
    };
    let contents = archive::unpack(bytes, bytes.len() as u64, "it", &mut db, &limits, &mut |_| ()).ok()?;
    Some((contents, db))
}

/// Returns a file that starts like a bbolt database, and is so small that each of its bits can be flipped.
fn small_database(version: Version) -> Vec<u8> {
    let world = World::plain(version);
    fs::read(unpack(&world, &world.saved()).join("db")).unwrap()
}

#[test]
fn no_flipped_bit_of_a_zip_changes_the_restored_data() {
    let db = small_database(Version::V35);
    for good in [zip(&[member("snapshot", &db)]), zip(&[streamed("snapshot", &db)])] {
        let mut bytes = good.clone();
        let mut taken = 0;
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Some((_, found)) = read(&bytes) {
                assert_eq!(found, db, "bit {bit}");
                taken += 1;
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        eprintln!("{} bits flipped, {taken} accepted with the same content", bytes.len() * 8);
        // Times, versions and attributes have no effect, nor does the distance of a copy within a run of
        // zeros.
        assert!(taken < bytes.len(), "{taken} flips accepted");
    }
}

#[test]
fn refuses_truncated_zips_of_any_length() {
    let db = small_database(Version::V35);
    for good in [zip(&[member("snapshot", &db)]), zip(&[streamed("snapshot", &db)])] {
        for length in 0..good.len() {
            assert!(read(&good[..length]).is_none(), "truncated to {length} bytes");
        }
    }
}

/// The valid variants of the format that zip writers produce.
#[test]
fn reads_every_variant_of_zip() {
    let db = small_database(Version::V35);
    let (plain, behind) = (member("snapshot", &db), streamed("snapshot", &db));
    let words = behind.descriptor.clone().unwrap();
    let wide = |number: u32| u64::from(number).to_le_bytes();
    let (packed, size) = (wide(plain.lengths.0), wide(plain.lengths.1));
    let extra = [&[1, 0, 16, 0], &size[..], &packed].concat();
    let comes_first = [member("a.rkestate", b"{}"), behind.clone()];
    for (form, members) in [
        ("deflated", vec![plain.clone()]),
        (
            "stored",
            vec![Member {
                method: 0,
                packed: db.clone(),
                lengths: (plain.lengths.1, plain.lengths.1),
                ..plain.clone()
            }],
        ),
        ("with a data descriptor", vec![behind.clone()]),
        (
            "with a data descriptor without a signature",
            vec![Member { descriptor: Some(words[4..].to_vec()), ..behind.clone() }],
        ),
        ("in 64 bits", vec![Member { descriptor: Some([&words[..8], &packed, &size].concat()), ..behind }]),
        (
            "64-bit lengths",
            vec![Member {
                lengths: (u32::MAX, u32::MAX),
                extra: extra.clone(),
                central_extra: extra,
                ..plain
            }],
        ),
        ("after the state file of RKE", comes_first.to_vec()),
    ] {
        let (contents, found) = read(&zip(&members)).unwrap_or_else(|| panic!("{form}"));
        assert_eq!(found, db, "{form}");
        assert_eq!((contents.manifest, contents.db.size), (None, db.len() as u64), "{form}");
    }
}
