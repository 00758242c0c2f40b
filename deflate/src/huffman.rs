//! Huffman codes of deflate: their lengths, their bits, and their description in the block header.
//!
//! The tables follow RFC 1951, 3.2.5 to 3.2.7. A code must never be longer than its table allows.

use crate::bits::Bits;
use crate::{DISTANCES, END, LITERALS};

/// The maximum length of a literal, length or distance code, in bits.
const MAX_CODE: usize = 15;
/// The number of symbols that encode code lengths, and the maximum length of their codes.
const LENGTH_SYMBOLS: usize = 19;
const MAX_LENGTH_CODE: usize = 7;
/// The order in which the header lists the lengths of those codes.
const ORDER: [usize; LENGTH_SYMBOLS] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// A code with the extra bits that follow it, and the total number of bits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Code {
    pub bits: u64,
    pub length: u32,
}

impl Code {
    fn then(self, bits: u64, length: u32) -> Self {
        Self { bits: self.bits | bits << self.length, length: self.length + length }
    }
}

/// The codes of one deflate block.
pub(crate) struct Codes {
    literals: [Code; LITERALS],
    distances: [Code; DISTANCES],
}

impl Codes {
    /// Returns the optimal codes for symbols with these frequencies.
    pub(crate) fn new(literals: &[u32; LITERALS], distances: &[u32; DISTANCES]) -> Self {
        Self {
            literals: codes(&lengths(literals, MAX_CODE)),
            distances: codes(&lengths(distances, MAX_CODE)),
        }
    }

    /// Returns the size of the block in bits, without the description of the codes.
    pub(crate) fn bits(&self, literals: &[u32; LITERALS], distances: &[u32; DISTANCES]) -> u64 {
        let of = |count: u32, code: Code, extra: u32| u64::from(count) * u64::from(code.length + extra);
        let literals = (0..).zip(literals).map(|(symbol, count)| {
            of(*count, self.literals[symbol], symbol.checked_sub(END + 1).map_or(0, extra_of_length))
        });
        let distances = (0..)
            .zip(distances)
            .map(|(symbol, count)| of(*count, self.distances[symbol], extra_of_distance(symbol)));
        literals.chain(distances).sum()
    }

    #[inline(always)]
    pub(crate) fn literal(&self, byte: u8) -> Code {
        self.literals[usize::from(byte)]
    }

    pub(crate) fn end(&self) -> Code {
        self.literals[END]
    }

    /// Returns the code of each length, with its extra bits. Index 0 is length 3.
    pub(crate) fn lengths(&self) -> [Code; 256] {
        std::array::from_fn(|length| {
            let (symbol, extra, value) = length_code(length as u16 + 3);
            self.literals[symbol].then(value, extra)
        })
    }

    /// Returns the code of a distance, with its extra bits.
    #[inline(always)]
    pub(crate) fn distance(&self, distance: u16) -> Code {
        let (symbol, extra, value) = distance_code(distance);
        self.distances[symbol].then(value, extra)
    }

    /// Writes the header of a block with these codes. The block is not marked as the last one.
    pub(crate) fn describe(&self, bits: &mut Bits<'_>) {
        let used = |codes: &[Code]| codes.iter().rposition(|code| code.length > 0).map_or(0, |last| last + 1);
        let (literals, distances) = (used(&self.literals), used(&self.distances));
        let all = self.literals.iter().take(literals).chain(self.distances.iter().take(distances));
        let encoded = encode_lengths(&all.map(|code| code.length).collect::<Vec<_>>());
        let mut counts = [0; LENGTH_SYMBOLS];
        encoded.iter().for_each(|run| counts[run.symbol] += 1);
        let codes: [Code; LENGTH_SYMBOLS] = codes(&lengths(&counts, MAX_LENGTH_CODE));
        let order =
            ORDER.iter().rposition(|symbol| codes[*symbol].length > 0).map_or(4, |last| last.max(3) + 1);
        bits.put(0b100, 3);
        bits.put((literals - 257) as u64, 5);
        bits.put((distances - 1) as u64, 5);
        bits.put((order - 4) as u64, 4);
        ORDER.iter().take(order).for_each(|symbol| bits.put(u64::from(codes[*symbol].length), 3));
        for run in encoded {
            let code = codes[run.symbol].then(run.value, run.extra);
            bits.put(code.bits, code.length);
        }
    }
}

/// The literal symbol of each length. Index 0 is length 3.
const LENGTHS: [u16; 256] = {
    let mut symbols = [0; 256];
    let mut above = 0;
    while above < 256 {
        symbols[above] = length_code(above as u16 + 3).0 as u16;
        above += 1;
    }
    symbols
};

/// Returns the symbol of a length from 3 to 258.
#[inline(always)]
pub(crate) fn length_symbol(length: u16) -> usize {
    usize::from(LENGTHS[usize::from(length - 3) & 0xff])
}

/// Returns the symbol of a length, the number of its extra bits, and their value.
const fn length_code(length: u16) -> (usize, u32, u64) {
    let above = length as u32 - 3;
    match above {
        0..8 => (END + 1 + above as usize, 0, 0),
        255 => (LITERALS - 1, 0, 0),
        _ => {
            // Each number of extra bits is used by four symbols.
            let extra = above.ilog2() - 2;
            let symbol = 4 * (extra + 1) + (above >> extra & 3);
            (END + 1 + symbol as usize, extra, (above & ((1 << extra) - 1)) as u64)
        }
    }
}

