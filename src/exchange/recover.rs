//! Recovery: completes or rolls back the restore of a killed run, before any other action uses the data.
//!
//! Must never roll back new data that has been served, unless it is proved to differ from the restored data: clients
//! may have written to it for days.

use super::data_dir::{DataDir, MEMBER};
use super::journal::{Journal, Phase};
use super::proof::{Verdict, prove};
use super::rollback::describe_kept;
use super::staging_dir::{self, StagingDir};
use super::steps::Exchange;
use crate::etcd::site::Site;
use crate::system::interrupt;
use anyhow::{Context, Result};
use std::fmt;
use std::path::PathBuf;

/// The reason for rolling back a restore that was killed during the exchange or before it.
const WAS_INTERRUPTED: &str = "it was interrupted before etcd served the restored data";

/// The result of a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// The interrupted restore was completed: the new data is live.
    Completed {
        /// Whether etcd runs on it.
        is_running: bool,
        /// The place of the old data, if it is kept.
        kept: Option<PathBuf>,
    },
    /// The interrupted restore was rolled back: the old data is live.
    RolledBack {
        /// The reason.
        reason: String,
        /// The place of the new data, if it is kept.
        kept: Option<PathBuf>,
    },
    /// The interrupted restore, into an empty data directory, was rolled back: the directory is empty again.
    Emptied {
        /// The reason.
        reason: String,
        /// The place of the new data, if it is kept.
        kept: Option<PathBuf>,
    },
    /// The interrupted restore, into an empty data directory, was rolled back, because etcd has created its own data
    /// in it. Holds the place of the new data, if it is kept.
    Overtaken(Option<PathBuf>),
    /// A restore was killed before its first change. Its working files were removed.
    CleanedUp,
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept_new = |kept: &Option<PathBuf>| {
            kept.as_ref().map(|kept| format!("; {}", describe_kept(kept))).unwrap_or_default()
        };
        match self {
            Self::Completed { is_running, kept } => {
                f.write_str(match is_running {
                    true => "an interrupted restore was completed: etcd serves the restored data",
                    false => {
                        "an interrupted restore was completed: the restored data is live, but etcd does not run"
                    }
                })?;
                kept.as_ref().map_or(Ok(()), |kept| write!(f, "; the old data is kept in {}", kept.display()))
            }
            Self::RolledBack { reason, kept } => write!(
                f,
                "an interrupted restore was rolled back, and the old data is live: {reason}{}",
                kept_new(kept)
            ),
            Self::Emptied { reason, kept } => write!(
                f,
                "an interrupted restore was rolled back: {reason}; the data directory is empty, as it was before, so do \
                 not start etcd, which would create a new cluster without data, but restore again{}",
                kept_new(kept)
            ),
            Self::Overtaken(kept) => write!(
                f,
                "an interrupted restore was rolled back: etcd has created its own data in the empty data directory, and \
                 that is live{}",
                kept_new(kept)
            ),
            Self::CleanedUp => {
                f.write_str("an interrupted restore had changed nothing; its working files were removed")
            }
        }
    }
}

/// Completes or rolls back an unfinished exchange in the data directory. Returns `None` if there is no such exchange.
///
/// # Errors
/// The live etcd did not answer the queries, or it does not serve and clients may have written to the new data. In
/// these two cases, recovery has not changed any data. Any other error leaves the exchange unfinished, and recovery
/// can be repeated.
pub fn recover(site: &Site, data: &DataDir) -> Result<Option<Recovered>> {
    let Some(dir) = staging_dir::find(data)? else { return Ok(None) };
    let Some(journal) = Journal::read(&dir)? else {
        staging_dir::remove(data)?;
        return Ok(Some(Recovered::CleanedUp));
    };
    let _deferred = interrupt::defer();
    let phase = journal.phase;
    let exchange = Exchange::take_over(site, StagingDir::take_over(data, dir), journal);
    match phase {
        Phase::Committed => complete(exchange, Exchange::clean_up),
        Phase::RolledBack => roll_back(exchange, WAS_INTERRUPTED, |exchange| {
            let kept = exchange.kept_new_data()?;
            exchange.clean_up().map(|()| kept)
        }),
        Phase::Stopping | Phase::Exchanging if !exchange.is_new_data_live()? => {
            roll_back(exchange, WAS_INTERRUPTED, Exchange::roll_back)
        }
        Phase::Stopping | Phase::Exchanging => complete_or_roll_back(exchange),
    }
    .map(Some)
}

/// Completes an exchange if its new data is live, or rolls it back if the new data is wrong or unusable.
fn complete_or_roll_back(mut exchange: Exchange<'_>) -> Result<Recovered> {
    let verdict =
        start_and_prove(&exchange).context("it is unknown whether an interrupted restore succeeded")?;
    match verdict {
        Verdict::Proved { is_login_refused, .. } => {
            exchange.decide_whether_to_keep_old(None);
            if is_login_refused && exchange.journal.old.inode.is_some() {
                // The content of the new data could not be checked.
                exchange.journal.keep_old_as = Some(exchange.journal.old.keep_as.clone());
            }
            complete(exchange, Exchange::commit)
        }
        Verdict::Differs(reason) => roll_back(exchange, &reason, Exchange::roll_back),
        Verdict::Idle(reason) => {
            let why_live = match exchange.is_live_data_as_restored() {
                Ok(true) => return roll_back(exchange, &reason, Exchange::roll_back),
                Ok(false) => "clients have written to the restored data, which stays live".to_owned(),
                Err(error) => format!(
                    "the restored data stays live, because it is unknown whether clients have written to it: {error:#}"
                ),
            };
            Err(exchange.end_by_hand(format!("{reason}; {why_live}")).into())
        }
    }
}

fn start_and_prove(exchange: &Exchange<'_>) -> Result<Verdict> {
    if !exchange.data().is_in_use()?
        && let Err(error) = exchange.start()
    {
        return Ok(Verdict::Idle(format!("{error:#}")));
    }
    prove(exchange.site, exchange.data(), &exchange.journal.expected)
}

/// Runs the `rest` of an exchange after its new data became final.
fn complete<'a>(exchange: Exchange<'a>, rest: impl FnOnce(Exchange<'a>) -> Result<()>) -> Result<Recovered> {
    let data = exchange.data();
    let kept = exchange.journal.keep_old_as.as_ref().map(|name| data.dir().path().join(name));
    rest(exchange)?;
    Ok(Recovered::Completed { is_running: data.is_in_use()?, kept })
}

/// Runs the `rest` of an exchange that is rolled back for this `reason`.
fn roll_back<'a>(
    exchange: Exchange<'a>,
    reason: &str,
    rest: impl FnOnce(Exchange<'a>) -> Result<Option<PathBuf>>,
) -> Result<Recovered> {
    let (data, had_no_data) = (exchange.data(), exchange.journal.old.inode.is_none());
    let stopped = exchange.describe_stopped_dependents();
    let kept = rest(exchange).context("rolling back an interrupted restore")?;
    let reason = stopped.map_or_else(|| reason.to_owned(), |stopped| format!("{reason}; {stopped}"));
    Ok(match data.dir().inode(MEMBER)? {
        // The new data is not live here. So etcd created it.
        Some(_) if had_no_data => Recovered::Overtaken(kept),
        None if had_no_data => Recovered::Emptied { reason, kept },
        _ => Recovered::RolledBack { reason, kept },
    })
}
