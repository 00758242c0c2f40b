//! How the programs of a package manager are run: with a time limit, and with the operator's proxies.

use crate::system::process::Program;
use std::time::Duration;

/// Time limit for a download over a slow network, including the wait for other installations.
const TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// The proxies that the operator set for charms, as environment variables.
pub type Proxies<'a> = &'a [(&'static str, String)];

/// Gives `program` the time limit and the proxies of an installation.
pub fn with_proxies(program: Program, proxies: Proxies<'_>) -> Program {
    proxies.iter().fold(program.deadline(TIMEOUT), |program, (name, value)| program.env(name, value))
}
