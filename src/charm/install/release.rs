//! Installs a release of etcd, as the etcd project publishes it, from the charm resource `etcd`.
//!
//! Must never install a program that does not run on this machine.

use crate::charm::etcd_config::{self, HEADER};
use crate::charm::install_method::InstallMethod;
use crate::error::Refusal;
use crate::etcd::versions::{Version, requires_etcdutl};
use crate::system::durable::{Dir, PUBLIC, RUNNABLE};
use crate::system::owner::Owner;
use crate::system::process::Program;
use crate::system::systemd;
use anyhow::{Context, Result};
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The next step for an operator whose resource is not a release.
pub(super) const NEXT: &str = "juju attach-resource APPLICATION etcd=etcd-vX.Y.Z-linux-ARCH.tar.gz";
/// The programs, in the order in which they are installed. The installation is complete with the last one; etcd 3.4 has no
/// etcdutl.
pub(super) const PROGRAMS: [&str; 3] = ["etcdutl", "etcdctl", "etcd"];
/// The size limit of a program, in bytes. No program of etcd is a quarter as large.
const MAX_PROGRAM_SIZE: u64 = 256 << 20;
/// The directory of the programs.
pub(super) const BIN: &str = "/usr/local/bin";
const UNITS: &str = "/etc/systemd/system";
/// The systemd unit of the Debian package, for programs in `/usr/local/bin`.
const UNIT: &str = "\
[Unit]
Description=etcd - highly-available key value store
Documentation=https://etcd.io/docs
After=network.target
Wants=network-online.target

[Service]
Type=notify
User=etcd
EnvironmentFile=/etc/default/etcd
ExecStart=/usr/local/bin/etcd
Restart=on-abnormal
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
";

/// Installs the release in `archive`.
pub(super) fn install(archive: &Path) -> Result<()> {
    let bin = Dir::open(Path::new(BIN))?;
    let installed = unpack(archive, &bin).and_then(|found| {
        check_programs_run(&bin, &found)?;
        check_complete(&bin, &found)?;
        install_programs(&bin, &found)
    });
    // Also after an error: the drafts may be filling the disk.
    remove_drafts(&bin)?;
    installed
}

/// Removes the unpacked programs that were not installed.
pub(super) fn remove_drafts(bin: &Dir) -> Result<()> {
    for name in PROGRAMS {
        bin.remove_file(&draft(name))?;
    }
    Ok(())
}

/// Installs the systemd unit and the user, and then the programs that need them.
fn install_programs(bin: &Dir, found: &[&str]) -> Result<()> {
    let units = Dir::open(Path::new(UNITS))?;
    check_paths_are_free(bin, found)?;
    write_unit(&units)?;
    if Owner::named("etcd")?.is_none() {
        let arguments = ["--system", "--home-dir", "/var/lib/etcd", "--shell", "/usr/sbin/nologin", "etcd"];
        Program::new("useradd").args(arguments).run().context("creating the user etcd")?;
    }
    systemd::daemon_reload()?;
    rename_drafts(bin, found)
}

/// Writes the systemd unit. A unit that an operator wrote is not replaced.
fn write_unit(units: &Dir) -> Result<()> {
    let name = InstallMethod::Release.systemd_unit();
    let is_operators = |text: &Vec<u8>| !etcd_config::is_written_by_charm(&String::from_utf8_lossy(text));
    if units.read_small(name)?.is_some_and(|text| is_operators(&text)) {
        return Err(already_exists(&units.path().join(name)));
    }
    units.replace_for(name, format!("{HEADER}{UNIT}").as_bytes(), PUBLIC, None)
}

fn already_exists(file: &Path) -> anyhow::Error {
    let file = file.display();
    Refusal::new(
        format!("{file} already exists, and this charm did not install it"),
        format!("mv {file} {file}.old (if it is not needed)"),
    )
    .into()
}

fn not_a_release(reason: impl Display) -> Refusal {
    Refusal::new(format!("the resource etcd is not an etcd release for this machine: {reason}"), NEXT)
}

