"""What the scripts that start a server for the tests share: a free port, and a process that ends with the script."""

import ctypes
import signal
import socket
import subprocess
import sys
import time


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def spawn(words, environment, directory=None):
    """Starts a process that dies with this one."""
    die_with_parent = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    output = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": sys.stderr}
    return subprocess.Popen(words, env=environment, preexec_fn=die_with_parent, cwd=directory, **output)


def wait_until_up(child, port, program):
    """Waits until the process listens on the port. If it ends before, this one ends too."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if child.poll() is not None:
                sys.exit(f"{program} ended with status {child.returncode}")
            time.sleep(0.05)
