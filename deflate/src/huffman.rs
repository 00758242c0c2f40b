//! Huffman codes as deflate has them: how long each is, what it is, and how the two are told to the reader.
//!
//! Tables by RFC 1951, 3.2.5 to 3.2.7. Must never make a code longer than its table allows.

use crate::bits::Bits;
use crate::{DISTANCES, END, LITERALS};

/// The longest code of a literal, a length or a distance.
const LONGEST: usize = 15;
/// The codes that tell of code lengths, and the longest of those.
const TELLING: usize = 19;
const LONGEST_TELLING: usize = 7;
/// The order in which the reader is told of them.
const ORDER: [usize; TELLING] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The bits of a code and of what follows it, and how many.
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
    /// The best for symbols that come so often.
    pub(crate) fn of(literals: &[u32; LITERALS], distances: &[u32; DISTANCES]) -> Self {
        Self { literals: codes(&lengths(literals, LONGEST)), distances: codes(&lengths(distances, LONGEST)) }
    }

    /// How many bits such a block takes, but for what tells of the codes.
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

    /// The code of each length, less three, with its extra bits.
    pub(crate) fn lengths(&self) -> [Code; 256] {
        std::array::from_fn(|length| {
            let (symbol, extra, value) = length_code(length as u16 + 3);
            self.literals[symbol].then(value, extra)
        })
    }

    /// The code of a distance, with its extra bits.
    #[inline(always)]
    pub(crate) fn distance(&self, distance: u16) -> Code {
        let (symbol, extra, value) = distance_code(distance);
        self.distances[symbol].then(value, extra)
    }

    /// Begins a block with these codes, which is not the last.
    pub(crate) fn describe(&self, bits: &mut Bits<'_>) {
        let used = |codes: &[Code]| codes.iter().rposition(|code| code.length > 0).map_or(0, |last| last + 1);
        let (literals, distances) = (used(&self.literals), used(&self.distances));
        let all = self.literals.iter().take(literals).chain(self.distances.iter().take(distances));
        let told = runs(&all.map(|code| code.length).collect::<Vec<_>>());
        let mut counts = [0; TELLING];
        told.iter().for_each(|run| counts[run.symbol] += 1);
        let codes: [Code; TELLING] = codes(&lengths(&counts, LONGEST_TELLING));
        let order =
            ORDER.iter().rposition(|symbol| codes[*symbol].length > 0).map_or(4, |last| last.max(3) + 1);
        bits.put(0b100, 3);
        bits.put((literals - 257) as u64, 5);
        bits.put((distances - 1) as u64, 5);
        bits.put((order - 4) as u64, 4);
        ORDER.iter().take(order).for_each(|symbol| bits.put(u64::from(codes[*symbol].length), 3));
        for run in told {
            let code = codes[run.symbol].then(run.value, run.extra);
            bits.put(code.bits, code.length);
        }
    }
}

/// The literal code of each length, less three.
const LENGTHS: [u16; 256] = {
    let mut symbols = [0; 256];
    let mut above = 0;
    while above < 256 {
        symbols[above] = length_code(above as u16 + 3).0 as u16;
        above += 1;
    }
    symbols
};

/// The symbol of a length from 3 to 258.
#[inline(always)]
pub(crate) fn length_symbol(length: u16) -> usize {
    usize::from(LENGTHS[usize::from(length - 3) & 0xff])
}

/// The same, the number of its extra bits, and their value.
const fn length_code(length: u16) -> (usize, u32, u64) {
    let above = length as u32 - 3;
    match above {
        0..8 => (END + 1 + above as usize, 0, 0),
        255 => (LITERALS - 1, 0, 0),
        _ => {
            // Four symbols share a number of extra bits.
            let extra = above.ilog2() - 2;
            let symbol = 4 * (extra + 1) + (above >> extra & 3);
            (END + 1 + symbol as usize, extra, (above & ((1 << extra) - 1)) as u64)
        }
    }
}

