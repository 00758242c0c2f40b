//! The commands that look into an archive: one etcd is filled with everything that they show, saved, and
//! stopped. Another one loses keys, and gets them back.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use test_case::test_case;

use crate::archive::unpack;
use crate::common::client::{Data, assert_same};
use crate::common::command::{Out, Run};
use crate::common::gateway::bytes;
use crate::common::world::{Setup, Version, World};
use crate::output_formats::checked;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etcd-backup");
/// The beginning of every value. It must appear in no output.
const CANARY: &str = "canary-of-a-value";

/// Runs `etcd-backup`.
fn run(world: &World, words: &[&str]) -> Out {
    let target = world.to_target();
    let command = world.action(PROGRAM, &[words, &[&target]].concat());
    let out = Run::start(command, &world.path("runs")).finish();
    out.assert_no_panic();
    let shows_a_value = out.stdout.contains(CANARY) || out.stderr.contains(CANARY);
    assert!(!shows_a_value, "a value was printed: {}", out.describe());
    out
}

#[track_caller]
fn text(world: &World, words: &[&str]) -> String {
    let out = run(world, &[words, &["--quiet"]].concat());
    assert_eq!((out.status.code(), &*out.stderr), (Some(0), ""), "{}", out.describe());
    out.stdout
}

#[track_caller]
fn document(world: &World, command: &str, words: &[&str]) -> Value {
    let document = checked(command, run(world, &[&[command, "--json"], words].concat()));
    assert_eq!(document.get("error"), None, "{command} {words:?}");
    document
}

#[track_caller]
fn refusal(world: &World, words: &[&str]) -> String {
    let out = run(world, &[words, &["--quiet"]].concat());
    assert_eq!(out.status.code(), Some(2), "{}", out.describe());
    out.stderr
}

/// An etcd with a history, and the archive of its data.
struct Story {
    world: World,
    archive: PathBuf,
    /// The revision at which `/app/a` had its second value, and was not yet deleted.
    before_deletion: i64,
    /// The revision of the last compaction.
    compacted: i64,
}

impl Story {
    fn new(version: Version) -> Self {
        let world = World::new(Setup { auth: true, ..Setup::plain(version) });
        let put = |key: &str, number: u32| world.put_bytes(key, format!("{CANARY} {number}").as_bytes());
        put("/app/old", 1);
        world.etcdctl(&["del", "/app/old"]);
        put("/app/a", 1);
        let compacted = world.revision();
        world.etcdctl(&["compact", &compacted.to_string()]);
        put("/app/a", 2);
        let before_deletion = world.revision();
        world.etcdctl(&["del", "/app/a"]);
        put("/app/a", 3);
        put("/registry/configmaps/default/one", 4);
        put("/registry/configmaps/kube-system/two", 5);
        put("/registry/minions/node-1", 6);
        world.put_bytes("odd \\ key \u{1b}[31mü", &[CANARY.as_bytes(), &vec![b'x'; 5000]].concat());
        let lease = world.etcdctl(&["lease", "grant", "3600"]);
        let lease = lease.split(' ').nth(1).unwrap();
        world.etcdctl(&["put", "/app/leased", CANARY, "--lease", lease]);
        world.etcdctl(&["del", "/registry/minions/node-1"]);
        world.etcdctl(&["role", "add", "reader"]);
        world.etcdctl(&["user", "add", "alice:canary-of-alice"]);
        world.etcdctl(&["user", "grant-role", "alice", "reader"]);
        world.stop();
        world.add_option("--quota-backend-bytes=20000");
        world.start();
        let full = world.etcdctl_command(&["put", "/app/b", CANARY]).output().unwrap();
        assert!(!full.status.success(), "etcd has a NOSPACE alarm");
        world.await_storage_version();
        let archive = world.saved();
        world.stop();
        Self { world, archive, before_deletion, compacted }
    }

    fn archive(&self) -> &str {
        self.archive.to_str().unwrap()
    }
}

