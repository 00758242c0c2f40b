//! The true cause of an error of etcdctl, from its log lines and from the state of the certificates.
//!
//! Must never replace etcd's message, except by a shorter one for a refused connection: it adds to the message.

use super::certificates::CertificateProblems;
use super::service::STILL_RUNS;
use super::site::Site;
use crate::system::process::ProcessError;
use serde::Deserialize;
use std::fmt;

/// The query that failed.
pub(super) struct Query<'a> {
    pub endpoint: &'a str,
    pub shows_certificate: bool,
    /// Whether it was for a snapshot.
    pub is_snapshot: bool,
    /// The known problems with the certificates.
    pub certificate_problems: &'a CertificateProblems,
}

/// The connection to the endpoint was refused. etcdctl reports that in five lines.
#[derive(Debug)]
pub struct ConnectionRefused {
    endpoint: String,
}

impl fmt::Display for ConnectionRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd does not answer at {}: connection refused", self.endpoint)
    }
}

impl std::error::Error for ConnectionRefused {}

/// Returns the error of a query with its true cause.
pub(super) fn diagnose(error: ProcessError, query: &Query<'_>) -> anyhow::Error {
    let error = explain(error, query);
    match error.last_line() {
        Some(last) if last.contains("connect: connection refused") => {
            ConnectionRefused { endpoint: query.endpoint.to_owned() }.into()
        }
        _ => error.into(),
    }
}

/// Adds the cause to an error. For any problem with TLS or the connection, etcdctl ends with "context deadline
/// exceeded"; the cause is in the `error` of a JSON log line before that.
pub(super) fn explain(error: ProcessError, query: &Query<'_>) -> ProcessError {
    let Some(last) = error.last_line().map(str::to_owned) else { return error };
    let cause = if last.contains("context deadline exceeded") { cause_in(&error.stderr) } else { None };
    let message = cause.map_or_else(|| last.clone(), |cause| format!("{last} ({cause})"));
    match hint(&message, query) {
        Some(hint) => error.with_stderr(format!("{message}: {hint}")),
        None if message != last => error.with_stderr(message),
        None => error,
    }
}

/// Returns the next step for an operator after an error of the etcd of `site`.
pub fn next_step(site: &Site, error: &anyhow::Error) -> String {
    let status = site.service.status_command();
    let correct = |keys: &str| site.site_file().map(|file| format!("correct {keys} in {}", file.display()));
    let chain = format!("{error:#}");
    if chain.contains(OTHER_KEY) {
        return correct("cert and key").unwrap_or(status);
    }
    if chain.contains(STILL_RUNS) {
        return correct("service.stop").unwrap_or(status);
    }
    match correct("endpoint").filter(|_| error.is::<ConnectionRefused>()) {
        Some(correct) => format!("{status}, or {correct}"),
        None => status,
    }
}

/// Returns whether etcdctl reports that all its connections failed, and not why.
pub(super) fn is_vague(error: &ProcessError) -> bool {
    let cause = cause_in(&error.stderr).unwrap_or_default();
    cause.contains(NO_CAUSE) && !cause.contains("latest connection error")
}

/// How gRPC reports that it has no connection.
const NO_CAUSE: &str = "all SubConns are in TransientFailure";
/// How Go reports that a key belongs to another certificate (crypto/tls, `X509KeyPair`).
const OTHER_KEY: &str = "private key does not match public key";

/// Messages of etcd or of its TLS, and their meaning here.
const MEANINGS: [(&str, &str); 4] = [
    (WRONG_PASSWORD, "the password is not this user's"),
    ("does not look like a TLS handshake", "that port speaks plain http, but the endpoint is https"),
    (
        "certificate signed by unknown authority",
        "the server's certificate is not signed by the authority in cacert",
    ),
    ("no such host", "this machine cannot resolve the endpoint's host name"),
];

/// Messages of Go about the server's certificate (etcd has no such messages about a client's), and their meaning if
/// our own checks found no problem.
const SERVER_CERTIFICATE: [(&str, &str); 3] = [
    (
        "certificate has expired or is not yet valid",
        "this is about the server's certificate, or its authority's",
    ),
    ("cannot validate certificate for", "the server's certificate does not name this endpoint"),
    ("certificate is valid for", "the server's certificate does not name this endpoint"),
];

/// How etcd reports that a user lacks a permission. A client with a certificate and no password is the user in its
/// name.
const DENIED: [&str; 2] = ["auth: permission denied", "etcdserver: permission denied"];
/// How etcd reports that it does not know this user, or not with this password.
const WRONG_PASSWORD: &str = "invalid user ID or password";
/// The error that etcd reports for a request without a login.
const NO_LOGIN: &str = "user name is empty";

/// Returns whether etcd reported a missing login or a missing permission: etcd itself is healthy.
pub fn is_permission_denied(error: &anyhow::Error) -> bool {
    let chain = format!("{error:#}");
    chain.contains(NO_LOGIN) || DENIED.iter().any(|message| chain.contains(message))
}

