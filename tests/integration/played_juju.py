#!/usr/bin/env python3
"""Plays the `juju` command on one machine, for as much of the integration tests as needs no controller.

An application is one unit: a throw-away etcd on loopback, and the charm's programs run as Juju's agent runs them, with
the hook tools of tests/it/common/hook-tool. It knows deploy, run, exec, scp and attach-resource, and fails on anything else.
Everything is in the directory that PLAYED_JUJU names. Never run it where that is not a directory of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HOME = Path(os.environ["PLAYED_JUJU"])
PROJECT = Path(__file__).resolve().parents[2]
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target")) / "debug"
ETCD = Path(os.environ.get("ETCD_3_5_BIN", PROJECT / "target/etcd/3.5/usr/bin"))
TOOLS = PROJECT / "tests/it/common/hook-tool"
NAMES = (PROJECT / "tests/it/common/hook-tools").read_text().split()


class Application:
    """A unit `NAME/0` and its etcd."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.home = HOME / name
        self.agent = self.home / "agent"
        self.charm = self.home / "charm"
        self.target = self.home / "snapshots"

    def deploy(self, resources: dict[str, Path]) -> None:
        for directory in (self.agent / "params", self.charm / "actions", self.charm / "bin", self.home / "tools"):
            directory.mkdir(parents=True)
        for paper in ("actions.yaml", "config.yaml", "metadata.yaml"):
            shutil.copy(PROJECT / paper, self.charm)
        (self.charm / "dispatch").symlink_to(BUILT / "dispatch")
        (self.charm / "bin/reconcile").symlink_to(BUILT / "reconcile")
        for action in self.actions():
            (self.charm / "actions" / action).symlink_to(BUILT / action)
        for tool in NAMES:
            (self.home / "tools" / tool).symlink_to(TOOLS)
        options = yaml.safe_load((PROJECT / "config.yaml").read_text())["options"]
        config = {name: option["default"] for name, option in options.items()}
        (self.agent / "config.json").write_text(json.dumps(config))
        (self.agent / "goal.json").write_text(json.dumps({"units": {f"{self.name}/0": {}}}))
        for name, file in resources.items():
            self.attach(name, file)
        self.start_etcd()
        self.hook("install")

    def actions(self) -> dict[str, Any]:
        return dict(yaml.safe_load((PROJECT / "actions.yaml").read_text()))

    def attach(self, name: str, file: Path) -> None:
        filename = yaml.safe_load((PROJECT / "metadata.yaml").read_text())["resources"][name]["filename"]
        if file.suffix != Path(filename).suffix:
            fail(f'incorrect extension on resource upload "{file.name}", expected "{Path(filename).suffix}"')
        place = self.agent / "controller" / name / filename
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)

    def start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in free_ports())
        supervisor = self.home / "supervisor"
        supervisor.mkdir()
        (supervisor / "owner").write_text(os.environ["PLAYED_JUJU_OWNER"])
        words = [str(ETCD / "etcd"), "--name", f"{self.name}0", "--data-dir", str(self.home / "data")]
        words += ["--listen-client-urls", client, "--advertise-client-urls", client, "--logger=zap"]
        words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        words += ["--initial-cluster", f"{self.name}0={peer}"]
        (supervisor / "argv").write_text("\n".join(words) + "\n")
        script = str(PROJECT / "tests/it/common/supervisor")
        service = {verb: [script, verb, str(supervisor)] for verb in ("start", "stop")}
        site = {
            "endpoint": client,
            "data-dir": str(self.home / "data"),
            "bin-dir": str(ETCD),
            "service": service,
        }
        (self.home / "site.yaml").write_text(yaml.safe_dump(site))
        subprocess.run(service["start"], check=True)

    def environment(self, path: str) -> dict[str, str]:
        return {
            "JUJU_CHARM_DIR": str(self.charm),
            "CHARM_DIR": str(self.charm),
            "JUJU_CONTEXT_ID": f"{self.name}/0-run-1",
            "JUJU_AGENT_SOCKET_ADDRESS": str(self.agent / "agent.socket"),
            "JUJU_AGENT_SOCKET_NETWORK": "unix",
            "JUJU_UNIT_NAME": f"{self.name}/0",
            "JUJU_MODEL_UUID": "6f1b2c3d-0b6c-4a5e-8f5a-1d2e3f405162",
            "JUJU_DISPATCH_PATH": path,
            "PATH": f"{self.home / 'tools'}:/usr/sbin:/usr/bin:/sbin:/bin",
            "ETCD_SITE": str(self.home / "site.yaml"),
        }

    def dispatch(self, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        for trace in ("set", "failed", "progress"):
            (self.agent / trace).unlink(missing_ok=True)
        program = [str(self.charm / "dispatch")]
        return subprocess.run(program, cwd=self.charm, env=environment, capture_output=True, text=True)

    def hook(self, name: str) -> None:
        done = self.dispatch(self.environment(f"hooks/{name}"))
        status = self.trace("status").splitlines()[-1]
        if done.returncode != 0 or not status.startswith("active "):
            fail(f"{name}: {status} ({done.returncode}) {done.stderr}")

    def trace(self, name: str) -> str:
        path = self.agent / name
        return path.read_text() if path.exists() else ""

    def run(self, action: str, params: dict[str, Any]) -> dict[str, Any]:
        """The task, as `juju run --format json` prints it."""
        declared = self.actions()[action]["params"]
        for name in params:
            if name not in declared:
                fail(f"validation failed: (root) : additional property {name!r} is not allowed")
        given = {name: param["default"] for name, param in declared.items()} | params
        if "target" in declared and "target" not in params:
            # The default is in a home that this machine may not have.
            given["target"] = str(self.target)
        (self.agent / "params/all.json").write_text(json.dumps(given))
        environment = self.environment(f"actions/{action}") | {"JUJU_ACTION_NAME": action}
        done = self.dispatch(environment)
        results: dict[str, Any] = {"return-code": done.returncode}
        for setting in self.trace("set").split("\0")[:-1]:
            key, value = setting.split("=", 1)
            *parents, last = key.split(".")
            place = results
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        failed = (self.agent / "failed").exists()
        task = {"id": "2", "status": "failed" if failed else "completed", "results": results}
        return task | {"message": self.trace("failed"), "log": self.trace("progress").split("\0")[:-1]}


def free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def fail(message: str) -> None:
    print(f"ERROR {message}", file=sys.stderr)
    sys.exit(1)


def option(words: list[str], name: str) -> list[str]:
    """Takes every `NAME VALUE` out of the words, and gives the values."""
    values = []
    while name in words:
        at = words.index(name)
        values.append(words[at + 1])
        del words[at : at + 2]
    return values


def main(words: list[str]) -> None:
    verb, words = words[0], words[1:]
    option(words, "--model")
    option(words, "--wait")
    option(words, "--format")
    if verb == "deploy":
        resources = dict(pair.split("=", 1) for pair in option(words, "--resource"))
        _charm, name = words
        Application(name).deploy({name: Path(file) for name, file in resources.items()})
    elif verb == "attach-resource":
        name, pair = words
        resource, file = pair.split("=", 1)
        Application(name).attach(resource, Path(file))
    elif verb == "run":
        files = option(words, "--params")
        unit, action = words
        params = yaml.safe_load(Path(files[0]).read_text()) if files else {}
        task = Application(unit.split("/")[0]).run(action, params)
        print(json.dumps({unit: task}))
        if task["status"] != "completed":
            fail("the following task failed:")
    elif verb == "exec":
        units = option(words, "--unit")
        application = Application(units[0].split("/")[0])
        endpoint = yaml.safe_load((application.home / "site.yaml").read_text())["endpoint"]
        environment = {"ETCDCTL_ENDPOINTS": endpoint, "PATH": f"{ETCD}:/usr/bin:/bin"}
        command = words[1:] if words[0] == "--" else words
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        results = {"return-code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        status = "completed" if done.returncode == 0 else "failed"
        print(json.dumps({units[0]: {"id": "1", "status": status, "results": results}}))
    elif verb == "scp":
        source, destination = words[-2:]
        shutil.copy(source.split(":", 1)[1], destination)
    else:
        fail(f"this juju does not play {verb}")


if __name__ == "__main__":
    main(sys.argv[1:])
