//! Where bytes come again: at the place of the last eight that were the same, or of the last six, within deflate's window.
//!
//! The tables hold the lowest sixteen bits of a position, which is as far as the window reaches: what they say is a hint, and only
//! the bytes themselves count. Must never look outside of the block.

/// How far back deflate can refer.
const WINDOW: usize = 32 << 10;
/// The longest match that has a code.
const LONGEST: usize = 258;
/// Small enough for the tables to stay in a core's nearest caches: larger ones find more, and are slower by more.
const EIGHTS: u32 = 13;
const SIXES: u32 = 14;
/// Where nothing was found for 16 bytes, every second position is tried, and so on,
const PATIENCE: u32 = 4;
/// down to one of so many: what comes after long noise is still found.
const WIDEST: usize = 32;

/// So many bytes as they are, and then `length` that stand `distance` before, if `length` is not 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub literals: u32,
    pub length: u16,
    pub distance: u16,
}

/// The positions that were seen.
#[derive(Debug)]
pub(crate) struct Matches {
    eights: Box<[u16; 1 << EIGHTS]>,
    sixes: Box<[u16; 1 << SIXES]>,
}

impl Default for Matches {
    fn default() -> Self {
        Self { eights: Box::new([0; 1 << EIGHTS]), sixes: Box::new([0; 1 << SIXES]) }
    }
}

/// Bytes that stand at `at` and `distance` before.
#[derive(Clone, Copy)]
struct Match {
    at: usize,
    distance: usize,
    length: usize,
}

impl Matches {
    /// Takes `bytes` apart, from the first to the last: calls `take` with each step and its literals.
    #[inline(always)]
    pub(crate) fn find(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8], Step)) {
        self.eights.fill(0);
        self.sixes.fill(0);
        // Behind each position that is looked at, there are eight bytes to load, and some more.
        let limit = bytes.len().saturating_sub(12);
        let (mut at, mut told) = (0, 0);
        while at < limit {
            let Some(found) = self.at(bytes, at) else {
                at += (1 + ((at - told) >> PATIENCE)).min(WIDEST);
                continue;
            };
            let found = backwards(bytes, found, told);
            steps(bytes, told, found, &mut take);
            told = found.at + found.length;
            at = told;
            if at < limit {
                self.see(bytes, found.at + 2);
                self.see(bytes, at - 2);
            }
        }
        let rest = bytes.get(told..).unwrap_or_default();
        if !rest.is_empty() {
            take(rest, Step { literals: rest.len() as u32, length: 0, distance: 0 });
        }
    }

    /// The match at `at`: the one of more bytes, where there are two.
    #[inline(always)]
    fn at(&mut self, bytes: &[u8], at: usize) -> Option<Match> {
        let here = load(bytes, at);
        let long = swap(&mut self.eights[of_eight(here)], at);
        let short = swap(&mut self.sixes[of_six(here)], at);
        // Both are looked up before either is judged: a processor that guesses wrong once is quicker than one that does so twice.
        let is_long = (load(bytes, at.saturating_sub(long)) == here) & near(long, at);
        let is_short = ((load(bytes, at.saturating_sub(short)) ^ here) << 16 == 0) & near(short, at);
        if !(is_long | is_short) {
            return None;
        }
        if is_long && here == here.rotate_left(8) {
            return Some(run(bytes, at));
        }
        let distance = if is_long { long } else { short };
        let length = common(bytes, at, distance);
        Some(Match { at, distance, length })
    }

    #[inline(always)]
    fn see(&mut self, bytes: &[u8], at: usize) {
        let here = load(bytes, at);
        self.eights[of_eight(here)] = at as u16;
        self.sixes[of_six(here)] = at as u16;
    }
}

/// Notes a position, and says how far back the one before was, modulo 2^16.
#[inline(always)]
fn swap(entry: &mut u16, at: usize) -> usize {
    usize::from((at as u16).wrapping_sub(std::mem::replace(entry, at as u16)))
}

/// Whether deflate can refer to it.
#[inline(always)]
fn near(distance: usize, at: usize) -> bool {
    distance.wrapping_sub(1) < WINDOW.min(at)
}

/// Eight bytes, in this order from the lowest.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
}

#[inline(always)]
fn of_eight(bytes: u64) -> usize {
    (bytes.wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - EIGHTS)) as usize
}

#[inline(always)]
fn of_six(bytes: u64) -> usize {
    ((bytes << 16).wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - SIXES)) as usize
}

/// How many bytes from `at` on are those that stand `distance` before.
#[inline(always)]
fn common(bytes: &[u8], at: usize, distance: usize) -> usize {
    let (here, before) = (&bytes[at..], &bytes[at - distance..]);
    let mut length = 0;
    // Nine matches in ten end within 32 bytes: so many are compared at once, and no guess at where they differ goes wrong.
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

/// The match of a byte that comes at least eight times: with itself, which is as near as can be.
fn run(bytes: &[u8], at: usize) -> Match {
    let at = if at > 0 && bytes[at - 1] == bytes[at] { at } else { at + 1 };
    Match { at, distance: 1, length: common(bytes, at, 1) }
}

/// The match, begun earlier where the bytes before it are the same too.
#[inline(always)]
fn backwards(bytes: &[u8], mut found: Match, told: usize) -> Match {
    if found.at >= found.distance + 8 {
        let before = load(bytes, found.at - 8) ^ load(bytes, found.at - 8 - found.distance);
        let more = (before.leading_zeros() as usize / 8).min(found.at - told);
        found.at -= more;
        found.length += more;
    }
    found
}

/// The steps of a match: as many as its length takes.
#[inline(always)]
fn steps(bytes: &[u8], told: usize, found: Match, take: &mut impl FnMut(&[u8], Step)) {
    let mut literals = &bytes[told..found.at];
    let mut left = found.length;
    while left > 0 {
        // What is left must be long enough for a code of its own, which is three bytes.
        let length = match left {
            0..=LONGEST => left,
            259..=260 => left - 3,
            _ => LONGEST,
        };
        take(
            literals,
            Step { literals: literals.len() as u32, length: length as u16, distance: found.distance as u16 },
        );
        literals = &[];
        left -= length;
    }
}