/// Unpacks the programs under draft names, by which nothing runs them. Other entries of the archive are skipped. Only a
/// read error is blamed on the archive.
pub(super) fn unpack(archive: &Path, bin: &Dir) -> Result<Vec<&'static str>> {
    let file = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
    let mut tar = tar::Archive::new(flate2::read::MultiGzDecoder::new(file));
    let mut is_found = [false; PROGRAMS.len()];
    for entry in tar.entries().map_err(not_a_release)? {
        let entry = entry.map_err(not_a_release)?;
        let name = entry
            .path()
            .map_err(not_a_release)?
            .file_name()
            .and_then(|name| name.to_str())
            .map(str::to_owned);
        let index = PROGRAMS.iter().position(|program| Some(*program) == name.as_deref());
        let Some(index) = index.filter(|_| entry.header().entry_type().is_file()) else { continue };
        let program = PROGRAMS[index];
        let mut bytes = Vec::new();
        let length = entry.take(MAX_PROGRAM_SIZE + 1).read_to_end(&mut bytes).map_err(not_a_release)? as u64;
        if length > MAX_PROGRAM_SIZE {
            return Err(
                not_a_release(format!("{program} is larger than {} MiB", MAX_PROGRAM_SIZE >> 20)).into()
            );
        }
        bin.replace_for(&draft(program), &bytes, RUNNABLE, None)?;
        is_found[index] = true;
    }
    let found: Vec<_> =
        PROGRAMS.into_iter().zip(is_found).filter(|(_, found)| *found).map(|(name, _)| name).collect();
    match ["etcd", "etcdctl"].into_iter().find(|program| !found.contains(program)) {
        Some(missing) => Err(not_a_release(format!("it does not contain {missing}")).into()),
        None => Ok(found),
    }
}

/// Checks that each program runs. Those of a release for another processor do not.
pub(super) fn check_programs_run(bin: &Dir, found: &[&str]) -> Result<()> {
    for name in found {
        let argument = if *name == "etcd" { "--version" } else { "version" };
        let run = Program::new(bin.path().join(draft(name))).args([argument]).run();
        run.map_err(|error| not_a_release(error.with_command(*name)))?;
    }
    Ok(())
}

/// Refuses a release that lacks the program which its etcdctl needs to read and restore snapshots.
pub(super) fn check_complete(bin: &Dir, found: &[&str]) -> Result<()> {
    if found.contains(&"etcdutl") {
        return Ok(());
    }
    let output = Program::new(bin.path().join(draft("etcdctl"))).args(["version"]).run();
    let output = output.map_err(|error| not_a_release(error.with_command("etcdctl")))?;
    let version = Version::from_output(&output.text(), "etcdctl version:");
    match version.and_then(|version| requires_etcdutl(&version)) {
        None => Ok(()),
        Some(reason) => Err(Refusal::new(
            format!("the release in the resource etcd is incomplete: {reason}, but etcdutl is missing"),
            NEXT,
        )
        .into()),
    }
}

/// Checks that no other program has the path of one to be installed: an operator's programs are not replaced. Programs that
/// are identical to those of this release were left by an interrupted installation.
fn check_paths_are_free(bin: &Dir, found: &[&str]) -> Result<()> {
    for name in found {
        if bin.inode(name)?.is_some() && !same_file(bin, name, &draft(name))? {
            return Err(already_exists(&bin.path().join(name)));
        }
    }
    Ok(())
}

/// Renames the drafts to the names of the programs.
fn rename_drafts(bin: &Dir, found: &[&str]) -> Result<()> {
    for name in found {
        bin.remove_file(name)?;
        anyhow::ensure!(
            bin.rename_noreplace(bin, &draft(name), name)?,
            "another process created {BIN}/{name} at the same time"
        );
    }
    Ok(())
}

/// Whether the file `one` exists and has the content of `other`.
pub(super) fn same_file(dir: &Dir, one: &str, other: &str) -> Result<bool> {
    // The charm never installs a symlink.
    Ok(dir.read(one).is_ok() && read_program(dir, one)? == read_program(dir, other)?)
}

