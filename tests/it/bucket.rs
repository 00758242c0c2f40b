//! Tests of a bucket on a third-party server, with and without faults in the connection.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use crate::common::s3::proxy::Proxy;
use crate::common::s3::{self, Can, Fault, Faults, Kind, SECRET, Server};
use etcd_backup::inventory::{Entry, Record, Repository};
use etcd_backup::progress::Progress;
use etcd_backup::store::Deletion;
use etcd_backup::store::cloud::{Proxies, RequestError};
use etcd_backup::store::cloud_environment::CloudEnvironment;
use etcd_backup::store::s3::{self as s3_store, AmazonEnvironment, Credentials, S3Config};
use etcd_backup::system::clock::Clock;
use etcd_backup::system::secret::Secret;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Seek, Write};

pub const NAME: &str = "cluster/etcd-0/etcd-snapshot-2026-11-20-20.49.17.tar.gz";
pub const MIB: usize = 1 << 20;

pub fn described(port: u16, more: &str) -> S3Config {
    serde_yaml::from_str(&format!(
        "endpoint: http://127.0.0.1:{port}\nbucket: backups\nfolder: /folder/\n{more}"
    ))
    .unwrap()
}

pub fn key(access_key: &str, secret: &str) -> CloudEnvironment {
    let (access_key, secret) = (access_key.to_owned(), Secret::new(secret));
    let credentials = Some(Credentials { access_key, secret, token: None });
    let amazon = AmazonEnvironment { credentials, ..AmazonEnvironment::default() };
    CloudEnvironment { amazon, ..CloudEnvironment::default() }
}

pub fn opened(config: &S3Config, environment: &CloudEnvironment) -> Repository {
    opened_at(config, environment, Timestamp::now())
}

fn opened_at(config: &S3Config, environment: &CloudEnvironment, now: Timestamp) -> Repository {
    let bucket = s3_store::open(config, environment, Clock::at(now)).unwrap();
    Repository::new(Some("offsite".to_owned()), Box::new(bucket))
}

/// Returns a server, a proxy that injects faults, and a bucket that is reached through the proxy.
pub fn bucket() -> (Server, Faults, Repository) {
    let server = Server::new(&["backups"]);
    let faults = Faults::before(server.port);
    let bucket = opened(&described(faults.port, ""), &key(&server.access_key, SECRET));
    (server, faults, bucket)
}

