//! What happens to a cluster when its etcd is restored: takes a snapshot, changes objects, restores in several ways, and
//! measures how long it takes until every view of the API server is right again.
//!
//! A view that is never right again is a failure, unless the revision went back: then it is measured how wrong it is, and
//! the advice of `restore` is followed.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::cluster::{Cluster, now};
use super::observation::VIEWS;
use super::table::{Row, Time};

const APP: &str = "app";
/// The namespaces that are deleted and created after the snapshot.
const OLD: &str = "old";
const NEW: &str = "new";
const CONFIG_MAPS: usize = 120;
/// How many of them are deleted after the snapshot.
const DELETED: usize = 40;
const SECRETS: usize = 60;
const DEPLOYMENTS: usize = 3;
const REPLICAS: usize = 5;
/// The encryption key, as etcd-backup names it.
const ENCRYPTION_KEY: &str = "aescbc:v1:key1";
/// How long everything must be right before a step begins, in milliseconds.
const SETTLED: i64 = 3000;
/// How long stale views are observed after a restore that lowered the revision.
const STALE_FOR: Duration = Duration::from_secs(20);

/// A finished restore.
struct Restored {
    /// When it began and ended, in milliseconds since 1970.
    began: i64,
    ended: i64,
    downtime: f64,
    /// Whether the revision is higher than any that clients saw.
    is_raised: bool,
    /// The revision that a watch had reached before it.
    watched: String,
}

/// Runs the whole story on a new cluster, and returns the rows of the table.
pub fn run(cluster: &Cluster) -> Result<Vec<Row>> {
    fill(cluster)?;
    cluster.start_observer()?;
    settle(cluster)?;
    // The value is not text: this form quotes it.
    let secret =
        cluster.etcdctl(&["get", &format!("/registry/secrets/{APP}/secret-0"), "--write-out=fields"])?;
    ensure!(secret.contains("\"k8s:enc:aescbc:v1:key1:"), "the Secrets are not encrypted");
    let saved = cluster.etcd_backup(&["snapshot"])?;
    let archive = saved["snapshot"]["path"].as_str().context("no path of the snapshot")?;
    ensure!(saved["snapshot"]["kubernetes"]["encryption_keys"] == json!([ENCRYPTION_KEY]), "{saved}");
    let objects = objects(cluster)?;

    println!("  import");
    let mut rows = vec![import_deleted(cluster, archive, &objects)?];
    for (way, changes, options) in [
        ("default", true, &[][..]),
        ("default, a second time in a row", false, &[]),
        ("`bump-revision=off`", true, &["--bump-revision=off"]),
        ("default, after `off`", true, &[]),
    ] {
        println!("  {way}");
        if changes {
            change(cluster)?;
        }
        let restored = restore(cluster, archive, options)?;
        rows.extend(measure(cluster, way, &restored).with_context(|| format!("restoring: {way}"))?);
        match check_objects(cluster, &objects) {
            // Controllers have acted on the stale objects.
            Err(error) if !restored.is_raised => note(&mut rows, &format!("{error:#}")),
            checked => checked.with_context(|| format!("restoring: {way}"))?,
        }
    }
    println!("  careful");
    change(cluster)?;
    rows.push(restore_carefully(cluster, archive)?);
    check_objects(cluster, &objects)?;
    Ok(rows)
}

/// Adds a remark to the last row.
fn note(rows: &mut [Row], remark: &str) {
    if let Some(row) = rows.last_mut() {
        row.way += &format!("; then {remark}");
    }
}

/// Creates some hundred objects.
fn fill(cluster: &Cluster) -> Result<()> {
    let mut all: Vec<Value> = [APP, OLD].map(namespace).to_vec();
    all.extend((0..CONFIG_MAPS).map(|n| config_map(APP, n, "1")));
    all.extend((0..20).map(|n| config_map(OLD, n, "1")));
    all.extend((0..SECRETS).map(|n| {
        let metadata = json!({"name": format!("secret-{n}"), "namespace": APP});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"password": format!("hidden {n}")}})
    }));
    all.extend((0..DEPLOYMENTS).map(|n| deployment(&format!("web-{n}"), REPLICAS)));
    cluster.create(&all)?;
    let pods = DEPLOYMENTS * REPLICAS;
    cluster.wait_until("all pods exist", || count_pods(cluster, "web-").is_ok_and(|count| count == pods))
}

/// Changes, creates and deletes objects and namespaces.
fn change(cluster: &Cluster) -> Result<()> {
    delete_config_maps(cluster)?;
    cluster.kubectl(&["label", "configmap", "--all", "--namespace", APP, "--overwrite", "changed=yes"])?;
    cluster.kubectl(&["scale", "deployment", "web-0", "--namespace", APP, "--replicas=2"])?;
    cluster.kubectl(&["delete", "deployment", "web-1", "--namespace", APP])?;
    cluster.kubectl(&["delete", "namespace", OLD])?;
    let new: Vec<Value> =
        [namespace(NEW)].into_iter().chain((0..30).map(|n| config_map(NEW, n, "2"))).collect();
    cluster.create(&new)?;
    settle(cluster)
}

