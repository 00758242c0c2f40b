//! The environment variables that name proxies.

/// The variables of one proxy setting, by how they are looked up: in lower case, in upper case, and as Juju passes the
/// model's setting to a charm.
pub type Names = [&'static str; 3];

/// The proxy for http.
pub const HTTP: Names = ["http_proxy", "HTTP_PROXY", "JUJU_CHARM_HTTP_PROXY"];
/// The proxy for https.
pub const HTTPS: Names = ["https_proxy", "HTTPS_PROXY", "JUJU_CHARM_HTTPS_PROXY"];
/// The servers that are reached without a proxy.
pub const EXEMPT: Names = ["no_proxy", "NO_PROXY", "JUJU_CHARM_NO_PROXY"];
