//! Recovery: what a dead run left is finished or undone before anything else happens.

use super::exchange::Exchange;
use super::journal::{Journal, Phase};
use super::proof::{Verdict, prove};
use super::rollback::WRITTEN;
use super::staging_dir::{Beside, DataDir, MEMBER};
use crate::etcd::site::Site;
use crate::system::interrupt;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// Why a restore is undone that died in the exchange, or before.
const NO_END: &str = "it had not come to its end";

/// What recovery did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// The interrupted restore is finished: etcd serves the new data. Where the old is kept, if it is.
    Finished(Option<PathBuf>),
    /// The interrupted restore is undone: the old data is live.
    Undone {
        /// The reason.
        why: String,
        /// Where the new data is kept, if it is.
        kept: Option<PathBuf>,
    },
    /// The interrupted restore, into a directory without data, is undone: etcd has made data of its own there. Where the new
    /// data is kept, if it is.
    Overtaken(Option<PathBuf>),
    /// A restore had died before it changed anything; what it had made is removed.
    Swept,
}

impl Recovered {
    /// For a person, a sentence without a full stop.
    pub fn in_words(&self) -> String {
        let (what, kept) = match self {
            Self::Finished(kept) => (
                "finished: etcd serves the restored data".to_owned(),
                kept.as_ref().map(|kept| ("the old is", kept)),
            ),
            Self::Undone { why, kept } => {
                (format!("undone, the old data is live: {why}"), kept.as_ref().map(|kept| (WRITTEN, kept)))
            }
            Self::Overtaken(kept) => (
                "undone: etcd has made data of its own meanwhile, where there was none, and that is live"
                    .to_owned(),
                kept.as_ref().map(|kept| (WRITTEN, kept)),
            ),
            Self::Swept => {
                return "an interrupted restore had changed nothing; its working files were removed"
                    .to_owned();
            }
        };
        let kept =
            kept.map(|(what, place)| format!("; {what} kept in {}", place.display())).unwrap_or_default();
        format!("an interrupted restore was {what}{kept}")
    }
}

/// Finishes or undoes what an earlier run left in the data directory; `None` where it left nothing.
///
/// New data that has served is taken back only if it is shown to be other than what was restored: clients may have written
/// to it for days. If it cannot be asked, nothing is touched; nor if it does not serve and may have.
pub fn recover(site: &Site, data: &DataDir) -> Result<Option<Recovered>> {
    let Some(dir) = data.beside()? else { return Ok(None) };
    let Some(journal) = Journal::read(&dir)? else {
        data.remove_beside()?;
        return Ok(Some(Recovered::Swept));
    };
    let _deferred = interrupt::defer();
    let phase = journal.phase;
    let exchange = Exchange::left(site, Beside::left(data, dir), journal);
    match phase {
        Phase::Committed => finished(exchange, Exchange::clear_up),
        Phase::Undone => undone(exchange, NO_END, |exchange| {
            let kept = exchange.kept_new_data()?;
            exchange.clear_up().map(|()| kept)
        }),
        Phase::Stopping | Phase::Exchanging if !exchange.is_new_data_live()? => {
            undone(exchange, NO_END, Exchange::undo)
        }
        Phase::Stopping | Phase::Exchanging => judge(exchange),
    }
    .map(Some)
}

/// New data that is live is finished, or undone for a good reason.
fn judge(mut exchange: Exchange<'_>) -> Result<Recovered> {
    match look(&exchange).context("an interrupted restore cannot be judged")? {
        Verdict::Proved { .. } => {
            exchange.decide_whether_to_keep_old();
            finished(exchange, Exchange::commit)
        }
        Verdict::Differs(how) => undone(exchange, &how, Exchange::undo),
        Verdict::Idle(how) => match exchange.is_live_as_made() {
            Ok(true) => undone(exchange, &how, Exchange::undo),
            Ok(false) => bail!("{how}; clients have written to the restored data, which stays live"),
            Err(error) => {
                bail!(
                    "{how}; whether clients have written to the restored data, which stays live, cannot be told: {error:#}"
                )
            }
        },
    }
}

fn look(exchange: &Exchange<'_>) -> Result<Verdict> {
    if !exchange.data().in_use()?
        && let Err(error) = exchange.start()
    {
        return Ok(Verdict::Idle(format!("{error:#}")));
    }
    prove(exchange.site, exchange.data(), &exchange.journal.expected)
}

/// Does what is left to do of an exchange that is finished.
fn finished<'a>(exchange: Exchange<'a>, rest: impl FnOnce(Exchange<'a>) -> Result<()>) -> Result<Recovered> {
    let data_dir = exchange.data().dir().path();
    let kept = exchange.journal.keep_old_as.as_ref().map(|name| data_dir.join(name));
    rest(exchange)?;
    Ok(Recovered::Finished(kept))
}

/// Does what is left to do of an exchange that is taken back, for this reason.
fn undone<'a>(
    exchange: Exchange<'a>,
    why: &str,
    rest: impl FnOnce(Exchange<'a>) -> Result<Option<PathBuf>>,
) -> Result<Recovered> {
    let (data, had_none) = (exchange.beside.data(), exchange.journal.old.inode.is_none());
    let kept = rest(exchange).context("undoing an interrupted restore")?;
    // The new is not live any more: what is there is etcd's own.
    if had_none && data.dir().inode(MEMBER)?.is_some() {
        return Ok(Recovered::Overtaken(kept));
    }
    Ok(Recovered::Undone { why: why.to_owned(), kept })
}
