//! An access key. A secret is never printed.

use crate::system::secret::Secret;

/// An access key.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Its id, which is not secret.
    pub access_key: String,
    /// The secret.
    pub secret: Secret,
    /// The token of a temporary key.
    pub token: Option<Secret>,
}
