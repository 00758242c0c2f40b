//! What a walk says while it goes. Owns the words' shape; must never print.

/// One thing a walk says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A step begins, told as a participle clause: `saving the snapshot`.
    Step(&'a str),
    /// How far the running step has come, in bytes. `of` is an estimate and 0 where nothing is known.
    Bytes {
        /// Bytes done so far.
        done: u64,
        /// Bytes expected in all.
        of: u64,
    },
}

/// Who listens to a walk. The front door decides what becomes of it.
pub type Tell<'a> = &'a mut dyn FnMut(Progress<'_>);
