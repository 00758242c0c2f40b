//! Whether v2 keys keep a restore from the data.

use super::{Facts, Request};
use crate::error::Refusal;
use crate::etcd::v2_store::V2Keys;

/// Refuses to replace data with v2 keys unless the request allows it. Returns what the operator must know if the restore
/// goes on.
pub(super) fn allow(request: &Request, facts: &Facts) -> Result<Option<String>, Refusal> {
    let Some(described) = facts.v2_keys.describe() else { return Ok(None) };
    let kept = format!("the old member directory is kept in {}", facts.data_dir);
    match facts.v2_keys {
        V2Keys::Unknown(_) => Ok(Some(format!(
            "etcd may hold v2 keys, which a restore does not bring back: it holds {described}; {kept}"
        ))),
        _ if request.allow_v2_loss => {
            Ok(Some(format!("etcd holds {described}, and will hold none after the restore; {kept}")))
        }
        _ => Err(Refusal::new(
            format!(
                "etcd holds {described}; a v3 snapshot does not contain them, so a restore would remove them"
            ),
            "to go on without them, run restore again with allow-v2-loss=true, which keeps the old member directory",
        )),
    }
}
