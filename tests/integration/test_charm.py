"""The charm in a model, as an operator uses it.

    pip install -r tests/integration/requirements.txt
    cargo xtask pack && pytest tests/integration                    # with a controller
    cargo build --package etcd-backup --package fake-juju
    pytest tests/integration --fake-juju                            # without a controller, only some of the tests
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jubilant
import pytest

ONE_UNIT = "only one unit is supported"


def deploy(juju: jubilant.Juju, charm: Path, name: str, is_fake: bool, snapshot: Path | None, tmp_path: Path) -> None:
    if snapshot is None:
        snapshot = tmp_path / "none.tar.gz"
        snapshot.write_bytes(b"")
    juju.deploy(charm, name, resources={"snapshot": str(snapshot)})
    if not is_fake:
        juju.wait(lambda status: jubilant.all_active(status, name))
        assert juju.status().apps[name].units[f"{name}/0"].workload_status.message == "1 member, healthy"


def etcdctl(juju: jubilant.Juju, unit: str, *arguments: str) -> str:
    # `juju exec` sets neither HOME nor ETCDCTL_API, which etcd 3.3 needs.
    return juju.exec("env", "ETCDCTL_API=3", "etcdctl", *arguments, unit=unit).stdout


def keys(juju: jubilant.Juju, unit: str) -> dict[str, str]:
    # `juju exec` drops an empty word, so `get "" --from-key` cannot be used.
    answer = json.loads(etcdctl(juju, unit, "get", "/", "--prefix", "--write-out=json"))
    return {pair["key"]: pair.get("value", "") for pair in answer.get("kvs", [])}


def run(juju: jubilant.Juju, unit: str, action: str, params: dict[str, Any] | None = None) -> jubilant.Task:
    return juju.run(unit, action, params, wait=30 * 60)


def failure(juju: jubilant.Juju, unit: str, action: str, params: dict[str, Any] | None = None) -> str:
    with pytest.raises(jubilant.TaskError) as caught:
        run(juju, unit, action, params)
    assert caught.value.task.return_code == 0, "Juju has replaced the message by 'exit status N'"
    return caught.value.task.message


@pytest.fixture(scope="module")
def archive(
    juju: jubilant.Juju, charm: Path, is_fake: bool, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """A snapshot of an etcd, copied by the printed `copy.cmd`, and the keys that it must contain."""
    home = tmp_path_factory.mktemp("archive")
    deploy(juju, charm, "etcd", is_fake, None, home)
    for number in range(30):
        etcdctl(juju, "etcd/0", "put", f"/registry/pods/{number}", f"value {number}")
    before = keys(juju, "etcd/0")
    results = run(juju, "etcd/0", "snapshot").results
    assert set(results["snapshot"]) >= {"path", "size", "sha256", "version", "verified"}
    command = shlex.split(results["copy"]["cmd"])
    assert command[:2] == ["juju", "scp"] and command[-1] == "."
    model = ["--model", juju.model] if juju.model else []
    subprocess.run([juju.cli_binary, "scp", *model, *command[2:]], check=True, cwd=home)
    copied = home / Path(results["snapshot"]["path"]).name
    assert re.fullmatch(r"etcd-snapshot-\d{4}-\d\d-\d\d-\d\d\.\d\d\.\d\d\.tar\.gz", copied.name)
    assert hashlib.sha256(copied.read_bytes()).hexdigest() == results["snapshot"]["sha256"]
    return copied, before


def test_restore_without_a_snapshot_names_the_command_to_attach_one(
    juju: jubilant.Juju, archive: tuple[Path, dict[str, str]]
) -> None:
    assert "juju attach-resource etcd snapshot=" in failure(juju, "etcd/0", "restore")


def test_restore_in_a_new_deployment_brings_back_the_keys(
    juju: jubilant.Juju, charm: Path, is_fake: bool, archive: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    file, before = archive
    deploy(juju, charm, "new-etcd", is_fake, file, tmp_path)
    assert keys(juju, "new-etcd/0") == {}
    results = run(juju, "new-etcd/0", "restore").results
    assert keys(juju, "new-etcd/0") == before
    assert results["restore"]["keys"] == str(len(before))


def test_restore_in_place_saves_the_existing_data(
    juju: jubilant.Juju, archive: tuple[Path, dict[str, str]]
) -> None:
    file, before = archive
    juju.cli("attach-resource", "etcd", f"snapshot={file}")
    etcdctl(juju, "etcd/0", "put", "/registry/intruder", "x")
    damaged = keys(juju, "etcd/0")
    results = run(juju, "etcd/0", "restore").results
    assert keys(juju, "etcd/0") == before
    run(juju, "etcd/0", "restore", {"snapshot": results["backup"]["path"], "skip-backup": True})
    assert keys(juju, "etcd/0") == damaged
    run(juju, "etcd/0", "restore", {"skip-backup": True})
    assert keys(juju, "etcd/0") == before


def test_invalid_parameters_are_named(
    juju: jubilant.Juju, archive: tuple[Path, dict[str, str]]
) -> None:
    assert "relative" in failure(juju, "etcd/0", "snapshot", {"target": "relative"})
    assert "v2" in failure(juju, "etcd/0", "snapshot", {"keys-version": "v2"})


def test_works_with_juju_backup_all(
    juju: jubilant.Juju, is_fake: bool, archive: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """juju-backup-all runs `snapshot` with a target, copies `snapshot.path` as `ubuntu`, and removes it as root."""
    target = str(tmp_path / "abc") if is_fake else "/home/ubuntu/abc"
    task = run(juju, "etcd/0", "snapshot", {"target": target})
    assert task.status == "completed"
    path = task.results["snapshot"]["path"]
    assert Path(path).match(f"{target}/etcd-snapshot*.gz")
    juju.scp(f"etcd/0:{path}", tmp_path / "copied.tar.gz")
    assert (tmp_path / "copied.tar.gz").stat().st_size > 0
    juju.exec("rm", path, unit="etcd/0")


def test_maintenance_actions(juju: jubilant.Juju, archive: tuple[Path, dict[str, str]]) -> None:
    _, before = archive
    assert "cluster is healthy" in run(juju, "etcd/0", "health").results["output"]
    assert run(juju, "etcd/0", "alarm-list").results["alarms"] == "0"
    assert run(juju, "etcd/0", "alarm-disarm").results["alarms"] == "0"
    etcdctl(juju, "etcd/0", "put", "/registry/pods/0", "value 0")
    assert "compacted revision" in run(juju, "etcd/0", "compact", {"physical": True}).results["output"]
    assert "no history" in run(juju, "etcd/0", "compact").results["output"]
    assert "Finished defragmenting" in run(juju, "etcd/0", "defrag").results["output"]
    assert keys(juju, "etcd/0") == before


@pytest.mark.controller
def test_an_invalid_option_blocks_the_unit_until_it_is_reset(juju: jubilant.Juju) -> None:
    def message(status: jubilant.Status) -> str:
        return status.apps["etcd"].units["etcd/0"].workload_status.message

    juju.config("etcd", {"election-timeout": 1})
    juju.wait(lambda status: "option election-timeout is 1" in message(status))
    juju.config("etcd", reset="election-timeout")
    juju.wait(lambda status: message(status) == "1 member, healthy")


@pytest.mark.controller
def test_a_second_unit_is_blocked_and_changes_nothing(
    juju: jubilant.Juju, archive: tuple[Path, dict[str, str]]
) -> None:
    _, before = archive
    juju.add_unit("etcd")

    def is_blocked(status: jubilant.Status) -> bool:
        second = status.apps["etcd"].units.get("etcd/1")
        return second is not None and second.workload_status.current == "blocked" and ONE_UNIT in second.workload_status.message

    juju.wait(is_blocked)
    for action in ("snapshot", "restore"):
        assert "Next:" in failure(juju, "etcd/1", action)
    run(juju, "etcd/0", "snapshot")
    assert keys(juju, "etcd/0") == before
    juju.remove_unit("etcd/1")
    juju.wait(lambda status: "etcd/1" not in status.apps["etcd"].units)
