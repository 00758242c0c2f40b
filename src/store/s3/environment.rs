//! The access to buckets that the environment grants, by the variables of Amazon's own tools.

use super::credentials::Credentials;
use crate::system::secret::Secret;
use std::path::PathBuf;

/// The access that the environment grants. If it grants several, the first one here is used, as by Amazon's tools.
#[derive(Debug, Clone, Default)]
pub struct AmazonEnvironment {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub credentials: Option<Credentials>,
    /// The role of a pod in Amazon EKS (IRSA).
    pub web_identity: Option<WebIdentityVariables>,
    /// The role of a container in Amazon ECS, or of a pod in Amazon EKS (EKS Pod Identity).
    pub container: Option<ContainerVariables>,
}

impl AmazonEnvironment {
    /// Returns whether it grants any access.
    pub fn grants_access(&self) -> bool {
        self.credentials.is_some() || self.web_identity.is_some() || self.container.is_some()
    }
}

/// A role that trusts the token of this workload.
#[derive(Debug, Clone)]
pub struct WebIdentityVariables {
    /// `AWS_ROLE_ARN`.
    pub role_arn: String,
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`.
    pub token_file: PathBuf,
    /// `AWS_ROLE_SESSION_NAME`.
    pub session_name: Option<String>,
    /// `AWS_REGION` or `AWS_DEFAULT_REGION`: the region of the security token service.
    pub region: Option<String>,
    /// `AWS_ENDPOINT_URL_STS`: the URL of the security token service.
    pub endpoint: Option<String>,
}

/// The endpoint that gives out the access keys of a container's role.
#[derive(Debug, Clone)]
pub struct ContainerVariables {
    /// `AWS_CONTAINER_CREDENTIALS_FULL_URI`, or the URL that `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` stands for.
    pub url: String,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN`.
    pub token: Option<Secret>,
}