/// Returns the symbol of a distance from 1 to 32768, the number of its extra bits, and their value.
#[inline(always)]
pub(crate) fn distance_code(distance: u16) -> (usize, u32, u64) {
    let above = u32::from(distance) - 1;
    match above {
        0..4 => (above as usize, 0, 0),
        _ => {
            // Each number of extra bits is used by two symbols.
            let extra = above.ilog2() - 1;
            let symbol = 2 * (extra + 1) + (above >> extra & 1);
            (symbol as usize, extra, u64::from(above & ((1 << extra) - 1)))
        }
    }
}

fn extra_of_length(symbol: usize) -> u32 {
    match symbol {
        0..8 | 28 => 0,
        _ => symbol as u32 / 4 - 1,
    }
}

fn extra_of_distance(symbol: usize) -> u32 {
    (symbol as u32 / 2).saturating_sub(1)
}

/// Returns the code length of each symbol, and 0 for symbols that do not occur. The tree is complete and has
/// at least two codes.
fn lengths<const N: usize>(counts: &[u32; N], longest: usize) -> [usize; N] {
    let mut lengths = [0; N];
    let mut symbols: Vec<(u32, usize)> =
        counts.iter().copied().zip(0..).filter(|(count, _)| *count > 0).collect();
    // A reader may refuse a tree with fewer than two codes.
    for symbol in 0..2 {
        if symbols.len() < 2 && symbols.iter().all(|(_, there)| *there != symbol) {
            symbols.push((1, symbol));
        }
    }
    symbols.sort_unstable();
    let mut of_length = depths(&symbols, longest);
    limit_lengths(&mut of_length);
    let mut rarest_first = symbols.iter();
    for (length, count) in of_length.iter().enumerate().rev() {
        for (_, symbol) in rarest_first.by_ref().take(*count) {
            lengths[*symbol] = length;
        }
    }
    lengths
}

/// Returns the number of leaves of Huffman's tree at each depth. Deeper leaves are counted at `longest`.
fn depths(rarest_first: &[(u32, usize)], longest: usize) -> Vec<usize> {
    let leaves = rarest_first.len();
    let mut weights: Vec<u64> = rarest_first.iter().map(|(count, _)| u64::from(*count)).collect();
    let mut parents = vec![0; 2 * leaves - 1];
    // Joins the two lightest nodes repeatedly. The leaves and the joined nodes are each sorted by weight.
    let (mut leaf, mut made) = (0, leaves);
    for node in leaves..2 * leaves - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            let next = if leaf < leaves && (made >= node || weights[leaf] <= weights[made]) {
                &mut leaf
            } else {
                &mut made
            };
            weight += weights[*next];
            parents[*next] = node;
            *next += 1;
        }
        weights.push(weight);
    }
    let mut depth = vec![0; 2 * leaves - 1];
    for node in (0..2 * leaves - 2).rev() {
        depth[node] = depth[parents[node]] + 1;
    }
    let mut counts = vec![0; longest + 1];
    depth.iter().take(leaves).for_each(|depth| counts[(*depth).min(longest)] += 1);
    counts
}

/// Lengthens codes until their lengths form a valid tree again.
fn limit_lengths(of_length: &mut [usize]) {
    let longest = of_length.len() - 1;
    let mut taken: usize =
        of_length.iter().zip(0..).skip(1).map(|(count, length)| count << (longest - length)).sum();
    while taken > 1 << longest {
        // A leaf of the lowest level becomes the sibling of the deepest leaf above it, which moves down one
        // level.
        let Some(shorter) = (1..longest).rev().find(|length| of_length[*length] > 0) else { return };
        of_length[longest] -= 1;
        of_length[shorter] -= 1;
        of_length[shorter + 1] += 2;
        taken -= 1;
    }
}

/// Returns the canonical codes of these lengths, which a reader derives in the same way.
fn codes<const N: usize>(lengths: &[usize; N]) -> [Code; N] {
    let mut next = [0_u16; MAX_CODE + 1];
    for length in 1..=MAX_CODE {
        let shorter = lengths.iter().filter(|other| **other == length - 1 && length > 1).count() as u16;
        next[length] = (next[length - 1] + shorter) << 1;
    }
    std::array::from_fn(|symbol| match lengths[symbol] {
        0 => Code::default(),
        length => {
            let code = next[length];
            next[length] += 1;
            // Codes are written with their highest bit first.
            Code { bits: u64::from(code.reverse_bits() >> (16 - length)), length: length as u32 }
        }
    })
}

/// A symbol that encodes one or more code lengths, with its extra bits.
struct Run {
    symbol: usize,
    extra: u32,
    value: u64,
}

/// Encodes code lengths: single ones by their own symbol, and runs by one symbol each.
fn encode_lengths(lengths: &[u32]) -> Vec<Run> {
    let mut encoded = Vec::new();
    for same in lengths.chunk_by(|a, b| a == b) {
        let (length, mut left) = (same[0] as usize, same.len());
        let mut push = |symbol, extra, count: usize, least| {
            encoded.push(Run { symbol, extra, value: (count - least) as u64 })
        };
        if length > 0 {
            push(length, 0, 0, 0);
            left -= 1;
        }
        while left > 0 {
            let count = match (length, left) {
                (0, 11..) => left.min(138),
                (0, 3..) => left,
                (_, 3..) if length > 0 => left.min(6),
                _ => 1,
            };
            match (length, count) {
                (0, 11..) => push(18, 7, count, 11),
                (0, 3..) => push(17, 3, count, 3),
                (_, 3..) => push(16, 2, count, 3),
                _ => push(length, 0, 0, 0),
            }
            left -= count;
        }
    }
    encoded
}
