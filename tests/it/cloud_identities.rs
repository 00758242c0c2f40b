//! Access to Azure and Google without a stored key: the tokens of machines and workloads, on stand-ins that answer as the
//! documentation of the clouds describes.

use crate::common::clouds::identities::{
    CLIENT_ID, TENANT_ID, azure_metadata, azure_storage, google_metadata, google_storage, login_server,
};
use crate::common::clouds::opened_with;
use crate::common::command::Run;
use crate::common::loopback::{Answer, Loopback, answer};
use etcd_backup::inventory::Repository;
use etcd_backup::store::cloud::MetadataServices;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_etcd-backup");
/// The token of a workload. It must not appear in any output.
const ASSERTION: &str = "canary-assertion";

/// Opens a bucket in a storage service. Returns the service that gives out its tokens too.
type Open<'a> = &'a dyn Fn(&Loopback) -> (Repository, Loopback);

/// Returns the settings of a container in `storage`.
fn azure_settings(storage: &Loopback, access: &str) -> String {
    format!("{{azure: {{account: etcdtests, container: backups, endpoint: '{}', {access}}}}}", storage.url())
}

/// Opens a container in `storage` with the managed identity that `metadata` knows.
fn azure(storage: &Loopback, metadata: &Loopback, more: &str) -> Repository {
    let services = MetadataServices { azure: Some(metadata.url()), ..MetadataServices::default() };
    opened_with(&azure_settings(storage, &format!("managed-identity: true{more}")), services)
}

/// Opens a container in `storage` with the workload identity that `login` knows.
fn workload(storage: &Loopback, login: &Loopback, token_file: &Path) -> Repository {
    let access = format!(
        "federated-token-file: {}, client-id: {CLIENT_ID}, tenant-id: {TENANT_ID}, authority-host: '{}/'",
        token_file.display(),
        login.url()
    );
    opened_with(&azure_settings(storage, &access), MetadataServices::default())
}

/// Opens a bucket in `storage` with the service account that `metadata` knows.
fn google(storage: &Loopback, metadata: &Loopback) -> Repository {
    let host = format!("127.0.0.1:{}", metadata.port);
    let services = MetadataServices { google: Some(host), ..MetadataServices::default() };
    let settings = format!(
        "{{google: {{bucket: backups, endpoint: '{}', instance-service-account: true}}}}",
        storage.url()
    );
    opened_with(&settings, services)
}

/// Returns the error of a list. It must not contain a token.
fn fails(bucket: &Repository) -> String {
    let error = format!("{:#}", bucket.entries().unwrap_err());
    assert!(!error.contains("canary") && !error.contains("Bearer"), "{error}");
    error
}

/// Writes the token of a workload as Kubernetes does: readable for all users of the pod.
fn token_file(text: &str) -> tempfile::NamedTempFile {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
    file
}

#[test]
fn the_managed_identity_of_a_machine_grants_access() {
    for (more, selects) in [("", false), (", client-id: 6a9bfd9c-0000-4000-8000-0123456789ab", true)] {
        let (storage, metadata) = (azure_storage("canary"), azure_metadata(&["canary"]));
        let bucket = azure(&storage, &metadata, more);
        assert!(bucket.entries().unwrap().is_empty());
        assert!(bucket.entries().unwrap().is_empty());
        let asked = metadata.seen();
        assert_eq!(asked.len(), 1, "the token was not kept: {asked:?}");
        assert_eq!(asked[0].contains(&format!("client_id={CLIENT_ID}")), selects, "{asked:?}");
        assert!(storage.seen().iter().all(|head| head.contains("x-ms-version: 2020-10-02")));
    }
}

#[test]
fn the_service_account_of_a_machine_grants_access() {
    let (storage, metadata) = (google_storage("canary"), google_metadata(&["canary"]));
    let bucket = google(&storage, &metadata);
    assert!(bucket.entries().unwrap().is_empty());
    assert!(bucket.entries().unwrap().is_empty());
    assert_eq!(metadata.seen().len(), 1);
}

#[test]
fn a_workload_exchanges_its_token_for_access() {
    let (storage, login) = (azure_storage("canary"), login_server(&["canary"], ASSERTION));
    let file = token_file(&format!("{ASSERTION}\n"));
    let bucket = workload(&storage, &login, file.path());
    assert!(bucket.entries().unwrap().is_empty());
    assert!(bucket.entries().unwrap().is_empty());
    assert_eq!(login.seen().len(), 1);
}

