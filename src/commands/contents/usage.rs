//! Counts keys and bytes by prefix: for Kubernetes by resource and namespace, otherwise by the first part of the path.
//!
//! Must never hold more than a bounded number of prefixes: keys that are in none of them are counted together.

use crate::etcd::backend::KeyVersion;
use crate::etcd::key_text::printable;
use serde::Serialize;
use std::collections::BTreeMap;

/// The first parts of the keys of Kubernetes and OpenShift (`--etcd-prefix` of the API server).
const KUBERNETES: [&[u8]; 3] = [b"registry", b"kubernetes.io", b"openshift.io"];
/// The most prefixes, and the most namespaces of all prefixes together.
const MAX_GROUPS: usize = 10_000;
/// The longest prefix or namespace in bytes.
const MAX_NAME: usize = 300;
/// The number of the largest keys that are shown.
const LARGEST: usize = 20;

/// A number of keys, and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Usage {
    /// The number of keys.
    pub keys: u64,
    /// The size of these keys and their values in bytes.
    pub size_bytes: u64,
}

/// The usage of a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PrefixUsage {
    /// The prefix. Empty for keys without a slash.
    pub prefix: String,
    /// The usage of all its keys.
    #[serde(flatten)]
    pub usage: Usage,
    /// The usage of each namespace, if these are namespaced objects of Kubernetes. The largest first.
    pub namespaces: Vec<NamespaceUsage>,
}

/// The usage of a namespace of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NamespaceUsage {
    /// The namespace.
    pub namespace: String,
    /// The usage of its objects.
    #[serde(flatten)]
    pub usage: Usage,
}

/// One of the largest keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LargeKey {
    /// The key.
    pub key: String,
    /// The size of the key and its value in bytes.
    pub size_bytes: u64,
    /// The revision of its last change.
    pub mod_revision: i64,
}

/// The usage of all keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KeyUsage {
    /// All keys.
    #[serde(flatten)]
    pub total: Usage,
    /// The number of keys with a lease.
    pub with_lease: u64,
    /// The prefixes, the largest first.
    pub prefixes: Vec<PrefixUsage>,
    /// The keys of all other prefixes, if there are more than 10,000 prefixes.
    pub other_prefixes: Option<Usage>,
    /// The namespaces of Kubernetes over all resources, the largest first.
    pub namespaces: Vec<NamespaceUsage>,
    /// The 20 largest keys.
    pub largest: Vec<LargeKey>,
}

impl Usage {
    fn add(&mut self, size: u64) {
        self.keys += 1;
        self.size_bytes += size;
    }
}

/// Adds up the usage of a prefix.
#[derive(Debug, Default)]
struct PrefixCounter {
    usage: Usage,
    namespaces: BTreeMap<Vec<u8>, Usage>,
}

/// Adds up the usage of keys.
#[derive(Debug, Default)]
pub(super) struct UsageCounter {
    total: Usage,
    with_lease: u64,
    prefixes: BTreeMap<Vec<u8>, PrefixCounter>,
    others: Usage,
    namespaces: BTreeMap<Vec<u8>, Usage>,
    /// The number of namespaces of all prefixes.
    pairs: usize,
    largest: Vec<KeyVersion>,
}

fn size(version: &KeyVersion) -> u64 {
    version.value_size.saturating_add(version.key.len() as u64)
}

impl UsageCounter {
    /// Adds a key.
    pub fn add(&mut self, version: KeyVersion) {
        let size = size(&version);
        self.total.add(size);
        self.with_lease += u64::from(version.lease != 0);
        let Place { prefix, namespace } = Place::of(&version.key);
        let has_room = self.prefixes.len() < MAX_GROUPS && prefix.len() <= MAX_NAME;
        if has_room || self.prefixes.contains_key(prefix) {
            let PrefixCounter { usage, namespaces } = self.prefixes.entry(prefix.to_vec()).or_default();
            usage.add(size);
            let namespace = namespace.filter(|name| name.len() <= MAX_NAME);
            if let Some(namespace) = namespace {
                if self.pairs < MAX_GROUPS || namespaces.contains_key(namespace) {
                    self.pairs += usize::from(!namespaces.contains_key(namespace));
                    namespaces.entry(namespace.to_vec()).or_default().add(size);
                }
                if self.namespaces.len() < MAX_GROUPS || self.namespaces.contains_key(namespace) {
                    self.namespaces.entry(namespace.to_vec()).or_default().add(size);
                }
            }
        } else {
            self.others.add(size);
        }
        self.add_largest(version);
    }

    fn add_largest(&mut self, version: KeyVersion) {
        let at = self.largest.partition_point(|known| size(known) >= size(&version));
        if at < LARGEST {
            self.largest.insert(at, version);
            self.largest.truncate(LARGEST);
        }
    }

    /// Returns the usage of the keys that were added.
    pub fn finish(self) -> KeyUsage {
        let prefix = |(prefix, counter): (Vec<u8>, PrefixCounter)| PrefixUsage {
            prefix: printable(&prefix),
            usage: counter.usage,
            namespaces: sorted(counter.namespaces),
        };
        let mut prefixes: Vec<PrefixUsage> = self.prefixes.into_iter().map(prefix).collect();
        prefixes.sort_by_key(|one| std::cmp::Reverse(one.usage.size_bytes));
        let large = |version: KeyVersion| LargeKey {
            size_bytes: size(&version),
            key: printable(&version.key),
            mod_revision: version.mod_revision,
        };
        KeyUsage {
            total: self.total,
            with_lease: self.with_lease,
            prefixes,
            other_prefixes: Some(self.others).filter(|others| others.keys > 0),
            namespaces: sorted(self.namespaces),
            largest: self.largest.into_iter().map(large).collect(),
        }
    }
}