/// The key that is not text, as it is printed.
const ODD: &str = r"odd \\ key \x1b[31m\xc3\xbc";

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::Newest; "newest_etcd")]
fn the_contents_of_an_archive_are_shown_without_etcd(version: Version) {
    let story = Story::new(version);
    shows_everything_but_values(&story, version);
    lists_keys(&story);
    gets_values_and_lists_their_history(&story);
    refuses_what_is_not_in_the_archive(&story);
    let left: Vec<_> =
        std::fs::read_dir(story.world.target()).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_str().unwrap().starts_with(".etcd-snapshot-")), "{left:?}");
}

fn shows_everything_but_values(story: &Story, version: Version) {
    let Story { world, .. } = story;
    let shown = &document(world, "show", &[story.archive()])["archive"];
    assert_eq!(shown["manifest"]["etcd_version"], version.number());
    assert_eq!(shown["compacted_revision"], story.compacted);
    assert_eq!(shown["auth_enabled"], true);
    assert_eq!(
        shown["users"],
        json!([{"name": "alice", "roles": ["reader"]}, {"name": "root", "roles": ["root"]}])
    );
    assert_eq!(shown["roles"], json!(["reader", "root"]));
    assert_eq!(
        shown["leases"],
        json!({"count": 1, "shortest_ttl_seconds": 3600, "longest_ttl_seconds": 3600})
    );
    assert_eq!(shown["alarms"][0]["name"], "NOSPACE");
    assert_eq!(shown["members"].as_array().unwrap().len(), 1);
    assert_eq!(shown["storage_version"].is_string(), version.needs_etcdutl());
    let keys = &shown["keys"];
    assert_eq!((keys["keys"].as_u64(), keys["with_lease"].as_u64()), (Some(5), Some(1)));
    assert_eq!(keys["largest"][0]["key"], ODD);
    let prefixes: Vec<_> =
        keys["prefixes"].as_array().unwrap().iter().map(|one| one["prefix"].as_str().unwrap()).collect();
    assert_eq!(prefixes, ["", "/registry/configmaps/", "/app/"]);
    assert_eq!(keys["namespaces"].as_array().unwrap().len(), 2);
    let printed = text(world, &["show", story.archive()]);
    for words in [
        "alice (reader)",
        "NOSPACE of member",
        "/registry/configmaps/  2 ",
        "kube-system",
        "newest change",
        ODD,
    ] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    assert!(!printed.contains("canary"), "{printed}");
}

fn lists_keys(story: &Story) {
    let Story { world, .. } = story;
    let all = [
        "/app/a",
        "/app/leased",
        "/registry/configmaps/default/one",
        "/registry/configmaps/kube-system/two",
        ODD,
    ];
    assert_eq!(text(world, &["keys", story.archive()]).lines().collect::<Vec<_>>(), all);
    let some = text(world, &["keys", story.archive(), "--prefix", "/app/"]);
    assert_eq!(some.lines().collect::<Vec<_>>(), all[..2]);
    assert_eq!(text(world, &["keys", story.archive(), "--prefix", r"odd \\ key \x1b"]).trim_end(), ODD);
    assert_eq!(text(world, &["keys", story.archive(), "--prefix", "/none/"]), "");
    let at = |revision: i64| text(world, &["keys", story.archive(), "--at", &revision.to_string()]);
    assert_eq!(at(story.before_deletion), "/app/a\n");
    assert_eq!(at(story.before_deletion + 1), "");
    assert_eq!(at(story.compacted), "/app/a\n");
    let listed = document(world, "keys", &[story.archive(), "--prefix=/app/a"]);
    let only = &listed["keys"][0];
    assert_eq!(
        (only["version"].as_i64(), only["create_revision"].as_i64()),
        (Some(1), Some(story.before_deletion + 2))
    );
    assert!(text(world, &["keys", story.archive(), "--wide"]).contains("  LEASE"));
    let unhashed = unpack(world, &story.archive).join("db");
    let size = fs::metadata(&unhashed).unwrap().len();
    fs::OpenOptions::new().write(true).open(&unhashed).unwrap().set_len(size - 32).unwrap();
    let out = run(world, &["keys", unhashed.to_str().unwrap(), "--quiet"]);
    assert_eq!(out.stdout.lines().collect::<Vec<_>>(), all);
    let warning = "warning: the database has no SHA-256 of etcd, so its content could not be verified\n";
    assert_eq!(out.stderr, warning, "{}", out.describe());
}

