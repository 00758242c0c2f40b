//! Certificates as a provider has issued them, for both generations of the interface `tls-certificates`. Only data.

use crate::error::Refusal;
use crate::system::secret::Secret;

/// Certificates and keys in PEM, as they are written to files.
#[derive(Debug, Clone)]
pub struct IssuedCertificates {
    /// The certificate of the authority.
    pub ca: String,
    /// The certificate of this unit's server, followed by those between it and the authority.
    pub server_cert: String,
    /// The key of the server.
    pub server_key: Secret,
    /// The certificate of clients, followed by those between it and the authority.
    pub client_cert: String,
    /// The key of clients.
    pub client_key: Secret,
}

/// The answer of a provider to the requests of this unit.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The certificates are not complete yet. The text describes the missing ones, after "waiting for".
    Waiting(String),
    /// The provider has revoked the certificates and not issued others.
    Revoked,
    /// The provider cannot issue the certificates that etcd needs.
    Refused(Refusal),
    /// The certificates.
    Issued(IssuedCertificates),
}