/// Reads a program.
pub(super) fn read_program(dir: &Dir, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    dir.read(name)?.take(MAX_PROGRAM_SIZE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the name of an unpacked program, by which nothing runs it.
pub(super) fn draft(name: &str) -> String {
    format!(".{name}.etcd-charm")
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's archive need not be durable")]
mod tests {
    use super::*;

    fn archive(home: &Path, entries: &[(&str, &[u8])]) -> std::path::PathBuf {
        let path = home.join("etcd.tar.gz");
        let gz = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        for (name, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, *bytes).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        path
    }

    #[test]
    fn unpacks_only_the_programs_from_any_directory() {
        let (home, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bin = Dir::open(bin.path()).unwrap();
        let entries: [(&str, &[u8]); 4] = [
            ("etcd-v3/README.md", b"x"),
            ("etcd-v3/etcd", b"1"),
            ("etcd-v3/etcdctl", b"2"),
            ("etcd-v3/etcdfs", b"3"),
        ];
        let found = unpack(&archive(home.path(), &entries), &bin).unwrap();
        assert_eq!(found, ["etcdctl", "etcd"]);
        assert_eq!(bin.names().unwrap(), [".etcd.etcd-charm", ".etcdctl.etcd-charm"]);
        let error = check_programs_run(&bin, &found).unwrap_err().to_string();
        assert!(
            error.contains("not an etcd release for this machine") && error.contains("attach-resource"),
            "{error}"
        );
    }

    #[test]
    fn refuses_a_release_without_the_etcdutl_that_it_needs() {
        for (version, with_etcdutl, is_complete) in [
            ("3.4.23", false, true),
            ("3.5.16", false, true),
            ("3.6.16", true, true),
            ("3.6.16", false, false),
            ("3.7.3", false, false),
        ] {
            let (home, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let bin = Dir::open(bin.path()).unwrap();
            let program = |label: &str| format!("#!/bin/sh\necho '{label} {version}'\n").into_bytes();
            let (etcd, etcdctl) = (program("etcd Version:"), program("etcdctl version:"));
            let etcdutl = program("etcdutl version:");
            let mut entries = vec![("etcd-v3/etcd", &*etcd), ("etcd-v3/etcdctl", &*etcdctl)];
            if with_etcdutl {
                entries.push(("etcd-v3/etcdutl", &*etcdutl));
            }
            let found = unpack(&archive(home.path(), &entries), &bin).unwrap();
            check_programs_run(&bin, &found).unwrap();
            let refused = check_complete(&bin, &found).err().map(|error| error.to_string());
            assert_eq!(refused.is_none(), is_complete, "{version}: {refused:?}");
            if let Some(refused) = refused {
                let needs = format!("incomplete: etcdctl {version} needs etcdutl next to it: ");
                assert!(refused.contains(&needs) && refused.contains("attach-resource"), "{refused}");
            }
        }
    }

    #[test]
    fn replaces_its_own_programs_but_not_those_of_an_operator() {
        let home = tempfile::tempdir().unwrap();
        let bin = Dir::open(home.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(home.path().join(name)).unwrap();
        for name in ["etcd", "etcdctl"] {
            bin.replace(&draft(name), b"ours").unwrap();
        }
        bin.replace("etcd", b"ours").unwrap();
        bin.replace("etcdctl", b"theirs").unwrap();
        let error = check_paths_are_free(&bin, &["etcd", "etcdctl"]).unwrap_err().to_string();
        assert!(error.contains("/etcdctl already exists") && error.contains("mv "), "{error}");
        bin.remove_file("etcdctl").unwrap();
        check_paths_are_free(&bin, &["etcd", "etcdctl"]).unwrap();
        rename_drafts(&bin, &["etcd", "etcdctl"]).unwrap();
        assert_eq!((read("etcd"), read("etcdctl")), ("ours".into(), "ours".into()));
    }

    #[test]
    fn does_not_replace_a_systemd_unit_of_an_operator() {
        let home = tempfile::tempdir().unwrap();
        let units = Dir::open(home.path()).unwrap();
        write_unit(&units).unwrap();
        write_unit(&units).unwrap();
        units.replace("etcd.service", b"[Service]\nExecStart=/opt/etcd/etcd\n").unwrap();
        let error = write_unit(&units).unwrap_err().to_string();
        assert!(error.contains("/etcd.service already exists") && error.contains("mv "), "{error}");
        assert!(units.read_small("etcd.service").unwrap().unwrap().starts_with(b"[Service]"));
    }

    #[test]
    fn names_what_a_wrong_file_lacks() {
        let (home, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bin = Dir::open(bin.path()).unwrap();
        let error = unpack(&archive(home.path(), &[("db", b"x")]), &bin).unwrap_err().to_string();
        assert!(error.contains("not an etcd release") && error.contains("does not contain etcd"), "{error}");
        assert_eq!(bin.names().unwrap(), [] as [&str; 0]);
        std::fs::write(home.path().join("text"), "not an archive").unwrap();
        let error = unpack(&home.path().join("text"), &bin).unwrap_err().to_string();
        assert!(error.contains("not an etcd release") && error.contains("attach-resource"), "{error}");
    }
}