#[test]
fn a_refused_token_is_replaced_by_one_new_token() {
    let file = token_file(ASSERTION);
    let tokens = ["canary-old", "canary-new"];
    let (azure_accepts, google_accepts) = (azure_storage("canary-new"), google_storage("canary-new"));
    let (azure_refuses, google_refuses) = (azure_storage("canary-other"), google_storage("canary-other"));
    let managed = |storage: &Loopback| {
        let metadata = azure_metadata(&tokens);
        (azure(storage, &metadata, ""), metadata)
    };
    let exchanged = |storage: &Loopback| {
        let login = login_server(&tokens, ASSERTION);
        (workload(storage, &login, file.path()), login)
    };
    let attached = |storage: &Loopback| {
        let metadata = google_metadata(&tokens);
        (google(storage, &metadata), metadata)
    };
    let cases: [(&Loopback, &Loopback, Open<'_>); 3] = [
        (&azure_accepts, &azure_refuses, &managed),
        (&azure_accepts, &azure_refuses, &exchanged),
        (&google_accepts, &google_refuses, &attached),
    ];
    for (accepts, refuses, open) in cases {
        let (bucket, identity) = open(accepts);
        assert!(bucket.entries().unwrap().is_empty());
        assert!(bucket.entries().unwrap().is_empty());
        assert_eq!(identity.seen().len(), 2);

        let (bucket, identity) = open(refuses);
        let before = refuses.seen().len();
        let error = fails(&bucket);
        assert!(error.contains("status 401") && error.contains("; "), "{error}");
        assert_eq!((identity.seen().len(), refuses.seen().len() - before), (2, 2), "{error}");
    }
}

#[test]
fn a_machine_without_an_identity_is_reported_with_the_next_step() {
    let (storage, metadata) = (azure_storage("canary"), azure_metadata(&["canary"]));
    let error = fails(&azure(&storage, &metadata, ", client-id: 0-0"));
    let server = metadata.url();
    assert!(
        error.contains(&format!("requesting a token of the managed identity 0-0 from {server}: ")),
        "{error}"
    );
    assert!(error.contains("it returned invalid_request: Identity not found (status 400); "), "{error}");
    assert!(error.contains("az vm identity assign") && error.contains("correct client-id"), "{error}");
    assert_eq!((metadata.seen().len(), storage.seen().len()), (1, 0));

    let none = Loopback::start(|_| {
        answer(400, "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}")
    });
    let error = fails(&azure(&storage, &none, ""));
    assert!(
        error.contains("the managed identity of this machine") && error.contains("az vm identity assign"),
        "{error}"
    );

    let none = Loopback::start(|_| {
        Some((404, "Metadata-Flavor: Google\r\n".to_owned(), "<html>404</html>".to_owned()))
    });
    let error = fails(&google(&storage, &none));
    assert!(
        error.contains("the service account of this machine") && error.contains("it returned status 404; "),
        "{error}"
    );
    assert!(error.contains("gcloud compute instances set-service-account"), "{error}");
    assert_eq!(none.seen().len(), 1);
}

#[test]
fn a_machine_outside_of_the_cloud_is_reported_with_the_next_step() {
    let storage = azure_storage("canary");
    let services = MetadataServices {
        azure: Some("http://127.0.0.1:1".to_owned()),
        google: Some("127.0.0.1:1".to_owned()),
        ..MetadataServices::default()
    };
    let settings = azure_settings(&storage, "managed-identity: true");
    let error = fails(&opened_with(&settings, services.clone()));
    assert!(
        error.contains("from http://127.0.0.1:1: Connection refused, tried 2 times; only a machine in Azure"),
        "{error}"
    );
    // Amazon's metadata service, at the same address, demands a token of its own.
    let amazon = Loopback::start(|_| answer(401, ""));
    let error = fails(&azure(&storage, &amazon, ""));
    assert!(error.contains("it returned status 401; only a machine in Azure"), "{error}");
    assert_eq!(amazon.seen().len(), 1);
    let settings = "{google: {bucket: backups, instance-service-account: true}}";
    let error = fails(&opened_with(settings, services));
    assert!(error.contains("Connection refused, tried 2 times; only a machine in Google Cloud"), "{error}");
}

#[test]
fn a_workload_that_is_not_trusted_is_reported_without_its_token() {
    let (storage, login) = (azure_storage("canary"), login_server(&["canary"], "another"));
    let file = token_file(ASSERTION);
    let error = fails(&workload(&storage, &login, file.path()));
    assert!(error.contains(&format!("the workload identity {CLIENT_ID}")), "{error}");
    assert!(error.contains("invalid_client: AADSTS700213: No matching federated identity record"), "{error}");
    assert!(error.contains("assertion … (status 401); tenant-id and client-id must name"), "{error}");
    assert_eq!(login.seen().len(), 1);
    for (text, words) in [("", "does not contain the token of a workload"), ("canary b", "does not contain")]
    {
        let file = token_file(text);
        let error = fails(&workload(&storage, &login, file.path()));
        assert!(error.contains(words), "{error}");
    }
    let error = fails(&workload(&storage, &login, Path::new("/no/such/token")));
    assert!(error.contains("the federated token file /no/such/token cannot be used"), "{error}");
}

/// Kubernetes replaces the token of a workload before it ends.
#[test]
fn the_token_of_a_workload_is_read_again_for_each_exchange() {
    let (storage, login) = (azure_storage("canary-new"), login_server(&["canary-new"], ASSERTION));
    let file = token_file("canary-ended");
    let bucket = workload(&storage, &login, file.path());
    fails(&bucket);
    fs::write(file.path(), ASSERTION).unwrap();
    assert!(bucket.entries().unwrap().is_empty());
}

#[test]
fn an_answer_of_another_server_than_googles_is_not_used() {
    let storage = google_storage("canary");
    let body = "{\"access_token\":\"canary\",\"expires_in\":3599,\"token_type\":\"Bearer\"}";
    for flavor in ["", "Metadata-Flavor: Other\r\n"] {
        let other = Loopback::start(move |_| Some((200, flavor.to_owned(), body.to_owned())));
        let error = fails(&google(&storage, &other));
        assert!(
            error.contains("another server answered: the answer lacks the header metadata-flavor: Google"),
            "{error}"
        );
        assert_eq!((other.seen().len(), storage.seen().len()), (1, 0));
    }
}

#[test]
fn an_answer_without_a_valid_token_is_not_used() {
    let storage = azure_storage("canary");
    for (body, words) in [
        ("{\"access_token\": \"canary\", \"expires_in\": \"0\"}", "correct the clock"),
        (
            "{\"access_token\": \"canary\", \"expires_in\": \"3599\", \"expires_on\": \"1506484173\"}",
            "its token ended at 2017-09-27",
        ),
        ("{\"access_token\": \"canary\"}", "does not say when the token ends"),
        ("<html>canary</html>", "contains no token"),
    ] {
        let metadata = Loopback::start(move |_| answer(200, body));
        let error = fails(&azure(&storage, &metadata, ""));
        assert!(error.contains(words), "{error}");
        assert_eq!((metadata.seen().len(), storage.seen().len()), (1, 0));
    }
}

#[test]
fn a_busy_service_is_asked_again() {
    let storage = azure_storage("canary");
    let token = "{\"access_token\": \"canary\", \"expires_in\": \"3599\"}";
    let answers: [Answer; 3] = [
        answer(429, "{\"error\":\"too_many_requests\",\"error_description\":\"Too many requests\"}"),
        answer(410, ""),
        answer(200, token),
    ];
    let index = AtomicUsize::new(0);
    let metadata = Loopback::start(move |_| answers[index.fetch_add(1, Ordering::Relaxed)].clone());
    assert!(azure(&storage, &metadata, "").entries().unwrap().is_empty());
    assert_eq!(metadata.seen().len(), 3);
}

#[test]
fn a_service_that_is_silent_is_given_up() {
    let storage = azure_storage("canary");
    let silent = Loopback::start(|_| None);
    let since = Instant::now();
    let error = fails(&azure(&storage, &silent, ""));
    assert!(
        error.contains("the server stopped answering, tried 2 times; only a machine in Azure"),
        "{error}"
    );
    assert!(since.elapsed() < Duration::from_secs(40), "{:?}", since.elapsed());
    assert_eq!(silent.seen().len(), 2);
}

#[test]
fn a_signal_ends_the_wait_for_a_silent_service() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("config.yaml");
    let storage = azure_storage("canary");
    let silent = Loopback::start(|_| None);
    let settings = azure_settings(&storage, "managed-identity: true");
    fs::write(&config, format!("destinations:\n  offsite: {settings}\n")).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["list", "--target", &home.path().join("archives").display().to_string()]);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("ETCD_BACKUP", &config);
    command.env("AZURE_POD_IDENTITY_AUTHORITY_HOST", silent.url());
    let run = Run::start(command, &home.path().join("runs"));
    run.await_until(&|| !silent.seen().is_empty());
    let since = Instant::now();
    kill(Pid::from_raw(run.pid()), Signal::SIGTERM).unwrap();
    let out = run.finish();
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}: {}", since.elapsed(), out.describe());
    out.assert_no_panic();
    assert!(out.describe().contains("interrupted"), "{}", out.describe());
}
