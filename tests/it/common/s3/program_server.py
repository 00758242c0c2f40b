"""An S3 server for the tests: a program that others wrote, which is started here and gets its buckets through its own
interface. Prints its port and the access key, twice. Ends with its standard input, and the program with it.

Usage: program_server.py KIND PROGRAM SECRET CERTIFICATE KEY ROOT: KIND is versitygw, minio or ceph; the rest as in
s3_server.py. The PROGRAM of ceph is the directory with its unpacked packages."""

import json
import os
import pathlib
import sys

import boto3
from botocore.config import Config

# This interpreter does not look for modules next to the script.
sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parent.parent)]
from ceph import Ceph
from started_program import free_port, spawn, wait_until_up

ACCESS_KEY = "AKIAS3TESTS"
kind, program, secret, certificate, private, root = sys.argv[1:]
root = pathlib.Path(root)
data, versions = root / ".data", root / ".versions"
data.mkdir()
versions.mkdir()


def start(port):
    """Starts the program."""
    address = f"127.0.0.1:{port}"
    environment = {"PATH": os.environ["PATH"], "HOME": str(root)}
    if kind == "versitygw":
        tls = ["--cert", certificate, "--key", private] if certificate else []
        words = ["--quiet", "--port", address, "--access", ACCESS_KEY, "--secret", secret, *tls]
        words += ["posix", "--versioning-dir", str(versions), str(data)]
    elif kind == "ceph":
        tls = f"ssl_certificate={certificate} ssl_private_key={private} ssl_" if certificate else ""
        return Ceph(program, data, free_port, spawn).gateway(f"{tls}endpoint={address}", ACCESS_KEY, secret)
    else:
        certificates = root / ".certs"
        certificates.mkdir()
        if certificate:
            (certificates / "public.crt").write_bytes(pathlib.Path(certificate).read_bytes())
            (certificates / "private.key").write_bytes(pathlib.Path(private).read_bytes())
        words = ["server", "--quiet", "--address", address, "--certs-dir", str(certificates), str(data)]
        environment |= {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": secret, "MINIO_BROWSER": "off"}
        # A key for encryption by the server itself, and by its key service. Its name is the one that the tests request.
        environment["MINIO_KMS_SECRET_KEY"] = "alias/etcd:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
        # Buckets are addressed by host name below this one.
        environment["MINIO_DOMAIN"] = "s3.us-east-1.amazonaws.com"
    return spawn([program, *words], environment)


def fill(s3, home):
    """Creates the bucket of a directory, with its objects."""
    name = home.name
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=name.endswith("-locked"))
    if name.endswith("-locked"):
        rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
        lock = {"ObjectLockEnabled": "Enabled", "Rule": rule}
        s3.put_object_lock_configuration(Bucket=name, ObjectLockConfiguration=lock)
    if name.endswith("-versioned"):
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for file in (file for file in home.rglob("*") if file.is_file()):
        s3.put_object(Bucket=name, Key=str(file.relative_to(home)), Body=file.read_bytes())


port = free_port()
child = start(port)
wait_until_up(child, port, program)
s3 = boto3.client(
    "s3",
    endpoint_url=f"{'https' if certificate else 'http'}://127.0.0.1:{port}",
    verify=False,
    aws_access_key_id=ACCESS_KEY,
    aws_secret_access_key=secret,
    region_name="us-east-1",
    # A server may still be starting when it listens.
    config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 10, "mode": "standard"}),
)
for home in (home for home in root.iterdir() if not home.name.startswith(".")):
    fill(s3, home)
print(port, ACCESS_KEY, ACCESS_KEY, flush=True)
for line in sys.stdin:
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=line.strip())
    found = {"Versions": [], "DeleteMarkers": []}
    for page in pages:
        for what, keys in found.items():
            keys += [one["Key"] for one in page.get(what, [])]
    print(json.dumps({"versions": found["Versions"], "markers": found["DeleteMarkers"]}), flush=True)
child.kill()