/// Returns the namespaces, the largest first.
fn sorted(namespaces: BTreeMap<Vec<u8>, Usage>) -> Vec<NamespaceUsage> {
    let named = |(name, usage): (Vec<u8>, Usage)| NamespaceUsage { namespace: printable(&name), usage };
    let mut all: Vec<NamespaceUsage> = namespaces.into_iter().map(named).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.usage.size_bytes));
    all
}

/// The group that a key is counted in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'k> {
    /// The prefix, with the slash at its end. Empty for a key without a slash.
    pub prefix: &'k [u8],
    /// The namespace, for an object of Kubernetes in one.
    pub namespace: Option<&'k [u8]>,
}

impl<'k> Place<'k> {
    /// Returns the group of a key. Kubernetes has `/registry/RESOURCE/[NAMESPACE/]NAME`. The resource has two parts if
    /// the first one is an API group, which has a dot, and below `services`.
    pub fn of(key: &'k [u8]) -> Self {
        // The position after each slash, except for one at the beginning.
        let ends: Vec<usize> = key
            .iter()
            .enumerate()
            .filter(|(at, byte)| **byte == b'/' && *at > 0)
            .map(|(at, _)| at + 1)
            .take(5)
            .collect();
        let until = |parts: usize| parts.checked_sub(1).and_then(|at| ends.get(at)).copied();
        let part = |number: usize| {
            let start = if number == 0 { usize::from(key.starts_with(b"/")) } else { until(number)? };
            key.get(start..until(number + 1)?.checked_sub(1)?)
        };
        let Some(root) = part(0) else {
            return Self {
                prefix: key.get(..usize::from(key.starts_with(b"/"))).unwrap_or_default(),
                namespace: None,
            };
        };
        let resource = part(1).filter(|_| KUBERNETES.contains(&root));
        let parts = match resource {
            None => 1,
            Some(group) if group.contains(&b'.') && ends.len() > 2 => 3,
            Some(b"services") if matches!(part(2), Some(b"specs" | b"endpoints")) => 3,
            Some(_) => 2,
        };
        let prefix = until(parts).and_then(|end| key.get(..end)).unwrap_or(key);
        Self { prefix, namespace: resource.and_then(|_| part(parts)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_by_resource_and_namespace_or_by_their_first_part() {
        for (key, prefix, namespace) in [
            ("/registry/pods/default/a", "/registry/pods/", Some("default")),
            ("/registry/minions/node-1", "/registry/minions/", None),
            ("/registry/services/specs/default/a", "/registry/services/specs/", Some("default")),
            ("/registry/services/endpoints/a/b", "/registry/services/endpoints/", Some("a")),
            ("/registry/stable.example.com/tabs/ns/a", "/registry/stable.example.com/tabs/", Some("ns")),
            (
                "/registry/apiregistration.k8s.io/apiservices/v1.",
                "/registry/apiregistration.k8s.io/apiservices/",
                None,
            ),
            ("/registry/health", "/registry/", None),
            ("/kubernetes.io/secrets/ns/a", "/kubernetes.io/secrets/", Some("ns")),
            ("/app/config/a/b", "/app/", None),
            ("app/config", "app/", None),
            ("compact_rev_key", "", None),
            ("/one", "/", None),
            ("//registry/x", "//", None),
            ("/", "/", None),
        ] {
            let expected = Place { prefix: prefix.as_bytes(), namespace: namespace.map(str::as_bytes) };
            assert_eq!(Place::of(key.as_bytes()), expected, "{key}");
        }
    }

    fn key(name: &str, value_size: u64) -> KeyVersion {
        let mut version = KeyVersion::default();
        (version.key, version.value_size) = (name.as_bytes().into(), value_size);
        version
    }

    #[test]
    fn the_sums_agree_and_the_largest_come_first() {
        let mut counter = UsageCounter::default();
        for n in 0..30 {
            counter.add(key(&format!("/registry/pods/{}/{n:02}", ["a", "b"][n % 2]), n as u64));
        }
        counter.add(key("/x/1", 9000));
        let usage = counter.finish();
        assert_eq!(usage.total.keys, 31);
        assert_eq!(usage.prefixes.iter().map(|one| one.usage.keys).sum::<u64>(), 31);
        assert_eq!(usage.prefixes[0].prefix, "/x/");
        assert_eq!(usage.prefixes[1].namespaces.iter().map(|one| one.usage.keys).sum::<u64>(), 30);
        assert_eq!(usage.namespaces[0].namespace, "b");
        assert_eq!((usage.largest.len(), usage.largest[0].key.as_str()), (20, "/x/1"));
        assert_eq!(usage.largest[1].key, "/registry/pods/b/29");
    }

    #[test]
    fn a_flood_of_prefixes_is_counted_together() {
        let mut counter = UsageCounter::default();
        for n in 0..MAX_GROUPS + 7 {
            counter.add(key(&format!("/{n}/a"), 1));
        }
        counter.add(key(&format!("/{}/a", "n".repeat(1000)), 1));
        let usage = counter.finish();
        assert_eq!(usage.prefixes.len(), MAX_GROUPS);
        assert_eq!(usage.other_prefixes.unwrap().keys, 8);
    }
}
