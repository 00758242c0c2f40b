//! Tests of answers that no S3 server should give, of silence, and of several requests at a time.

use crate::bucket::{
    MIB, NAME, archive, assert_changed_archives_do_not_appear, bucket, described, key, opened, put_fails,
    read,
};
use crate::common::s3::{Can, Fault, Faults, SECRET, Server};
use std::time::{Duration, Instant};

/// Returns a server with eleven archives among 1,100 objects in the bucket `backups`, which is two pages.
fn two_pages() -> Server {
    Server::filled(&["backups"], &|root| {
        let folder = root.join("backups/folder/c/m");
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..1100 {
            let ending = if number % 100 == 0 { "tar.gz" } else { "txt" };
            std::fs::write(folder.join(format!("{number:04}.{ending}")), "x").unwrap();
        }
    })
}

/// Removes the elements of this name from a document.
fn without_element(text: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let parts: Vec<&str> = text.split(&open).collect();
    let rest = parts[1..].iter().map(|part| part.split_once(&close).unwrap().1);
    std::iter::once(parts[0]).chain(rest).collect()
}

#[test]
fn a_truncated_list_without_a_token_is_continued() {
    let server = two_pages();
    let faults = Faults::before(server.port);
    let bucket = opened(&described(faults.port, ""), &key(&server.access_key, SECRET));
    let drop_token = Fault::Rewrite(|text| without_element(text, "NextContinuationToken"));
    faults.inject("GET", "list-type=2", drop_token, usize::MAX);
    assert_eq!(bucket.entries().unwrap().len(), 11);
    assert_eq!(faults.seen("GET", "start-after=").len(), 1);
}

#[test]
fn a_list_that_repeats_a_page_is_an_error() {
    const REPEATED: &str = "<ListBucketResult><IsTruncated>true</IsTruncated>\
        <NextContinuationToken>again</NextContinuationToken><Contents><Key>folder/c/m/a.tar.gz</Key>\
        <LastModified>2026-11-20T20:00:00Z</LastModified><Size>1</Size></Contents></ListBucketResult>";
    let (_server, faults, bucket) = bucket();
    faults.inject("GET", "list-type=2", Fault::Page("application/xml", REPEATED), usize::MAX);
    let error = format!("{:#}", bucket.entries().unwrap_err());
    assert!(error.contains("the server's list has no end"), "{error}");
    assert_eq!(faults.seen("GET", "list-type=2").len(), 2);
}

#[test]
fn etags_without_quotes_are_quoted_in_conditions() {
    let (_server, faults, bucket) = bucket();
    let (file, sha256) = archive(MIB);
    bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    let unquote = Fault::Rewrite(|text| text.replace("&quot;", "").replace("&#34;", ""));
    faults.inject("GET", "list-type=2", unquote, usize::MAX);
    let entries = bucket.entries().unwrap();
    assert!(entries[0].unreadable.is_none(), "{entries:?}");
    let conditions = faults.seen("GET", "if-match: ");
    assert!(
        !conditions.is_empty() && conditions.iter().all(|head| head.contains("if-match: \"")),
        "{conditions:?}"
    );
}

#[test]
fn an_endpoint_that_is_not_s3_is_reported() {
    const CONSOLE: &str = "<!DOCTYPE html>\n<html lang=\"en\"><title>Console</title></html>";
    const BUCKETS: &str =
        "<?xml version=\"1.0\"?><ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>";
    let (_server, faults, bucket) = bucket();
    for (content_type, body, words) in [
        (
            "text/html; charset=utf-8",
            CONSOLE,
            "answered with a web page (status 200); this is not an S3 endpoint",
        ),
        ("application/xml", BUCKETS, "\"ListAllMyBucketsResult\" instead of ListBucketResult"),
        ("application/json", "{}", "is not an S3 document"),
        ("application/xml", "", "is not an S3 document"),
    ] {
        faults.inject("", "", Fault::Page(content_type, body), usize::MAX);
        let error = format!("{:#}", bucket.entries().unwrap_err());
        assert!(error.contains(words), "{error}");
        faults.clear();
    }
    // Neither does such a server have the archive that is looked for.
    faults.inject("", "", Fault::Page("text/html", CONSOLE), usize::MAX);
    assert!(put_fails(&bucket, MIB).contains("this is not an S3 endpoint"));
}

#[test]
fn a_server_that_is_silent_is_given_up() {
    let server = Server::new(&["backups"]);
    let faults = Faults::before(server.port);
    let bucket = opened(&described(faults.port, "stall-timeout: 1s"), &key(&server.access_key, SECRET));
    let since = Instant::now();
    for (method, holds) in [("GET", "list-type=2"), ("HEAD", NAME)] {
        faults.inject(method, holds, Fault::Hang, usize::MAX);
        let error = match method {
            "GET" => format!("{:#}", bucket.entries().unwrap_err()),
            _ => put_fails(&bucket, 1),
        };
        assert!(error.contains("the server stopped answering, tried 2 times"), "{error}");
        assert!(error.contains("stall-timeout"), "{error}");
        faults.clear();
    }
    // Two requests, twice each. Without the setting, each of the four would wait for a minute.
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
}

