//! Tests of Azure Blob Storage and Google Cloud Storage on emulators, with and without faults in the connection.
//!
//! `cargo xtask buckets --server azurite` and `--server gcs` install an emulator and run them.

use crate::bucket::{
    MIB, NAME, archive, assert_changed_archives_do_not_appear, assert_pinned_in_the_meantime,
    assert_pins_survive_a_verification, put_fails, read,
};
use crate::common::clouds::identities::{azure_metadata, google_metadata};
use crate::common::clouds::{AZURE_KEY, Can, GOOGLE_KEY, Kind, Server, Step, opened, opened_with};
use crate::common::command::Run;
use crate::common::s3::{Fault, Faults};
use crate::common::world::{Version, World};
use base64ct::{Base64UrlUnpadded, Encoding};
use etcd_backup::inventory::Repository;
use etcd_backup::store::cloud::MetadataServices;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Returns an emulator, a proxy that injects faults, and a bucket that is reached through the proxy.
fn bucket() -> (Server, Faults, Repository) {
    let server = Server::new(&["backups"]);
    let faults = Faults::before(server.port);
    let bucket = server.open(faults.port, "backups", "");
    (server, faults, bucket)
}

/// Injects a fault into the next `times` requests of this step.
fn inject(faults: &Faults, step: Step, fault: Fault, times: usize) {
    let (method, holds) = Kind::of_this_run().request(step);
    faults.inject(method, holds, fault, times);
}

