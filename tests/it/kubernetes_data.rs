//! Data that a Kubernetes API server wrote: the encryption keys that it needs, and what a restore means for it. A real
//! API server is in `cargo xtask kubernetes`.

use serde_json::{Value, json};
use test_case::test_case;

use crate::archive::manifest;
use crate::common::world::{Version, World};
use crate::list_snapshots::listed;
use crate::restore::from;

/// An object as the API server writes it, without the fields.
const PLAIN: &[u8] = b"k8s\0\n\x0c\n\x02v1\x12\x06";
/// The ciphertext of an encrypted Secret, which must appear in no output.
const CANARY: &str = "canary-of-a-secret";

fn encrypted(key: &str) -> String {
    format!("k8s:enc:aescbc:v1:{key}:{CANARY}")
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn the_encryption_keys_of_kubernetes_are_recorded_and_restore_reminds_of_them(version: Version) {
    let world = World::plain(version);
    world.put_bytes("/registry/namespaces/default", PLAIN);
    world.put_bytes("/registry/secrets/default/a", encrypted("key-2026").as_bytes());
    let archive = world.saved();
    let recorded = json!({"encryption_keys": ["aescbc:v1:key-2026"]});
    let text = manifest(&world, &archive);
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["kubernetes"], recorded, "{text}");
    assert_eq!(listed(&world)[0]["kubernetes"], recorded);
    assert!(!text.contains(CANARY), "{text}");

    // The key is rotated.
    world.put_bytes("/registry/secrets/default/a", encrypted("key-2027").as_bytes());
    let results = world.restore(&[&from(&archive), "skip-backup=true"]).completed();
    let note = results.get("restore.note");
    let taken = found["taken"].as_str().unwrap();
    for words in ["aescbc:v1:key-2026", taken, "requested lease not found"] {
        assert!(note.contains(words), "{words}: {note}");
    }
    assert!(!note.contains("key-2027") && !note.contains(CANARY), "{note}");
}

#[test]
fn nothing_is_said_about_kubernetes_for_other_data() {
    let world = World::plain(Version::V35);
    world.etcdctl(&["put", "/registry/pods/default/a", "not written by an API server"]);
    let archive = world.saved();
    let found: Value = serde_json::from_str(&manifest(&world, &archive)).unwrap();
    assert_eq!(found.get("kubernetes"), None);
    let plan = world.restore(&[&from(&archive), "skip-backup=true", "plan=true"]).completed();
    assert_eq!(plan.find("restore.note"), None);
    world.put_bytes("/registry/namespaces/default", PLAIN);
    let archive = world.saved();
    let plan = world.restore(&[&from(&archive), "skip-backup=true", "plan=true"]).completed();
    let note = plan.get("restore.note");
    assert!(note.contains("requested lease not found") && !note.contains("encrypt"), "{note}");
}
