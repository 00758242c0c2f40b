"""What the library of certificate providers reads from the data that a unit writes into the relation `certificates`."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import ops
from charmlibs.interfaces.tls_certificates import (
    Certificate,
    CertificateRequestAttributes,
    PrivateKey,
    ProviderCertificate,
    TLSCertificatesProvidesV4,
)
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from ops import testing

# A test of the program checks that this is what it writes.
REQUIRER = Path(__file__).parents[1] / "data/certificates-requirer.json"

KEY = PrivateKey.generate()
ATTRIBUTES = CertificateRequestAttributes(common_name="ca", add_unique_id_to_subject_name=False)
CA = Certificate.generate_self_signed_ca(ATTRIBUTES, KEY, validity=timedelta(days=365))


class Provider(ops.CharmBase):
    """Answers requests as self-signed-certificates does."""

    def __init__(self, framework: ops.Framework) -> None:
        super().__init__(framework)
        self.certificates = TLSCertificatesProvidesV4(self, "certificates")
        framework.observe(self.on["certificates"].relation_changed, self.answer)

    def answer(self, _: ops.RelationChangedEvent) -> None:
        for request in self.certificates.get_outstanding_certificate_requests():
            assert not request.is_ca
            csr = request.certificate_signing_request
            certificate = Certificate.generate(csr, CA, KEY, validity=timedelta(days=90))
            answer = ProviderCertificate(request.relation_id, certificate, csr, CA, [certificate, CA])
            self.certificates.set_relation_certificate(answer)


def test_the_library_answers_both_requests_of_a_unit() -> None:
    metadata = {"name": "provider", "provides": {"certificates": {"interface": "tls-certificates"}}}
    context = testing.Context(Provider, meta=metadata)
    unit_data = json.loads(REQUIRER.read_text())
    relation = testing.Relation("certificates", remote_app_name="etcd", remote_units_data={0: unit_data})
    state = testing.State(leader=True, relations=[relation])
    answered = context.run(context.on.relation_changed(relation, remote_unit=0), state)
    data = answered.get_relation(relation.id).local_app_data
    assert data is not None
    entries = json.loads(data["certificates"])
    requests = [entry["certificate_signing_request"] for entry in json.loads(unit_data["certificate_signing_requests"])]
    assert [entry["certificate_signing_request"] for entry in entries] == requests

    server, client = (Certificate.from_string(entry["certificate"]) for entry in entries)
    assert (server.common_name, client.common_name) == ("etcd-1", "etcd-1-client")
    assert server.sans_ip == {"10.0.0.5", "127.0.0.1", "fd00::5"}
    assert (server.sans_dns, client.sans_dns) == ({"localhost", "machine-1"}, {"etcd-1-client"})
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert usages(server) == both and usages(client) == {ExtendedKeyUsageOID.CLIENT_AUTH}


def usages(certificate: Certificate) -> set[x509.ObjectIdentifier]:
    parsed = x509.load_pem_x509_certificate(certificate.raw.encode())
    return set(parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
