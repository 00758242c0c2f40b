//! Lists in documents that are read while they are written: there may be millions of items.

use anyhow::{Result, anyhow};
use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};

/// A list that is not in memory.
pub(super) trait StreamedList {
    /// An item of it.
    type Item: Serialize;

    /// Calls `visit` for each item, in their order.
    ///
    /// # Errors
    /// Fails if an item cannot be read, or with the error of `visit`.
    fn for_each(&self, visit: &mut dyn FnMut(Self::Item) -> Result<()>) -> Result<()>;
}

/// Writes a list into a document, item by item.
pub(super) fn serialize<S: Serializer>(list: &impl StreamedList, serializer: S) -> Result<S::Ok, S::Error> {
    let mut items = serializer.serialize_seq(None)?;
    let all = list.for_each(&mut |item| items.serialize_element(&item).map_err(|error| anyhow!("{error}")));
    all.map_err(|error| S::Error::custom(format!("{error:#}")))?;
    items.end()
}
