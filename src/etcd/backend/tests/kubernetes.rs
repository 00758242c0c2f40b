//! Databases with the values of a Kubernetes API server.

use super::compare::store;
use super::*;
use crate::etcd::protobuf::tests::{bytes, integer};

/// A record of the key `a` with this value, as etcd encodes it.
fn record(value: &str) -> String {
    String::from_utf8([bytes(1, b"a"), integer(2, 7), integer(3, 7), bytes(5, value.as_bytes())].concat())
        .unwrap()
}

/// Returns the Kubernetes data in a database with these values: the two readers agree on it.
fn kubernetes(values: &[&str], compactions: [Option<u64>; 2]) -> Option<KubernetesData> {
    let records: Vec<String> = values.iter().map(|value| record(value)).collect();
    let records: Vec<_> =
        std::iter::zip(2.., &records).map(|(main, record)| (main, 0, record.as_str())).collect();
    let file = store(&records, compactions);
    let backend = Backend::open(file.path()).unwrap();
    let (_, found) = backend.content_and_kubernetes(&|| Ok(())).unwrap();
    assert_eq!(backend.kubernetes(&|| Ok(())).unwrap(), found);
    found
}

/// The names of the encryption keys, or `None` if there is no Kubernetes data.
fn keys(values: &[&str]) -> Option<Vec<String>> {
    let found = kubernetes(values, [None, None]);
    assert_eq!(kubernetes(values, [Some(3), None]), found, "a compaction is in progress");
    assert_eq!(kubernetes(values, [Some(3), Some(3)]), found, "some records are compacted");
    found.map(|data| data.encryption_keys.into_iter().collect())
}

#[test]
fn finds_the_encryption_keys_of_a_kubernetes_api_server() {
    assert_eq!(keys(&["value", "{}", ""]), None);
    assert_eq!(keys(&["{}", "k8s\0\n\x0c"]), Some(Vec::new()));
    let values =
        ["k8s\0", "k8s:enc:aescbc:v1:key-2:xyz", "k8s:enc:secretbox:v1:b:", "k8s:enc:aescbc:v1:key-2:uvw"];
    assert_eq!(keys(&values), Some(vec!["aescbc:v1:key-2".to_owned(), "secretbox:v1:b".to_owned()]));
    assert_eq!(keys(&["k8s:enc:kms:v2:vault_1.x:y"]), Some(vec!["kms:v2:vault_1.x".to_owned()]));
}

#[test]
fn reports_nothing_of_a_value_that_only_looks_encrypted() {
    let long = format!("k8s:enc:aescbc:v1:{}:", "n".repeat(90));
    for value in [
        "k8s:enc:",
        "k8s:enc:aescbc:v1:canary",
        "k8s:enc:canary:v1:key:",
        "k8s:enc:aescbc:v1:canary canary:",
        &long,
    ] {
        assert_eq!(keys(&[value]), Some(vec!["unknown".to_owned()]), "{value}");
    }
    let many: Vec<String> = (0..100).map(|n| format!("k8s:enc:aescbc:v1:{n}:")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(kubernetes(&many, [None, None]).unwrap().encryption_keys.len(), 32);
}