/// Returns whether etcd refused the given user or password: etcd itself is healthy.
pub fn is_auth_failure(error: &anyhow::Error) -> bool {
    is_permission_denied(error) || format!("{error:#}").contains(WRONG_PASSWORD)
}

/// How to log in.
const LOGIN_HINT: &str =
    "set root's password in ETCDCTL_PASSWORD, or a username and a password-file in a site file";

/// The error of a connection if the server does not accept the data that the client sent.
const CLOSED: [&str; 7] = [
    "remote error: tls",
    "certificate required",
    "server preface",
    "connection reset",
    "broken pipe",
    "EOF",
    "closed",
];

/// Returns the meaning of a message of etcdctl, if it is known.
fn hint(message: &str, query: &Query<'_>) -> Option<String> {
    let problems = query.certificate_problems;
    let contains = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    if let Some((_, meaning)) = MEANINGS.iter().find(|(text, _)| message.contains(text)) {
        return Some((*meaning).to_owned());
    }
    if message.contains(OTHER_KEY) {
        return problems.client.clone();
    }
    if message.contains(NO_LOGIN) {
        return Some(format!("authentication is on; {LOGIN_HINT}"));
    }
    if let Some((_, meaning)) = SERVER_CERTIFICATE.iter().find(|(text, _)| message.contains(text)) {
        return Some(problems.server.clone().unwrap_or_else(|| (*meaning).to_owned()));
    }
    if contains(&DENIED) {
        let cause = match query.is_snapshot {
            true => "etcd gives a snapshot only to its user root",
            false => "this user lacks the permission, which etcd's user root has",
        };
        return Some(format!("{cause}; {LOGIN_HINT}"));
    }
    if !contains(&CLOSED) && !contains(&[NO_CAUSE]) && !message.ends_with("context deadline exceeded") {
        return None;
    }
    if let Some(problem) = problems.server.as_ref().or(problems.client.as_ref()) {
        return Some(problem.clone());
    }
    let guess = match query.endpoint.split_once("://")?.0 {
        "http" => "that port may speak TLS, but the endpoint is http",
        // The server's answer that this is not TLS may be lost when it closes the connection.
        "https" if contains(&["handshake failed: EOF", "handshake failed: read"]) => {
            "that port may speak plain http, but the endpoint is https"
        }
        "https" if !query.shows_certificate => {
            "etcd may require a client certificate and key, but the site has no certificate"
        }
        _ => return None,
    };
    contains(&CLOSED).then(|| guess.to_owned())
}

/// Returns the cause in the JSON lines of a log.
fn cause_in(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        error: String,
    }
    let errors = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let cause = errors.map(|line| line.error).min_by_key(|error| vagueness(error))?;
    Some(cause.rsplit("latest balancer error: ").next().unwrap_or(&cause).to_owned())
}

/// Returns how little an error explains. Of several attempts, one names the cause and the others only mention it.
fn vagueness(error: &str) -> usize {
    let contains = |texts: &[&str]| texts.iter().any(|text| error.contains(text));
    match error {
        _ if contains(&["x509", "certificate", "tls: "]) => 0,
        _ if contains(&["refused", "no such host", "EOF", "i/o timeout"]) => 1,
        _ if contains(&[NO_CAUSE]) => 3,
        _ => 2,
    }
}