fn gets_values_and_lists_their_history(story: &Story) {
    let (world, before_deletion, compacted) = (&story.world, story.before_deletion, story.compacted);
    let target = world.to_target();
    let get = |words: &[&str]| {
        world
            .action(PROGRAM, &[&["get", story.archive(), "--quiet", &target], words].concat())
            .output()
            .unwrap()
    };
    let out = get(&["/app/a"]);
    assert_eq!((out.stdout, out.stderr), (format!("{CANARY} 3").into_bytes(), Vec::new()));
    let before = before_deletion.to_string();
    assert_eq!(get(&["/app/a", "--at", &before]).stdout, format!("{CANARY} 2").into_bytes());
    assert_eq!(get(&[ODD]).stdout.len(), CANARY.len() + 5000);
    let parsed: Value = serde_json::from_slice(&get(&["/app/leased", "--json"]).stdout).unwrap();
    assert_eq!(bytes(&parsed["value"]), CANARY.as_bytes());
    assert!(parsed["key"]["lease"].is_string());
    let deleted = refusal(world, &["get", story.archive(), "/registry/minions/node-1"]);
    assert!(deleted.contains("has no key") && deleted.contains("history"), "{deleted}");
    // A terminal is refused before the archive is read.
    let shell = format!("{PROGRAM} get {} /app/a --quiet {target}", story.archive());
    let mut terminal = world.action("script", &["-qec", &shell, "/dev/null"]);
    let out = terminal.stdin(Stdio::null()).output().unwrap();
    let printed = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(printed.contains("the value may be a secret") && !printed.contains(CANARY), "{printed}");
    let forced = format!("{shell} --force");
    let out = world.action("script", &["-qec", &forced, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains(CANARY));

    let history = document(world, "history", &[story.archive(), "/app/a"]);
    let changes: Vec<_> = history["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["revision"].as_i64().unwrap(), one["kind"].as_str().unwrap()))
        .collect();
    let expected = [
        (compacted, "put"),
        (before_deletion, "put"),
        (before_deletion + 1, "delete"),
        (before_deletion + 2, "put"),
    ];
    assert_eq!(changes, expected);
    let newest = text(world, &["history", story.archive(), "/app/a", "--limit", "1"]);
    assert!(newest.contains("(1 of 4 changes"), "{newest}");
    assert!(refusal(world, &["history", story.archive(), "/app/old"]).contains("has no record of the key"));
}

fn refuses_what_is_not_in_the_archive(story: &Story) {
    let Story { world, archive, compacted, .. } = story;
    let at = |revision: i64| refusal(world, &["keys", story.archive(), "--at", &revision.to_string()]);
    assert!(at(compacted - 1).contains(&format!("the history before revision {compacted} was compacted")));
    assert!(at(100_000).contains("the archive ends at revision"));
    assert!(refusal(world, &["keys", story.archive(), "--prefix", r"a\b"]).contains("backslash"));
    assert!(refusal(world, &["show"]).contains("no archive is named"));
    let cut = world.path("cut.tar.gz");
    let bytes = std::fs::read(archive).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refusal(world, &["show", cut.to_str().unwrap()]).contains("damaged"));
    assert!(refusal(world, &["keys", PROGRAM]).contains("etcd-backup"));
    assert!(!Path::new("/var/backups/etcd/db").exists());
}

/// Deletes, changes and creates keys after the archive was made.
fn lose_keys(world: &World) {
    world.delete(0..250);
    world.etcdctl(&["del", "/app/leased"]);
    world.put_bytes("/app/changed", format!("{CANARY} new").as_bytes());
    world.put_bytes("/app/created", CANARY.as_bytes());
    world.put_bytes("/app/same", CANARY.as_bytes());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::Newest; "newest_etcd")]
