"""Ceph with its S3 gateway, in the smallest form that works: one monitor, one store in memory, and the gateway.

The programs are those of unpacked Debian packages: nothing is installed, and nothing is written outside the given directory."""

import os
import pathlib
import subprocess
import sys
import time
import uuid

SETTINGS = """\
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{monitor_port}
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
run dir = {home}
log file = {home}/$name.log
admin socket = {home}/$name.$pid.asok
mon data = {home}/mon
mon data avail crit = 0
osd data = {home}/osd
osd objectstore = memstore
memstore device bytes = {capacity}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd crush chooseleaf type = 0
osd class dir = {libraries}/rados-classes
osd class load list = *
osd class default list = *
plugin dir = {libraries}/ceph
erasure code dir = {libraries}/ceph/erasure-code
mon allow pool size one = true
mon max pg per osd = 1000
ms bind ipv6 = false
rgw gc obj min wait = 1
rgw gc processor period = 1
rgw frontends = beast {frontend}
"""

# In bytes. Memory is used only for what is stored.
CAPACITY = 8 << 30


class Ceph:
    """The programs in the unpacked packages `root`, on data in `home`. `start` starts a program in the background."""

    def __init__(self, root, home, free_port, start):
        self.root, self.home, self.start = pathlib.Path(root), home, start
        self.libraries = self.root / "usr/lib/x86_64-linux-gnu"
        self.monitor_port = free_port()
        paths = [self.libraries, self.root / "lib/x86_64-linux-gnu", self.libraries / "ceph"]
        self.environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": ":".join(map(str, paths))}

    def words(self, program, *words):
        return [str(self.root / "usr/bin" / program), "--conf", str(self.home / "ceph.conf"), *words]

    def run(self, program, *words):
        """Runs a program to its end."""
        output = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(self.words(program, *words), env=self.environment, check=True, timeout=120, **output)

    def wait_with_store(self, child):
        """Runs the store, which the process `child` waits for, until `child` has ended. A store that asks the monitor before
        it has the map of monitors ends with "wrong fsid", and is started again."""
        store, deadline = None, time.monotonic() + 120
        while child.poll() is None:
            if time.monotonic() > deadline:
                sys.exit(f"{child.args[0]} has not ended after 120 s; the store's status is {store.poll()}")
            if store is None or store.poll() is not None:
                store = self.start(self.words("ceph-osd", "-i", "0", "-f"), self.environment)
            time.sleep(0.2)
        if child.returncode != 0:
            sys.exit(f"{child.args[0]} ended with status {child.returncode}")

    def gateway(self, frontend, access_key, secret):
        """Starts everything. Returns the process of the gateway."""
        fsid, home = str(uuid.uuid4()), self.home
        for directory in ["mon", "osd"]:
            (home / directory).mkdir()
        settings = SETTINGS.format(fsid=fsid, frontend=frontend, capacity=CAPACITY, **vars(self))
        (home / "ceph.conf").write_text(settings)
        address = f"[v1:127.0.0.1:{self.monitor_port}]"
        monitors, stores = str(home / "monmap"), str(home / "osdmap")
        self.run("monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, monitors)
        self.run("osdmaptool", "--createsimple", "1", "--clobber", stores)
        self.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors, "--osdmap", stores)
        self.start(self.words("ceph-mon", "-i", "a", "-f"), self.environment)
        self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", str(uuid.uuid4()))
        keys = ["--access-key", access_key, "--secret", secret]
        create_user = self.words("radosgw-admin", "user", "create", "--uid=tests", "--display-name=tests", *keys)
        self.wait_with_store(self.start(create_user, self.environment))
        return self.start(self.words("radosgw", "-n", "client.rgw", "-f"), self.environment)
