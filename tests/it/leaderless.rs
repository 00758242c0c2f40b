//! A member whose cluster has lost its majority.

use std::thread::sleep;
use std::time::{Duration, Instant};

use etcd_backup::etcd::client::Client;
use etcd_backup::etcd::tls::Tls;
use test_case::test_case;

use crate::common::cluster;
use crate::common::world::{Version, World};

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn is_recognized_before_a_read_times_out(version: Version) {
    let world = World::plain(version);
    let etcdctl = version.bin_dir().join("etcdctl");
    let client = Client::of_endpoint(&etcdctl, &world.endpoint(), Tls::default(), None);
    assert_eq!(client.current_members().unwrap().members.len(), 1);
    cluster::lose_quorum(&world);
    let deadline = Instant::now() + Duration::from_secs(20);
    while client.status().unwrap().has_leader {
        assert!(Instant::now() < deadline, "the member still has a leader");
        sleep(Duration::from_millis(50));
    }
    let began = Instant::now();
    let error = format!("{:#}", client.current_members().unwrap_err());
    assert!(error.contains("has no leader"), "{error}");
    // A read takes 5 s to fail.
    assert!(began.elapsed() < Duration::from_secs(4), "it took {:?}", began.elapsed());
}
