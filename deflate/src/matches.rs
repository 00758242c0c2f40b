//! Finds repeated bytes within deflate's window: the last position with the same eight bytes, or the same six
//! bytes.
//!
//! The tables store the lowest 16 bits of a position, which covers the window. An entry is only a hint, so
//! the bytes are always compared. The search must never read outside of the block.

/// The maximum distance of a match.
const WINDOW: usize = 32 << 10;
/// The maximum length of a match.
const MAX_LENGTH: usize = 258;
/// The sizes of the tables, as powers of two. They fit in the fastest caches of a core. Larger tables find
/// more matches, but cost more time than they save.
const EIGHT_BYTE_BITS: u32 = 13;
const SIX_BYTE_BITS: u32 = 14;
/// The step between tried positions grows by one for each 2^`SKIP_SHIFT` bytes without a match.
const SKIP_SHIFT: u32 = 4;
/// The maximum step, so that matches after long noise are still found.
const MAX_SKIP: usize = 32;

/// A number of literal bytes, followed by a match if `length` is not 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub literals: u32,
    pub length: u16,
    pub distance: u16,
}

/// The last position of each hash of eight and of six bytes.
#[derive(Debug)]
pub(crate) struct Matches {
    eights: Box<[u16; 1 << EIGHT_BYTE_BITS]>,
    sixes: Box<[u16; 1 << SIX_BYTE_BITS]>,
}

impl Default for Matches {
    fn default() -> Self {
        Self { eights: Box::new([0; 1 << EIGHT_BYTE_BITS]), sixes: Box::new([0; 1 << SIX_BYTE_BITS]) }
    }
}

/// Equal bytes at `at` and at `distance` before it.
#[derive(Clone, Copy)]
struct Match {
    at: usize,
    distance: usize,
    length: usize,
}

impl Matches {
    /// Splits `bytes` into steps, in order, and calls `take` with the literals of each step.
    #[inline(always)]
    pub(crate) fn find(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8], Step)) {
        self.eights.fill(0);
        self.sixes.fill(0);
        // At each position that is tried, eight bytes can be loaded, and a few bytes follow.
        let limit = bytes.len().saturating_sub(12);
        let (mut at, mut emitted) = (0, 0);
        while at < limit {
            let Some(found) = self.match_at(bytes, at) else {
                at += (1 + ((at - emitted) >> SKIP_SHIFT)).min(MAX_SKIP);
                continue;
            };
            let found = extend_left(bytes, found, emitted);
            emit_steps(bytes, emitted, found, &mut take);
            emitted = found.at + found.length;
            at = emitted;
            if at < limit {
                self.insert(bytes, found.at + 2);
                self.insert(bytes, at - 2);
            }
        }
        let rest = bytes.get(emitted..).unwrap_or_default();
        if !rest.is_empty() {
            take(rest, Step { literals: rest.len() as u32, length: 0, distance: 0 });
        }
    }

    /// Returns the match at `at`, preferring the one of eight bytes.
    #[inline(always)]
    fn match_at(&mut self, bytes: &[u8], at: usize) -> Option<Match> {
        let here = load(bytes, at);
        let long = replace_position(&mut self.eights[hash_eight(here)], at);
        let short = replace_position(&mut self.sixes[hash_six(here)], at);
        // Both tables are read before either result is tested: one mispredicted branch is faster than two.
        let is_long = (load(bytes, at.saturating_sub(long)) == here) & is_in_window(long, at);
        let is_short = ((load(bytes, at.saturating_sub(short)) ^ here) << 16 == 0) & is_in_window(short, at);
        if !(is_long | is_short) {
            return None;
        }
        if is_long && here == here.rotate_left(8) {
            return Some(run_match(bytes, at));
        }
        let distance = if is_long { long } else { short };
        let length = common_length(bytes, at, distance);
        Some(Match { at, distance, length })
    }

    #[inline(always)]
    fn insert(&mut self, bytes: &[u8], at: usize) {
        let here = load(bytes, at);
        self.eights[hash_eight(here)] = at as u16;
        self.sixes[hash_six(here)] = at as u16;
    }
}

/// Stores a position, and returns the distance to the previous one, modulo 2^16.
#[inline(always)]
fn replace_position(entry: &mut u16, at: usize) -> usize {
    usize::from((at as u16).wrapping_sub(std::mem::replace(entry, at as u16)))
}

/// Returns whether deflate can encode the distance.
#[inline(always)]
fn is_in_window(distance: usize, at: usize) -> bool {
    distance.wrapping_sub(1) < WINDOW.min(at)
}

/// Loads eight bytes in little-endian order.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
}

#[inline(always)]
fn hash_eight(bytes: u64) -> usize {
    (bytes.wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - EIGHT_BYTE_BITS)) as usize
}

#[inline(always)]
fn hash_six(bytes: u64) -> usize {
    ((bytes << 16).wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - SIX_BYTE_BITS)) as usize
}

/// Returns how many bytes from `at` on equal those at `distance` before.
#[inline(always)]
fn common_length(bytes: &[u8], at: usize, distance: usize) -> usize {
    let (here, before) = (&bytes[at..], &bytes[at - distance..]);
    let mut length = 0;
    // Nine of ten matches end within 32 bytes. Comparing 32 at once avoids a branch on the exact length.
    for (here, before) in here.chunks_exact(32).zip(before.chunks_exact(32)) {
        let low = sixteen(here, 0) ^ sixteen(before, 0);
        let high = sixteen(here, 16) ^ sixteen(before, 16);
        if low | high != 0 {
            let (differs, same) = if low == 0 { (high, 16) } else { (low, 0) };
            return length + same + differs.trailing_zeros() as usize / 8;
        }
        length += 32;
    }
    while at + length < bytes.len() && bytes[at + length] == bytes[at + length - distance] {
        length += 1;
    }
    length
}

#[inline(always)]
fn sixteen(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().unwrap_or_default())
}

/// Returns the match of a byte that occurs at least eight times in a row, at distance 1.
fn run_match(bytes: &[u8], at: usize) -> Match {
    let at = if at > 0 && bytes[at - 1] == bytes[at] { at } else { at + 1 };
    Match { at, distance: 1, length: common_length(bytes, at, 1) }
}

/// Extends the match to the left while the preceding bytes are equal.
#[inline(always)]
fn extend_left(bytes: &[u8], mut found: Match, emitted: usize) -> Match {
    if found.at >= found.distance + 8 {
        let before = load(bytes, found.at - 8) ^ load(bytes, found.at - 8 - found.distance);
        let more = (before.leading_zeros() as usize / 8).min(found.at - emitted);
        found.at -= more;
        found.length += more;
    }
    found
}

/// Emits a match as one or more steps, because the length of a step is limited.
#[inline(always)]
fn emit_steps(bytes: &[u8], emitted: usize, found: Match, take: &mut impl FnMut(&[u8], Step)) {
    let mut literals = &bytes[emitted..found.at];
    let mut left = found.length;
    while left > 0 {
        // The remainder must be at least three bytes long, which is the shortest length with a code.
        let length = match left {
            0..=MAX_LENGTH => left,
            259..=260 => left - 3,
            _ => MAX_LENGTH,
        };
        take(
            literals,
            Step { literals: literals.len() as u32, length: length as u16, distance: found.distance as u16 },
        );
        literals = &[];
        left -= length;
    }
}
