"""A storage service for the tests: an emulator that others wrote, which is started here and gets its buckets through its
own interface. Prints its port, and for Azurite two tokens: one that allows everything, and one that only lists. Ends with
its standard input, and the emulator with it.

Usage: cloud_server.py KIND PROGRAM KEY CERTIFICATE PRIVATE ROOT: KIND is azurite or gcs. KEY is the key of the account in
Base64, for Azurite. ROOT has a directory for each bucket."""

import base64
import datetime
import hashlib
import hmac
import os
import pathlib
import ssl
import sys
import urllib.parse
import urllib.request

# This interpreter does not look for modules next to the script.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from started_program import free_port, spawn, wait_until_up

ACCOUNT = "etcdtests"
VERSION = "2020-10-02"
kind, program, key, certificate, private, root = sys.argv[1:]
root = pathlib.Path(root)


def start(port):
    """Starts the emulator."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(root)}
    if kind == "azurite":
        words = ["node", program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
        words += ["--inMemoryPersistence", "--disableTelemetry"]
        # Azurite accepts the tokens of identities only with TLS. It checks everything in them except for the signature.
        words += ["--cert", certificate, "--key", private, "--oauth", "basic"] if certificate else []
        return spawn(words, environment | {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"}, root)
    words = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    return spawn([*words, "-data", str(root), "-log-level", "error"], environment, root)


def sign(text):
    return base64.b64encode(hmac.digest(base64.b64decode(key), text.encode(), hashlib.sha256)).decode()


def create_container(name):
    """Sends a request with a signature, which is made here independently of the program under test."""
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
    own = {"x-ms-date": date, "x-ms-version": VERSION}
    lines = "".join(f"{header}:{own[header]}\n" for header in sorted(own))
    text = "PUT" + "\n" * 12 + f"{lines}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}/{ACCOUNT}/{name}?restype=container"
    headers = own | {"authorization": f"SharedKey {ACCOUNT}:{sign(text)}", "content-length": "0"}
    request = urllib.request.Request(url, headers=headers, method="PUT")
    urllib.request.urlopen(request, context=ssl._create_unverified_context() if certificate else None).close()


def token(permissions):
    """Returns a shared access signature of the account for an hour."""
    end = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = f"{ACCOUNT}\n{permissions}\nb\nsco\n\n{end}\n\nhttps,http\n{VERSION}\n"
    fields = {"sv": VERSION, "ss": "b", "srt": "sco", "sp": permissions, "se": end, "spr": "https,http"}
    return urllib.parse.urlencode(fields | {"sig": sign(text)})


port = free_port()
child = start(port)
wait_until_up(child, port, program)
if kind == "azurite":
    for bucket in root.iterdir():
        if bucket.is_dir():
            create_container(bucket.name)
    print(port, token("rwdlac"), token("l"), flush=True)
else:
    print(port, "-", "-", flush=True)
sys.stdin.read()
