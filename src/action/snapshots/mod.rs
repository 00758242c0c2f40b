//! The actions on archives that are there: `list-snapshots` and those that take a name from it.

pub mod list;

use super::Call;
use crate::stop::Stop;
use crate::store::Store;
use crate::store::local::Local;
use std::path::Path;

/// The stores that an action works on: for now the directory `target`, where there is one.
fn stores(call: &Call<'_>) -> Result<Vec<Box<dyn Store>>, Stop> {
    let target = Local::open(Path::new(call.params.text("target")?));
    let target =
        target.map_err(|error| Stop::of(error, "nothing was changed", "mend the cause and run it again"))?;
    Ok(target.into_iter().map(|local| Box::new(local) as Box<dyn Store>).collect())
}
