//! A release of etcd as its project publishes it, out of the charm resource `etcd`.
//!
//! Must never put a program in place that does not run here.

use crate::charm::configuration::{self, MARK};
use crate::charm::home::Home;
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

/// What to do about a resource that is no release.
pub(super) const NEXT: &str = "juju attach-resource APPLICATION etcd=etcd-vX.Y.Z-linux-ARCH.tar.gz";
/// The programs, the first of which came with etcd 3.5. They get their places in this order, and the home is complete with
/// the last.
const PROGRAMS: [&str; 3] = ["etcdutl", "etcdctl", "etcd"];
/// No program of etcd's has a quarter of this.
const LARGEST: u64 = 256 << 20;
const BIN: &str = "/usr/local/bin";
const UNITS: &str = "/etc/systemd/system";
/// A systemd unit as Debian's package has it, for programs of another place.
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
    let placed = unpack(archive, &bin).and_then(|found| {
        prove(&bin, &found)?;
        must_be_complete(&bin, &found)?;
        settle(&bin, &found)
    });
    // Whatever came of it: on a full disk, they are what fills it.
    for name in PROGRAMS {
        bin.remove_file(&draft(name))?;
    }
    placed
}

/// Puts the programs in place, after all that they need.
fn settle(bin: &Dir, found: &[&str]) -> Result<()> {
    let units = Dir::open(Path::new(UNITS))?;
    are_free(bin, found)?;
    write_unit(&units)?;
    if Owner::named("etcd")?.is_none() {
        let words = ["--system", "--home-dir", "/var/lib/etcd", "--shell", "/usr/sbin/nologin", "etcd"];
        Program::new("useradd").args(words).run().context("making the user etcd")?;
    }
    systemd::reload()?;
    place(bin, found)
}

/// One that an operator wrote is not replaced.
fn write_unit(units: &Dir) -> Result<()> {
    let name = Home::Release.unit();
    let theirs =
        units.read_small(name)?.filter(|text| !configuration::is_ours(&String::from_utf8_lossy(text)));
    if theirs.is_some() {
        return Err(taken(&units.path().join(name)));
    }
    units.replace_for(name, format!("{MARK}{UNIT}").as_bytes(), PUBLIC, None)
}

fn taken(file: &Path) -> anyhow::Error {
    let file = file.display();
    Refusal::new(
        format!("there is another {file} already, and it was not replaced"),
        format!("if nobody needs it: mv {file} {file}.old"),
    )
    .into()
}

fn no_release(why: impl Display) -> Refusal {
    Refusal::new(format!("the resource etcd is no release of etcd for this machine ({why})"), NEXT)
}

/// Unpacks the programs under names that nothing runs by. Whatever else is in the archive is passed over. Only what cannot
/// be read is the archive's fault.
fn unpack(archive: &Path, bin: &Dir) -> Result<Vec<&'static str>> {
    let file = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
    let mut tar = tar::Archive::new(flate2::read::MultiGzDecoder::new(file));
    let mut is_there = [false; PROGRAMS.len()];
    for entry in tar.entries().map_err(no_release)? {
        let entry = entry.map_err(no_release)?;
        let name =
            entry.path().map_err(no_release)?.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let which = PROGRAMS.iter().position(|program| Some(*program) == name.as_deref());
        let Some(which) = which.filter(|_| entry.header().entry_type().is_file()) else { continue };
        let program = PROGRAMS[which];
        let mut bytes = Vec::new();
        let length = entry.take(LARGEST + 1).read_to_end(&mut bytes).map_err(no_release)? as u64;
        if length > LARGEST {
            return Err(no_release(format!("{program} is larger than {LARGEST} bytes")).into());
        }
        bin.replace_for(&draft(program), &bytes, RUNNABLE, None)?;
        is_there[which] = true;
    }
    let found: Vec<_> =
        PROGRAMS.into_iter().zip(is_there).filter(|(_, there)| *there).map(|(name, _)| name).collect();
    match ["etcd", "etcdctl"].into_iter().find(|program| !found.contains(program)) {
        Some(missing) => Err(no_release(format!("there is no {missing} in it")).into()),
        None => Ok(found),
    }
}

/// That each runs here, which a release for another processor does not.
fn prove(bin: &Dir, found: &[&str]) -> Result<()> {
    for name in found {
        let words = if *name == "etcd" { "--version" } else { "version" };
        let run = Program::new(bin.path().join(draft(name))).env("ETCDCTL_API", "3").args([words]).run();
        run.map_err(|error| no_release(error.called(*name)))?;
    }
    Ok(())
}

/// Refuses a release that lacks the program which its etcdctl needs to read and restore snapshots.
fn must_be_complete(bin: &Dir, found: &[&str]) -> Result<()> {
    if found.contains(&"etcdutl") {
        return Ok(());
    }
    let told =
        Program::new(bin.path().join(draft("etcdctl"))).env("ETCDCTL_API", "3").args(["version"]).run();
    let told = told.map_err(|error| no_release(error.called("etcdctl")))?;
    let version = Version::from_output(&told.text(), "etcdctl version:");
    match version.and_then(|version| requires_etcdutl(&version)) {
        None => Ok(()),
        Some(why) => Err(Refusal::new(
            format!("the release in the resource etcd is incomplete: {why}, and it has no etcdutl"),
            NEXT,
        )
        .into()),
    }
}

