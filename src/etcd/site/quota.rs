//! etcd's quota: the size of the database at which etcd stops accepting writes.
//!
//! Must never guess: a quota that was not found is unknown, which is not the same as etcd's default.

use super::options::Options;
use super::origin::Origin;
use std::path::PathBuf;

/// The default quota of etcd (etcd, `DefaultQuotaBytes`): 2 GiB.
const DEFAULT: u64 = 2 << 30;
/// The name of the etcd option.
const OPTION: &str = "quota-backend-bytes";
/// The name of the etcd variable.
const VARIABLE: &str = "ETCD_QUOTA_BACKEND_BYTES";

/// A quota and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// The size in bytes; `None` if etcd has no quota.
    pub bytes: Option<u64>,
    /// The origin of the quota.
    pub origin: Origin,
    /// The configuration file of this etcd, if it has one. etcd then ignores flags and variables.
    pub config_file: Option<PathBuf>,
}

impl Quota {
    /// Returns the quota that etcd derives from its options (`NewBackendQuota`): 0 means the default, and a negative
    /// number means no quota. Returns `None` if etcd would refuse the option.
    pub(super) fn from_options(options: &Options) -> Option<Self> {
        let bytes = match options.text(OPTION).map_or(Some(0), parse_integer)? {
            0 => Some(DEFAULT),
            number => u64::try_from(number).ok(),
        };
        let config_file = options.config_file("/".as_ref()).map(|file| file.value);
        Some(Self { bytes, origin: options.origin(OPTION), config_file })
    }

    /// Returns the setting that gives etcd a quota of `bytes`, in the form that this etcd reads.
    pub fn setting(&self, bytes: u64) -> String {
        match (&self.config_file, &self.origin) {
            (Some(file), _) => format!("{OPTION}: {bytes} in {}", file.display()),
            (None, Origin::Variable { file: Some(file), .. }) => {
                format!("{VARIABLE}={bytes} in {}", file.display())
            }
            (None, Origin::Variable { .. }) => format!("{VARIABLE}={bytes}"),
            (None, _) => format!("the flag --{OPTION}={bytes}"),
        }
    }
}

/// Parses an integer as Go's package `flag` does: hexadecimal after `0x`.
fn parse_integer(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::{from_command, from_file};
    use super::*;

    fn on_command_line(words: &[&str], variables: &[(&str, &str)]) -> Option<Quota> {
        Quota::from_options(&from_command(words, variables))
    }

    fn in_file(text: &str) -> Option<Quota> {
        Quota::from_options(&from_file(text).unwrap())
    }

    #[test]
    fn reads_the_quota_as_etcd_does() {
        let bytes = |quota: Option<Quota>| quota.map(|quota| quota.bytes);
        let variable = [("ETCD_QUOTA_BACKEND_BYTES", "7")];
        let cases = [
            (on_command_line(&[], &[]), Some(Some(DEFAULT))),
            (on_command_line(&["--quota-backend-bytes=0"], &variable), Some(Some(DEFAULT))),
            (on_command_line(&["--quota-backend-bytes=-1"], &[]), Some(None)),
            (on_command_line(&["--quota-backend-bytes", "0x10"], &variable), Some(Some(16))),
            (on_command_line(&[], &variable), Some(Some(7))),
            (on_command_line(&["--quota-backend-bytes=8G"], &[]), None),
            (in_file("quota-backend-bytes: 9\n"), Some(Some(9))),
            (in_file("quota-backend-bytes: -1\n"), Some(None)),
            (in_file("name: m1\n"), Some(Some(DEFAULT))),
        ];
        for (number, (quota, expected)) in cases.into_iter().enumerate() {
            assert_eq!(bytes(quota), expected, "case {number}");
        }
    }

    #[test]
    fn names_the_setting_that_etcd_would_read() {
        let variable = [("ETCD_QUOTA_BACKEND_BYTES", "7")];
        let flag = "the flag --quota-backend-bytes=9";
        let cases = [
            (on_command_line(&[], &[]), "etcd's default", flag),
            (
                on_command_line(&["--quota-backend-bytes=1"], &variable),
                "the flag --quota-backend-bytes on the command line of process 42",
                flag,
            ),
            (
                on_command_line(&[], &variable),
                "the variable ETCD_QUOTA_BACKEND_BYTES in the environment of process 42",
                "ETCD_QUOTA_BACKEND_BYTES=9",
            ),
            (in_file("name: m1\n"), "etcd's default", "quota-backend-bytes: 9 in /c.yml"),
            (
                in_file("quota-backend-bytes: 7\n"),
                "quota-backend-bytes in /c.yml",
                "quota-backend-bytes: 9 in /c.yml",
            ),
        ];
        for (quota, origin, setting) in cases {
            let quota = quota.unwrap();
            assert_eq!((&*quota.origin.to_string(), &*quota.setting(9)), (origin, setting));
        }
    }
}
