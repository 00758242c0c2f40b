//! The size of the database at which etcd stops taking writes.
//!
//! Must never guess: a quota that was not found is unknown, and not etcd's default.

use super::settings::Said;
use std::path::PathBuf;

/// What etcd takes for no quota of its own (etcd, `DefaultQuotaBytes`): 2 GiB.
const DEFAULT: u64 = 2 << 30;
/// etcd's option.
const OPTION: &str = "quota-backend-bytes";

/// A quota, and where it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// The size in bytes; `None` if etcd has no quota.
    pub bytes: Option<u64>,
    /// Where it is set, in words.
    pub from: String,
    /// The configuration file of this etcd, if it has one. etcd takes no other settings then.
    pub config_file: Option<PathBuf>,
}

impl Quota {
    /// Returns the quota that etcd derives from its settings (`NewBackendQuota`): 0 is the default, less is none. `None` if
    /// etcd would refuse the setting.
    pub(super) fn of(said: &Said) -> Option<Self> {
        let bytes = match said.settings.quota_backend_bytes.as_deref().map_or(Some(0), number)? {
            0 => Some(DEFAULT),
            number => u64::try_from(number).ok(),
        };
        Some(Self { bytes, from: said.origin(OPTION), config_file: said.config_file.clone() })
    }

    /// Returns what to set so that etcd has this quota.
    pub fn setting(&self, bytes: u64) -> String {
        match &self.config_file {
            Some(file) => format!("{OPTION}: {bytes} in {}", file.display()),
            None if self.from.contains("ETCD_") => {
                let place = self.from.split_once(" in ").map(|(_, place)| format!(" in {place}"));
                format!("ETCD_QUOTA_BACKEND_BYTES={bytes}{}", place.unwrap_or_default())
            }
            None => format!("the flag --{OPTION}={bytes}"),
        }
    }
}

/// Reads an integer as Go's package `flag` does: hexadecimal after `0x`.
fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Settings, Told};
    use super::*;

    fn told(words: &[&str], variables: &[(&str, &str)]) -> Option<Quota> {
        let told = Told::of(words.iter().copied(), variables.iter().copied());
        let settings = told.settings();
        Quota::of(&Said::new(told, None, settings))
    }

    fn in_file(text: &str) -> Option<Quota> {
        // etcd takes no flag where there is a file.
        let told = Told::of(["--quota-backend-bytes=5"], []);
        Quota::of(&Said::new(told, Some("/c.yml".into()), Settings::of_file(text).unwrap()))
    }

    #[test]
    fn a_quota_is_read_as_etcd_reads_it() {
        let bytes = |quota: Option<Quota>| quota.map(|quota| quota.bytes);
        let variable = [("ETCD_QUOTA_BACKEND_BYTES", "7")];
        let cases = [
            (told(&[], &[]), Some(Some(DEFAULT))),
            (told(&["--quota-backend-bytes=0"], &variable), Some(Some(DEFAULT))),
            (told(&["--quota-backend-bytes=-1"], &[]), Some(None)),
            (told(&["--quota-backend-bytes", "0x10"], &variable), Some(Some(16))),
            (told(&[], &variable), Some(Some(7))),
            (told(&["--quota-backend-bytes=8G"], &[]), None),
            (in_file("quota-backend-bytes: 9\n"), Some(Some(9))),
            (in_file("quota-backend-bytes: -1\n"), Some(None)),
            (in_file("name: m1\n"), Some(Some(DEFAULT))),
        ];
        for (number, (quota, expected)) in cases.into_iter().enumerate() {
            assert_eq!(bytes(quota), expected, "case {number}");
        }
    }

    #[test]
    fn the_setting_to_change_is_the_one_that_etcd_takes() {
        let variable = [("ETCD_QUOTA_BACKEND_BYTES", "7")];
        let cases = [
            (told(&[], &[]), "etcd's own default", "the flag --quota-backend-bytes=9"),
            (
                told(&["--quota-backend-bytes=1"], &variable),
                "the flag --quota-backend-bytes",
                "the flag --quota-backend-bytes=9",
            ),
            (told(&[], &variable), "the variable ETCD_QUOTA_BACKEND_BYTES", "ETCD_QUOTA_BACKEND_BYTES=9"),
            (in_file("name: m1\n"), "etcd's own default", "quota-backend-bytes: 9 in /c.yml"),
            (
                in_file("quota-backend-bytes: 7\n"),
                "quota-backend-bytes in /c.yml",
                "quota-backend-bytes: 9 in /c.yml",
            ),
        ];
        for (quota, from, setting) in cases {
            let quota = quota.unwrap();
            assert_eq!((quota.from.as_str(), quota.setting(9).as_str()), (from, setting));
        }
    }
}
