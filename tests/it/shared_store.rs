//! Clusters that were restored from each other's archives and share a destination: which archives each may
//! delete, and which one is `latest`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::client::assert_same;
use crate::common::command::{Out, Run};
use crate::common::fs_util::names;
use crate::common::world::{Version, World};
use crate::list_snapshots::program;

/// A destination that several worlds share. The members of all worlds have the same name.
struct Shared(tempfile::TempDir);

impl Shared {
    /// Creates settings that keep only the newest archive in the destination and in each target.
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let text = format!(
            "keep: {{last: 1}}\ndestinations:\n  shared:\n    directory: {}\n    mount: none\n    keep: {{last: 1}}\n",
            dir.path().join("archives").display()
        );
        fs::create_dir(dir.path().join("archives")).unwrap();
        fs::write(dir.path().join("backup.yaml"), text).unwrap();
        Self(dir)
    }

    fn run(&self, world: &World, action: &str, words: &[&str]) -> Out {
        let target = world.to_target();
        let mut command = world.action(program(action), &[&[&*target], words].concat());
        command.env("ETCD_BACKUP", self.0.path().join("backup.yaml"));
        Run::start(command, &world.path("runs")).finish()
    }

    /// Takes `many` snapshots of different revisions.
    fn save(&self, world: &World, many: usize) {
        for _ in 0..many {
            world.put(900..901, "once more");
            let _ = self.run(world, "snapshot", &[]).completed();
        }
    }

    /// Returns the archives of this cluster in the destination.
    fn archives_of(&self, cluster: &str) -> Vec<String> {
        let folder: PathBuf = self.0.path().join("archives").join(cluster).join("m1");
        let all = if folder.exists() { names(&folder) } else { Vec::new() };
        all.into_iter().filter(|name| name.ends_with(".tar.gz")).collect()
    }

    fn listed(&self, world: &World) -> Vec<Value> {
        let all = self.run(world, "list-snapshots", &["format=json"]).completed().get("snapshots");
        serde_json::from_str(&all).unwrap()
    }
}

fn cluster(world: &World) -> String {
    format!("{:x}", world.cluster_id())
}

#[test]
fn a_clone_does_not_prune_archives_of_its_source_cluster() {
    let (shared, production) = (Shared::new(), World::plain(Version::V35));
    production.fill();
    shared.save(&production, 3);
    let taken = shared.archives_of(&cluster(&production));
    assert_eq!(taken.len(), 3);

    // A unit without data accepts the archive. A unit with data needs `allow-foreign=true`.
    let (fresh, used) = (World::plain(Version::V35), World::plain(Version::V35));
    shared.save(&used, 1);
    let before = cluster(&used);
    let from = format!("from=shared/{}/m1/latest", cluster(&production));
    for (clone, words) in [(&fresh, vec![&*from]), (&used, vec![&*from, "allow-foreign=true"])] {
        let _ = shared.run(clone, "restore", &words).completed();
        assert_same(&clone.dump(), &production.dump(), "after the restore from production");
        // Until the clone has its own archive, `latest` is the archive that it was restored from.
        let _ = shared
            .run(clone, "restore", &["from=shared/latest", "skip-backup=true", "plan=true"])
            .completed();
        for _ in 0..2 {
            clone.put(0..1, "the clone's own");
            let _ = shared.run(clone, "backup", &[]).completed();
        }
        assert_eq!(
            shared.archives_of(&cluster(&production)),
            taken,
            "the clone deleted archives of production"
        );
        assert_eq!(shared.archives_of(&cluster(clone)).len(), 1, "the clone's archives were not pruned");
        let planned = shared.run(clone, "restore", &["from=shared/latest", "plan=true"]).completed();
        let latest = planned.get("plan.snapshot");
        assert!(latest.contains(&cluster(clone)), "latest is not an archive of the clone: {latest}");
    }
    assert!(
        shared.archives_of(&before).is_empty(),
        "archives of the clone's earlier cluster id were not pruned"
    );

    // Production prunes its own archives, even if clones exist.
    let _ = shared.run(&production, "backup", &[]).completed();
    assert_eq!(shared.archives_of(&cluster(&production)).len(), 1);
    assert_eq!(shared.archives_of(&cluster(&fresh)).len(), 1);
}

#[test]
fn a_new_machine_prunes_archives_of_the_named_old_cluster() {
    let (shared, lost) = (Shared::new(), World::plain(Version::V35));
    lost.fill();
    shared.save(&lost, 3);
    let old = cluster(&lost);
    drop(lost);
    let new = World::plain(Version::V35);
    let _ = shared.run(&new, "restore", &["from=shared/latest", "skip-backup=true"]).completed();
    let _ = shared.run(&new, "backup", &[]).completed();
    assert_eq!(shared.archives_of(&old).len(), 3);
    let done = shared.run(&new, "prune-snapshots", &[&format!("cluster={old}")]).completed();
    assert_eq!(done.get("destinations.shared"), "2 deleted, 2 kept");
    assert_eq!(shared.archives_of(&old).len(), 1);
}

#[test]
fn the_list_and_prune_agree_after_a_restore() {
    let (shared, world) = (Shared::new(), World::plain(Version::V35));
    world.fill();
    shared.save(&world, 2);
    let _ = shared.run(&world, "restore", &["from=latest", "skip-backup=true"]).completed();
    shared.save(&world, 1);
    let planned = shared.run(&world, "prune-snapshots", &["plan=true"]).completed();
    let listed = shared.listed(&world);
    assert_eq!(planned.get("would-delete"), "4", "{}", planned.get("snapshots"));
    let unkept = listed.iter().filter(|one| one["kept_because"].as_array().unwrap().is_empty()).count();
    assert_eq!(unkept, 4, "{listed:#?}");
    // Listing works without a running etcd.
    world.stop();
    assert_eq!(shared.listed(&world), listed);
    assert!(Path::new(&world.target()).exists());
}
