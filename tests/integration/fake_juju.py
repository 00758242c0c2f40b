#!/usr/bin/env python3
"""A fake `juju` command on one machine, for the integration tests that do not need a controller.

An application is one unit: a temporary etcd on loopback, and the charm's programs, which are run as Juju's agent runs
them, with the fake hook tools of tests/it/common/hook-tool. Parameters, resources and results follow the rules of
tests/fake-juju. It supports deploy, run, exec, scp and attach-resource, and fails on any other command. All files are in
the directory FAKE_JUJU_DIR, which must contain nothing else.
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

HOME = Path(os.environ["FAKE_JUJU_DIR"])
PROJECT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target")) / "debug"
PROGRAM = PROGRAMS / "etcd-backup"
ETCD = Path(os.environ.get("ETCD_3_5_BIN", PROJECT / "target/etcd/3.5/usr/bin"))
HOOK_TOOL = PROJECT / "tests/it/common/hook-tool"
HOOK_TOOL_NAMES = (PROJECT / "tests/it/common/hook-tools").read_text().split()


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
        for file_name in ("actions.yaml", "config.yaml", "metadata.yaml"):
            shutil.copy(PROJECT / file_name, self.charm)
        (self.charm / "dispatch").symlink_to(PROGRAM)
        (self.charm / "bin/reconcile").symlink_to(PROGRAM)
        for action in self.actions():
            (self.charm / "actions" / action).symlink_to(PROGRAM)
        for tool in HOOK_TOOL_NAMES:
            (self.home / "tools" / tool).symlink_to(HOOK_TOOL)
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
        filename = rule("resource", str(PROJECT / "metadata.yaml"), name, str(file))
        attached = self.agent / "controller" / name / filename
        attached.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, attached)

    def start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in free_ports())
        supervisor = self.home / "supervisor"
        supervisor.mkdir()
        (supervisor / "owner").write_text(os.environ["FAKE_JUJU_OWNER"])
        command = [str(ETCD / "etcd"), "--name", f"{self.name}0", "--data-dir", str(self.home / "data")]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client, "--logger=zap"]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"{self.name}0={peer}"]
        (supervisor / "argv").write_text("\n".join(command) + "\n")
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
            "JUJU_MODEL_NAME": "test",
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
        """Runs an action, and returns the task as `juju run --format json` prints it."""
        given = rule("parameters", str(PROJECT / "actions.yaml"), action, text=json.dumps(params))
        if "target" in given and "target" not in params:
            # The default is in a home directory that this computer may not have.
            given["target"] = str(self.target)
        (self.agent / "params/all.json").write_text(json.dumps(given))
        environment = self.environment(f"actions/{action}") | {"JUJU_ACTION_NAME": action}
        done = self.dispatch(environment)
        results = rule("results", text=self.trace("set")) | {"return-code": done.returncode}
        failed = (self.agent / "failed").exists()
        task = {"id": "2", "status": "failed" if failed else "completed", "results": results}
        return task | {"message": self.trace("failed"), "log": self.trace("progress").split("\0")[:-1]}


def rule(*words: str, text: str = "") -> Any:
    """Applies a rule of Juju that the simulators share."""
    done = subprocess.run([str(PROGRAMS / "fake-juju"), *words], input=text, capture_output=True, text=True)
    if done.returncode != 0:
        fail(done.stderr.strip().removeprefix("ERROR "))
    return json.loads(done.stdout)


def free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports: list[int] = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def fail(message: str) -> None:
    print(f"ERROR {message}", file=sys.stderr)
    sys.exit(1)


def option(arguments: list[str], name: str) -> list[str]:
    """Removes every `NAME VALUE` from the arguments, and returns the values."""
    values = []
    while name in arguments:
        index = arguments.index(name)
        values.append(arguments[index + 1])
        del arguments[index : index + 2]
    return values


def main(arguments: list[str]) -> None:
    verb, arguments = arguments[0], arguments[1:]
    option(arguments, "--model")
    option(arguments, "--wait")
    option(arguments, "--format")
    if verb == "deploy":
        resources = dict(pair.split("=", 1) for pair in option(arguments, "--resource"))
        _charm, name = arguments
        Application(name).deploy({name: Path(file) for name, file in resources.items()})
    elif verb == "attach-resource":
        name, pair = arguments
        resource, file = pair.split("=", 1)
        Application(name).attach(resource, Path(file))
    elif verb == "run":
        files = option(arguments, "--params")
        unit, action = arguments
        params = yaml.safe_load(Path(files[0]).read_text()) if files else {}
        task = Application(unit.split("/")[0]).run(action, params)
        # Juju 3.6 and 4.0 exit with 0 even if the task failed.
        print(json.dumps({unit: task}))
    elif verb == "exec":
        units = option(arguments, "--unit")
        application = Application(units[0].split("/")[0])
        endpoint = yaml.safe_load((application.home / "site.yaml").read_text())["endpoint"]
        environment = {"ETCDCTL_ENDPOINTS": endpoint, "PATH": f"{ETCD}:/usr/bin:/bin"}
        command = arguments[1:] if arguments[0] == "--" else arguments
        # Juju joins the words, and the shell of the unit drops an empty one.
        command = [word for word in command if word]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        results = {"return-code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        status = "completed" if done.returncode == 0 else "failed"
        print(json.dumps({units[0]: {"id": "1", "status": status, "results": results}}))
    elif verb == "scp":
        source, destination = arguments[-2:]
        shutil.copy(source.split(":", 1)[1], destination)
    else:
        fail(f"this fake juju does not support {verb}")


if __name__ == "__main__":
    main(sys.argv[1:])
