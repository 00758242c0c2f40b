//! What the environment of this process names about the storage services in clouds.

use super::cloud::{MetadataServices, Proxies};
use super::s3::AmazonEnvironment;

/// The variables of the clouds' own tools. They were removed from the environment, so that child processes do not inherit
/// secrets.
#[derive(Debug, Clone, Default)]
pub struct CloudEnvironment {
    /// The access to buckets of S3.
    pub amazon: AmazonEnvironment,
    /// The metadata services that are not at their usual address.
    pub metadata: MetadataServices,
    /// The proxies.
    pub proxies: Proxies,
}
