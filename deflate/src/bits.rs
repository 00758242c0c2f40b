//! A bit writer with the bit order of deflate: lowest bit first. It must never hold back a complete byte.

/// Appends bits to a vector of bytes.
pub(crate) struct Bits<'a> {
    out: &'a mut Vec<u8>,
    /// The bits of the incomplete last byte: fewer than eight, with zeros above.
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// Continues after the existing bytes, on a byte boundary.
    pub(crate) fn onto(out: &'a mut Vec<u8>) -> Self {
        Self { out, held: 0, count: 0 }
    }

    /// Writes the lowest `count` bits of `bits`, at most 56. The higher bits must be zero.
    #[inline(always)]
    pub(crate) fn put(&mut self, bits: u64, count: u32) {
        self.held |= bits << self.count;
        self.count += count;
        if self.count >= 8 {
            let whole = self.count / 8;
            // Copying eight bytes and truncating the surplus is faster than copying a variable number of
            // bytes.
            let length = self.out.len() + whole as usize;
            self.out.extend_from_slice(&self.held.to_le_bytes());
            self.out.truncate(length);
            self.held = self.held.checked_shr(8 * whole).unwrap_or(0);
            self.count %= 8;
        }
    }

    /// Pads the current byte with zeros.
    pub(crate) fn align(&mut self) {
        self.put(0, (8 - self.count) % 8);
    }

    /// Writes whole bytes. The position must be on a byte boundary.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        debug_assert_eq!(self.count, 0, "on a byte's boundary");
        self.out.extend_from_slice(bytes);
    }
}