/// That the places of the programs are free. Others there are an operator's own: nobody asked us to replace them. Those of
/// this same release are what an installation that broke off has left.
fn are_free(bin: &Dir, found: &[&str]) -> Result<()> {
    for name in found {
        if bin.inode(name)?.is_some() && !same_file(bin, name, &draft(name))? {
            return Err(taken(&bin.path().join(name)));
        }
    }
    Ok(())
}

/// Puts the programs under their names.
fn place(bin: &Dir, found: &[&str]) -> Result<()> {
    for name in found {
        bin.remove_file(name)?;
        anyhow::ensure!(bin.adopt(bin, &draft(name), name)?, "{BIN}/{name} came from elsewhere meanwhile");
    }
    Ok(())
}

fn same_file(dir: &Dir, one: &str, other: &str) -> Result<bool> {
    let read = |name: &str| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        dir.read(name)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // A symlink is nothing that we have put there.
    Ok(dir.read(one).is_ok() && read(one)? == read(other)?)
}

fn draft(name: &str) -> String {
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
    fn only_the_programs_are_taken_wherever_they_are_in_it() {
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
        let error = prove(&bin, &found).unwrap_err().to_string();
        assert!(
            error.contains("no release of etcd for this machine") && error.contains("attach-resource"),
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
            let program = |words: &str| format!("#!/bin/sh\necho '{words} {version}'\n").into_bytes();
            let (etcd, etcdctl) = (program("etcd Version:"), program("etcdctl version:"));
            let etcdutl = program("etcdutl version:");
            let mut entries = vec![("etcd-v3/etcd", &*etcd), ("etcd-v3/etcdctl", &*etcdctl)];
            if with_etcdutl {
                entries.push(("etcd-v3/etcdutl", &*etcdutl));
            }
            let found = unpack(&archive(home.path(), &entries), &bin).unwrap();
            prove(&bin, &found).unwrap();
            let refused = must_be_complete(&bin, &found).err().map(|error| error.to_string());
            assert_eq!(refused.is_none(), is_complete, "{version}: {refused:?}");
            if let Some(refused) = refused {
                let needs = format!("incomplete: etcdctl {version} needs etcdutl next to it: ");
                assert!(refused.contains(&needs) && refused.contains("attach-resource"), "{refused}");
            }
        }
    }

    #[test]
    fn programs_of_an_operator_are_not_replaced_and_those_of_a_run_that_broke_off_are() {
        let home = tempfile::tempdir().unwrap();
        let bin = Dir::open(home.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(home.path().join(name)).unwrap();
        for name in ["etcd", "etcdctl"] {
            bin.replace(&draft(name), b"ours").unwrap();
        }
        bin.replace("etcd", b"ours").unwrap();
        bin.replace("etcdctl", b"theirs").unwrap();
        let error = are_free(&bin, &["etcd", "etcdctl"]).unwrap_err().to_string();
        assert!(error.contains("/etcdctl already") && error.contains("mv "), "{error}");
        bin.remove_file("etcdctl").unwrap();
        are_free(&bin, &["etcd", "etcdctl"]).unwrap();
        place(&bin, &["etcd", "etcdctl"]).unwrap();
        assert_eq!((read("etcd"), read("etcdctl")), ("ours".into(), "ours".into()));
    }

    #[test]
    fn a_unit_of_an_operator_is_not_replaced() {
        let home = tempfile::tempdir().unwrap();
        let units = Dir::open(home.path()).unwrap();
        write_unit(&units).unwrap();
        write_unit(&units).unwrap();
        units.replace("etcd.service", b"[Service]\nExecStart=/opt/etcd/etcd\n").unwrap();
        let error = write_unit(&units).unwrap_err().to_string();
        assert!(error.contains("/etcd.service already") && error.contains("mv "), "{error}");
        assert!(units.read_small("etcd.service").unwrap().unwrap().starts_with(b"[Service]"));
    }

    #[test]
    fn a_wrong_file_is_told_by_what_it_lacks() {
        let (home, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bin = Dir::open(bin.path()).unwrap();
        let error = unpack(&archive(home.path(), &[("db", b"x")]), &bin).unwrap_err().to_string();
        assert!(error.contains("no release of etcd") && error.contains("there is no etcd in it"), "{error}");
        assert_eq!(bin.names().unwrap(), [] as [&str; 0]);
        std::fs::write(home.path().join("text"), "no archive").unwrap();
        let error = unpack(&home.path().join("text"), &bin).unwrap_err().to_string();
        assert!(error.contains("no release of etcd") && error.contains("attach-resource"), "{error}");
    }
}
