//! Why etcd could not be asked: the true cause, from what etcdctl said on the way and from the certificate it showed.
//!
//! Must never replace etcd's own words: it adds to them.

use super::certificates::CertificateProblems;
use crate::system::process::ProcessError;
use serde::Deserialize;

/// Who was asked, and with what.
pub(super) struct Asked<'a> {
    pub endpoint: &'a str,
    pub shows_certificate: bool,
    /// Whether it was asked for a snapshot.
    pub saves: bool,
    /// What is known to be wrong with the certificates.
    pub trouble: &'a CertificateProblems,
}

/// etcdctl ends on "context deadline exceeded" whatever went wrong with TLS or the connection; the cause is in the
/// `error` of a JSON log line before it.
pub(super) fn explained(error: ProcessError, asked: &Asked<'_>) -> ProcessError {
    let Some(last) = error.last_line().map(str::to_owned) else { return error };
    let cause = if last.contains("context deadline exceeded") { cause_in(&error.stderr) } else { None };
    let said = cause.map_or_else(|| last.clone(), |cause| format!("{last} ({cause})"));
    match hint(&said, asked) {
        Some(hint) => error.with_stderr(format!("{said}: {hint}")),
        None if said != last => error.with_stderr(said),
        None => error,
    }
}

/// Whether etcdctl says that its connections failed, and of none why.
pub(super) fn is_vague(error: &ProcessError) -> bool {
    let said = cause_in(&error.stderr).unwrap_or_default();
    said.contains(NO_CAUSE) && !said.contains("latest connection error")
}

/// How gRPC says that it has no connection.
const NO_CAUSE: &str = "all SubConns are in TransientFailure";

/// Words of etcd's or of its TLS, and what they mean here.
const MEANINGS: [(&str, &str); 4] = [
    (WRONG_PASSWORD, "the password that was given is not this user's"),
    ("does not look like a TLS handshake", "that port speaks plain http, and the endpoint says https"),
    ("certificate signed by unknown authority", "the server's certificate is not of the authority in cacert"),
    ("no such host", "the endpoint's name is not known on this machine"),
];

/// What Go says of the server's certificate (etcd says nothing of a client's), and what it means where we do not know better.
const OF_THE_SERVER: [(&str, &str); 3] = [
    ("certificate has expired or is not yet valid", "that is the server's certificate, or its authority's"),
    ("cannot validate certificate for", "the server's certificate does not name this endpoint"),
    ("certificate is valid for", "the server's certificate does not name this endpoint"),
];

/// How etcd says that a user may not do this. Whoever shows a certificate and gives no password is the user of its name.
const DENIED: [&str; 2] = ["auth: permission denied", "etcdserver: permission denied"];
/// How etcd says that it does not know this user, or not with this password.
const WRONG_PASSWORD: &str = "invalid user ID or password";
/// How etcd says that nobody has logged in.
const NOBODY: &str = "user name is empty";
/// Whether an error is etcd's word that whoever asks is nobody to it, or may not know: etcd itself is well.
pub fn is_permission_denied(error: &anyhow::Error) -> bool {
    let said = format!("{error:#}");
    said.contains(NOBODY) || DENIED.iter().any(|words| said.contains(words))
}

/// Whether an error is etcd's refusal of the user or password it was given: etcd itself is well.
pub fn is_auth_failure(error: &anyhow::Error) -> bool {
    is_permission_denied(error) || format!("{error:#}").contains(WRONG_PASSWORD)
}

/// How to log in.
const PASSWORD: &str =
    "give root's password in ETCDCTL_PASSWORD, or a username and a password-file in a site file";

/// How a server shows that it did not like what it was shown.
const CLOSED: [&str; 7] = [
    "remote error: tls",
    "certificate required",
    "server preface",
    "connection reset",
    "broken pipe",
    "EOF",
    "closed",
];

fn hint(said: &str, asked: &Asked<'_>) -> Option<String> {
    if let Some((_, meaning)) = MEANINGS.iter().find(|(words, _)| said.contains(words)) {
        return Some((*meaning).to_owned());
    }
    if said.contains(NOBODY) {
        return Some(format!("authentication is on; {PASSWORD}"));
    }
    if let Some((_, meaning)) = OF_THE_SERVER.iter().find(|(words, _)| said.contains(words)) {
        return Some(asked.trouble.server.clone().unwrap_or_else(|| (*meaning).to_owned()));
    }
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&DENIED) {
        let who = match asked.saves {
            true => "etcd gives a snapshot to its user root alone",
            false => "this user may not do that, and etcd's user root may",
        };
        return Some(format!("{who}; {PASSWORD}"));
    }
    if !says(&CLOSED) && !says(&[NO_CAUSE]) && !said.ends_with("context deadline exceeded") {
        return None;
    }
    if let Some(trouble) = asked.trouble.server.as_ref().or(asked.trouble.client.as_ref()) {
        return Some(trouble.clone());
    }
    let guess = match asked.endpoint.split_once("://")?.0 {
        "http" => "that port may speak TLS, and the endpoint says http",
        // Its own answer, that this is no TLS, may be lost when it hangs up.
        "https" if says(&["handshake failed: EOF", "handshake failed: read"]) => {
            "that port may speak plain http, and the endpoint says https"
        }
        "https" if !asked.shows_certificate => {
            "etcd may want a client's certificate and key, and none is given"
        }
        _ => return None,
    };
    says(&CLOSED).then(|| guess.to_owned())
}

