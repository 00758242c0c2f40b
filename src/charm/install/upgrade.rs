//! Upgrades etcd to another release in the charm resource `etcd`. The new programs are first prepared next to the installed ones,
//! and take their places when the unit may restart its etcd. The installed ones are kept until the new etcd has started, and are
//! put back if it does not start.
//!
//! Must never prepare a version on which the cluster would not serve any more, and never run a new program before its turn.

use super::release::{
    BIN, NEXT, PROGRAMS, check_complete, check_programs_run, draft, read_program, remove_drafts, same_file,
    unpack,
};
use crate::commands::now;
use crate::error::Refusal;
use crate::etcd::versions::Version;
use crate::system::clock::is_in_the_future;
use crate::system::durable::{Dir, RUNNABLE, read_small_text};
use crate::system::process::Program;
use anyhow::{Context, Result};
use jiff::Timestamp;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The file that contains the reason why an upgraded etcd did not start. It exists until another release is prepared.
const FAILED: &str = ".etcd.etcd-charm-failed";
/// The file that contains the reason why the attached release is refused. It exists until another one is attached.
const REFUSED: &str = ".etcd.etcd-charm-refused";
/// This file exists while a release is prepared, and after that failed for a reason that may disappear, such as a full disk.
const PENDING: &str = ".etcd.etcd-charm-pending";

/// Prepares the release in `archive`, unless it is the installed one. `oldest` is the version of the oldest member of the cluster,
/// including this one. Returns the version that was prepared.
///
/// # Errors
/// If the archive is not a release, or if its version cannot replace the installed one.
pub fn prepare(archive: &Path, oldest: &Version) -> Result<Option<Version>> {
    prepare_in(&Dir::open(Path::new(BIN))?, archive, oldest)
}

/// Prepares the release next to the programs in `bin`, and records a refusal there.
fn prepare_in(bin: &Dir, archive: &Path, oldest: &Version) -> Result<Option<Version>> {
    bin.remove_file(REFUSED)?;
    // The agent downloads a resource before it is installed, and again only if it has changed. So an older one is installed
    // already, or its etcd did not start. Any resource that is attached runs the hook that leads here.
    if was_tried(archive, bin)? {
        bin.remove_file(PENDING)?;
        return Ok(None);
    }
    bin.replace(PENDING, b"")?;
    let prepared = unpack(archive, bin).and_then(|found| {
        check_programs_run(bin, &found)?;
        check_complete(bin, &found)?;
        prepare_drafts(bin, &found, oldest)
    });
    // Also after an error: the drafts may be filling the disk.
    remove_drafts(bin)?;
    match prepared.as_ref().map_err(|error| error.downcast_ref::<Refusal>()) {
        Err(None) => return prepared,
        Err(Some(refusal)) => bin.replace(REFUSED, refusal.reason.as_bytes())?,
        Ok(_) => bin.remove_file(FAILED)?,
    }
    bin.remove_file(PENDING)?;
    prepared
}

/// Whether the release in `archive` is installed already, or its etcd did not start.
fn was_tried(archive: &Path, bin: &Dir) -> Result<bool> {
    if bin.inode(FAILED)?.is_none() {
        return is_older(archive, &bin.path().join("etcd"));
    }
    let failed = bin.path().join(FAILED);
    // A time in the future shows that the clock was wrong when it failed.
    let time = Timestamp::from_second(fs::metadata(&failed)?.mtime())?;
    Ok(!is_in_the_future(time, now()) && is_older(archive, &failed)?)
}

/// Whether the attached release has to be prepared again, because that failed.
pub fn is_pending() -> bool {
    Path::new(BIN).join(PENDING).exists()
}

/// Returns the refusal of the attached release, if it was refused.
pub fn refusal() -> Option<Refusal> {
    refusal_in(Path::new(BIN))
}

fn refusal_in(bin: &Path) -> Option<Refusal> {
    read_small_text(&bin.join(REFUSED)).ok().map(|reason| Refusal::new(reason, NEXT))
}

/// Forgets the refusal of a release, after it was detached.
///
/// # Errors
/// If the file cannot be removed.
pub fn forget_refusal() -> Result<()> {
    Dir::open(Path::new(BIN))?.remove_file(REFUSED)
}

/// Returns the version of the release that is prepared, if all of it is.
pub fn prepared_version() -> Option<String> {
    let server = Path::new(BIN).join(prepared("etcd"));
    if !server.exists() {
        return None;
    }
    // It has run when it was prepared.
    Some(version_of(&server).map_or_else(|_| "another version".to_owned(), |version| version.to_string()))
}

