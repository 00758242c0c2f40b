//! Recovery: what a dead run left is finished or undone before anything else happens.

use super::beside::{Beside, DataDir};
use super::exchange::Exchange;
use super::journal::{Journal, Phase};
use super::proof::{Verdict, prove};
use crate::etcd::site::Site;
use crate::system::interrupt;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// What recovery did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// The interrupted restore is finished: etcd serves the new data. Where the old is kept, if it is.
    Finished(Option<PathBuf>),
    /// The interrupted restore is undone: the old data is live, for this reason.
    Undone(String),
    /// The interrupted restore, into a directory without data, is undone: etcd has made data of its own there.
    Overtaken,
    /// A restore had died before it changed anything; what it had made is removed.
    Swept,
}

impl Recovered {
    /// For a person, a sentence without a full stop.
    pub fn in_words(&self) -> String {
        match self {
            Self::Finished(None) => {
                "an interrupted restore was finished: etcd serves the restored data".to_owned()
            }
            Self::Finished(Some(kept)) => format!(
                "an interrupted restore was finished: etcd serves the restored data; the old is kept in {}",
                kept.display()
            ),
            Self::Undone(why) => format!("an interrupted restore was undone, the old data is live: {why}"),
            Self::Overtaken => {
                "an interrupted restore was undone: etcd has made data of its own meanwhile, where there was \
                                none, and that is live"
                    .to_owned()
            }
            Self::Swept => {
                "an interrupted restore had changed nothing; its working files were removed".to_owned()
            }
        }
    }
}

/// Finishes or undoes what an earlier run left in the data directory; `None` where it left nothing.
///
/// New data that serves is taken back only if it is shown to be other than what was restored: clients may have written
/// to it for days. If it cannot be asked, nothing is touched.
pub fn recover(site: &Site, data: &DataDir) -> Result<Option<Recovered>> {
    let Some(dir) = data.beside()? else { return Ok(None) };
    let Some(journal) = Journal::read(&dir)? else {
        data.remove_beside()?;
        return Ok(Some(Recovered::Swept));
    };
    let _deferred = interrupt::defer();
    let mut exchange = Exchange::left(site, Beside::left(data, dir), journal);
    let kept = |exchange: &Exchange<'_>| {
        exchange.journal().keep_old_as.as_ref().map(|name| data.dir().path().join(name))
    };
    if exchange.journal().phase == Phase::Committed {
        let kept = kept(&exchange);
        exchange.clear_up()?;
        return Ok(Some(Recovered::Finished(kept)));
    }
    if exchange.has_own_data()? {
        exchange.undo().context("undoing an interrupted restore")?;
        return Ok(Some(Recovered::Overtaken));
    }
    if !exchange.is_new_data_live()? {
        return undo(exchange, "it had not come to its end".to_owned());
    }
    match prove_new_data(&exchange).context("an interrupted restore cannot be judged")? {
        Verdict::Proved { .. } => {
            exchange.weigh_old_data();
            let kept = kept(&exchange);
            exchange.commit()?;
            Ok(Some(Recovered::Finished(kept)))
        }
        Verdict::Differs(how) => undo(exchange, how),
    }
}

fn undo(exchange: Exchange<'_>, why: String) -> Result<Option<Recovered>> {
    let data_dir = exchange.data().dir().path().to_owned();
    let kept = exchange.undo().context("undoing an interrupted restore")?;
    Ok(Some(Recovered::Undone(match kept {
        None => why,
        Some(name) => {
            format!("{why}; what clients wrote to the new data is kept in {}", data_dir.join(name).display())
        }
    })))
}

fn prove_new_data(exchange: &Exchange<'_>) -> Result<Verdict> {
    if !exchange.data().in_use()?
        && let Err(error) = exchange.start()
    {
        return Ok(Verdict::Differs(format!("{error:#}")));
    }
    prove(exchange.site(), exchange.data(), &exchange.journal().expected)
}
