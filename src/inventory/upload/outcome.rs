//! The outcome of a run for each destination.

use super::queue::QueuedUpload;
use jiff::Timestamp;

/// The location of a run's new archive with respect to one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// At the destination.
    Arrived,
    /// In the queue: a later run will upload it.
    Queued,
    /// Not at the destination and not in the queue, which could not be written.
    NotQueued,
    /// It was deleted here before it was uploaded.
    Deleted,
    /// The run had no new archive, and only uploaded the queued archives.
    NoNewArchive,
}

/// An upload in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingUpload {
    /// The archive's name.
    pub archive: String,
    /// The destination's name.
    pub destination: String,
    /// When it was queued.
    pub since: Timestamp,
    /// The reason why the last attempt failed, if it did.
    pub error: Option<String>,
}

impl PendingUpload {
    /// Returns the form that an operator types: `DESTINATION/NAME`.
    pub fn selector(&self) -> String {
        format!("{}/{}", self.destination, self.archive)
    }
}

impl From<QueuedUpload> for PendingUpload {
    fn from(upload: QueuedUpload) -> Self {
        let QueuedUpload { archive, destination, since, error, .. } = upload;
        Self { archive, destination, since, error }
    }
}

/// The outcome of a run for one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadOutcome {
    /// The destination's name.
    pub destination: String,
    /// The location of the new archive.
    pub delivery: Delivery,
    /// The name of the new archive there, if another archive has its usual name.
    pub renamed: Option<String>,
    /// The number of uploaded archives.
    pub uploaded: usize,
    /// The uploads that are still in the queue.
    pub pending: Vec<PendingUpload>,
    /// The first error.
    pub error: Option<String>,
    /// Whether the reason is that another run is uploading.
    pub is_busy: bool,
}

impl UploadOutcome {
    /// The outcome before anything was uploaded.
    pub(super) fn new(destination: &str, delivery: Delivery) -> Self {
        Self {
            destination: destination.to_owned(),
            delivery,
            renamed: None,
            uploaded: 0,
            pending: Vec::new(),
            error: None,
            is_busy: false,
        }
    }

    /// Returns why the destination lacks an archive of this run: the new archive, or without one, any queued archive.
    pub fn failure(&self) -> Option<&str> {
        match self.delivery {
            Delivery::Arrived => None,
            _ => self.error.as_deref(),
        }
    }

    /// Describes the outcome in a few words: `uploaded`, or `queued: ` and the reason. It is `uploaded` only if the
    /// destination has the new archive.
    pub fn describe(&self) -> String {
        let count = |count: usize| if count > 1 { format!(" ({count} archives)") } else { String::new() };
        let reason = self.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        match self.delivery {
            Delivery::NoNewArchive
                if self.uploaded == 0 && self.pending.is_empty() && self.error.is_none() =>
            {
                "nothing waits".to_owned()
            }
            Delivery::NoNewArchive if self.uploaded > 0 => {
                format!("uploaded{}{}", count(self.uploaded), self.describe_pending())
            }
            Delivery::Arrived => {
                let renamed = self.renamed.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
                format!("uploaded{renamed}{}{}", count(self.uploaded), self.describe_pending())
            }
            Delivery::Queued | Delivery::NoNewArchive => {
                format!("queued{}{reason}", count(self.pending.len()))
            }
            Delivery::NotQueued | Delivery::Deleted => format!("not queued{reason}"),
        }
    }

    fn describe_pending(&self) -> String {
        let names: Vec<&str> = self.pending.iter().map(|upload| upload.archive.as_str()).collect();
        if names.is_empty() { String::new() } else { format!("; still waiting: {}", names.join(", ")) }
    }
}