/// The same of a distance from 1 to 32768.
#[inline(always)]
pub(crate) fn distance_code(distance: u16) -> (usize, u32, u64) {
    let above = u32::from(distance) - 1;
    match above {
        0..4 => (above as usize, 0, 0),
        _ => {
            // Two symbols share one.
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

/// How long each symbol's code is to be; 0 for one that does not come. Always a whole tree, of at least two codes.
fn lengths<const N: usize>(counts: &[u32; N], longest: usize) -> [usize; N] {
    let mut lengths = [0; N];
    let mut symbols: Vec<(u32, usize)> =
        counts.iter().copied().zip(0..).filter(|(count, _)| *count > 0).collect();
    // A reader may refuse a tree of one code or of none.
    for symbol in 0..2 {
        if symbols.len() < 2 && symbols.iter().all(|(_, there)| *there != symbol) {
            symbols.push((1, symbol));
        }
    }
    symbols.sort_unstable();
    let mut of_length = depths(&symbols, longest);
    cut(&mut of_length);
    let mut rarest_first = symbols.iter();
    for (length, count) in of_length.iter().enumerate().rev() {
        for (_, symbol) in rarest_first.by_ref().take(*count) {
            lengths[*symbol] = length;
        }
    }
    lengths
}

/// How many leaves Huffman's tree has at each depth; those deeper than `longest` are counted there.
fn depths(rarest_first: &[(u32, usize)], longest: usize) -> Vec<usize> {
    let leaves = rarest_first.len();
    let mut weights: Vec<u64> = rarest_first.iter().map(|(count, _)| u64::from(*count)).collect();
    let mut parents = vec![0; 2 * leaves - 1];
    // The two lightest make one, again and again; what was made comes in order of weight, as the leaves do.
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

/// Makes codes longer until they fit under one root again.
fn cut(of_length: &mut [usize]) {
    let longest = of_length.len() - 1;
    let mut taken: usize =
        of_length.iter().zip(0..).skip(1).map(|(count, length)| count << (longest - length)).sum();
    while taken > 1 << longest {
        // One of the longest becomes the sibling of the longest that is shorter, which goes down a level.
        let Some(shorter) = (1..longest).rev().find(|length| of_length[*length] > 0) else { return };
        of_length[longest] -= 1;
        of_length[shorter] -= 1;
        of_length[shorter + 1] += 2;
        taken -= 1;
    }
}

/// The codes of these lengths, by which a reader finds the same ones.
fn codes<const N: usize>(lengths: &[usize; N]) -> [Code; N] {
    let mut next = [0_u16; LONGEST + 1];
    for length in 1..=LONGEST {
        let shorter = lengths.iter().filter(|other| **other == length - 1 && length > 1).count() as u16;
        next[length] = (next[length - 1] + shorter) << 1;
    }
    std::array::from_fn(|symbol| match lengths[symbol] {
        0 => Code::default(),
        length => {
            let code = next[length];
            next[length] += 1;
            // Codes go out with their highest bit first.
            Code { bits: u64::from(code.reverse_bits() >> (16 - length)), length: length as u32 }
        }
    })
}

/// A symbol that tells of code lengths, and what follows it.
struct Run {
    symbol: usize,
    extra: u32,
    value: u64,
}

/// How these lengths are told: each by itself, or a run of them by one symbol.
fn runs(lengths: &[u32]) -> Vec<Run> {
    let mut told = Vec::new();
    for same in lengths.chunk_by(|a, b| a == b) {
        let (length, mut left) = (same[0] as usize, same.len());
        let mut tell = |symbol, extra, count: usize, least| {
            told.push(Run { symbol, extra, value: (count - least) as u64 })
        };
        if length > 0 {
            tell(length, 0, 0, 0);
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
                (0, 11..) => tell(18, 7, count, 11),
                (0, 3..) => tell(17, 3, count, 3),
                (_, 3..) => tell(16, 2, count, 3),
                _ => tell(length, 0, 0, 0),
            }
            left -= count;
        }
    }
    told
}
