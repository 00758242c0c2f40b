//! Which etcd is chosen, on machines laid out in files.

use super::super::client_certificates::{CHARM_TLS, RELATION_TLS};
use super::super::processes::tests::{Process, give_away, machine, set_mode};
use super::*;
use std::fs;

fn find(root: &Path) -> Result<Candidate, Refusal> {
    Machine::look(root, &Systemd::missing()).and_then(Machine::require_one)
}

#[test]
fn a_running_etcd_comes_before_an_installed_one() {
    let root = machine();
    fs::create_dir_all(root.path().join("etc/default")).unwrap();
    fs::write(root.path().join("etc/default/etcd"), "").unwrap();
    assert_eq!(find(root.path()).unwrap().site.description, "etcd.service, stopped");
    Process::etcd(42, &["--data-dir=/data/a"]).put(root.path());
    assert_eq!(find(root.path()).unwrap().site.description, "pid 42");
}

#[test]
fn uses_the_client_certificate_of_the_charm() {
    for (dir, expected) in [
        (CHARM_TLS, "/etc/etcd/tls/client.key"),
        (RELATION_TLS, "/etc/etcd/relation-tls/client.key"),
        ("/pki", "/pki/server.key"),
    ] {
        let root = machine();
        let file = |flag: &str, name: &str| format!("--{flag}={dir}/{name}");
        let words = [
            "--listen-client-urls=https://0.0.0.0:2379".to_owned(),
            "--data-dir=/data/a".to_owned(),
            file("trusted-ca-file", "ca.crt"),
            file("cert-file", "server.crt"),
            file("key-file", "server.key"),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Process::etcd(42, &words).put(root.path());
        assert_eq!(find(root.path()).unwrap().site.tls.key.as_deref(), Some(Path::new(expected)));
    }
}

#[test]
fn refuses_to_choose_between_two_running_etcds() {
    let root = machine();
    Process::etcd(42, &["--data-dir=/data/a"]).put(root.path());
    Process::etcd(7, &["--data-dir=/data/b", "--listen-client-urls=http://10.0.0.1:1"]).put(root.path());
    let refusal = find(root.path()).unwrap_err();
    for part in ["2 etcds", "pid 42", "/data/a", "http://localhost:2379", "pid 7", "/data/b", "10.0.0.1:1"] {
        assert!(refusal.reason.contains(part), "{refusal}");
    }
    assert!(refusal.next.contains("site="), "{refusal}");
    let chosen = |choice| Machine::look(root.path(), &Systemd::missing()).unwrap().called(choice).unwrap();
    for choice in ["42", "/data/a"] {
        assert_eq!(chosen(choice).unwrap().site.description, "pid 42");
    }
    assert!(chosen("etcd").is_none());
}

#[test]
fn reports_an_etcd_in_a_container_only_if_it_is_the_only_one() {
    let root = machine();
    Process { contained: true, ..Process::etcd(42, &["--data-dir=/data/a"]) }.put(root.path());
    let refusal = find(root.path()).unwrap_err();
    assert!(refusal.reason.contains("pid 42") && refusal.reason.contains("container"), "{refusal}");
    Process::etcd(43, &["--data-dir=/data/a"]).put(root.path());
    assert_eq!(find(root.path()).unwrap().site.description, "pid 43");
}

/// A machine with the manifest of an etcd.
fn with_pod() -> tempfile::TempDir {
    let root = machine();
    let dir = root.path().join("etc/kubernetes/manifests");
    fs::create_dir_all(&dir).unwrap();
    for dir in dir.ancestors().take_while(|dir| *dir != root.path()) {
        set_mode(dir, 0o755);
    }
    let pod = "spec:\n  containers:\n  - command: [etcd, --data-dir=/data/a]\n    volumeMounts: [{mountPath: /data/a, name: d}]\n  \
               volumes: [{name: d, hostPath: {path: /data/a}}]\n";
    fs::write(dir.join("etcd.yaml"), pod).unwrap();
    set_mode(&dir.join("etcd.yaml"), 0o600);
    root
}

#[test]
fn a_pod_is_not_joined_with_the_process_of_a_user() {
    let theirs = |pid| Process::etcd(pid, &["--data-dir=/data/a", "--listen-client-urls=http://127.0.0.1:1"]);
    for process in [theirs(42), Process { cgroup: "0::/user.slice/x.scope\n", contained: true, ..theirs(42) }]
    {
        let root = with_pod();
        process.put(root.path());
        if process.contained {
            // As in a mount namespace that the user made: the directory is the machine's.
            let data = root.path().join("proc/42/root/data");
            fs::remove_dir_all(&data).unwrap();
            std::os::unix::fs::symlink(root.path().join("data"), &data).unwrap();
        }
        if !give_away(root.path(), 42) {
            return;
        }
        let found = find(root.path()).unwrap();
        assert_eq!((&**found.site.endpoint, found.process), ("http://localhost:2379", None));
    }
}

#[test]
fn describes_only_trusted_etcds_outside_containers_as_running() {
    let root = machine();
    let named = || Machine::look(root.path(), &Systemd::missing()).unwrap().describe_running();
    Process { contained: true, ..Process::etcd(41, &["--data-dir=/data/a"]) }.put(root.path());
    Process { program: "/opt/etcd", ..Process::etcd(42, &["--data-dir=/data/b"]) }.put(root.path());
    set_mode(&root.path().join("opt"), 0o1777);
    assert_eq!(named(), [""; 0]);
    Process::etcd(43, &["--data-dir=/data/a"]).put(root.path());
    assert_eq!(named(), ["pid 43 with its data in /data/a at http://localhost:2379"]);
}

#[test]
fn joins_a_static_pod_with_its_process() {
    let root = with_pod();
    assert_eq!(find(root.path()).unwrap().site.description, "static pod /etc/kubernetes/manifests/etcd.yaml");
    Process { cgroup: "0::/kubepods.slice/x.scope\n", ..Process::etcd(42, &["--data-dir=/data/a"]) }
        .put(root.path());
    let found = find(root.path()).unwrap();
    assert_eq!(found.site.description, "static pod /etc/kubernetes/manifests/etcd.yaml (pid 42)");
    assert!(found.is_called("/etc/kubernetes/manifests/etcd.yaml") && found.is_called("42"));
    assert!(matches!(*found.site.service, Service::StaticPod { .. }), "{found:?}");
}

#[test]
fn names_a_static_pod_that_does_not_run_next_to_an_etcd_that_runs() {
    let root = with_pod();
    Process::etcd(42, &["--data-dir=/data/b"]).put(root.path());
    assert_eq!(find(root.path()).unwrap().site.description, "pid 42");
    let stopped =
        |data_dir: &str| stopped_next_to(root.path(), &Systemd::missing(), Path::new(data_dir)).unwrap();
    let others = stopped("/data/b");
    assert!(others.len() == 1 && others[0].description.contains("/data/a"), "{others:?}");
    assert!(others[0].data_dir == Path::new("/data/a") && !others[0].is_disabled);
    assert_eq!(stopped("/data/a"), []);
}

#[test]
fn a_disabled_unit_counts_only_if_it_is_the_only_one() {
    let shown = |state: &str| {
        let unit =
            "ExecStart={ path=/usr/bin/etcd ; argv[]=/usr/bin/etcd --data-dir=/data/a ; }\nId=a.service";
        let other = "ExecStart={ path=/opt/etcd ; argv[]=/opt/etcd --data-dir=/data/b ; }\nId=b.service";
        format!("UnitFileState={state}\n{unit}\n\nUnitFileState=disabled\n{other}\n")
    };
    let found = |state: &str| {
        let systemctl = |words: &[&str]| {
            Some(if words[0] == "show" { shown(state) } else { "a.service x\nb.service x\n".to_owned() })
        };
        let root = machine();
        Machine::look(root.path(), &Systemd { main_pid: &|_| None, systemctl: &systemctl })
            .and_then(Machine::require_one)
    };
    assert_eq!(found("enabled").unwrap().site.description, "a.service, stopped");
    let refusal = found("disabled").unwrap_err();
    assert!(refusal.reason.contains("a.service") && refusal.reason.contains("b.service"), "{refusal}");
}

#[test]
fn a_unit_with_a_missing_file_does_not_count_as_running() {
    let root = machine();
    let shown =
        "ExecStart={ path=/usr/bin/etcd ; argv[]=/usr/bin/etcd --config-file=/gone.yml ; }\nId=new.service\n";
    let systemctl =
        |words: &[&str]| Some(if words[0] == "show" { shown } else { "new.service x\n" }.to_owned());
    let look =
        || Machine::look(root.path(), &Systemd { main_pid: &|_| None, systemctl: &systemctl }).unwrap();
    assert!(look().describe_running().is_empty());
    let refusal = look().require_one().unwrap_err();
    assert!(refusal.reason.contains("new.service") && refusal.reason.contains("/gone.yml"), "{refusal}");
}

#[test]
fn reports_an_untrusted_etcd_with_a_site_file_only_if_it_is_the_only_one() {
    let root = machine();
    let theirs = Process { program: "/opt/etcd", ..Process::etcd(42, &["--data-dir=/data/b"]) };
    theirs.put(root.path());
    set_mode(&root.path().join("opt"), 0o1777);
    let refusal = find(root.path()).unwrap_err();
    for part in ["pid 42", "not trusted", "/opt/etcd", "every user can write to it (mode 1777)"] {
        assert!(refusal.reason.contains(part), "{refusal}");
    }
    for part in [
        "save these lines as /etc/etcd-backup/site.yaml",
        "install -t /usr/local/bin /opt/etcd*",
        "\ndata-dir: /data/b\nbin-dir: /usr/local/bin\n",
    ] {
        assert!(refusal.next.contains(part), "{refusal}");
    }
    Process::etcd(43, &["--data-dir=/data/a"]).put(root.path());
    assert_eq!(find(root.path()).unwrap().site.description, "pid 43");
}

#[test]
fn reports_how_a_restart_would_change_etcd() {
    let told = ["--data-dir=/data/a", "--listen-client-urls=http://127.0.0.1:1"];
    let drift = |now: &str| {
        let root = machine();
        Process::etcd(42, &told).put(root.path());
        let shown =
            format!("ExecStart={{ path=/usr/bin/etcd ; argv[]=/usr/bin/etcd {now} ; }}\nId=etcd.service\n");
        let systemctl = |_: &[&str]| Some(shown.clone());
        Machine::look(root.path(), &Systemd { main_pid: &|_| Some(42), systemctl: &systemctl })
            .and_then(Machine::require_one)
            .unwrap()
            .site
            .drift
    };
    assert_eq!(drift(&told.join(" ")), None);
    assert_eq!(drift(&format!("{} --wal-dir=/data/a/member/wal", told.join(" "))), None);
    for (now, words) in [
        ("--data-dir=/data/b --listen-client-urls=http://127.0.0.1:1", &["/data/a", "/data/b"][..]),
        (
            "--data-dir=/data/a --listen-client-urls=https://127.0.0.1:2",
            &["http://127.0.0.1:1", "https://127.0.0.1:2"],
        ),
        ("--data-dir=/data/a", &["http://127.0.0.1:1", "http://localhost:2379"]),
        (&format!("{} --wal-dir=/wal", told.join(" ")), &["/data/a/member/wal", "/wal"]),
    ] {
        let drift = drift(now).unwrap_or_default();
        assert!(words.iter().all(|word| drift.contains(word)), "{now}: {drift}");
    }
}

#[test]
fn takes_the_origins_of_a_running_unit_from_systemd() {
    let root = machine();
    fs::create_dir_all(root.path().join("etc/default")).unwrap();
    fs::write(root.path().join("etc/default/etcd"), "ETCD_DATA_DIR=/data/a\n").unwrap();
    Process { environment: "ETCD_DATA_DIR=/data/a\0", ..Process::etcd(42, &[]) }.put(root.path());
    let shown = "ExecStart={ path=/usr/bin/etcd ; argv[]=/usr/bin/etcd ; }\nId=etcd.service\n\
                 Environment=ETCD_DATA_DIR=/data/b\nEnvironmentFiles=/etc/default/etcd (ignore_errors=yes)\n";
    let systemctl = |_: &[&str]| Some(shown.to_owned());
    let found = Machine::look(root.path(), &Systemd { main_pid: &|_| Some(42), systemctl: &systemctl })
        .and_then(Machine::require_one)
        .unwrap();
    assert_eq!(found.site.data_dir.origin.to_string(), "the variable ETCD_DATA_DIR in /etc/default/etcd");
    assert_eq!(found.site.endpoint.origin.to_string(), "etcd's default");
}

#[test]
fn without_an_etcd_names_every_place_that_was_looked_at() {
    let refusal = find(machine().path()).unwrap_err();
    for part in ["no etcd runs", "/etc/default/etcd", "/var/snap/etcd/common/etcd.conf.yml"] {
        assert!(refusal.reason.contains(part), "{refusal}");
    }
    assert!(refusal.next.contains("/etc/etcd-backup/site.yaml"), "{refusal}");
}

#[test]
fn a_unit_or_a_manifest_names_the_other_members() {
    let root = with_pod();
    let manifest = root.path().join("etc/kubernetes/manifests/etcd.yaml");
    let cluster = "--initial-cluster=cp1=http://a:1,cp2=http://b:1";
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("[etcd,", &format!("[etcd, --name=cp1, '{cluster}',"))).unwrap();
    let words = "/usr/bin/etcd --name=db1 --data-dir=/data/b --initial-cluster=db1=http://a:1,db2=http://b:1";
    let shown = format!("ExecStart={{ path=/usr/bin/etcd ; argv[]={words} ; }}\nId=db.service\n");
    let systemctl = |words: &[&str]| match words {
        ["show", _, "--", "db.service"] => Some(shown.clone()),
        [first, ..] if *first != "show" => Some("db.service x\n".to_owned()),
        _ => None,
    };
    let systemd = Systemd { main_pid: &|_| None, systemctl: &systemctl };
    let others = |service: Service, data_dir: &str| {
        initial_member(root.path(), &systemd, &service, Path::new(data_dir)).map(|member| member.others)
    };
    let commands = || Service::Commands { start: Vec::new(), stop: Vec::new() };
    let cp2 = Some(vec!["cp2".to_owned()]);
    let pod = Service::StaticPod { manifest: "/etc/kubernetes/manifests/etcd.yaml".into() };
    assert_eq!(others(pod, "/elsewhere"), cp2);
    assert_eq!(others(commands(), "/data/a"), cp2);
    let db2 = Some(vec!["db2".to_owned()]);
    assert_eq!(others(Service::Systemd { systemd: "db.service".to_owned() }, "/elsewhere"), db2);
    assert_eq!(others(commands(), "/data/b"), db2);
    assert_eq!(others(commands(), "/data/c"), None);
}