/// Returns the version that this server prints.
fn version_of(server: &Path) -> Result<Version> {
    let output = Program::new(server).args(["--version"]).run()?;
    Version::from_output(&output.text(), "etcd Version:").context("the new etcd does not print its version")
}

/// Puts the prepared programs in the places of the installed ones, which are kept. An etcd that runs is not affected.
///
/// # Errors
/// If a program cannot be written.
pub fn install_prepared() -> Result<()> {
    let bin = Dir::open(Path::new(BIN))?;
    keep_installed(&bin)?;
    replace_programs(&bin)
}

/// Whether programs are kept, because no etcd of the new release has started.
pub fn has_previous() -> bool {
    Path::new(BIN).join(previous("etcd")).exists()
}

/// Removes the programs that were kept, after the new etcd has started.
///
/// # Errors
/// If a program cannot be removed.
pub fn forget_previous() -> Result<()> {
    remove_previous(&Dir::open(Path::new(BIN))?)
}

/// Puts the programs back that were kept, and records `reason`, which explains why the new etcd does not start.
///
/// # Errors
/// If a file cannot be written. Then this can be repeated.
pub fn roll_back(reason: &str) -> Result<()> {
    let bin = Dir::open(Path::new(BIN))?;
    bin.replace(FAILED, reason.as_bytes())?;
    restore_previous(&bin)
}

/// Completes a roll-back that was interrupted after its reason was recorded: puts the programs back that were kept. Does nothing if there
/// was none. An etcd that runs is not affected.
///
/// # Errors
/// If a program cannot be written. Then this can be repeated.
pub fn complete_roll_back() -> Result<()> {
    complete_roll_back_in(&Dir::open(Path::new(BIN))?)
}

fn complete_roll_back_in(bin: &Dir) -> Result<()> {
    if is_rolling_back(bin)? { restore_previous(bin) } else { Ok(()) }
}

/// Whether the new etcd that did not start is still in place, after a roll-back that was interrupted.
///
/// # Errors
/// If a file cannot be read.
pub fn is_failed_in_place() -> Result<bool> {
    is_failed_in_place_in(&Dir::open(Path::new(BIN))?)
}

fn is_failed_in_place_in(bin: &Dir) -> Result<bool> {
    Ok(is_rolling_back(bin)? && !same_file(bin, "etcd", &previous("etcd"))?)
}

/// Forgets that the new etcd did not start, if it is still in place after an interrupted roll-back: it has started later. Returns
/// whether it is in place.
///
/// # Errors
/// If a file cannot be read or removed.
pub fn keep_upgrade() -> Result<bool> {
    keep_upgrade_in(&Dir::open(Path::new(BIN))?)
}

fn keep_upgrade_in(bin: &Dir) -> Result<bool> {
    let is_new = is_failed_in_place_in(bin)?;
    if is_new {
        bin.remove_file(FAILED)?;
    }
    Ok(is_new)
}

/// Whether a roll-back has recorded its reason and not put all programs back.
fn is_rolling_back(bin: &Dir) -> Result<bool> {
    Ok(bin.inode(FAILED)?.is_some() && bin.inode(&previous("etcd"))?.is_some())
}

/// Returns the refusal to try the upgrade again if the new etcd did not start.
pub fn failure() -> Option<Refusal> {
    read_small_text(&Path::new(BIN).join(FAILED)).ok().map(|reason| failure_of(&reason))
}

/// Returns the refusal to try the upgrade again, after the earlier etcd was started.
pub fn failure_of(reason: &str) -> Refusal {
    let reason = format!("the upgrade failed, and etcd runs with its earlier programs: {reason}");
    Refusal::new(reason, format!("{NEXT} (another release, or the one that runs)"))
}

/// Forgets the upgrades of an earlier unit on this machine. Programs that it has replaced, and not started, are put back.
///
/// # Errors
/// If a file cannot be removed. Then this can be repeated.
pub fn forget_all() -> Result<()> {
    match Path::new(BIN).exists() {
        true => forget_all_in(&Dir::open(Path::new(BIN))?),
        false => Ok(()),
    }
}

fn forget_all_in(bin: &Dir) -> Result<()> {
    match bin.inode(&previous("etcd"))? {
        Some(_) => restore_previous(bin)?,
        None => remove_previous(bin)?,
    }
    for name in PROGRAMS.into_iter().rev() {
        bin.remove_file(&prepared(name))?;
    }
    for record in [FAILED, REFUSED, PENDING] {
        bin.remove_file(record)?;
    }
    bin.sync()
}

