//! The warning about keys of the v2 API, which snapshots do not contain.

use crate::etcd::site::Site;
use crate::etcd::v2_store::V2Keys;

/// Returns the warning if the member of `site`, an etcd of this version, holds or may hold v2 keys.
pub(super) fn warning(site: &Site, version: &str) -> Option<String> {
    let described = V2Keys::read_for_version(site, version).describe()?;
    Some(format!("etcd holds {described}, which v3 snapshots do not contain"))
}
