//! Bits one behind the other, the lowest first, as deflate has them. Must never hold back a whole byte.

/// Where bits are written to.
pub(crate) struct Bits<'a> {
    out: &'a mut Vec<u8>,
    /// What is no whole byte yet: under eight bits, and zeros above.
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// Goes on behind what is there, which ends on a byte's boundary.
    pub(crate) fn onto(out: &'a mut Vec<u8>) -> Self {
        Self { out, held: 0, count: 0 }
    }

    /// Writes the lowest `count` bits, at most 56; those above must be zeros.
    #[inline(always)]
    pub(crate) fn put(&mut self, bits: u64, count: u32) {
        self.held |= bits << self.count;
        self.count += count;
        if self.count >= 8 {
            let whole = self.count / 8;
            // Eight bytes are copied at once, and what was too much is taken back: quicker than to copy as many as there are.
            let length = self.out.len() + whole as usize;
            self.out.extend_from_slice(&self.held.to_le_bytes());
            self.out.truncate(length);
            self.held = self.held.checked_shr(8 * whole).unwrap_or(0);
            self.count %= 8;
        }
    }

    /// Fills the byte up with zeros.
    pub(crate) fn align(&mut self) {
        self.put(0, (8 - self.count) % 8);
    }

    /// Writes whole bytes, on a byte's boundary.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        debug_assert_eq!(self.count, 0, "on a byte's boundary");
        self.out.extend_from_slice(bytes);
    }
}