/// Whether the file `one` was last written before `other`.
fn is_older(one: &Path, other: &Path) -> Result<bool> {
    let time = |file: &Path| fs::metadata(file).and_then(|file| file.modified());
    let time = |file: &Path| time(file).with_context(|| format!("looking at {}", file.display()));
    Ok(time(one)? < time(other)?)
}

/// Renames the drafts of an upgrade. The preparation is complete with the last of them, which is that of the server.
fn prepare_drafts(bin: &Dir, found: &[&str], oldest: &Version) -> Result<Option<Version>> {
    // Those of a release that was attached before.
    for name in PROGRAMS.into_iter().rev() {
        bin.remove_file(&prepared(name))?;
    }
    let mut differs = false;
    for name in found {
        differs |= !same_file(bin, name, &draft(name))?;
    }
    if !differs {
        return Ok(None);
    }
    let new = version_of(&bin.path().join(draft("etcd")))?;
    if let Some(obstacle) = new.upgrade_obstacle(oldest) {
        return Err(Refusal::new(format!("etcd is not upgraded: {obstacle}"), NEXT).into());
    }
    for name in found {
        bin.rename_noreplace(bin, &draft(name), &prepared(name))?;
    }
    Ok(Some(new))
}

/// Replaces one program after the other, each in one step. The server, by which a preparation is recognized, comes last.
fn replace_programs(bin: &Dir) -> Result<()> {
    for name in PROGRAMS {
        let prepared = prepared(name);
        if bin.inode(&prepared)?.is_some() {
            bin.replace_for(name, &read_program(bin, &prepared)?, RUNNABLE, None)?;
            bin.remove_file(&prepared)?;
        }
    }
    Ok(())
}

/// Keeps copies of the installed programs. Those of an earlier upgrade stay, because the programs that followed them have not
/// started. The copies are complete with that of the server.
fn keep_installed(bin: &Dir) -> Result<()> {
    if bin.inode(&previous("etcd"))?.is_some() {
        return Ok(());
    }
    remove_previous(bin)?;
    for name in PROGRAMS {
        if bin.inode(name)?.is_some() {
            bin.replace_for(&previous(name), &read_program(bin, name)?, RUNNABLE, None)?;
        }
    }
    Ok(())
}

/// Puts all kept programs back, and then removes the copies: a process that was killed in between repeats this.
fn restore_previous(bin: &Dir) -> Result<()> {
    for name in PROGRAMS {
        match bin.inode(&previous(name))? {
            Some(_) => bin.replace_for(name, &read_program(bin, &previous(name))?, RUNNABLE, None)?,
            // etcd 3.4 has no etcdutl.
            None => bin.remove_file(name)?,
        }
    }
    remove_previous(bin)
}

/// Removes the copies, that of the server first: the others alone are not put back.
fn remove_previous(bin: &Dir) -> Result<()> {
    for name in PROGRAMS.into_iter().rev() {
        bin.remove_file(&previous(name))?;
    }
    bin.sync()
}

fn prepared(name: &str) -> String {
    format!(".{name}.etcd-charm-next")
}