/// Reads a text as the output of a failed tool, for the fuzzer.
#[cfg(feature = "fuzz")]
pub(crate) fn read_as_all_messages(text: &str) {
    let message = cause_in(text).unwrap_or_else(|| text.to_owned());
    let certificate_problems = &CertificateProblems::default();
    for endpoint in ["https://127.0.0.1:2379", "http://127.0.0.1:2379", ""] {
        let query = Query { endpoint, shows_certificate: false, is_snapshot: false, certificate_problems };
        let _ = hint(&message, &query);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::service::Service;
    use crate::etcd::site::{Origin, tests::site};
    use crate::system::process::Program;
    use std::path::Path;

    fn query<'a>(endpoint: &'a str, problems: &'a CertificateProblems) -> Query<'a> {
        Query { endpoint, shows_certificate: false, is_snapshot: false, certificate_problems: problems }
    }

    #[test]
    fn finds_the_cause_of_a_deadline_in_the_log() {
        let log = r#"{"level":"warn","msg":"retrying","error":"rpc error: code = DeadlineExceeded desc = latest balancer error: connection error: desc = \"transport: authentication handshake failed: x509: certificate signed by unknown authority\""}
Error: context deadline exceeded
"#;
        let vague = r#"{"error":"rpc error: code = DeadlineExceeded desc = latest balancer error: all SubConns are in TransientFailure"}"#;
        let cause = cause_in(&format!("{vague}\n{log}{vague}\n")).unwrap();
        assert!(cause.starts_with("connection error: desc = \"transport: authentication"), "{cause}");
        assert_eq!(cause_in("Error: context deadline exceeded"), None);
    }

    /// An error of a program that wrote this to standard error.
    fn failed(log: &str) -> ProcessError {
        Program::new("sh").args(["-c", "printf '%s' \"$0\" >&2; exit 2", log]).run().unwrap_err()
    }

    #[test]
    fn a_failed_connection_without_a_cause_is_vague() {
        for (message, vague) in [
            ("latest balancer error: all SubConns are in TransientFailure", true),
            (
                "all SubConns are in TransientFailure, latest connection error: connection error: x509: x",
                false,
            ),
            ("latest balancer error: connection error: EOF", false),
        ] {
            let log = format!("{{\"error\":\"{message}\"}}\nError: context deadline exceeded\n");
            assert_eq!(is_vague(&failed(&log)), vague, "{message}");
        }
    }

    #[test]
    fn a_refused_connection_is_one_line_and_its_next_step_names_the_site_file() {
        let log = "{\"error\":\"latest balancer error: connection error: desc = \\\"transport: Error while dialing: \
                   dial tcp 127.0.0.1:1: connect: connection refused\\\"\"}\nError: context deadline exceeded\n";
        let problems = CertificateProblems::default();
        let error = diagnose(failed(log), &query("http://127.0.0.1:1", &problems));
        assert_eq!(error.to_string(), "etcd does not answer at http://127.0.0.1:1: connection refused");
        let error = error.context("asking etcd for its status");
        let mut site = site(Path::new("/d"), Service::Systemd { systemd: "etcd".into() });
        assert_eq!(next_step(&site, &error), "systemctl status etcd");
        site.data_dir.origin = Origin::SiteFile("/s.yaml".into());
        assert_eq!(next_step(&site, &error), "systemctl status etcd, or correct endpoint in /s.yaml");
        let other = anyhow::anyhow!("tls: private key does not match public key");
        assert_eq!(next_step(&site, &other), "correct cert and key in /s.yaml");
        let stop = anyhow::anyhow!("an etcd still holds the lock").context(site.describe_ineffective_stop());
        assert!(stop.to_string().starts_with("`systemctl stop etcd` ended, but etcd"), "{stop}");
        assert_eq!(next_step(&site, &stop), "correct service.stop in /s.yaml");
    }

    #[test]
    fn the_key_of_another_certificate_is_explained_with_both_files() {
        let problem = Some("the key /k does not belong to the certificate /c".to_owned());
        let problems = CertificateProblems { client: problem.clone(), server: None };
        let message = "Error: tls: private key does not match public key";
        assert_eq!(hint(message, &query("https://a", &problems)), problem);
    }

    #[test]
    fn says_that_only_root_gets_a_snapshot_if_a_snapshot_was_refused() {
        let hint = |is_snapshot| {
            let message = if is_snapshot {
                "Error: rpc error: code = PermissionDenied desc = auth: permission denied"
            } else {
                "Error: etcdserver: permission denied"
            };
            let problems = &CertificateProblems::default();
            super::hint(message, &Query { is_snapshot, ..query("http://a", problems) }).unwrap()
        };
        assert!(hint(true).contains("a snapshot only to its user root"));
        assert!(!hint(false).contains("snapshot") && hint(false).contains("etcd's user root has"));
    }

    #[test]
    fn a_denied_permission_shows_that_etcd_is_alive() {
        for (message, alive) in [
            ("etcdserver: user name is empty: authentication is on", true),
            ("etcdserver: permission denied: this user may not do that", true),
            ("auth: permission denied", true),
            // The operating system's message about a file.
            ("open /etc/etcd/tls/client.key: permission denied", false),
            ("context deadline exceeded", false),
            ("invalid user ID or password", false),
        ] {
            let error = anyhow::anyhow!(message).context("asking etcd for its members");
            assert_eq!(is_permission_denied(&error), alive, "{message}");
        }
    }

    #[test]
    fn explains_a_closed_connection_by_the_certificate() {
        let expired = Some("x.crt expired");
        let closed = "Error: x (error reading server preface: EOF)";
        for (message, endpoint, problem, hint) in [
            (closed, "https://a", expired, expired),
            (
                closed,
                "https://a",
                None,
                Some("etcd may require a client certificate and key, but the site has no certificate"),
            ),
            (
                "(connection error: desc = \"transport: authentication handshake failed: read tcp \
                 127.0.0.1:45428->127.0.0.1:25125: read: connection reset by peer\")",
                "https://a",
                None,
                Some("that port may speak plain http, but the endpoint is https"),
            ),
            (closed, "http://a", None, Some("that port may speak TLS, but the endpoint is http")),
            ("Error: context deadline exceeded", "https://a", expired, expired),
            ("Error: context deadline exceeded", "https://a", None, None),
            (
                "Error: context deadline exceeded (all SubConns are in TransientFailure)",
                "https://a",
                expired,
                expired,
            ),
            ("Error: x (connection refused)", "https://a", expired, None),
            ("Error: etcdserver: mvcc: database space exceeded", "https://a", expired, None),
        ] {
            let problems = &CertificateProblems { client: problem.map(str::to_owned), server: None };
            let found = super::hint(message, &query(endpoint, problems));
            assert_eq!(found.as_deref(), hint, "{message} {endpoint}");
        }
    }
}