fn delete_config_maps(cluster: &Cluster) -> Result<()> {
    let names: Vec<String> = (0..DELETED).map(|n| format!("map-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    cluster.kubectl(&[&["delete", "configmap", "--namespace", APP], &names[..]].concat()).map(drop)
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn config_map(namespace: &str, n: usize, data: &str) -> Value {
    let metadata = json!({"name": format!("map-{n}"), "namespace": namespace});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"n": data}})
}

fn deployment(name: &str, replicas: usize) -> Value {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": APP},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "none"}]},
            },
        },
    })
}

/// Counts the pods in etcd with names that begin with `prefix`.
fn count_pods(cluster: &Cluster, prefix: &str) -> Result<usize> {
    let key = format!("/registry/pods/{APP}/{prefix}");
    let keys = cluster.etcdctl(&["get", "--prefix", "--keys-only", &key])?;
    Ok(keys.lines().filter(|line| !line.is_empty()).count())
}

/// Returns the objects that a restore must bring back, as the API server shows them.
fn objects(cluster: &Cluster) -> Result<Value> {
    let of = |namespace| {
        let words = ["get", "configmaps,secrets", "--namespace", namespace, "--output=json"];
        let list: Value =
            serde_json::from_str(&cluster.kubectl(&words)?).context("kubectl printed no JSON")?;
        anyhow::Ok(list["items"].clone())
    };
    Ok(json!([of(APP)?, of(OLD)?]))
}

/// Checks that the objects are those of the snapshot, and that a namespace that the snapshot lacks takes no object.
fn check_objects(cluster: &Cluster, wanted: &Value) -> Result<()> {
    ensure!(objects(cluster)? == *wanted, "the API server shows other objects than before the snapshot");
    let refused = cluster.kubectl(&["create", "configmap", "intruder", "--namespace", NEW]);
    let error = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(error.contains("not found"), "a namespace that was restored away took an object: {error}");
    Ok(())
}

/// Deletes objects, puts them back with `import`, and measures until every view shows them again.
fn import_deleted(cluster: &Cluster, archive: &str, wanted: &Value) -> Result<Row> {
    let deployment = format!("web-{}", DEPLOYMENTS - 1);
    delete_config_maps(cluster)?;
    cluster.kubectl(&["delete", "secret", "secret-0", "--namespace", APP])?;
    cluster.kubectl(&["delete", "deployment", &deployment, "--namespace", APP])?;
    let pods = || count_pods(cluster, &deployment).unwrap_or(usize::MAX);
    cluster.wait_until("the pods of the deployment are gone", || pods() == 0)?;
    settle(cluster)?;
    let began = now()?;
    let imported = [
        ("configmaps", "map-", DELETED),
        ("secrets", "secret-0", 1),
        ("deployments", deployment.as_str(), 1),
    ];
    for (kind, name, count) in imported {
        let key = format!("/registry/{kind}/{APP}/{name}");
        let done =
            cluster.etcd_backup(&["import", archive, "--prefix", &key, "--only-missing", "--apply"])?;
        ensure!(done["put"] == count, "{key}: {done}");
    }
    let ended = now()?;
    cluster.wait_until("the pods of the imported deployment exist", || pods() == REPLICAS)?;
    let row = settled_row(cluster, "deleted objects imported; nothing is restored", began, ended)?;
    let same = without_versions(objects(cluster)?) == without_versions(wanted.clone());
    ensure!(same, "after the import, the API server shows other objects than before the snapshot");
    Ok(row)
}

/// Removes the resource version of each object. An import cannot bring it back.
fn without_versions(mut lists: Value) -> Value {
    let lists_of_objects = lists.as_array_mut().into_iter().flatten();
    for object in lists_of_objects.filter_map(Value::as_array_mut).flatten() {
        object["metadata"]["resourceVersion"].take();
    }
    lists
}

/// Waits until all views have been right for some seconds.
fn settle(cluster: &Cluster) -> Result<()> {
    settle_since(cluster, now()?, &VIEWS)
}

fn settle_since(cluster: &Cluster, from: i64, checks: &[&str]) -> Result<()> {
    cluster.wait_until("every view of the API server equals etcd", || {
        let (Ok(observation), Ok(now)) = (cluster.observation(), now()) else { return false };
        checks.iter().all(|check| observation.has_been_right(check, from, now - SETTLED))
    })
}