fn previous(name: &str) -> String {
    format!(".{name}.etcd-charm-previous")
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not be durable")]
mod tests {
    use super::*;
    use std::time::SystemTime;

    /// A directory with the programs of 3.5.35, and drafts of `version`.
    fn upgrade(version: &str) -> (tempfile::TempDir, Result<Option<Version>>) {
        let home = tempfile::tempdir().unwrap();
        let bin = Dir::open(home.path()).unwrap();
        let program = |version: &str| format!("#!/bin/sh\necho 'etcd Version: {version}'\n");
        for name in PROGRAMS {
            bin.replace_for(name, program("3.5.35").as_bytes(), RUNNABLE, None).unwrap();
            bin.replace_for(&draft(name), program(version).as_bytes(), RUNNABLE, None).unwrap();
        }
        let result = prepare_drafts(&bin, &PROGRAMS, &Version::parse("3.5.35").unwrap());
        (home, result)
    }

    #[test]
    fn the_installed_programs_stay_until_the_upgrade() {
        let (home, prepared) = upgrade("3.6.16");
        assert_eq!(prepared.unwrap(), Version::parse("3.6.16"));
        let read = |name: &str| fs::read_to_string(home.path().join(name)).unwrap();
        assert!(PROGRAMS.iter().all(|name| read(name).contains("3.5.35")));
        let bin = Dir::open(home.path()).unwrap();
        // A hook that was killed in the middle is repeated.
        fs::remove_file(home.path().join(super::prepared("etcdutl"))).unwrap();
        fs::write(home.path().join("etcdutl"), read(&super::prepared("etcdctl"))).unwrap();
        replace_programs(&bin).unwrap();
        replace_programs(&bin).unwrap();
        assert!(PROGRAMS.iter().all(|name| read(name).contains("3.6.16")));
        assert_eq!(bin.names().unwrap(), ["etcd", "etcdctl", "etcdutl"]);
    }

    #[test]
    fn puts_the_programs_of_the_last_start_back() {
        let (home, prepared) = upgrade("3.6.16");
        assert!(prepared.unwrap().is_some());
        let bin = Dir::open(home.path()).unwrap();
        // etcd 3.4 has no etcdutl.
        bin.remove_file("etcdutl").unwrap();
        keep_installed(&bin).unwrap();
        replace_programs(&bin).unwrap();
        // A hook that was killed after the exchange does not keep the new programs.
        keep_installed(&bin).unwrap();
        let read = |name: &str| fs::read_to_string(home.path().join(name)).unwrap();
        assert!(PROGRAMS.iter().all(|name| read(name).contains("3.6.16")));
        restore_previous(&bin).unwrap();
        assert_eq!(bin.names().unwrap(), ["etcd", "etcdctl"]);
        assert!(["etcd", "etcdctl"].iter().all(|name| read(name).contains("3.5.35")));
    }

    #[test]
    fn an_interrupted_roll_back_is_completed_unless_the_new_etcd_has_started() {
        let interrupted = || {
            let (home, prepared) = upgrade("3.6.16");
            assert!(prepared.unwrap().is_some());
            let bin = Dir::open(home.path()).unwrap();
            keep_installed(&bin).unwrap();
            replace_programs(&bin).unwrap();
            bin.replace(FAILED, b"it did not start").unwrap();
            assert!(is_rolling_back(&bin).unwrap());
            (home, bin)
        };
        let server = |bin: &Dir| fs::read_to_string(bin.path().join("etcd")).unwrap();
        // The next hook starts etcd.
        let (_home, bin) = interrupted();
        complete_roll_back_in(&bin).unwrap();
        assert!(server(&bin).contains("3.5.35") && !is_rolling_back(&bin).unwrap());
        assert!(bin.inode(FAILED).unwrap().is_some() && !is_failed_in_place_in(&bin).unwrap());
        assert!(!keep_upgrade_in(&bin).unwrap());
        // systemd has started the new etcd at boot.
        let (_home, bin) = interrupted();
        assert!(is_failed_in_place_in(&bin).unwrap());
        assert!(keep_upgrade_in(&bin).unwrap() && bin.inode(FAILED).unwrap().is_none());
        assert!(server(&bin).contains("3.6.16"));
        // The server was put back already.
        let (_home, bin) = interrupted();
        bin.replace_for("etcd", &read_program(&bin, &super::previous("etcd")).unwrap(), RUNNABLE, None)
            .unwrap();
        assert!(!keep_upgrade_in(&bin).unwrap() && is_rolling_back(&bin).unwrap());
    }

    #[test]
    fn a_new_unit_forgets_the_upgrades_of_an_earlier_one() {
        let (home, prepared) = upgrade("3.6.16");
        assert!(prepared.unwrap().is_some());
        let bin = Dir::open(home.path()).unwrap();
        keep_installed(&bin).unwrap();
        replace_programs(&bin).unwrap();
        for name in [FAILED, REFUSED, PENDING, &super::prepared("etcd")] {
            bin.replace(name, b"of an earlier unit").unwrap();
        }
        for _ in 0..2 {
            forget_all_in(&bin).unwrap();
            assert_eq!(bin.names().unwrap(), ["etcd", "etcdctl", "etcdutl"]);
            let read = |name: &str| fs::read_to_string(home.path().join(name)).unwrap();
            assert!(PROGRAMS.iter().all(|name| read(name).contains("3.5.35")));
        }
    }

    #[test]
    fn a_refusal_is_remembered_until_another_release_is_attached() {
        let home = tempfile::tempdir().unwrap();
        let bin = Dir::open(home.path()).unwrap();
        bin.replace_for("etcd", b"#!/bin/sh\n", RUNNABLE, None).unwrap();
        let archive = tempfile::NamedTempFile::new().unwrap();
        fs::write(archive.path(), "not an archive").unwrap();
        let oldest = Version::parse("3.5.35").unwrap();
        let refused = prepare_in(&bin, archive.path(), &oldest).unwrap_err();
        let remembered = refusal_in(home.path()).unwrap();
        assert_eq!(refused.downcast_ref::<Refusal>(), Some(&remembered));
        assert!(remembered.reason.contains("not an etcd release"), "{remembered:?}");
        // Repeating the hook cannot change it.
        assert!(!home.path().join(PENDING).exists());
        // The release that runs is attached again, which the agent downloaded before it was installed.
        archive.as_file().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(prepare_in(&bin, archive.path(), &oldest).unwrap(), None);
        assert_eq!((refusal_in(home.path()), bin.names().unwrap()), (None, vec!["etcd".to_owned()]));
    }

    /// A directory with an installed server, and a release that contains this server.
    fn installed_and_release() -> (tempfile::TempDir, tempfile::NamedTempFile) {
        let home = tempfile::tempdir().unwrap();
        let bin = Dir::open(home.path()).unwrap();
        bin.replace_for("etcd", b"#!/bin/sh\n", RUNNABLE, None).unwrap();
        let archive = tempfile::NamedTempFile::new().unwrap();
        let gz = flate2::write::GzEncoder::new(archive.reopen().unwrap(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        tar.append_path_with_name(home.path().join("etcd"), "etcd").unwrap();
        tar.into_inner().unwrap().finish().unwrap();
        (home, archive)
    }

    /// Attaching any other resource, such as a snapshot, runs the same hook.
    #[test]
    fn a_release_that_failed_is_not_tried_again_before_another_one_is_prepared() {
        let (home, archive) = installed_and_release();
        let bin = Dir::open(home.path()).unwrap();
        bin.replace(FAILED, b"it did not start").unwrap();
        let has_failed = || home.path().join(FAILED).exists();
        let oldest = Version::parse("3.5.35").unwrap();
        let before = SystemTime::now() - std::time::Duration::from_secs(60);
        archive.as_file().set_modified(before).unwrap();
        assert_eq!(prepare_in(&bin, archive.path(), &oldest).unwrap(), None);
        assert!(has_failed() && !home.path().join(PENDING).exists());
        // Another release is attached, and cannot be written.
        let set_time_of_failure = |time: SystemTime| {
            fs::File::options()
                .write(true)
                .open(home.path().join(FAILED))
                .unwrap()
                .set_modified(time)
                .unwrap();
        };
        set_time_of_failure(before - std::time::Duration::from_secs(60));
        bin.make_child(&draft("etcd"), None).unwrap();
        prepare_in(&bin, archive.path(), &oldest).unwrap_err();
        assert!(has_failed() && home.path().join(PENDING).exists());
        // The clock was ahead when it failed.
        set_time_of_failure(SystemTime::now() + std::time::Duration::from_secs(3600));
        prepare_in(&bin, archive.path(), &oldest).unwrap_err();
    }

    #[test]
    fn a_release_that_could_not_be_written_is_prepared_again() {
        let (home, archive) = installed_and_release();
        let bin = Dir::open(home.path()).unwrap();
        // The program cannot be written.
        bin.make_child(&draft("etcd"), None).unwrap();
        let error = prepare_in(&bin, archive.path(), &Version::parse("3.5.35").unwrap()).unwrap_err();
        assert!(home.path().join(PENDING).exists(), "{error:#}");
        assert_eq!(refusal_in(home.path()), None);
    }

    #[test]
    fn prepares_only_another_version_that_can_follow() {
        let (home, same) = upgrade("3.5.35");
        assert_eq!(same.unwrap(), None);
        assert!(!home.path().join(prepared("etcd")).exists());
        let (home, prepared_earlier) = upgrade("3.6.16");
        assert!(prepared_earlier.unwrap().is_some());
        let bin = Dir::open(home.path()).unwrap();
        for name in PROGRAMS {
            bin.replace_for(&draft(name), &read_program(&bin, name).unwrap(), RUNNABLE, None).unwrap();
        }
        assert_eq!(prepare_drafts(&bin, &PROGRAMS, &Version::parse("3.5.35").unwrap()).unwrap(), None);
        assert!(!home.path().join(prepared("etcd")).exists(), "the earlier release would be installed");
        for (version, part) in [("3.4.45", "downgraded"), ("3.7.3", "3.6 first")] {
            let (home, refused) = upgrade(version);
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains(part) && refused.contains("attach-resource"), "{refused}");
            assert!(!home.path().join(prepared("etcd")).exists());
        }
    }
}
