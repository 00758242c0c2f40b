//! The files of a TLS client: which authority it trusts, and which certificate and key it shows.

use std::path::PathBuf;

/// Paths of the certificates for a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authority that signed the server's certificate.
    pub cacert: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// The client's key.
    pub key: Option<PathBuf>,
}
