"""An S3 server for the tests: moto, with checked signatures. Prints its port and the access keys of a user and of a role.
Ends with its standard input.

Usage: s3_server.py SECRET CERTIFICATE KEY ROOT: without TLS if CERTIFICATE is empty. Each directory in ROOT is a bucket, and
each file in it an object. A bucket whose name ends in -locked has object lock, with default retention. A bucket whose name
ends in -versioned keeps versions. Each line on the standard input names a bucket. The answer is a line of JSON with the keys
of all its versions and of all its delete markers."""

import json
import os
import pathlib
import sys

# Requests without a valid signature are refused.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"

import logging
import threading

from moto.core.authorization import ActionAuthenticatorMixin
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import FakeDeleteMarker, s3_backends
from moto.sts.models import sts_backends
from werkzeug.serving import make_server

ACCOUNT = "123456789012"
secret, certificate, private, root = sys.argv[1:]

logging.getLogger("werkzeug").setLevel(logging.ERROR)
iam = iam_backends[ACCOUNT]["aws"]
iam.create_user("us-east-1", "etcd")
policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'
iam.put_user_policy("etcd", "all", policy)
key = iam.create_access_key("etcd")
key.secret_access_key = secret
# A machine's role, with a session and its token.
iam.create_role("machine", "{}", "/", None, "", [], None)
iam.put_role_policy("machine", "all", policy)
role = sts_backends[ACCOUNT]["aws"].assume_role(
    "us-east-1", "i-0123456789", f"arn:aws:iam::{ACCOUNT}:role/machine", None, 3600, None
)
role.secret_access_key, role.session_token = secret, "canary-token"

s3 = s3_backends[ACCOUNT]["aws"]
for home in pathlib.Path(root).iterdir():
    name = home.name
    bucket = s3.create_bucket(name, "us-east-1")
    if name.endswith("-locked"):
        bucket.object_lock_enabled = True
        bucket.default_lock_mode = "COMPLIANCE"
        bucket.default_lock_days = 1
        s3.put_bucket_versioning(name, "Enabled")
    if name.endswith("-versioned"):
        s3.put_bucket_versioning(name, "Enabled")
    for file in (file for file in home.rglob("*") if file.is_file()):
        s3.put_object(name, str(file.relative_to(home)), file.read_bytes())

# moto checks the signature against the decoded URL, but Amazon against the URL that was sent.
sent = threading.local()
check = ActionAuthenticatorMixin._authenticate_and_authorize_action


def check_what_was_sent(self, *arguments, **named):
    self.uri, decoded = "http://host" + sent.uri, self.uri
    try:
        check(self, *arguments, **named)
    finally:
        self.uri = decoded


ActionAuthenticatorMixin._authenticate_and_authorize_action = check_what_was_sent
moto = DomainDispatcherApplication(create_backend_app)


def app(environ, start_response):
    sent.uri = environ["RAW_URI"]
    return moto(environ, start_response)


tls = (certificate, private) if certificate else None
server = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=tls)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, key.access_key_id, role.access_key_id, flush=True)
for line in sys.stdin:
    keys = s3.get_bucket(line.strip()).keys
    kept = [key for name in list(keys) for key in keys.getlist(name)]
    markers = [key.name for key in kept if isinstance(key, FakeDeleteMarker)]
    versions = [key.name for key in kept if not isinstance(key, FakeDeleteMarker)]
    print(json.dumps({"versions": versions, "markers": markers}), flush=True)
os._exit(0)