fn lost_keys_are_found_and_put_back_into_the_running_etcd(version: Version) {
    let world = World::plain(version);
    world.put(0..250, CANARY);
    let lease = world.etcdctl(&["lease", "grant", "3600"]);
    world.etcdctl(&["put", "/app/leased", CANARY, "--lease", lease.split(' ').nth(1).unwrap()]);
    world.put_bytes("/app/changed", format!("{CANARY} old").as_bytes());
    world.put_bytes("/app/same", CANARY.as_bytes());
    world.put_bytes("\"odd\\ -\u{1b}", b"\0\xff \"line\\n\"\n");
    let archive = world.saved();
    let saved = world.dump();
    world.etcdctl(&["del", "\"odd\\ -\u{1b}"]);
    lose_keys(&world);
    finds_the_differences(&world, &archive);
    refuses_to_replace_newer_values(&world, &archive);
    let file = exports(&world, &archive);
    puts_lost_keys_back(&world, &archive, &file, &saved);
    keeps_a_key_that_changes_in_the_meantime(&world, &archive);
}

fn finds_the_differences(world: &World, archive: &Path) {
    let archive = archive.to_str().unwrap();
    let found = document(world, "diff", &[archive, "live"]);
    assert_eq!(found["total"], json!({"added": 1, "removed": 252, "changed": 1, "unchanged": 1}));
    assert_eq!(found["old"]["cluster_id"], found["new"]["cluster_id"]);
    assert_eq!(found["changes"].as_array().unwrap().len(), 254);
    let some = text(world, &["diff", "live", archive, "--prefix=/app/"]);
    for line in
        ["+ /app/leased", "~ /app/changed", "- /app/created", "1 added, 1 removed, 1 changed, 1 unchanged"]
    {
        assert!(some.contains(line), "{line}: {some}");
    }
    assert!(refusal(world, &["diff", "live", "live"]).contains("both states are the running etcd"));
    let plan = world
        .restore(&[&crate::restore::from(Path::new(archive)), "skip-backup=true", "plan=true"])
        .completed();
    let counts =
        ["removed", "brought-back", "replaced"].map(|what| plan.get(&format!("plan.{what}-keys")).to_owned());
    assert_eq!(counts, ["1", "252", "1"]);
}

fn refuses_to_replace_newer_values(world: &World, archive: &Path) {
    let (archive, before) = (archive.to_str().unwrap(), world.dump());
    let plan = document(world, "import", &[archive, "--plan"]);
    assert_eq!(
        plan["planned"],
        json!({"create": 252, "overwrite": 0, "keep": 1, "unchanged": 1, "with_lease": 1})
    );
    assert_eq!(plan["keys"].as_array().unwrap().len(), 253);
    let refused = refusal(world, &["import", archive, "--apply"]);
    assert!(refused.contains("1 key exists with another value, so no key was put"), "{refused}");
    assert!(refusal(world, &["import", archive]).contains("needs plan or apply"));
    // An archive of another cluster.
    let foreign = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/etcd-3.6.16.tar.gz");
    let refused = refusal(world, &["import", foreign.to_str().unwrap(), "--plan"]);
    assert!(
        refused.contains("has never been that cluster") && refused.contains("--allow-foreign"),
        "{refused}"
    );
    let plan = text(world, &["import", foreign.to_str().unwrap(), "--plan", "--allow-foreign"]);
    assert!(plan.contains("create     /registry/configmaps/default/c1"), "{plan}");
    assert_same(&world.dump(), &before, "nothing was put");
}

