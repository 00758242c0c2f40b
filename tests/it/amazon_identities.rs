//! Access to S3 without a stored key: the sessions of roles, on stand-ins that answer as Amazon's documentation describes.

use crate::common::clouds::amazon::{
    ROLE, bucket, container_endpoint, metadata_service, refusal, session, token_service,
};
use crate::common::clouds::{open_in, opened_with};
use crate::common::command::{Out, Run};
use crate::common::loopback::{Answer, Loopback, answer};
use etcd_backup::inventory::Repository;
use etcd_backup::store::cloud::MetadataServices;
use etcd_backup::store::cloud_environment::CloudEnvironment;
use etcd_backup::store::s3::{AmazonEnvironment, ContainerVariables, WebIdentityVariables};
use jiff::{SignedDuration, Timestamp};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etcd-backup");
/// The token of a workload or a container. It must not appear in any output.
const TOKEN: &str = "canary-token-of-the-pod";

/// Opens a bucket in a storage service. Returns the service that gives out the sessions too.
type Open<'a> = &'a dyn Fn(&Loopback) -> (Repository, Loopback);

/// Writes the token of a workload as Kubernetes does: readable for all users of the pod.
fn token_file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
    file
}

/// Returns the settings of a bucket in `storage`.
fn settings(storage: &Loopback, more: &str) -> String {
    format!("{{s3: {{bucket: backups, endpoint: '{}'{more}}}}}", storage.url())
}

/// Returns the settings of a bucket in `storage`, for the role that `tokens` knows.
fn web_identity_settings(storage: &Loopback, tokens: &Loopback, file: &Path) -> String {
    let role = format!(", role-arn: '{ROLE}', sts-endpoint: '{}'", tokens.url());
    settings(storage, &format!("{role}, web-identity-token-file: {}", file.display()))
}

/// Opens a bucket in `storage` with the role that `tokens` knows.
fn web_identity(storage: &Loopback, tokens: &Loopback, file: &Path) -> Repository {
    opened_with(&web_identity_settings(storage, tokens, file), MetadataServices::default())
}

/// Returns the environment of a container with an endpoint at this URL.
fn container_environment(url: String, token_file: Option<&Path>) -> CloudEnvironment {
    let container = ContainerVariables { url, token_file: token_file.map(Path::to_owned), token: None };
    let amazon = AmazonEnvironment { container: Some(container), ..AmazonEnvironment::default() };
    CloudEnvironment { amazon, ..CloudEnvironment::default() }
}

/// Opens a bucket in `storage` with the role of a container.
fn container(storage: &Loopback, endpoint: &Loopback, file: &Path) -> Repository {
    let url = format!("{}/v1/credentials", endpoint.url());
    open_in(&settings(storage, ""), container_environment(url, Some(file))).unwrap()
}

/// Opens a bucket in `storage` with the role of this machine.
fn instance(storage: &Loopback, metadata: &Loopback) -> Repository {
    let services = MetadataServices { amazon: Some(metadata.url()), ..MetadataServices::default() };
    opened_with(&settings(storage, ", instance-role: true"), services)
}

/// Returns the error of a list. It must not contain a secret.
fn fails(bucket: &Repository) -> String {
    let error = format!("{:#}", bucket.entries().unwrap_err());
    assert!(!error.contains("canary") && !error.contains("Signature"), "{error}");
    error
}

