//! Decides whether the restored database fits into etcd's quota.
//!
//! etcd refuses a write, and raises the NOSPACE alarm, if the size of its database and the cost of the write reach the
//! quota (etcd, `server/storage/quota.go` `Available`). The size is that of the file with its free pages, and a restore
//! keeps it.

use crate::etcd::site::Quota;
use crate::restore::facts::Facts;
use crate::restore::refusals::Obstacle;
use crate::restore::request::Request;
use crate::restore::warnings;

/// Upper limit of the bytes that must stay free for new writes. etcd accepts requests of 1.5 MiB by default.
const MAX_HEADROOM: u64 = 16 << 20;
/// etcd's default quota in bytes.
const DEFAULT_QUOTA: u64 = 2 << 30;

/// Refuses a database of `size` bytes if etcd would refuse every write after the restore. Returns a warning if the
/// quota is unknown and the database would not fit into the default one.
///
/// # Errors
/// The database does not fit.
pub(super) fn check_quota(request: &Request, facts: &Facts, size: u64) -> Result<Option<String>, Obstacle> {
    let Some(quota) = &facts.quota else {
        let fits = size.saturating_add(headroom(DEFAULT_QUOTA)) <= DEFAULT_QUOTA;
        return Ok((!fits).then(|| warnings::quota_unknown(size)));
    };
    let Some(limit) = quota.bytes else { return Ok(None) };
    let headroom = headroom(limit);
    if size.saturating_add(headroom) <= limit {
        return Ok(None);
    }
    Err(Obstacle::QuotaTooSmall {
        size,
        quota: limit,
        set_by: quota.origin.to_string(),
        headroom,
        remedy: remedy(request, quota, sufficient_quota(size)),
    })
}

/// A sixteenth of the quota: a database at its quota is full at the first write.
fn headroom(quota: u64) -> u64 {
    (quota / 16).min(MAX_HEADROOM)
}

/// Returns the lowest power of two that leaves a fifth free.
fn sufficient_quota(size: u64) -> u64 {
    size.saturating_add(size / 4).checked_next_power_of_two().unwrap_or(i64::MAX.unsigned_abs())
}

fn remedy(request: &Request, quota: &Quota, bytes: u64) -> String {
    let application = request.unit.as_deref().and_then(|unit| unit.split('/').next());
    let setting = quota.setting(bytes);
    match application.filter(|_| quota.config_file.is_some()) {
        Some(application) => format!(
            "juju config {application} quota-backend-bytes={bytes} (if this charm does not manage that etcd, set {setting} \
             and restart etcd), then restore again"
        ),
        None => format!("set {setting} or higher, restart etcd, and restore again"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{facts, request};
    use super::*;
    use crate::error::Refusal;
    use crate::etcd::site::{Launcher, Origin};
    use crate::restore::existing::ExistingData;
    use crate::restore::request::Bump;

    const MIB: u64 = 1 << 20;

    fn check(quota: Option<Quota>, size: u64) -> Result<Option<String>, Refusal> {
        check_quota(&request(Bump::Auto), &Facts { quota, ..facts(ExistingData::Empty, true) }, size)
            .map_err(Refusal::from)
    }

    fn quota(bytes: Option<u64>) -> Option<Quota> {
        let name = "quota-backend-bytes".to_owned();
        let origin = Origin::Flag { name, launcher: Launcher::Process(42) };
        Some(Quota { bytes, origin, config_file: None })
    }

    #[test]
    fn a_database_must_leave_room_below_the_quota() {
        for (limit, size, fits) in [
            (Some(16 * MIB), 30 * MIB, false),
            (Some(16 * MIB), 15 * MIB, true),
            (Some(16 * MIB), 15 * MIB + 1, false),
            (Some(2048 * MIB), 2032 * MIB, true),
            (Some(2048 * MIB), 2040 * MIB, false),
            (Some(200_000), 20_000, true),
            (None, u64::MAX, true),
        ] {
            assert_eq!(check(quota(limit), size).is_ok(), fits, "{size} of {limit:?}");
        }
    }

    #[test]
    fn the_refusal_names_the_setting_and_a_value_that_suffices() {
        let refusal = check(quota(Some(16 * MIB)), 30 * MIB).unwrap_err();
        assert!(
            refusal.reason.contains("takes 30M, but etcd's quota is 16M (the flag --quota-backend-bytes on the command line of process 42)"),
            "{refusal}"
        );
        assert!(refusal.next.starts_with("set the flag --quota-backend-bytes=67108864"), "{refusal}");
        for size in [1, 30 * MIB, 3000 * MIB, 9000 * MIB] {
            assert!(check(quota(Some(sufficient_quota(size))), size).is_ok(), "{size}");
        }
        let file = Quota { config_file: Some("/etc/etcd/etcd.conf.yml".into()), ..quota(Some(1)).unwrap() };
        let in_juju = Request { unit: Some("db/3".to_owned()), ..request(Bump::Auto) };
        let next = remedy(&in_juju, &file, 9);
        assert!(next.starts_with("juju config db quota-backend-bytes=9 "), "{next}");
    }

    #[test]
    fn an_unknown_quota_is_a_warning_for_what_exceeds_the_default() {
        assert_eq!(check(None, 2000 * MIB).unwrap(), None);
        assert!(check(None, 3000 * MIB).unwrap().unwrap().contains("is unknown"));
    }
}
