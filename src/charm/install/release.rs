//! A release of etcd as its project publishes it, out of the charm resource `etcd`.
//!
//! Must never put a program in place that does not run here.

use crate::charm::home::Home;
use crate::charm::systemd;
use crate::stop::Refusal;
use crate::system::durable::{Dir, PUBLIC, RUNNABLE};
use crate::system::owner::Owner;
use crate::system::process::Program;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What to do about a resource that is no release.
pub(super) const NEXT: &str = "juju attach-resource APPLICATION etcd=etcd-vX.Y.Z-linux-ARCH.tar.gz";
/// The programs; the last came with etcd 3.5.
const PROGRAMS: [&str; 3] = ["etcd", "etcdctl", "etcdutl"];
/// No program of etcd's has a quarter of this.
const LARGEST: u64 = 256 << 20;
const BIN: &str = "/usr/local/bin";
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
    let found = unpack(archive, &bin).map_err(|error| no_release(&format!("{error:#}")))?;
    let placed = prove(&bin, &found).and_then(|()| place(&bin, &found));
    for name in PROGRAMS {
        bin.remove_file(&draft(name))?;
    }
    placed?;
    if Owner::named("etcd")?.is_none() {
        let words = ["--system", "--home-dir", "/var/lib/etcd", "--shell", "/usr/sbin/nologin", "etcd"];
        Program::new("useradd").args(words).run().context("making the user etcd")?;
    }
    let units = Dir::open(Path::new("/etc/systemd/system"))?;
    units.replace_for(Home::Release.unit(), UNIT.as_bytes(), PUBLIC, None)?;
    systemd::reload()
}

fn no_release(why: &str) -> Refusal {
    Refusal::new(format!("the resource etcd is no release of etcd for this machine ({why})"), NEXT)
}

/// Unpacks the programs under names that nothing runs by. Whatever else is in the archive is passed over.
fn unpack(archive: &Path, bin: &Dir) -> Result<Vec<&'static str>> {
    let file = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
    let mut tar = tar::Archive::new(flate2::read::MultiGzDecoder::new(file));
    let mut found = Vec::new();
    for entry in tar.entries()? {
        let entry = entry?;
        let name = entry.path()?.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let program = PROGRAMS.into_iter().find(|program| Some(*program) == name.as_deref());
        let Some(program) = program.filter(|_| entry.header().entry_type().is_file()) else { continue };
        let mut bytes = Vec::new();
        let length = entry.take(LARGEST + 1).read_to_end(&mut bytes)? as u64;
        anyhow::ensure!(length <= LARGEST, "{program} is larger than {LARGEST} bytes");
        bin.replace_for(&draft(program), &bytes, RUNNABLE, None)?;
        found.push(program);
    }
    for program in &PROGRAMS[..2] {
        anyhow::ensure!(found.contains(program), "there is no {program} in it");
    }
    Ok(found)
}

/// That each runs here, which a release for another processor does not.
fn prove(bin: &Dir, found: &[&str]) -> Result<()> {
    for name in found {
        let words = if *name == "etcd" { "--version" } else { "version" };
        let run = Program::new(bin.path().join(draft(name))).env("ETCDCTL_API", "3").args([words]).run();
        run.map_err(|error| no_release(&error.called(*name).to_string()))?;
    }
    Ok(())
}

/// Puts the programs under their names. Others there are an operator's own: nobody asked us to replace them. Those of this
/// same release are what an installation that broke off has left.
fn place(bin: &Dir, found: &[&str]) -> Result<()> {
    for name in found {
        if bin.inode(name)?.is_some() && !same_file(bin, name, &draft(name))? {
            let file = bin.path().join(name).display().to_string();
            return Err(Refusal::new(
                format!("there is another {file} already, and it was not replaced"),
                format!("if nobody needs it: mv {file} {file}.old"),
            )
            .into());
        }
    }
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
        assert_eq!(found, ["etcd", "etcdctl"]);
        assert_eq!(bin.names().unwrap(), [".etcd.etcd-charm", ".etcdctl.etcd-charm"]);
        let error = prove(&bin, &found).unwrap_err().to_string();
        assert!(
            error.contains("no release of etcd for this machine") && error.contains("attach-resource"),
            "{error}"
        );
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
        let error = place(&bin, &["etcd", "etcdctl"]).unwrap_err().to_string();
        assert!(error.contains("/etcdctl already") && error.contains("mv "), "{error}");
        assert_eq!((read("etcd"), read("etcdctl")), ("ours".into(), "theirs".into()));
        bin.remove_file("etcdctl").unwrap();
        place(&bin, &["etcd", "etcdctl"]).unwrap();
        assert_eq!((read("etcd"), read("etcdctl")), ("ours".into(), "ours".into()));
    }

    #[test]
    fn a_wrong_file_is_told_by_what_it_lacks() {
        let (home, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bin = Dir::open(bin.path()).unwrap();
        let error = unpack(&archive(home.path(), &[("db", b"x")]), &bin).unwrap_err().to_string();
        assert_eq!(error, "there is no etcd in it");
        std::fs::write(home.path().join("text"), "no archive").unwrap();
        assert!(unpack(&home.path().join("text"), &bin).is_err());
    }
}
