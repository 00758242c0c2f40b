//! Records of runs that begin, end, are killed, are discarded, or were dated by a wrong clock.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).unwrap()
}

fn home() -> (tempfile::TempDir, Dir) {
    let home = tempfile::tempdir().unwrap();
    let dir = Dir::open(home.path()).unwrap();
    (home, dir)
}

fn begin(home: &Dir, second: i64) -> (RunRecord, Run) {
    let mut run = Run::new(at(second), None);
    (RunRecord::begin(home, &mut run).unwrap(), run)
}

fn end((record, mut run): (RunRecord, Run), why: Option<&str>) {
    run.finish(at(1000), why.map(str::to_owned));
    record.write(&run).unwrap();
}

#[test]
fn a_run_is_in_progress_until_it_ends_or_its_process_dies() {
    let (_keep, home) = home();
    assert!(list(&home, at(100)).unwrap().is_empty());
    let first = begin(&home, 1);
    let second = begin(&home, 1);
    let phases = || list(&home, at(100)).unwrap().iter().map(|run| run.backup_phase).collect::<Vec<_>>();
    assert_eq!(phases(), [RunPhase::Running, RunPhase::Running]);
    end(first, None);
    drop(second);
    let runs = list(&home, at(100)).unwrap();
    let killed = runs.iter().find(|run| run.was_killed()).unwrap();
    assert_eq!((killed.backup_phase, runs.len()), (RunPhase::Failed, 2));
    assert!(killed.backup_message.as_ref().unwrap().starts_with("killed"), "{killed:?}");
    // `list` writes nothing; the next run marks and counts it.
    assert_eq!(begin(&home, 3).1.failures_total, 1);
    assert_eq!(begin(&home, 4).1.failures_total, 2);
}

#[test]
fn a_discarded_record_does_not_count() {
    let (_keep, home) = home();
    end(begin(&home, 1), Some("no etcd"));
    begin(&home, 2).0.discard().unwrap();
    assert_eq!(list(&home, at(100)).unwrap().len(), 1);
    assert_eq!(begin(&home, 3).1.failures_total, 1);
}

#[test]
fn a_run_killed_during_retention_has_a_good_backup() {
    let (_keep, home) = home();
    let (record, mut run) = begin(&home, 1);
    run.finish(at(2), None);
    run.delete_phase = Some(RunPhase::Running);
    record.write(&run).unwrap();
    let phases = || {
        let run = list(&home, at(100)).unwrap().remove(0);
        (run.backup_phase, run.delete_phase, run.delete_message)
    };
    assert_eq!(phases(), (RunPhase::Completed, Some(RunPhase::Running), None));
    drop(record);
    let killed = (RunPhase::Completed, Some(RunPhase::Failed), Some(KILLED_MESSAGE.to_owned()));
    assert_eq!(phases(), killed);
    assert_eq!(begin(&home, 0).1.failures_total, 0, "no backup has failed");
    assert_eq!(phases(), killed);
}

#[test]
fn keeps_the_last_good_run_however_many_fail_after_it() {
    let (_keep, home) = home();
    for second in 0..3 {
        end(begin(&home, second), None);
    }
    for second in 3..70 {
        end(begin(&home, second), Some("no etcd"));
    }
    let runs = list(&home, at(100)).unwrap();
    let good: Vec<Timestamp> = runs
        .iter()
        .filter(|run| run.backup_phase == RunPhase::Completed)
        .map(|run| run.started_time)
        .collect();
    assert_eq!((runs.len(), good), (MAX_RECORDS + 1, vec![at(2)]));
}

#[test]
fn manual_snapshots_do_not_change_the_count_or_the_last_run_of_backup() {
    let (_keep, home) = home();
    end(begin(&home, 0), None);
    end(begin(&home, 1), Some("no etcd"));
    for second in 2..80 {
        let mut run = Run { trigger: Trigger::Snapshot, ..Run::new(at(second), None) };
        let record = RunRecord::begin(&home, &mut run).unwrap();
        end((record, run), Some("no room"));
    }
    let runs = list(&home, at(100)).unwrap();
    assert_eq!(runs[0].failures_total, 78);
    let backups: Vec<&Run> = runs.iter().filter(|run| !run.is_manual()).collect();
    assert_eq!(backups.iter().map(|run| run.started_time).collect::<Vec<_>>(), [at(1), at(0)]);
    assert_eq!(backups[0].failures_total, 1);
    let next = begin(&home, 90).1;
    assert_eq!((next.failures_total, next.first_run_time), (1, Some(at(0))));
}