#[test]
fn each_role_grants_access_and_its_session_is_kept() {
    let file = token_file(&format!("{TOKEN}\n"));
    let pod = |storage: &Loopback| {
        let tokens = token_service(&["canary"], TOKEN);
        (web_identity(storage, &tokens, file.path()), tokens)
    };
    let task = |storage: &Loopback| {
        let endpoint = container_endpoint(&["canary"], TOKEN);
        (container(storage, &endpoint, file.path()), endpoint)
    };
    let machine = |storage: &Loopback| {
        let metadata = metadata_service(&["canary"], Some("the-role"));
        (instance(storage, &metadata), metadata)
    };
    // The metadata service is asked for a token of its own, for the name of the role, and for the session.
    let cases: [(Open<'_>, usize); 3] = [(&pod, 1), (&task, 1), (&machine, 3)];
    for (open, requests) in cases {
        let storage = bucket("canary");
        let (bucket, service) = open(&storage);
        assert!(bucket.entries().unwrap().is_empty());
        assert!(bucket.entries().unwrap().is_empty());
        assert_eq!(service.seen().len(), requests, "the session was not kept: {:?}", service.seen());
        assert_eq!(storage.seen().len(), 2);
    }
}

#[test]
fn a_refused_session_is_replaced_by_one_new_session() {
    let file = token_file(TOKEN);
    let pod = |storage: &Loopback| {
        let tokens = token_service(&["canary-old", "canary-new"], TOKEN);
        (web_identity(storage, &tokens, file.path()), tokens)
    };
    let task = |storage: &Loopback| {
        let endpoint = container_endpoint(&["canary-old", "canary-new"], TOKEN);
        (container(storage, &endpoint, file.path()), endpoint)
    };
    let cases: [Open<'_>; 2] = [&pod, &task];
    for open in cases {
        let (accepts, refuses) = (bucket("canary-new"), bucket("canary-other"));
        let (bucket, service) = open(&accepts);
        assert!(bucket.entries().unwrap().is_empty());
        assert!(bucket.entries().unwrap().is_empty());
        assert_eq!(service.seen().len(), 2);

        let (bucket, service) = open(&refuses);
        let error = fails(&bucket);
        assert!(error.contains("returned ExpiredToken: The provided token has expired"), "{error}");
        assert_eq!((service.seen().len(), refuses.seen().len()), (2, 2), "{error}");
    }
}

/// The answer to a `HEAD` has no body, and so no code that says that the session has ended.
#[test]
fn a_session_that_is_refused_for_a_head_is_replaced_too() {
    let file = token_file(TOKEN);
    for exists in [true, false] {
        let storage = Loopback::start(move |request| {
            let is_head = request.line.starts_with("HEAD");
            let error =
                |code: &str| format!("<Error><Code>{code}</Code><Message>It ended.</Message></Error>");
            let (status, code) = match (request.has("x-amz-security-token: canary-new"), exists) {
                (false, _) => (400, "ExpiredToken"),
                (true, false) => (404, "NoSuchKey"),
                (true, true) => return Some((200, "ETag: \"e\"\r\n".to_owned(), String::new())),
            };
            answer(status, if is_head { String::new() } else { error(code) })
        });
        let tokens = token_service(&["canary-old", "canary-new"], TOKEN);
        let read = web_identity(&storage, &tokens, file.path()).read("a.tar.gz").map(drop);
        let error = read.err().map(|error| format!("{error:#}"));
        match (exists, error) {
            (true, None) => {}
            (false, Some(error)) => assert!(error.ends_with("a.tar.gz does not exist"), "{error}"),
            unexpected => panic!("{unexpected:?}"),
        }
    }
}

#[test]
fn a_session_is_renewed_before_it_ends() {
    let (storage, file) = (bucket("canary"), token_file(TOKEN));
    let end = Timestamp::now() + SignedDuration::from_secs(6);
    // After half of its life.
    let tokens = Loopback::start(move |_| answer(200, session("canary", &end.to_string())));
    let bucket = web_identity(&storage, &tokens, file.path());
    assert!(bucket.entries().unwrap().is_empty());
    assert!(bucket.entries().unwrap().is_empty());
    assert_eq!(tokens.seen().len(), 1);
    sleep(Duration::from_millis(3200));
    assert!(bucket.entries().unwrap().is_empty());
    assert_eq!(tokens.seen().len(), 2);
}

/// Kubernetes replaces the token of a workload before it ends.
#[test]
fn the_token_of_a_workload_is_read_again_for_each_session() {
    let storage = bucket("canary");
    let (tokens, endpoint) = (token_service(&["canary"], TOKEN), container_endpoint(&["canary"], TOKEN));
    let file = token_file("canary-ended");
    for bucket in [web_identity(&storage, &tokens, file.path()), container(&storage, &endpoint, file.path())]
    {
        fs::write(file.path(), "canary-ended").unwrap();
        fails(&bucket);
        fs::write(file.path(), TOKEN).unwrap();
        assert!(bucket.entries().unwrap().is_empty());
    }
}

#[test]
fn a_role_that_does_not_trust_the_workload_is_reported_without_its_token() {
    let (storage, tokens) = (bucket("canary"), token_service(&["canary"], "another"));
    let file = token_file(TOKEN);
    let error = fails(&web_identity(&storage, &tokens, file.path()));
    let start = format!("requesting an access key of the role {ROLE} from {}: it returned ", tokens.url());
    assert!(error.contains(&start), "{error}");
    assert!(
        error.contains("InvalidIdentityToken: No OpenIDConnect provider found in your account"),
        "{error}"
    );
    assert!(
        error.contains("for the token … (status 400); the trust policy of the role must accept"),
        "{error}"
    );
    assert_eq!((tokens.seen().len(), storage.seen().len()), (1, 0));

    let endpoint = container_endpoint(&["canary"], "another");
    let error = fails(&container(&storage, &endpoint, file.path()));
    assert!(
        error.contains("the role of this container")
            && error.contains("AccessDeniedException: Invalid token … (status 400)"),
        "{error}"
    );
    assert!(error.contains("aws eks create-pod-identity-association"), "{error}");

    for (text, words) in [("", "does not contain the token of a workload"), ("canary b", "does not contain")]
    {
        let file = token_file(text);
        let error = fails(&web_identity(&storage, &tokens, file.path()));
        assert!(error.contains(&format!("the web identity token file {} {words}", file.path().display())));
        let error = fails(&container(&storage, &endpoint, file.path()));
        assert!(
            error.contains("the container authorization token file ") && error.contains(words),
            "{error}"
        );
    }
    let error = fails(&web_identity(&storage, &tokens, Path::new("/no/such/token")));
    assert!(error.contains("the web identity token file /no/such/token cannot be used"), "{error}");
}

#[test]
fn a_machine_without_a_role_is_reported_with_the_next_step() {
    let storage = bucket("canary");
    let metadata = metadata_service(&["canary"], None);
    let error = fails(&instance(&storage, &metadata));
    let start = format!("requesting an access key of the role of this machine from {}: ", metadata.url());
    assert!(error.contains(&start) && error.contains("it returned status 404; "), "{error}");
    assert!(error.contains("aws ec2 associate-iam-instance-profile"), "{error}");
    // The metadata service of Azure, at the same address, does not know the path.
    let azure = Loopback::start(|_| answer(405, ""));
    let error = fails(&instance(&storage, &azure));
    assert!(error.contains("only a machine in Amazon EC2 has such a role"), "{error}");
    let services = MetadataServices { amazon: Some("http://127.0.0.1:1".to_owned()), ..Default::default() };
    let error = fails(&opened_with(&settings(&storage, ", instance-role: true"), services));
    assert!(error.contains("Connection refused, tried 2 times; only a machine in Amazon EC2"), "{error}");
}

#[test]
fn an_answer_without_a_valid_session_is_not_used() {
    let (storage, file) = (bucket("canary"), token_file(TOKEN));
    for (body, words) in [
        ("<html>canary</html>".to_owned(), "its answer contains no access key"),
        (session("canary", "soon"), "does not say when the access key ends"),
        (session("canary", "2001-01-01T00:00:00Z"), "its access key ended at 2001-01-01T00:00:00Z"),
        ("{\"Token\": \"canary\"}".to_owned(), "its answer contains no access key"),
    ] {
        let service = Loopback::start(move |_| answer(200, body.clone()));
        let error = fails(&web_identity(&storage, &service, file.path()));
        assert!(error.contains(words), "{error}");
        let error = fails(&container(&storage, &service, file.path()));
        assert!(error.contains("its answer contains no access key"), "{error}");
        assert_eq!((service.seen().len(), storage.seen().len()), (2, 0));
    }
}

/// The documentation of `IDPCommunicationError` recommends to repeat the request.
#[test]
fn a_busy_token_service_is_asked_again() {
    let (storage, file) = (bucket("canary"), token_file(TOKEN));
    let answers: [Answer; 3] = [
        refusal(400, "IDPCommunicationError", "The identity provider could not be reached"),
        refusal(
            503,
            "ServiceUnavailable",
            "The request has failed due to a temporary failure of the server.",
        ),
        answer(200, session("canary", "2099-01-01T00:00:00Z")),
    ];
    let index = AtomicUsize::new(0);
    let tokens = Loopback::start(move |_| answers[index.fetch_add(1, Ordering::Relaxed)].clone());
    assert!(web_identity(&storage, &tokens, file.path()).entries().unwrap().is_empty());
    assert_eq!(tokens.seen().len(), 3);
}

#[test]
fn variables_that_cannot_be_used_are_refused_before_any_request() {
    let storage = bucket("canary");
    let open = |amazon: AmazonEnvironment| {
        let environment = CloudEnvironment { amazon, ..CloudEnvironment::default() };
        format!("{:#}", open_in(&settings(&storage, ""), environment).unwrap_err())
    };
    let error = open(container_environment("http://10.0.0.1/canary".to_owned(), None).amazon);
    assert!(error.contains("destination offsite: ") && error.contains("neither https nor on this machine"));
    assert!(!error.contains("canary"), "{error}");
    let role = WebIdentityVariables {
        role_arn: "etcd-backup".to_owned(),
        token_file: "/t".into(),
        session_name: None,
        region: None,
        endpoint: None,
    };
    let error = open(AmazonEnvironment { web_identity: Some(role), ..AmazonEnvironment::default() });
    assert!(error.contains("AWS_WEB_IDENTITY_TOKEN_FILE in the environment cannot be used"), "{error}");
    assert!(error.contains("\"etcd-backup\" is not the ARN of a role"), "{error}");
    assert!(storage.seen().is_empty());
}

/// Runs the program with a bucket in `storage` in its settings, and with these variables.
fn run(home: &Path, arguments: &[&str], storage: &Loopback, variables: &[(&str, &str)]) -> Out {
    let config = home.join("config.yaml");
    let schedule = "schedule: {when: every 12h}";
    let destination = settings(storage, "");
    fs::write(&config, format!("{schedule}\ndestinations:\n  offsite: {destination}\n")).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("ETCD_BACKUP", &config);
    command.envs(variables.iter().copied());
    Run::start(command, &home.join("runs")).finish()
}

#[test]
fn a_pod_lists_its_bucket_by_the_variables_of_eks() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("archives").display().to_string();
    let file = token_file(TOKEN);
    let path = file.path().display().to_string();
    let (storage, tokens) = (bucket("canary"), token_service(&["canary"], TOKEN));
    let list = ["list", "--json", "--target", &target];
    let role = [
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", path.as_str()),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
        ("AWS_ENDPOINT_URL_STS", &tokens.url()),
    ];
    let out = run(home.path(), &list, &storage, &role);
    assert_eq!(out.status.code(), Some(0), "{}", out.describe());
    assert_eq!((tokens.seen().len(), storage.seen().len()), (1, 1), "{}", out.describe());
    assert!(tokens.seen()[0].contains("RoleSessionName=etcd-backup"), "{:?}", tokens.seen());

    let endpoint = container_endpoint(&["canary"], TOKEN);
    let url = format!("{}/v1/credentials", endpoint.url());
    let pod = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path.as_str()),
    ];
    let out = run(home.path(), &list, &storage, &pod);
    assert_eq!(out.status.code(), Some(0), "{}", out.describe());
    assert_eq!((endpoint.seen().len(), storage.seen().len()), (1, 2), "{}", out.describe());
}

#[test]
fn a_schedule_needs_the_role_in_the_settings() {
    let home = tempfile::tempdir().unwrap();
    let storage = bucket("canary");
    let role = [("AWS_ROLE_ARN", ROLE), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")];
    let out = run(home.path(), &["schedule"], &storage, &role);
    let text = out.describe();
    assert!(text.contains("only in the environment, which a systemd timer does not inherit"), "{text}");
    assert!(text.contains("role-arn and web-identity-token-file"), "{text}");
}