/// Exports the keys of the application, and returns the file.
fn exports(world: &World, archive: &Path) -> PathBuf {
    let file = world.path("keys.jsonl");
    let words = ["export", archive.to_str().unwrap(), "--prefix=/app/", "--output", file.to_str().unwrap()];
    assert!(text(world, &words).contains("3 keys of revision"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(refusal(world, &words).contains("exists already"));
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 5);
    for command in ["show", "keys"] {
        let refused = refusal(world, &[command, file.to_str().unwrap()]);
        assert!(refused.contains("is a file of exported keys, not an archive"), "{refused}");
        assert!(refused.contains(&format!("import {} --plan", file.display())), "{refused}");
    }
    let cut = world.path("cut.jsonl");
    fs::write(&cut, &fs::read(&file).unwrap()[..400]).unwrap();
    let refused = refusal(world, &["import", cut.to_str().unwrap(), "--plan"]);
    assert!(refused.contains("is not a complete file of keys"), "{refused}");
    file
}

fn puts_lost_keys_back(world: &World, archive: &Path, file: &Path, saved: &Data) {
    let (archive, file) = (archive.to_str().unwrap(), file.to_str().unwrap());
    let put = text(world, &["import", archive, "--apply", "--only-missing"]);
    assert!(put.contains("keys put: 252;") && put.contains("not carried over: 1"), "{put}");
    let mut expected = saved.clone();
    expected.insert(b"/app/created".to_vec(), CANARY.as_bytes().to_vec());
    expected.insert(b"/app/changed".to_vec(), format!("{CANARY} new").into_bytes());
    assert_same(&world.dump(), &expected, "the missing keys were put");
    let again = text(world, &["import", archive, "--apply", "--only-missing"]);
    assert!(again.contains("keys put: 0;"), "{again}");
    let plan = text(world, &["import", file, "--plan", "--overwrite"]);
    assert!(plan.contains("overwrite  /app/changed"), "{plan}");
    let put = text(world, &["import", file, "--apply", "--overwrite"]);
    assert!(put.contains("keys put: 1;"), "{put}");
    expected.insert(b"/app/changed".to_vec(), format!("{CANARY} old").into_bytes());
    assert_same(&world.dump(), &expected, "one key was overwritten");
}

fn keeps_a_key_that_changes_in_the_meantime(world: &World, archive: &Path) {
    let (archive, target) = (archive.to_str().unwrap(), world.to_target());
    world.etcdctl(&["del", "/app/same"]);
    world.etcdctl(&["del", "/app/changed"]);
    let tools = world.stand_in_tools();
    tools.delay("etcdctl txn*", 3);
    let words = ["import", archive, "--apply", "--prefix=/app/", "--quiet", &target];
    let running = Run::start(world.action(PROGRAM, &words), &world.path("runs"));
    running.await_until(&|| tools.calls().iter().any(|(_, call)| call.starts_with("etcdctl txn")));
    world.put_bytes("/app/changed", b"in the meantime");
    tools.remove_fault();
    let out = running.finish();
    assert_eq!(out.status.code(), Some(1), "{}", out.describe());
    let kept = "keys put: 1; the others have newer values now, which were kept.";
    for words in ["not put, because they changed after the plan was made: /app/changed", kept] {
        assert!(out.stderr.contains(words), "{words}: {}", out.describe());
    }
    let now = world.dump();
    assert_eq!(now[b"/app/changed".as_slice()], b"in the meantime");
    assert_eq!(now[b"/app/same".as_slice()], CANARY.as_bytes());
    // etcdctl quotes a line that it does not understand.
    world.etcdctl(&["del", "/app/same"]);
    let quoted = format!("Error: invalid txn request: put -- \"/app/same\" \"{CANARY}\"");
    tools.answer("etcdctl txn*", "", &quoted, 1);
    let out = run(world, &["import", archive, "--apply", "--only-missing", "--prefix=/app/"]);
    assert_eq!(out.status.code(), Some(1), "{}", out.describe());
    assert!(out.stderr.contains("withheld because it may quote data"), "{}", out.describe());
}

/// Starts to print keys in `format`, into a pipe that is larger than the buffers.
fn print_many_keys(world: &World, archive: &Path, format: &str) -> std::process::Child {
    let words = ["keys", archive.to_str().unwrap(), "--quiet", "--format", format];
    let mut command = world.action(PROGRAM, &words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn printing_ends_if_the_reader_closes_the_pipe_or_a_signal_arrives() {
    let world = World::plain(Version::V35);
    let name = "x".repeat(4000);
    (0..60).for_each(|number| world.put_bytes(&format!("/{name}/{number}"), b"y"));
    let archive = world.saved();
    for format in ["text", "json", "yaml"] {
        let mut child = print_many_keys(&world, &archive, format);
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!((out.status.code(), &*stderr), (Some(0), ""), "{format}");

        let mut child = print_many_keys(&world, &archive, format);
        let mut first = [0; 1];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let out = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(128 + Signal::SIGTERM as i32), "{format}: {stderr}");
        assert!(stderr.contains("the printed result is incomplete"), "{format}: {stderr}");
    }
}