#[test]
fn counts_failures_whose_records_are_removed() {
    let (_keep, home) = home();
    for second in 0..60 {
        end(begin(&home, second), Some("no etcd"));
    }
    let runs = list(&home, at(100)).unwrap();
    assert_eq!((runs.len(), runs[0].started_time), (MAX_RECORDS, at(59)));
    assert_eq!(runs[0].failures_total, 60);
}

/// Seconds by which the clock is ahead: several months.
const FUTURE: i64 = 13_000_000;

#[test]
fn a_run_dated_in_the_future_is_the_oldest_and_stays_marked() {
    let (_keep, home) = home();
    end(begin(&home, 0), None);
    end(begin(&home, FUTURE), None);
    let order = |now: i64| -> Vec<Timestamp> {
        list(&home, at(now)).unwrap().iter().map(|run| run.started_time).collect()
    };
    assert_eq!(order(100), [at(0), at(FUTURE)]);
    // Nothing shows yet that this date is wrong.
    assert_eq!(order(FUTURE), [at(FUTURE), at(0)]);
    end(begin(&home, 1), Some("no etcd"));
    assert_eq!(order(FUTURE), [at(1), at(0), at(FUTURE)], "a later run has marked it");
    let runs = list(&home, at(FUTURE)).unwrap();
    assert!(runs[2].is_misdated(at(FUTURE)) && !runs[0].is_misdated(at(FUTURE)), "{runs:?}");
}

#[test]
fn runs_dated_in_the_future_displace_no_others() {
    let (_keep, home) = home();
    for second in 0..60 {
        end(begin(&home, FUTURE + second), None);
    }
    end(begin(&home, 0), None);
    for second in 1..70 {
        end(begin(&home, second), Some("no etcd"));
    }
    let runs = list(&home, at(100)).unwrap();
    let good: Vec<Timestamp> = runs
        .iter()
        .filter(|run| run.backup_phase == RunPhase::Completed && !run.is_misdated(at(100)))
        .map(|run| run.started_time)
        .collect();
    assert_eq!((runs[0].started_time, good), (at(69), vec![at(0)]));
}

#[test]
fn ignores_other_files() {
    let (keep, home) = home();
    end(begin(&home, 1), None);
    let records_dir = keep.path().join(DIRECTORY);
    std::fs::create_dir(records_dir.join("empty")).unwrap();
    std::fs::write(records_dir.join("file"), "x").unwrap();
    std::fs::create_dir(records_dir.join("junk")).unwrap();
    std::fs::write(records_dir.join("junk").join(RECORD_FILE), "{}").unwrap();
    std::os::unix::fs::symlink("/etc", records_dir.join("link")).unwrap();
    assert_eq!(list(&home, at(100)).unwrap().len(), 1);
    assert_eq!(begin(&home, 2).1.failures_total, 0);
}

#[test]
fn archives_stay_known_after_the_records_of_their_runs_are_removed() {
    let (_keep, home) = home();
    let publish = |second: i64| {
        let (record, mut run) = begin(&home, second);
        run.backup_name = Some(format!("{second}.tar.gz"));
        (run.size, run.folder) = (Some(second.unsigned_abs()), Some("c/m1/".to_owned()));
        home.replace(&format!("{second}.tar.gz"), b"").unwrap();
        end((record, run), None);
    };
    let runs = i64::try_from(MAX_RECORDS).unwrap();
    (100..100 + runs).for_each(publish);
    home.remove_file("101.tar.gz").unwrap();
    (200..205).for_each(publish);
    assert_eq!(list(&home, at(1000)).unwrap().len(), MAX_RECORDS);
    let made = made(&home);
    assert_eq!(made.len(), MAX_RECORDS + 4, "{:?}", made.keys());
    let first = MadeArchive { size: 100, sha256: None, folder: Some("c/m1/".to_owned()) };
    assert_eq!((made.get("100.tar.gz"), made.get("101.tar.gz")), (Some(&first), None));
}