#[test]
fn http_and_https_are_told_apart() {
    if !Can::Tls.is_supported() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let made = rcgen::generate_simple_self_signed(["another.example".to_owned()]).unwrap();
    std::fs::write(at("crt"), made.cert.pem()).unwrap();
    std::fs::write(at("key"), made.signing_key.serialize_pem()).unwrap();
    let with_tls = Server::with_tls(&at("crt"), &at("key"), &["backups"]);
    let plain = Server::new(&["backups"]);
    let fails = |scheme: &str, server: &Server| {
        let mut description = described(0, "");
        description.endpoint = Some(format!("{scheme}://127.0.0.1:{}", server.port));
        description.ca = Some(at("crt"));
        format!("{:#}", opened(&description, &key(&server.access_key, SECRET)).entries().unwrap_err())
    };
    let error = fails("https", &plain);
    let expected = format!("the server speaks no TLS at this port; write http://127.0.0.1:{}", plain.port);
    assert!(error.contains(&expected) && !error.contains("tried"), "{error}");
    let error = fails("http", &with_tls);
    assert!(error.contains(&format!("write https://127.0.0.1:{}", with_tls.port)), "{error}");
    let error = fails("https", &with_tls);
    assert!(error.contains("not valid for name") && error.contains("write a name in endpoint"), "{error}");
    assert!(!error.contains("name it in ca") && !error.contains("tried"), "{error}");
}

#[test]
fn several_parts_are_sent_at_a_time() {
    let (_server, faults, bucket) = bucket();
    faults.inject("PUT", "partNumber=", Fault::Late(300), usize::MAX);
    let (file, sha256) = archive(60 * MIB);
    bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    let at_once = faults.most_late_at_once();
    assert!((2..=4).contains(&at_once), "{at_once} parts were sent at a time");
    assert_eq!(faults.seen("PUT", "partNumber=").len(), 8);
}

#[test]
fn an_archive_that_changes_during_the_upload_does_not_appear() {
    let (_server, faults, bucket) = bucket();
    assert_changed_archives_do_not_appear(&bucket);
    let (begun, aborted) = (faults.seen("POST", "uploads=").len(), faults.seen("DELETE", "uploadId=").len());
    assert_eq!((begun, aborted), (1, 1));
}

/// Ceph 16 ignores the condition of the request that joins the parts.
#[test]
fn the_name_is_looked_up_again_before_the_parts_are_joined() {
    let (_server, faults, bucket) = bucket();
    let (theirs, sha256) = archive(MIB);
    bucket.add(NAME, &theirs, &sha256, &mut |_| {}).unwrap();
    let before = read(&bucket, NAME);
    faults.inject("HEAD", NAME, Fault::Answer(404, "", ""), 1);
    let error = put_fails(&bucket, 9 * MIB);
    assert!(error.contains("already holds a different"), "{error}");
    assert!(faults.seen("POST", "uploadId=").is_empty(), "the parts were joined");
    assert_eq!(faults.seen("DELETE", "uploadId=").len(), 1);
    assert!(read(&bucket, NAME) == before, "the existing object was changed");
}

#[test]
fn unfinished_uploads_of_a_name_are_removed() {
    if !Can::ListUploads.is_supported() {
        return;
    }
    let (_server, faults, bucket) = bucket();
    faults.inject("PUT", "partNumber=1", Fault::CutRequest(1), 5);
    faults.inject("DELETE", "uploadId=", Fault::CutAnswer(0), 1);
    let error = put_fails(&bucket, 9 * MIB);
    assert!(error.contains("parts of the upload are still on the server"), "{error}");
    faults.clear();
    // The server may have carried out the request whose answer was cut, so an unfinished upload is made sure of.
    faults.inject("PUT", "partNumber=1", Fault::Answer(403, "AccessDenied", ""), 1);
    faults.inject("DELETE", "uploadId=", Fault::Answer(503, "SlowDown", ""), 1);
    put_fails(&bucket, 9 * MIB);
    let before = faults.seen("DELETE", "uploadId=").len();
    bucket.remove_unfinished(NAME).unwrap();
    assert_eq!(faults.seen("DELETE", "uploadId=").len(), before + 1);
    bucket.remove_unfinished(NAME).unwrap();
    assert_eq!(faults.seen("DELETE", "uploadId=").len(), before + 1, "it was not removed");
}

#[test]
fn several_archives_are_deleted_at_a_time() {
    let (_server, faults, bucket) = bucket();
    let (file, sha256) = archive(1000);
    for number in 0..12 {
        bucket.add(&format!("c/m/{number}.tar.gz"), &file, &sha256, &mut |_| {}).unwrap();
    }
    let entries = bucket.entries().unwrap();
    faults.inject("DELETE", "", Fault::Late(200), usize::MAX);
    let deleted = bucket.delete_all(&entries.iter().collect::<Vec<_>>());
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    assert!((2..=8).contains(&faults.most_late_at_once()), "{}", faults.most_late_at_once());
    assert!(bucket.entries().unwrap().is_empty());
}