fn restore(cluster: &Cluster, archive: &str, options: &[&str]) -> Result<Restored> {
    let list: Value =
        serde_json::from_str(&cluster.kubectl(&["get", "--raw", "/api/v1/configmaps?limit=1"])?)?;
    let watched = list["metadata"]["resourceVersion"].as_str().context("the list has no version")?.to_owned();
    let began = now()?;
    let done = cluster.etcd_backup(&[&["restore", archive], options].concat())?;
    let ended = now()?;
    let notes = done["notes"].to_string();
    ensure!(notes.contains(ENCRYPTION_KEY) && notes.contains("Events"), "the notes are {notes}");
    let is_raised = done["restored"]["bumped_by"].as_i64().unwrap_or(0) > 0;
    let warnings = done["warnings"].to_string();
    ensure!(is_raised != warnings.contains("controllers act on them"), "the warnings are {warnings}");
    let downtime = done["restored"]["downtime_seconds"].as_f64().context("no downtime")?;
    Ok(Restored { began, ended, downtime, is_raised, watched })
}

/// Measures everything after a restore under a live API server. If the revision went back, follows the advice and
/// measures again.
fn measure(cluster: &Cluster, way: &str, restored: &Restored) -> Result<Vec<Row>> {
    if restored.is_raised {
        let row = settled_row(cluster, way, restored.began, restored.ended)?;
        // Right after the restore, the API server may still answer from the cache of before.
        let watch = old_watch(cluster, &restored.watched)?;
        return Ok(vec![Row { downtime: Some(restored.downtime), watch, ..row }]);
    }
    std::thread::sleep(STALE_FOR);
    crate::interrupt::check()?;
    let watch = old_watch(cluster, &restored.watched)?;
    let observation = cluster.observation()?;
    let stale = |check| match observation.last_error(check, restored.ended) {
        Some(error) => Time::Wrong(error.to_owned()),
        None => Time::of(observation.right_since(check, restored.ended), restored.ended),
    };
    let stale = Row {
        way: format!("{way}; {} s later, nothing restarted", STALE_FOR.as_secs()),
        downtime: Some(restored.downtime),
        views: VIEWS.map(stale),
        write_gap: Some(observation.longest_gap("write", restored.began)),
        controllers: Time::NotMeasured,
        events: stale("event"),
        watch,
    };
    cluster.service("stop", &["kube-controller-manager", "observer"])?;
    cluster.service("restart", &["kube-apiserver"])?;
    let began = now()?;
    cluster.service("start", &["kube-controller-manager", "observer"])?;
    let cured = settled_row(cluster, &format!("{way}; restarted as advised"), began, began)?;
    Ok(vec![stale, cured])
}

/// Waits until everything is right, and returns how long after `zero` each part was, for what happened since `from`.
fn settled_row(cluster: &Cluster, way: &str, from: i64, zero: i64) -> Result<Row> {
    let controllers = controllers_work(cluster, zero)?;
    settle_since(cluster, from, &[&VIEWS[..], &["write", "event"]].concat())?;
    let observation = cluster.observation()?;
    let cell = |check| Time::of(observation.right_since(check, from), zero);
    Ok(Row {
        way: way.to_owned(),
        downtime: None,
        views: VIEWS.map(cell),
        write_gap: Some(observation.longest_gap("write", from)),
        controllers,
        events: cell("event"),
        watch: None,
    })
}

/// Creates a deployment, and returns how long after `zero` the controllers had created its pods.
fn controllers_work(cluster: &Cluster, zero: i64) -> Result<Time> {
    let name = format!("probe-{zero}");
    let object = deployment(&name, 2);
    cluster.wait_until("a deployment can be created", || {
        cluster.create(std::slice::from_ref(&object)).is_ok()
    })?;
    cluster.wait_until("the controllers create pods", || {
        count_pods(cluster, &name).is_ok_and(|count| count == 2)
    })?;
    Ok(Time::of(Some(now()?), zero))
}

/// Whether a watch from a revision of before the restore ends with the error that makes clients list again: at once, or
/// as its first event.
fn old_watch(cluster: &Cluster, revision: &str) -> Result<Option<bool>> {
    let path = format!("/api/v1/configmaps?watch=1&resourceVersion={revision}&timeoutSeconds=2");
    let has_ended = Cell::default();
    cluster.wait_until("a watch can be started", || match cluster.kubectl(&["get", "--raw", &path]) {
        Ok(events) => {
            has_ended.set(events.contains("\"code\":410"));
            true
        }
        Err(error) => {
            has_ended.set(format!("{error:#}").contains("too old resource version"));
            has_ended.get()
        }
    })?;
    Ok(Some(has_ended.get()))
}

/// Stops the clients of etcd first, restores, and starts them again.
fn restore_carefully(cluster: &Cluster, archive: &str) -> Result<Row> {
    let restored = {
        let list = ["kube-controller-manager", "observer", "kube-apiserver"];
        cluster.service("stop", &list)?;
        let done = cluster.etcd_backup(&["restore", archive])?;
        done["restored"]["downtime_seconds"].as_f64().context("no downtime")?
    };
    let began = now()?;
    cluster.service("start", &["kube-apiserver"])?;
    cluster.service("start", &["kube-controller-manager", "observer"])?;
    let row = settled_row(cluster, "everything stopped first; seconds after its start", began, began)?;
    Ok(Row { downtime: Some(restored), ..row })
}
