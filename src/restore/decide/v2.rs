//! Decides whether keys of the v2 API prevent a restore.

use crate::etcd::v2_store::V2Keys;
use crate::restore::facts::Facts;
use crate::restore::refusals::Obstacle;
use crate::restore::request::Request;
use crate::restore::warnings;

/// Refuses to replace data with v2 keys unless the request allows it. Returns a warning if it is allowed, or if it is
/// unknown whether v2 keys exist.
///
/// # Errors
/// The existing data holds v2 keys.
pub(super) fn check_v2_keys(request: &Request, facts: &Facts) -> Result<Option<String>, Obstacle> {
    let Some(keys) = facts.v2_keys.describe() else { return Ok(None) };
    match facts.v2_keys {
        V2Keys::Unknown(_) => Ok(Some(warnings::may_hold_v2_keys(&keys, &facts.data_dir))),
        _ if request.allow_v2_loss => Ok(Some(warnings::loses_v2_keys(&keys, &facts.data_dir))),
        _ => Err(Obstacle::V2Keys { keys, command: request.command.clone() }),
    }
}
