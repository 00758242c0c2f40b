//! The metadata services, by which a cloud gives an identity to its machines: their addresses, and how they are reached.
//!
//! It must never use a proxy: a service recognizes the machine by the connection.

use super::transport::{self, OnSignal};
use std::time::Duration;
use ureq::Agent;

/// The address of the services of Amazon EC2 and of Azure. It is link-local.
const LINK_LOCAL: &str = "http://169.254.169.254";
/// The name of the service in Google Cloud, which the machines there resolve.
const GOOGLE: &str = "metadata.google.internal";
/// The timeout of connecting. The services are link-local, so a slower one does not exist.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The timeout of a request. A service may first have to get a token from another server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The addresses that the environment names, for services that are not at their usual ones. The variables are those of
/// the clouds' own tools.
#[derive(Debug, Clone, Default)]
pub struct MetadataServices {
    /// The URL in `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    pub amazon: Option<String>,
    /// The URL in `AZURE_POD_IDENTITY_AUTHORITY_HOST`.
    pub azure: Option<String>,
    /// The host, and perhaps the port, in `GCE_METADATA_HOST`.
    pub google: Option<String>,
}

impl MetadataServices {
    /// Returns the URL of the service in Amazon EC2, without a slash at its end.
    pub(in crate::store) fn amazon_url(&self) -> String {
        url_or_link_local(self.amazon.as_deref())
    }

    /// Returns the URL of the service in Azure, without a slash at its end.
    pub(in crate::store) fn azure_url(&self) -> String {
        url_or_link_local(self.azure.as_deref())
    }

    /// Returns the URL of the service in Google Cloud, without a slash at its end.
    pub(in crate::store) fn google_url(&self) -> String {
        format!("http://{}", self.google.as_deref().unwrap_or(GOOGLE).trim_end_matches('/'))
    }
}

fn url_or_link_local(named: Option<&str>) -> String {
    named.unwrap_or(LINK_LOCAL).trim_end_matches('/').to_owned()
}

/// Makes an agent for requests to a metadata service. An answer with any status is an answer.
pub(in crate::store) fn agent() -> Agent {
    let config = Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_per_call(Some(REQUEST_TIMEOUT))
        .build();
    transport::agent(config, OnSignal::Stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_the_documented_ones_or_those_of_the_environment() {
        let usual = MetadataServices::default();
        assert_eq!(usual.amazon_url(), "http://169.254.169.254");
        assert_eq!(usual.azure_url(), "http://169.254.169.254");
        assert_eq!(usual.google_url(), "http://metadata.google.internal");
        let named = MetadataServices {
            amazon: Some("http://127.0.0.1:1/".to_owned()),
            azure: Some("http://127.0.0.1:2/".to_owned()),
            google: Some("127.0.0.1:3".to_owned()),
        };
        assert_eq!(named.amazon_url(), "http://127.0.0.1:1");
        assert_eq!(named.azure_url(), "http://127.0.0.1:2");
        assert_eq!(named.google_url(), "http://127.0.0.1:3");
    }
}
