//! etcd's quota: restore refuses a database that exceeds it before it stops etcd.

use test_case::test_case;

use crate::common::world::{Version, World};
use crate::restore::from;

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_database_larger_than_the_quota(version: Version) {
    let source = World::plain(version);
    for number in 0..3 {
        source.put_bytes(&format!("/large/{number}"), &vec![b'x'; 1_000_000]);
    }
    let archive = source.saved();
    let world = World::plain(version);
    restarted_with(&world, "--quota-backend-bytes=2097152");
    world.put(0..3, "small");
    let (pid, words) = (world.pid(), [from(&archive), world.to_target(), "allow-foreign=true".to_owned()]);
    let mut setting = String::new();
    for plan in ["plan=true", "plan=false"] {
        let out = world.restore(&[&words[0], &words[1], &words[2], plan]);
        assert!(
            out.stderr
                .contains("quota is 2.0M (the flag --quota-backend-bytes on the command line of process "),
            "{}",
            out.describe()
        );
        let next =
            out.stderr.split("Next: set the flag ").nth(1).unwrap_or_else(|| panic!("{}", out.describe()));
        next.split(' ').next().unwrap().clone_into(&mut setting);
        out.refused(&["NOSPACE"]);
    }
    assert_eq!(world.pid(), pid);
    restarted_with(&world, &setting);
    let _ = world.restore(&[&words[0], &words[1], &words[2]]).completed();
    world.put(0..3, "after");
    assert_eq!(world.etcdctl(&["alarm", "list"]), "");
}

/// etcd uses the last value of a repeated flag.
fn restarted_with(world: &World, flag: &str) {
    world.stop();
    world.add_option(flag);
    world.start();
}