fn cause_in(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        error: String,
    }
    let errors = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let cause = errors.map(|line| line.error).min_by_key(|error| vagueness(error))?;
    Some(cause.rsplit("latest balancer error: ").next().unwrap_or(&cause).to_owned())
}

/// How little an error says: one attempt of several tells the cause, and the others that there were others.
fn vagueness(error: &str) -> usize {
    let says = |words: &[&str]| words.iter().any(|word| error.contains(word));
    match error {
        _ if says(&["x509", "certificate", "tls: "]) => 0,
        _ if says(&["refused", "no such host", "EOF", "i/o timeout"]) => 1,
        _ if says(&[NO_CAUSE]) => 3,
        _ => 2,
    }
}

/// Reads a text as a failed tool's words: for the fuzzer.
#[cfg(feature = "fuzz")]
pub(crate) fn read_as_all_messages(text: &str) {
    let said = cause_in(text).unwrap_or_else(|| text.to_owned());
    for endpoint in ["https://127.0.0.1:2379", "http://127.0.0.1:2379", ""] {
        let asked = Asked {
            endpoint,
            shows_certificate: false,
            saves: false,
            trouble: &CertificateProblems::default(),
        };
        let _ = hint(&said, &asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::process::Program;

    #[test]
    fn the_cause_of_a_deadline_is_found_in_the_log() {
        let log = r#"{"level":"warn","msg":"retrying","error":"rpc error: code = DeadlineExceeded desc = latest balancer error: connection error: desc = \"transport: authentication handshake failed: x509: certificate signed by unknown authority\""}
Error: context deadline exceeded
"#;
        let vague = r#"{"error":"rpc error: code = DeadlineExceeded desc = latest balancer error: all SubConns are in TransientFailure"}"#;
        let cause = cause_in(&format!("{vague}\n{log}{vague}\n")).unwrap();
        assert!(cause.starts_with("connection error: desc = \"transport: authentication"), "{cause}");
        assert_eq!(cause_in("Error: context deadline exceeded"), None);
    }

    #[test]
    fn a_failed_connection_without_a_cause_is_vague() {
        for (said, vague) in [
            ("latest balancer error: all SubConns are in TransientFailure", true),
            (
                "all SubConns are in TransientFailure, latest connection error: connection error: x509: x",
                false,
            ),
            ("latest balancer error: connection error: EOF", false),
        ] {
            let log = format!("{{\"error\":\"{said}\"}}\nError: context deadline exceeded\n");
            let ended = Program::new("sh").args(["-c", "printf '%s' \"$0\" >&2; exit 2", &log]).run();
            assert_eq!(is_vague(&ended.unwrap_err()), vague, "{said}");
        }
    }

    #[test]
    fn that_a_snapshot_is_roots_alone_is_said_of_a_snapshot_only() {
        let told = |saves| {
            let said = if saves {
                "Error: rpc error: code = PermissionDenied desc = auth: permission denied"
            } else {
                "Error: etcdserver: permission denied"
            };
            let trouble = &CertificateProblems::default();
            let asked = Asked { endpoint: "http://a", shows_certificate: false, saves, trouble };
            super::hint(said, &asked).unwrap()
        };
        assert!(told(true).contains("a snapshot to its user root alone"));
        assert!(!told(false).contains("snapshot") && told(false).contains("etcd's user root may"));
    }

    #[test]
    fn that_a_user_may_not_know_is_a_sign_of_life() {
        for (said, alive) in [
            ("etcdserver: user name is empty: authentication is on", true),
            ("etcdserver: permission denied: this user may not do that", true),
            ("auth: permission denied", true),
            // The system's own words, of a file.
            ("open /etc/etcd/tls/client.key: permission denied", false),
            ("context deadline exceeded", false),
            ("invalid user ID or password", false),
        ] {
            let error = anyhow::anyhow!(said).context("asking etcd for its members");
            assert_eq!(is_permission_denied(&error), alive, "{said}");
        }
    }

    #[test]
    fn a_closed_connection_is_put_to_the_certificate_and_nothing_else_is() {
        let expired = Some("x.crt expired");
        let closed = "Error: x (error reading server preface: EOF)";
        for (said, endpoint, trouble, hint) in [
            (closed, "https://a", expired, expired),
            (
                closed,
                "https://a",
                None,
                Some("etcd may want a client's certificate and key, and none is given"),
            ),
            (
                "(connection error: desc = \"transport: authentication handshake failed: read tcp \
                 127.0.0.1:45428->127.0.0.1:25125: read: connection reset by peer\")",
                "https://a",
                None,
                Some("that port may speak plain http, and the endpoint says https"),
            ),
            (closed, "http://a", None, Some("that port may speak TLS, and the endpoint says http")),
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
            let trouble = &CertificateProblems { client: trouble.map(str::to_owned), server: None };
            let asked = Asked { endpoint, shows_certificate: false, saves: false, trouble };
            assert_eq!(super::hint(said, &asked).as_deref(), hint, "{said} {endpoint}");
        }
    }
}