/// Returns the number of requests of this step so far.
fn count(faults: &Faults, step: Step) -> usize {
    let (method, holds) = Kind::of_this_run().request(step);
    faults.seen(method, holds).len()
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn archives_are_put_listed_read_annotated_and_deleted() {
    let (_server, _faults, bucket) = bucket();
    assert!(bucket.entries().unwrap().is_empty());
    // An empty file, one request, its maximum size, and several parts of which the last is short.
    for size in [0, 1, 8 * MIB, 8 * MIB + 1, 17 * MIB] {
        let (file, sha256) = archive(size);
        bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
        let entries = bucket.entries().unwrap();
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!((entries[0].name.as_str(), entries[0].size), (NAME, size as u64));
        let url = match Kind::of_this_run() {
            Kind::Azurite => format!("azure://etcdtests/backups/folder/{NAME}"),
            Kind::Gcs => format!("gs://backups/folder/{NAME}"),
        };
        assert_eq!(entries[0].location(), url);
        assert_eq!(read(&bucket, NAME).len(), size);
        // Putting the same archive again succeeds.
        bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
        assert_pinned_in_the_meantime(&bucket, &entries[0]);
    }
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn a_pin_is_kept_if_another_machine_changes_the_record_at_the_same_time() {
    if !Can::Conditions.is_supported() {
        return;
    }
    let (_server, _faults, bucket) = bucket();
    assert_pins_survive_a_verification(&bucket);
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn an_existing_object_is_never_overwritten() {
    let (_server, faults, bucket) = bucket();
    for size in [MIB, 9 * MIB] {
        let (theirs, sha256) = archive(size + 1);
        bucket.add(NAME, &theirs, &sha256, &mut |_| {}).unwrap();
        let before = read(&bucket, NAME);
        let error = put_fails(&bucket, size);
        assert!(error.contains("already holds a different") && error.contains("Next:"), "{error}");
        // If the object appears between the check and the upload, the server refuses the upload.
        inject(&faults, Step::Head, Fault::Answer(404, "", ""), 1);
        let error = put_fails(&bucket, size);
        assert!(error.contains("already holds a different"), "{error}");
        assert!(read(&bucket, NAME) == before, "the existing object was changed");
        bucket.delete(&bucket.entries().unwrap()[0]).unwrap();
    }
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn temporary_errors_are_retried() {
    let (_server, faults, bucket) = bucket();
    for (step, fault) in [
        (Step::SecondPart, Fault::CutRequest(MIB / 2)),
        (Step::SecondPart, Fault::Answer(500, "InternalError", "")),
        (Step::SecondPart, Fault::Answer(503, "ServerBusy", "Retry-After: 1\r\n")),
        (Step::Finish, Fault::Answer(503, "ServerBusy", "")),
        (Step::Read, Fault::CutAnswer(MIB)),
        (Step::Read, Fault::Answer(500, "InternalError", "")),
        (Step::Head, Fault::Answer(503, "", "")),
    ] {
        let (file, sha256) = archive(9 * MIB);
        inject(&faults, step, fault.clone(), 2);
        bucket
            .add(NAME, &file, &sha256, &mut |_| {})
            .unwrap_or_else(|error| panic!("{step:?} {fault:?}: {error:#}"));
        faults.clear();
        let entries = bucket.entries().unwrap();
        assert_eq!(entries.len(), 1);
        bucket.delete(&entries[0]).unwrap();
    }
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn a_lost_answer_is_no_failure() {
    if !Can::RepeatParts.is_supported() {
        return;
    }
    let (_server, faults, bucket) = bucket();
    for (step, size) in [(Step::Whole, MIB), (Step::SecondPart, 9 * MIB), (Step::Finish, 9 * MIB)] {
        let (file, sha256) = archive(size);
        inject(&faults, step, Fault::LoseAnswer, 1);
        bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap_or_else(|error| panic!("{step:?}: {error:#}"));
        faults.clear();
        bucket.delete(&bucket.entries().unwrap()[0]).unwrap();
    }
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn an_upload_that_fails_leaves_no_archive() {
    let (_server, faults, bucket) = bucket();
    for (step, fault, words) in [
        (Step::SecondPart, Fault::CutRequest(MIB / 2), "after 8.0M of 9.0M"),
        (Step::SecondPart, Fault::Answer(403, "AuthorizationFailure", ""), "status 403"),
        (Step::Finish, Fault::Answer(500, "InternalError", ""), "tried 5 times"),
    ] {
        inject(&faults, step, fault, 100);
        let error = put_fails(&bucket, 9 * MIB);
        assert!(error.contains(words), "{error}");
        faults.clear();
        assert!(bucket.entries().unwrap().is_empty());
        assert!(bucket.names().unwrap().is_empty());
    }
    // The next upload is not disturbed by what the failed ones have left.
    let (file, sha256) = archive(9 * MIB);
    bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    assert_eq!(read(&bucket, NAME).len(), 9 * MIB);
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn an_upload_that_reads_back_differently_fails() {
    let (_server, faults, bucket) = bucket();
    for size in [MIB, 9 * MIB] {
        inject(&faults, Step::Read, Fault::FlipAnswer, 1);
        let error = put_fails(&bucket, size);
        assert!(error.contains("differs after reading it back; it was deleted there"), "{error}");
        faults.clear();
        assert!(bucket.entries().unwrap().is_empty());
    }
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn an_upload_altered_in_transit_is_retried_or_detected() {
    let (_server, faults, bucket) = bucket();
    for (step, size) in [(Step::Whole, MIB), (Step::SecondPart, 9 * MIB)] {
        let (file, sha256) = archive(size);
        inject(&faults, step, Fault::FlipRequest, 1);
        match bucket.add(NAME, &file, &sha256, &mut |_| {}) {
            Ok(()) => {
                bucket.delete(&bucket.entries().unwrap()[0]).unwrap();
            }
            Err(error) => {
                let error = format!("{error:#}");
                assert!(error.contains("differs after reading it back; it was deleted there"), "{error}");
            }
        }
        assert!(bucket.entries().unwrap().is_empty());
    }
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn an_archive_that_changes_during_the_upload_does_not_appear() {
    let (_server, _faults, bucket) = bucket();
    assert_changed_archives_do_not_appear(&bucket);
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn a_missing_bucket_is_reported() {
    let server = Server::new(&["backups"]);
    let bucket = server.open(server.port, "nowhere", "");
    for error in [format!("{:#}", bucket.entries().unwrap_err()), put_fails(&bucket, 1)] {
        assert!(error.contains("status 404"), "{error}");
        assert!(Kind::of_this_run() == Kind::Gcs || error.contains("create the container"), "{error}");
    }
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn a_wrong_key_is_reported_without_the_key() {
    if !Can::CheckKeys.is_supported() {
        return;
    }
    let server = Server::new(&["backups"]);
    server.secret("azure-key", "Y2FuYXJ5LXdyb25nLWtleQ==");
    let bucket = server.open(server.port, "backups", "");
    let error = format!("{:#}", bucket.entries().unwrap_err());
    assert!(error.contains("status 403") && error.contains("the key must be one of this account"), "{error}");
    assert!(!error.contains("canary") && !error.contains("SharedKey"), "{error}");
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn a_token_grants_what_it_allows() {
    if !Can::Tokens.is_supported() {
        return;
    }
    let server = Server::new(&["backups"]);
    let with = |name: &str, token: &str| {
        let path = server.secret(name, token);
        server.open(server.port, "backups", &format!(", sas-file: {}", path.display()))
    };
    let [all, list] = &server.tokens;
    let (bucket, limited) = (with("all", &format!("?{all}\n")), with("list", list));
    for size in [1, 9 * MIB] {
        let (file, sha256) = archive(size);
        bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
        let entries = limited.entries().unwrap();
        assert!(entries[0].unreadable.is_some(), "{entries:?}");
        bucket.delete(&bucket.entries().unwrap()[0]).unwrap();
    }
    let (file, sha256) = archive(1);
    let error = format!("{:#}", limited.add(NAME, &file, &sha256, &mut |_| {}).unwrap_err());
    assert!(error.contains("status 403") && !error.contains("sig="), "{error}");
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn a_list_of_several_pages_is_read_completely() {
    let (_server, faults, bucket) = bucket();
    let (file, sha256) = archive(1);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (bucket, file, sha256) = (&bucket, &file, &sha256);
            scope.spawn(move || {
                for number in (thread..1100).step_by(4) {
                    bucket.add(&format!("c/m/{number:04}.tar.gz"), file, sha256, &mut |_| {}).unwrap();
                }
            });
        }
    });
    let before = count(&faults, Step::List);
    assert_eq!(bucket.names().unwrap().len(), 1100);
    assert_eq!(count(&faults, Step::List) - before, 2);
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn several_parts_are_sent_at_a_time() {
    if !Can::ParallelParts.is_supported() {
        return;
    }
    let (_server, faults, bucket) = bucket();
    // Long enough for a busy machine to start all of them.
    faults.inject("PUT", "blockid=", Fault::Late(2000), usize::MAX);
    let (file, sha256) = archive(33 * MIB);
    bucket.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    let at_once = faults.most_late_at_once();
    assert!((2..=4).contains(&at_once), "{at_once} parts were sent at a time");
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn a_server_that_is_silent_is_given_up() {
    let server = Server::new(&["backups"]);
    let faults = Faults::before(server.port);
    let bucket = server.open(faults.port, "backups", ", stall-timeout: 1s");
    let since = Instant::now();
    for step in [Step::List, Step::Head, Step::Whole] {
        inject(&faults, step, Fault::Hang, usize::MAX);
        let error = match step {
            Step::List => format!("{:#}", bucket.entries().unwrap_err()),
            _ => put_fails(&bucket, 1),
        };
        assert!(error.contains("the server stopped answering, tried 2 times"), "{error}");
        faults.clear();
    }
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn tls_accepts_only_the_configured_authority() {
    if !Can::Tls.is_supported() {
        return;
    }
    let (server, authority) = server_with_tls();
    let endpoint = format!("https://127.0.0.1:{}", server.port);
    let error = put_fails(&opened(&server.settings(&endpoint, "backups", "")), 1);
    assert!(error.contains("certificate") && error.contains("name it in ca"), "{error}");
    let (file, sha256) = archive(9 * MIB);
    let trusted = opened(&server.settings(&endpoint, "backups", &format!(", ca: {}", authority.display())));
    trusted.add(NAME, &file, &sha256, &mut |_| {}).unwrap();
    assert_eq!(trusted.entries().unwrap().len(), 1);
}

/// Saves a real etcd, uploads its snapshot, lists and fetches it, and restores the etcd from it. Returns all output.
fn save_and_restore(world: &World, run: &dyn Fn(&str, &[&str]) -> Run) -> String {
    world.fill();
    let saved = world.dump();
    let target = world.to_target();
    let results = run(program!("snapshot"), &[&target]).finish().completed();
    assert_eq!(results.get("destinations.offsite"), "uploaded");
    let name = results.get("snapshot.path").rsplit('/').next().unwrap().to_owned();
    fs::remove_dir_all(world.target()).unwrap();

    let listed = run(program!("list-snapshots"), &[&target]).finish().completed();
    assert!(listed.get("snapshots").contains(&name), "{}", listed.out.describe());
    let from = format!("from=offsite/{name}");
    let fetched = run(program!("fetch-snapshot"), &[&from, &target]).finish().completed();
    assert_eq!(fetched.get("snapshot.sha256"), results.get("snapshot.sha256"));
    world.put(0..5, "later");
    let path = format!("snapshot={}", fetched.get("snapshot.path"));
    let restored = run(program!("restore"), &[&path, &target, "skip-backup=true"]).finish().completed();
    assert!(world.dump() == saved, "the restored data differs from the saved data");
    [results, listed, fetched, restored].map(|one| one.out.describe()).concat()
}

/// Writes settings with the destination `offsite`. Returns what starts a program with them and with further variables.
fn runner<'a>(
    world: &'a World,
    destination: &str,
    variables: &'a [(&'a str, String)],
) -> impl Fn(&str, &[&str]) -> Run + use<'a> {
    fs::write(world.path("backup.yaml"), format!("destinations:\n  offsite: {destination}\n")).unwrap();
    move |program, words| {
        let mut command = world.action(program, words);
        command.env("ETCD_BACKUP", world.path("backup.yaml"));
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Run::start(command, &world.path("runs"))
    }
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn a_cluster_is_saved_to_the_cloud_and_restored_from_it() {
    let world = World::plain(Version::V35);
    let server = Server::new(&["backups"]);
    let faults = Faults::before(server.port);
    let endpoint = format!("http://127.0.0.1:{}", faults.port);
    let run = runner(&world, &server.settings(&endpoint, "backups", ""), &[]);
    let mut seen = save_and_restore(&world, &run);

    // A signal ends the wait for a silent server.
    faults.inject("PUT", "", Fault::Hang, usize::MAX);
    let before = faults.seen("PUT", "").len();
    let hanging = run(program!("snapshot"), &[&world.to_target()]);
    while faults.seen("PUT", "").len() == before {
        std::thread::sleep(Duration::from_millis(20));
    }
    let since = Instant::now();
    kill(Pid::from_raw(hanging.pid()), Signal::SIGTERM).unwrap();
    let out = hanging.finish();
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}: {}", since.elapsed(), out.describe());
    faults.clear();
    seen += &out.describe();
    for line in GOOGLE_KEY.lines().filter(|line| line.len() > 40).chain([AZURE_KEY, "Bearer", "SharedKey"]) {
        assert!(!seen.contains(line), "{line} is in {seen}");
    }
}

/// The metadata service is a stand-in. Azurite checks the token that it gives out, except for the signature, and
/// fake-gcs-server accepts every token.
#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn a_cluster_is_saved_with_the_identity_of_its_machine() {
    let world = World::plain(Version::V35);
    let (_server, settings, metadata, variable) = match Kind::of_this_run() {
        Kind::Azurite => {
            let (server, settings) = azurite_with_tls();
            let metadata = azure_metadata(&[&azure_token(3600)]);
            let variable = ("AZURE_POD_IDENTITY_AUTHORITY_HOST", metadata.url());
            (server, settings, metadata, variable)
        }
        Kind::Gcs => {
            let server = Server::new(&["backups"]);
            let endpoint = format!("http://127.0.0.1:{}", server.port);
            let settings = server.settings(&endpoint, "backups", ", instance-service-account: true");
            let metadata = google_metadata(&["canary-token"]);
            let variable = ("GCE_METADATA_HOST", format!("127.0.0.1:{}", metadata.port));
            (server, settings, metadata, variable)
        }
    };
    let variables = [variable];
    let seen = save_and_restore(&world, &runner(&world, &settings, &variables));
    // The four programs need one token each; restore reads a file.
    assert_eq!(metadata.seen().len(), 3);
    for secret in ["canary", "Bearer", AZURE_TOKEN_START] {
        assert!(!seen.contains(secret), "{secret} is in {seen}");
    }
}

#[test]
#[ignore = "needs an emulator: cargo xtask buckets --server azurite"]
fn a_token_that_has_ended_is_reported_without_the_token() {
    if !Can::CheckKeys.is_supported() {
        return;
    }
    let (_server, settings) = azurite_with_tls();
    // The metadata service takes it for valid, and the storage service knows better.
    let metadata = azure_metadata(&[&azure_token(-60)]);
    let services = MetadataServices { azure: Some(metadata.url()), ..MetadataServices::default() };
    let error = format!("{:#}", opened_with(&settings, services).entries().unwrap_err());
    assert!(
        error.contains("returned AuthenticationFailed") && error.contains("the token of the identity"),
        "{error}"
    );
    assert!(!error.contains(AZURE_TOKEN_START) && !error.contains("canary"), "{error}");
}

/// The beginning of every token of [`azure_token`].
const AZURE_TOKEN_START: &str = "eyJ0eXAi";

/// Returns a token for Azure Storage that ends in this number of seconds. Its signature is not one.
fn azure_token(lifetime: i64) -> String {
    let now = jiff::Timestamp::now().as_second();
    let claims = serde_json::json!({
        "aud": "https://storage.azure.com/",
        "iss": "https://sts.windows.net/72f988bf-0000-4000-8000-0123456789ab/",
        "iat": now - 120,
        "nbf": now - 120,
        "exp": now + lifetime,
        "oid": "6a9bfd9c-0000-4000-8000-0123456789ab",
    });
    let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
    let header = "{\"typ\":\"JWT\",\"alg\":\"RS256\"}";
    let token = format!("{}.{}.{}", encode(header), encode(&claims.to_string()), encode("canary"));
    assert!(token.starts_with(AZURE_TOKEN_START));
    token
}

/// Returns a server with TLS, and the file with its certificate.
fn server_with_tls() -> (Server, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(at("crt"), made.cert.pem()).unwrap();
    fs::write(at("key"), made.signing_key.serialize_pem()).unwrap();
    let server = Server::with_tls(&at("crt"), &at("key"), &["backups"]);
    let authority = server.secret("ca.crt", &made.cert.pem());
    (server, authority)
}

/// Returns Azurite with TLS, which accepts tokens, and the settings of a container with the identity of this machine.
fn azurite_with_tls() -> (Server, String) {
    let (server, authority) = server_with_tls();
    let endpoint = format!("https://127.0.0.1:{}", server.port);
    let access = format!(", ca: {}, managed-identity: true", authority.display());
    let settings = server.settings(&endpoint, "backups", &access);
    (server, settings)
}