/// Returns a file of `size` bytes without repetitions, and its hash.
pub fn archive(size: usize) -> (File, String) {
    let mut bytes = Vec::with_capacity(size + 8);
    // xorshift64
    let mut state = size as u64 + 1;
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    (file, Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

pub fn read(bucket: &Repository, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    bucket.read(name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Pins the archive while another machine is recording its verification, once before and once after the archive has a
/// record. Both are recorded.
pub fn assert_pins_survive_a_verification(bucket: &Repository) {
    let (file, sha256) = archive(MIB);
    for name in [NAME, "cluster/etcd-0/etcd-snapshot-2026-11-21-20.49.17.tar.gz"] {
        bucket.add(name, &file, &sha256, &mut |_| {}).unwrap();
    }
    for (number, entry) in bucket.entries().unwrap().iter().enumerate() {
        if number == 1 {
            bucket.update_record(entry, &|record| record.sha256 = Some("ab".to_owned())).unwrap();
        }
        let is_pinned = Cell::new(false);
        let verify = |record: &mut Record| {
            if !is_pinned.replace(true) {
                bucket.update_record(entry, &|record| record.pinned = true).unwrap();
            }
            record.verified = Some(Timestamp::now());
        };
        bucket.update_record(entry, &verify).unwrap();
    }
    for entry in bucket.entries().unwrap() {
        assert!(entry.record.pinned && entry.record.verified.is_some(), "{:?}", entry.record);
        bucket.delete(&entry).unwrap();
    }
}

/// Pins an entry, and then fails to delete it as it was before. Deletes it as it is.
pub fn assert_pinned_in_the_meantime(bucket: &Repository, entry: &Entry) {
    bucket.update_record(entry, &|record| record.pinned = true).unwrap();
    let noted = bucket.entries().unwrap();
    assert!(noted[0].record.pinned);
    let error = bucket.delete(entry).unwrap_err().to_string();
    assert!(error.contains("pinned in the meantime"), "{error}");
    bucket.delete(&noted[0]).unwrap();
    assert!(bucket.entries().unwrap().is_empty());
}

/// Fails to upload files, in one request and in parts, that do not have the hash that was taken of them before.
pub fn assert_changed_archives_do_not_appear(bucket: &Repository) {
    for size in [MIB, 17 * MIB] {
        let (file, _) = archive(size);
        let (_, sha256) = archive(size + 1);
        let error = bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("has changed since its hash was taken"), "{error:#}");
        assert!(bucket.entries().unwrap().is_empty());
    }
}

pub fn put_fails(bucket: &Repository, size: usize) -> String {
    let (file, sha256) = archive(size);
    let error = format!("{:#}", bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap_err());
    assert!(!error.contains(SECRET) && !error.contains("Signature="), "{error}");
    error
}

#[test]
fn archives_are_put_listed_read_annotated_and_deleted() {
    let (_server, _faults, bucket) = bucket();
    assert!(bucket.entries().unwrap().is_empty());
    // An empty file, one request, its maximum size, and several parts of which the last is short.
    for size in [0, 1, 8 * MIB, 8 * MIB + 1, 17 * MIB] {
        let (mut file, sha256) = archive(size);
        bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
        let entries = bucket.entries().unwrap();
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!((entries[0].name.as_str(), entries[0].size), (NAME, size as u64));
        assert_eq!(entries[0].location(), format!("s3://backups/folder/{NAME}"));
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert!(read(&bucket, NAME) == bytes, "{size} bytes read back differently");
        // Putting the same archive again succeeds.
        bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
        assert_pinned_in_the_meantime(&bucket, &entries[0]);
    }
}

#[test]
fn a_server_that_does_not_compare_etags_is_asked_differently() {
    let (_server, faults, bucket) = bucket();
    let (file, sha256) = archive(MIB);
    bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    let pin = |pinned| {
        let entry = &bucket.entries().unwrap()[0];
        bucket.update_record(entry, &|record| record.pinned = pinned).unwrap();
        assert_eq!(bucket.entries().unwrap()[0].record.pinned, pinned);
        faults.seen("PUT", "if-match: ").len()
    };
    assert_eq!(pin(true), 0, "the record is new");
    // Ceph refuses an ETag in quotes, and others refuse every ETag, or do not know the condition.
    faults.inject("PUT", "if-match: \"", Fault::Answer(412, "PreconditionFailed", ""), 1);
    assert_eq!(pin(false), 2);
    faults.inject("PUT", "if-match: ", Fault::Answer(412, "PreconditionFailed", ""), 2);
    assert_eq!(pin(true), 4);
    faults.inject("PUT", "if-match: ", Fault::Answer(501, "NotImplemented", ""), 2);
    assert_eq!(pin(false), 6);
}

#[test]
fn a_pin_is_kept_if_another_machine_changes_the_record_at_the_same_time() {
    let (_server, _faults, bucket) = bucket();
    assert_pins_survive_a_verification(&bucket);
}

#[test]
fn an_archive_that_the_server_refuses_does_not_hide_others() {
    let (_server, faults, bucket) = bucket();
    let (file, sha256) = archive(MIB);
    let other = "cluster/etcd-0/frozen.tar.gz";
    for name in [NAME, other] {
        bucket.add(name, &file, &sha256, &mut |_| {}).unwrap();
    }
    let frozen = || -> Entry {
        let entries = bucket.entries().unwrap();
        assert_eq!(entries.len(), 2);
        assert!(
            entries
                .iter()
                .all(|entry| entry.size == MIB as u64 && entry.unreadable.is_some() == (entry.name == other))
        );
        entries.into_iter().find(|entry| entry.name == other).unwrap()
    };
    for (status, code) in [(403, "InvalidObjectState"), (400, "KMS.DisabledException"), (403, "AccessDenied")]
    {
        faults.inject("GET", "frozen.tar.gz", Fault::Answer(status, code, ""), 2);
        let entry = frozen();
        assert!(entry.unreadable.as_ref().unwrap().contains(code), "{entry:?}");
        assert!(entry.verified().is_none());
        let error = format!("{:#}", bucket.delete(&entry).unwrap_err());
        assert!(error.contains(code), "{error}");
        faults.clear();
    }
    // A busy server is an error, not a refusal.
    faults.inject("GET", "frozen.tar.gz", Fault::Answer(503, "SlowDown", ""), 100);
    assert!(bucket.entries().unwrap_err().downcast_ref::<RequestError>().is_some());
    faults.clear();
    // If the record cannot be read, it is unknown whether the archive is pinned.
    let entry = bucket.entries().unwrap().into_iter().find(|entry| entry.name == other).unwrap();
    bucket.update_record(&entry, &|record| record.pinned = true).unwrap();
    faults.inject("GET", "frozen.tar.gz.json", Fault::Answer(403, "AccessDenied", ""), 1000);
    let entry = frozen();
    assert!(entry.unreadable.as_ref().unwrap().starts_with("its record cannot be read: "), "{entry:?}");
    for error in
        [bucket.delete(&entry).map(|_| ()), bucket.update_record(&entry, &|record| record.pinned = false)]
    {
        assert!(format!("{:#}", error.unwrap_err()).contains("AccessDenied"));
    }
    faults.clear();
    assert!(bucket.entries().unwrap().iter().any(|entry| entry.record.pinned));
}

#[test]
fn an_existing_object_is_never_overwritten() {
    let (_server, faults, bucket) = bucket();
    for size in [MIB, 9 * MIB] {
        let (theirs, sha256) = archive(size + 1);
        bucket.add(NAME, &theirs, &sha256, &mut |_| {}).unwrap();
        let before = read(&bucket, NAME);
        let error = put_fails(&bucket, size);
        assert!(error.contains("already holds a different") && error.contains("Next:"), "{error}");
        // If the object appears between the check and the upload, the server refuses the upload.
        faults.inject("HEAD", NAME, Fault::Answer(404, "", ""), 1);
        let error = put_fails(&bucket, size);
        assert!(error.contains("already holds a different"), "{error}");
        assert!(read(&bucket, NAME) == before, "the existing object was changed");
        let entries = bucket.entries().unwrap();
        bucket.delete(&entries[0]).unwrap();
    }
}

#[test]
fn temporary_errors_are_retried() {
    let (_server, faults, bucket) = bucket();
    for (method, holds, fault) in [
        ("PUT", "partNumber=2", Fault::CutRequest(3 * MIB)),
        ("PUT", "partNumber=1", Fault::Answer(500, "InternalError", "")),
        ("PUT", "partNumber=2", Fault::Answer(503, "SlowDown", "Retry-After: 1\r\n")),
        ("PUT", "partNumber=2", Fault::Answer(400, "BadDigest", "")),
        ("PUT", "partNumber=1", Fault::LoseAnswer),
        ("POST", "uploads=", Fault::Answer(503, "SlowDown", "")),
        ("POST", "uploadId=", Fault::Answer(200, "InternalError", "")),
        ("POST", "uploadId=", Fault::LoseAnswer),
        ("GET", NAME, Fault::CutAnswer(2 * MIB)),
        ("GET", NAME, Fault::Answer(500, "InternalError", "")),
        ("HEAD", NAME, Fault::Answer(503, "", "")),
    ] {
        let (file, sha256) = archive(9 * MIB);
        faults.inject(method, holds, fault.clone(), 2);
        bucket
            .add(NAME, &file, &sha256, &mut |_| {})
            .unwrap_or_else(|error| panic!("{method} {holds} {fault:?}: {error:#}"));
        faults.clear();
        let entries = bucket.entries().unwrap();
        assert_eq!(entries.len(), 1);
        bucket.delete(&entries[0]).unwrap();
    }
}

#[test]
fn an_upload_that_fails_leaves_no_object_and_no_parts() {
    let (_server, faults, bucket) = bucket();
    for (method, holds, fault, expected) in [
        ("PUT", "partNumber=2", Fault::CutRequest(3 * MIB), "sending part 2 of 2, after 8.0M of 9.0M"),
        ("PUT", "partNumber=2", Fault::Answer(503, "SlowDown", ""), "the server is busy"),
        ("PUT", "partNumber=2", Fault::Answer(403, "ExpiredToken", ""), "provide a new key and token"),
        (
            "POST",
            "uploadId=",
            Fault::Answer(500, "InternalError", ""),
            " returned InternalError: the words for it",
        ),
    ] {
        faults.inject(method, holds, fault, 100);
        let error = put_fails(&bucket, 9 * MIB);
        assert!(error.contains(expected), "{error}");
        faults.clear();
        assert!(bucket.entries().unwrap().is_empty());
        let begun = faults.seen("POST", "uploads=").len();
        assert_eq!(faults.seen("DELETE", "uploadId=").len(), begun, "not every upload was aborted: {error}");
    }
    // If aborting the upload fails too, the message reports that, and the next attempt removes the parts.
    faults.inject("PUT", "partNumber=1", Fault::CutRequest(1), 5);
    faults.inject("DELETE", "uploadId=", Fault::CutAnswer(0), 1);
    let error = put_fails(&bucket, 9 * MIB);
    assert!(error.contains("the next attempt removes them"), "{error}");
    let before = faults.seen("DELETE", "uploadId=").len();
    let (file, sha256) = archive(9 * MIB);
    bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    assert!(!faults.seen("GET", "uploads=").is_empty() && faults.seen("DELETE", "uploadId=").len() >= before);
}

#[test]
fn an_upload_that_reads_back_differently_fails() {
    let (_server, faults, bucket) = bucket();
    for size in [MIB, 9 * MIB] {
        faults.inject("GET", NAME, Fault::FlipAnswer, 1);
        let error = put_fails(&bucket, size);
        assert!(error.contains("differs after reading it back; it was deleted there"), "{error}");
        faults.clear();
        assert!(bucket.entries().unwrap().is_empty());
    }
}

#[test]
fn an_upload_altered_in_transit_is_retried_or_detected() {
    if !Can::RemoveAltered.is_supported() {
        return;
    }
    let (_server, faults, bucket) = bucket();
    for (size, holds) in [(MIB, NAME), (9 * MIB, "partNumber=2")] {
        let (file, sha256) = archive(size);
        faults.inject("PUT", holds, Fault::FlipRequest, 1);
        let put = bucket.add(NAME, &file, &sha256, &mut |_| {});
        // Not every server compares the body with its checksum.
        match put {
            Ok(()) => assert_eq!(bucket.delete(&bucket.entries().unwrap()[0]).unwrap(), Deletion::Deleted),
            Err(error) => {
                let error = format!("{error:#}");
                assert!(error.contains("differs after reading it back; it was deleted there"), "{error}");
            }
        }
        assert!(bucket.entries().unwrap().is_empty());
    }
}

#[test]
fn a_refusal_of_the_server_is_reported_once_with_a_next_step() {
    let (server, faults, bucket) = bucket();
    let answered = |status, code, more, expected: &str| {
        let before = faults.seen("HEAD", "").len() + faults.seen("PUT", "").len();
        faults.inject("PUT", NAME, Fault::Answer(status, code, more), 1);
        let error = put_fails(&bucket, 1);
        assert!(
            error.contains(code) && error.contains("request REQUEST7") && error.contains(expected),
            "{error}"
        );
        faults.clear();
        let after = faults.seen("HEAD", "").len() + faults.seen("PUT", "").len();
        assert_eq!(after - before, 3, "{code} was retried");
    };
    let date = "Date: Fri, 20 Nov 2020 20:00:00 GMT\r\n";
    answered(403, "RequestTimeTooSkewed", date, "ahead of the server's; correct it");
    answered(400, "ExpiredToken", "", "provide a new key and token");
    answered(403, "AccessDenied", "", "object lock");
    answered(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-7\r\n", "is in region eu-west-7");

    // The real server refuses these requests.
    let with = |access_key: &str, secret: &str| {
        put_fails(&opened(&described(server.port, ""), &key(access_key, secret)), 1)
    };
    let unknown_key = if Kind::of_this_run() == Kind::Versitygw { "status 404" } else { "status 403" };
    for (error, status) in
        [(with(&server.access_key, "canary-wrong"), "status 403"), (with("AKIAUNKNOWN", SECRET), unknown_key)]
    {
        assert!(error.contains(" returned ") && error.contains(status), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }
}

#[test]
fn a_missing_bucket_is_reported() {
    if !Can::MissBuckets.is_supported() {
        return;
    }
    let server = Server::new(&["backups"]);
    let mut description = described(server.port, "");
    description.bucket = "nowhere".to_owned();
    let bucket = opened(&description, &key(&server.access_key, SECRET));
    let expected = " returned NoSuchBucket";
    assert!(put_fails(&bucket, 1).contains(expected));
    let error = format!("{:#}", bucket.entries().unwrap_err());
    assert!(error.contains(expected) && error.contains("create the bucket"), "{error}");
}

#[test]
fn without_if_none_match_it_checks_before_it_writes() {
    let (_server, faults, bucket) = bucket();
    let unknown = || {
        for method in ["PUT", "POST"] {
            faults.inject(method, "if-none-match", Fault::Answer(501, "NotImplemented", ""), 1000);
        }
    };
    for size in [MIB, 9 * MIB] {
        unknown();
        let (file, sha256) = archive(size);
        bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
        let sent = read(&bucket, NAME);
        assert_eq!(sent.len(), size);
        let (other, its) = archive(size + 1);
        let error = bucket.add(NAME, &other, &its, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("already holds a different"), "{error}");
        assert!(read(&bucket, NAME) == sent);
        bucket.delete(&bucket.entries().unwrap()[0]).unwrap();
    }
    // Each upload was tried with the header, and then without it.
    let all = faults.seen("PUT", NAME).into_iter().chain(faults.seen("POST", NAME));
    let (with, without): (Vec<String>, Vec<String>) = all
        .filter(|head| !head.contains("partNumber") && !head.contains("?uploads"))
        .partition(|head| head.contains("if-none-match"));
    assert_eq!((with.len(), without.len()), (2, 2), "{with:?} {without:?}");
}

#[test]
fn a_slow_link_is_not_an_error_and_a_dead_one_is_reported() {
    let (_server, faults, bucket) = bucket();
    faults.inject("", "", Fault::Slow(MIB), 100);
    let (file, sha256) = archive(2 * MIB);
    bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    assert_eq!(bucket.entries().unwrap().len(), 1);
    let none = opened(&described(1, ""), &key("a", SECRET));
    let error = put_fails(&none, 1);
    assert!(
        error.contains("http://127.0.0.1:1: Connection refused") && error.contains("tried 5 times"),
        "{error}"
    );
}

#[test]
fn a_list_of_several_pages_is_read_completely() {
    let server = Server::filled(&["backups-full"], &|root| {
        let folder = root.join("backups-full/folder/c/m");
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..1100 {
            let ending = if number % 100 == 0 { "tar.gz" } else { "txt" };
            std::fs::write(folder.join(format!("{number:04}.{ending}")), "x").unwrap();
        }
    });
    let faults = Faults::before(server.port);
    let mut description = described(faults.port, "");
    description.bucket = "backups-full".to_owned();
    let bucket = opened(&description, &key(&server.access_key, SECRET));
    let entries = bucket.entries().unwrap();
    assert_eq!(entries.len(), 11);
    assert_eq!(faults.seen("GET", "list-type=2").len(), 2);
}

#[test]
fn a_locked_bucket_accepts_archives_and_refuses_deletion() {
    if !Can::Lock.is_supported() {
        return;
    }
    let server = Server::new(&["backups-locked"]);
    let faults = Faults::before(server.port);
    let mut description = described(faults.port, "");
    description.bucket = "backups-locked".to_owned();
    let bucket = opened(&description, &key(&server.access_key, SECRET));
    for (name, size) in [("c/m/a.tar.gz", MIB), ("c/m/b.tar.gz", 9 * MIB)] {
        let (file, sha256) = archive(size);
        bucket.add(name, &file, &sha256, &mut |_| {}).unwrap();
    }
    let entries = bucket.entries().unwrap();
    assert_eq!(entries.len(), 2, "{entries:?}");
    let (lock, code) = match Kind::of_this_run() {
        // It does not report the lock of an object, only the rule of its bucket.
        Kind::Versitygw => ("object lock keeps each object for 1 day", "AccessDenied"),
        Kind::Minio => ("object lock keeps it until 2", "InvalidRequest"),
        _ => ("object lock keeps it until 2", "AccessDenied"),
    };
    // moto loses the lock of an object that was uploaded in parts.
    for entry in entries.iter().filter(|entry| entry.name == "c/m/a.tar.gz") {
        let error = format!("{:#}", bucket.delete(entry).unwrap_err());
        for part in [lock, "(COMPLIANCE)", &format!(" returned {code}: ")] {
            assert!(error.contains(part), "no {part} in {error}");
        }
    }
    // Archives that cannot be deleted are not hidden either: they can still be restored.
    assert_eq!(bucket.entries().unwrap().len(), 2);
    // Amazon refuses every object without this header in such a bucket. These servers do not.
    bucket.update_record(&entries[0], &|record| record.pinned = true).unwrap();
    let puts = faults.seen("PUT", "");
    assert!(puts.len() >= 4 && puts == faults.seen("PUT", "content-md5: "), "{puts:#?}");
}

/// Returns a bucket that keeps versions and contains an archive, with its server and a proxy for faults.
fn versioned(name: &str) -> (Server, Faults, Repository) {
    let server = Server::new(&[name]);
    let faults = Faults::before(server.port);
    let mut description = described(faults.port, "");
    description.bucket = name.to_owned();
    let bucket = opened(&description, &key(&server.access_key, SECRET));
    let (file, sha256) = archive(MIB);
    bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    (server, faults, bucket)
}

#[test]
fn deletes_the_version_in_a_bucket_that_keeps_versions() {
    if !Can::Lock.is_supported() {
        return;
    }
    let (mut server, _faults, bucket) = versioned("backups-versioned");
    let entry = bucket.entries().unwrap().remove(0);
    bucket.update_record(&entry, &|record| record.pinned = false).unwrap();
    bucket.delete(&entry).unwrap();
    let (versions, _) = server.versions("backups-versioned");
    assert!(!versions.contains(&format!("folder/{NAME}")), "{versions:?}");
    assert!(bucket.entries().unwrap().is_empty());
}

#[test]
fn an_archive_whose_version_cannot_be_deleted_is_hidden() {
    if !Can::Lock.is_supported() {
        return;
    }
    let (mut server, faults, bucket) = versioned("backups-versioned");
    faults.inject("DELETE", "versionId=", Fault::Answer(403, "AccessDenied", ""), 1);
    let entry = bucket.entries().unwrap().remove(0);
    assert_eq!(format!("{:?}", bucket.delete(&entry).unwrap()), "Hidden");
    assert!(bucket.entries().unwrap().is_empty());
    let (versions, markers) = server.versions("backups-versioned");
    let key = format!("folder/{NAME}");
    assert!(versions.contains(&key) && markers.contains(&key), "{versions:?} {markers:?}");
}

/// versitygw returns neither the lock nor the version of an object in a bucket with default retention.
#[test]
fn an_archive_locked_only_by_its_bucket_stays_listed() {
    if !Can::Lock.is_supported() {
        return;
    }
    for dropped in ["x-amz-object-lock", "x-amz-version-id"] {
        let (_server, faults, bucket) = versioned("backups-locked");
        faults.inject("HEAD", "", Fault::DropHeader("x-amz-object-lock"), usize::MAX);
        if dropped == "x-amz-version-id" {
            faults.clear();
            faults.inject("HEAD", "", Fault::DropHeader(dropped), usize::MAX);
        }
        let entry = bucket.entries().unwrap().remove(0);
        let error = format!("{:#}", bucket.delete(&entry).unwrap_err());
        assert!(error.contains("object lock"), "{error}");
        assert_eq!(bucket.entries().unwrap().len(), 1, "{dropped}: it was hidden");
    }
}

#[test]
fn lists_only_archives_in_the_folder_of_a_member() {
    let server = Server::filled(&["backups"], &|root| {
        for name in ["a.tar.gz", "m/a.tar.gz", "c/m/a.tar.gz", "longterm/c/m/a.tar.gz", "a/b/c/m/a.tar.gz"] {
            let path = root.join("backups/folder").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
    });
    let bucket = opened(&described(server.port, ""), &key(&server.access_key, SECRET));
    let names: Vec<_> = bucket.entries().unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["c/m/a.tar.gz"]);
}

#[test]
fn progress_does_not_count_a_repeated_part_twice() {
    let (_server, faults, bucket) = bucket();
    let (file, sha256) = archive(17 * MIB);
    faults.inject("PUT", "partNumber=2", Fault::CutRequest(3 * MIB), 1);
    let (mut steps, mut bytes) = (Vec::new(), Vec::new());
    bucket
        .add(NAME, &file, &sha256, &mut |progress| match progress {
            Progress::Step(step) => steps.push((step.to_owned(), bytes.len())),
            Progress::Bytes { done, expected } => bytes.push((done, expected.unwrap())),
            Progress::Message(_) | Progress::Warning(_) => {}
        })
        .unwrap();
    let size = 17 << 20;
    assert!(bytes.iter().all(|(done, of)| *done <= size && *of == size), "{bytes:?}");
    let [(step, sent)] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(step, "reading back the uploaded archive");
    let (sent, back) = bytes.split_at(*sent);
    // Progress is reported several times in each part. It decreases once, when the part is repeated.
    assert!(sent.len() > 3 && sent.last() == Some(&(size, size)), "{sent:?}");
    assert_eq!(sent.windows(2).filter(|two| two[1] < two[0]).count(), 1, "{sent:?}");
    assert!(back.is_sorted() && back.last() == Some(&(size, size)), "{back:?}");
}

#[test]
fn a_bucket_is_reached_through_a_proxy_by_host_name() {
    if !Can::HostNames.is_supported() {
        return;
    }
    let server = Server::new(&["backups"]);
    let proxy = Proxy::to(server.port);
    let key = key(&server.access_key, SECRET);
    let (file, sha256) = archive(9 * MIB);
    // A host name of AWS, which the proxy forwards to the local server. AWS buckets are addressed by host
    // name.
    let mut description = described(0, "allow-http: true\nregion: us-east-1");
    description.endpoint = Some("http://s3.us-east-1.amazonaws.com".to_owned());
    description.proxy = Some(format!("http://127.0.0.1:{}", proxy.port));
    let by_host = opened(&description, &key);
    by_host.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    assert_eq!(by_host.entries().unwrap().len(), 1);
    let asked = proxy.asked();
    let connect = "CONNECT backups.s3.us-east-1.amazonaws.com:80 HTTP/1.1\r\n";
    assert!(!asked.is_empty() && asked.iter().all(|head| head.starts_with(connect)), "{asked:?}");
    // The same object can be reached by path.
    assert_eq!(opened(&described(server.port, ""), &key).entries().unwrap().len(), 1);

    // The proxy of the environment, with a login, for servers that are not exempt.
    description.proxy = None;
    let through = |description: &S3Config, exempt: &str| {
        let url = format!("http://canary-user:canary-word@127.0.0.1:{}", proxy.port);
        let proxies = Proxies { http: Some(Secret::new(url)), https: None, exempt: exempt.to_owned() };
        opened(description, &CloudEnvironment { proxies, ..key.clone() })
    };
    let before = proxy.asked().len();
    assert_eq!(through(&description, "127.0.0.1,localhost,::1").entries().unwrap().len(), 1);
    let asked = proxy.asked();
    assert!(asked[before..].iter().all(|head| head.contains("roxy-Authorization: Basic ")), "{asked:?}");
    description.endpoint = Some("http://nowhere.invalid:9000".to_owned());
    let error = format!("{:#}", through(&description, ".invalid").entries().unwrap_err());
    assert!(error.contains("the host name cannot be resolved") && !error.contains("canary"), "{error}");
    assert_eq!(proxy.asked().len(), asked.len(), "the request to an exempt host went through the proxy");
}

#[test]
fn a_proxy_that_refuses_is_reported() {
    for (status, words) in [("403 Forbidden", "403"), ("407 Proxy Authentication Required", "407")] {
        let proxy = Proxy::closed(status);
        let mut description = described(9, "allow-http: true");
        description.endpoint = Some("http://minio.invalid:9000".to_owned());
        description.proxy = Some(format!("http://127.0.0.1:{}", proxy.port));
        let error = put_fails(&opened(&description, &key("a", SECRET)), 1);
        assert!(error.contains("the proxy refused the connection") && error.contains(words), "{error}");
    }
}

#[test]
fn a_wrong_clock_is_reported_with_the_difference() {
    if !Can::Clock.is_supported() {
        return;
    }
    let server = Server::new(&["backups"]);
    for (hours, words) in [(3, "ahead of the server's; correct it"), (-3, " h behind the server's")] {
        let now = Timestamp::now() + jiff::SignedDuration::from_hours(hours);
        let key = key(&server.access_key, SECRET);
        let bucket = opened_at(&described(server.port, ""), &key, now);
        let error = format!("{:#}", bucket.entries().unwrap_err());
        assert!(error.contains("RequestTimeTooSkewed") && error.contains(words), "{error}");
    }
}

#[test]
fn session_tokens_are_used() {
    if !Can::Sessions.is_supported() {
        return;
    }
    let server = Server::new(&["backups"]);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("credentials");
    let mut description = described(server.port, "");
    description.credentials_file = Some(file.clone());
    let listed = |token: &str| {
        s3::write_credentials(&file, &server.role_key, SECRET);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}{token}")).unwrap();
        opened(&description, &CloudEnvironment::default()).entries()
    };
    assert!(listed("aws_session_token = canary-token\n").unwrap().is_empty());
    for token in ["aws_session_token = another\n", ""] {
        let error = format!("{:#}", listed(token).unwrap_err());
        assert!(error.contains("status 40") && !error.contains("canary"), "{error}");
    }
}

#[test]
fn encryption_is_requested_for_every_object() {
    if !Can::Encrypt.is_supported() {
        return;
    }
    let server = Server::new(&["backups"]);
    for (more, header) in [
        ("encryption: s3", "x-amz-server-side-encryption: AES256"),
        ("encryption: kms\nkms-key: alias/etcd", "x-amz-server-side-encryption-aws-kms-key-id: alias/etcd"),
    ] {
        let faults = Faults::before(server.port);
        let bucket = opened(&described(faults.port, more), &key(&server.access_key, SECRET));
        for size in [1, 9 * MIB] {
            let (file, sha256) = archive(size);
            bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
            bucket.delete(&bucket.entries().unwrap()[0]).unwrap();
        }
        // MinIO reports no encryption when an upload starts, so a test object is stored before each.
        let seen = faults.seen("", header);
        let of_archives = seen.iter().filter(|head| !head.contains(".probe "));
        assert_eq!(of_archives.count(), 2, "{more}: {seen:?}");
    }
    let bad = described(server.port, "encryption: s3\nkms-key: x");
    assert!(s3_store::open(&bad, &key("a", "b"), Clock::at(Timestamp::now())).is_err());
}

/// A server that ignores the header, as versitygw and s3rver do, does not repeat it in the response.
#[test]
fn refuses_to_upload_to_a_server_that_does_not_encrypt() {
    if !Can::AskToEncrypt.is_supported() {
        return;
    }
    let server = Server::new(&["backups"]);
    for (more, dropped) in [
        ("encryption: s3", "x-amz-server-side-encryption"),
        ("encryption: kms", "x-amz-server-side-encryption"),
        ("encryption: kms\nkms-key: alias/etcd", "x-amz-server-side-encryption-aws-kms-key-id"),
    ] {
        for size in [1, 9 * MIB] {
            let faults = Faults::before(server.port);
            let bucket = opened(&described(faults.port, more), &key(&server.access_key, SECRET));
            faults.inject("", "", Fault::DropHeader(dropped), usize::MAX);
            let error = put_fails(&bucket, size);
            assert!(error.contains("did not encrypt") && error.contains("Next:"), "{more}, {size}: {error}");
            assert!(bucket.entries().unwrap().is_empty());
            assert!(
                faults.seen("PUT", "partNumber=").is_empty(),
                "a part was sent that the server does not encrypt"
            );
            assert!(faults.seen("PUT", &format!("{NAME} ")).is_empty(), "the archive was sent");
        }
    }
}

/// MinIO encrypts objects, but reports that only for a finished object, not when a multipart upload starts.
#[test]
fn uploads_if_only_the_finished_object_reports_encryption() {
    if !Can::Encrypt.is_supported() {
        return;
    }
    let mut server = Server::new(&["backups-versioned"]);
    let faults = Faults::before(server.port);
    let mut description = described(faults.port, "encryption: s3");
    description.bucket = "backups-versioned".to_owned();
    let bucket = opened(&description, &key(&server.access_key, SECRET));
    faults.inject("POST", "uploads=", Fault::DropHeader("x-amz-server-side-encryption"), usize::MAX);
    for (name, size) in [(NAME, 1), ("c/m/b.tar.gz", 9 * MIB)] {
        let (file, sha256) = archive(size);
        bucket.add(name, &file, &sha256, &mut |_| {}).unwrap();
    }
    let (there, _) = server.versions("backups-versioned");
    assert_eq!(there.len(), 2, "the test objects were not removed: {there:?}");
}

/// A server that reports encryption at first, and then stores the object unencrypted.
#[test]
fn an_object_stored_unencrypted_is_deleted_or_reported() {
    if !Can::Encrypt.is_supported() {
        return;
    }
    let server = Server::new(&["backups"]);
    let faults = Faults::before(server.port);
    let bucket = opened(&described(faults.port, "encryption: s3"), &key(&server.access_key, SECRET));
    let drop_it = || {
        // Not that of the test object.
        faults.inject("HEAD", ".tar.gz ", Fault::DropHeader("x-amz-server-side-encryption"), usize::MAX);
    };
    drop_it();
    let error = put_fails(&bucket, MIB);
    assert!(error.contains("did not encrypt") && error.contains("was deleted there"), "{error}");
    assert!(bucket.entries().unwrap().is_empty());
    // An unencrypted object of an earlier run is reported but not deleted, because it may be the only copy.
    faults.clear();
    let (file, sha256) = archive(MIB);
    opened(&described(server.port, ""), &key(&server.access_key, SECRET))
        .add(NAME, &file, &sha256, &mut |_| {})
        .unwrap();
    let error = put_fails(&bucket, MIB);
    assert!(
        error.contains("does not encrypt it") && error.contains("etcd-backup upload --give-up="),
        "{error}"
    );
    assert_eq!(bucket.entries().unwrap().len(), 1);
}

#[test]
fn tls_accepts_only_the_configured_authority() {
    if !Can::Tls.is_supported() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(at("crt"), made.cert.pem()).unwrap();
    std::fs::write(at("key"), made.signing_key.serialize_pem()).unwrap();
    let server = Server::with_tls(&at("crt"), &at("key"), &["backups"]);
    let mut description = described(0, "");
    description.endpoint = Some(format!("https://127.0.0.1:{}", server.port));
    let (file, sha256) = archive(9 * MIB);
    let key = key(&server.access_key, SECRET);
    let error =
        format!("{:#}", opened(&description, &key).add(NAME, &file, &sha256, &mut |_| {}).unwrap_err());
    assert!(error.contains("certificate") && error.contains("name it in ca"), "{error}");
    description.ca = Some(at("crt"));
    opened(&description, &key).add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    // The same through a proxy, which sees only encrypted data.
    let proxy = Proxy::to(server.port);
    description.proxy = Some(format!("http://127.0.0.1:{}", proxy.port));
    opened(&description, &key).add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    assert!(proxy.asked()[0].starts_with(&format!("CONNECT 127.0.0.1:{} ", server.port)));
}
