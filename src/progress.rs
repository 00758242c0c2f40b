//! The progress reports of a running procedure: its steps, and how many bytes of a step are done.
//!
//! Owns only the shape of these reports. Must never print them.

/// One report of a running procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A step begins, and the previous one has ended. The text is a participle clause: `saving the snapshot`.
    ///
    /// A step takes time. Not every step can count its bytes: until [`Bytes`](Self::Bytes) are reported, the only
    /// figure to show is the time since the step began.
    Step(&'a str),
    /// How much of the running step is done.
    Bytes {
        /// Bytes done so far. May go back if a part has to be sent again.
        done: u64,
        /// Bytes expected in all, which may be an estimate; `None` if unknown.
        expected: Option<u64>,
    },
    /// A line for the operator. It is not a step: it takes no time.
    Message(&'a str),
    /// A warning about a result that has no room for it, such as a value. It is printed even if no progress is.
    Warning(&'a str),
}

/// Receives the progress of a procedure.
///
/// A sink must not block, fail or panic while [signals are deferred](crate::system::interrupt::deferred): etcd is
/// stopped then, and a terminal that does not read or a hook tool that hangs must not keep it stopped. Such a sink
/// queues the report and lets another thread print it.
pub type Sink<'a> = &'a mut dyn FnMut(Progress<'_>);
