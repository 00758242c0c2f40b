//! Deflate (RFC 1951) for blocks that are compressed apart from each other, where time counts more than the last percent.
//!
//! It is here because no crate without C is as fast at this size (docs/explanation/performance.md has the figures): two small tables
//! find matches, one of eight bytes and one of six, as zstd's "dfast" does. A crate of its own, so that it is optimised where the
//! rest is built for debugging. It must never decide what is good: whoever writes an archive reads it back with another
//! implementation. No unsafe code.

mod bits;
mod huffman;
mod matches;

use bits::Bits;
use matches::{Matches, Step};

/// Literals, the end of a block, and the codes of lengths.
const LITERALS: usize = 286;
const DISTANCES: usize = 30;
/// The literal code that ends a block.
const END: usize = 256;
/// So many matches share one pair of codes: fewer, and what tells of the codes weighs more than what they save.
const STEPS: usize = 16 << 10;
/// What one stored block holds at most.
const LONGEST_STORED: usize = 0xffff;

/// Compresses blocks, and keeps its tables for the next.
#[derive(Debug, Default)]
pub struct Deflater {
    matches: Matches,
    plan: Plan,
}

impl Deflater {
    /// Appends `bytes`, deflated, to `out`: whole deflate blocks of which none is the last, ending on a byte's boundary. They
    /// refer to nothing outside of `bytes`, and the same bytes always come out the same.
    pub fn deflate(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        out.reserve(bytes.len() / 3 + 64);
        let mut bits = Bits::onto(out);
        let (plan, mut done) = (&mut self.plan, 0);
        self.matches.find(bytes, |literals, step| {
            plan.take(literals, step);
            if plan.steps.len() >= STEPS {
                let end = done + plan.length;
                plan.write(bytes.get(done..end).unwrap_or_default(), &mut bits);
                done = end;
            }
        });
        plan.write(bytes.get(done..).unwrap_or_default(), &mut bits);
        // What zlib calls a sync flush: a stored block of nothing.
        stored(&[], &mut bits);
    }
}

/// Appends `bytes` to `out` as they are, in stored blocks of which none is the last. `out` must end on a block's end.
pub fn store(bytes: &[u8], out: &mut Vec<u8>) {
    let mut bits = Bits::onto(out);
    bytes.chunks(LONGEST_STORED).for_each(|chunk| stored(chunk, &mut bits));
}

fn stored(chunk: &[u8], bits: &mut Bits<'_>) {
    bits.put(0, 3);
    bits.align();
    let length = chunk.len() as u64;
    bits.put(length | (!length & 0xffff) << 16, 32);
    bits.append(chunk);
}

/// What one deflate block is to hold, and how often each code comes in it.
#[derive(Debug)]
struct Plan {
    steps: Vec<Step>,
    /// How many bytes that is.
    length: usize,
    literals: [u32; LITERALS],
    distances: [u32; DISTANCES],
}

impl Default for Plan {
    fn default() -> Self {
        Self { steps: Vec::new(), length: 0, literals: [0; LITERALS], distances: [0; DISTANCES] }
    }
}

impl Plan {
    #[inline(always)]
    fn take(&mut self, literals: &[u8], step: Step) {
        for &literal in literals {
            self.literals[usize::from(literal)] += 1;
        }
        if step.length > 0 {
            self.literals[huffman::length_symbol(step.length)] += 1;
            self.distances[huffman::distance_code(step.distance).0] += 1;
        }
        self.length += literals.len() + usize::from(step.length);
        self.steps.push(step);
    }

    /// Writes the block of these bytes, and is empty then.
    fn write(&mut self, bytes: &[u8], bits: &mut Bits<'_>) {
        if bytes.is_empty() {
            return;
        }
        self.literals[END] = 1;
        let codes = huffman::Codes::of(&self.literals, &self.distances);
        if codes.bits(&self.literals, &self.distances) / 8 < bytes.len() as u64 {
            codes.describe(bits);
            self.encode(bytes, &codes, bits);
        } else {
            bytes.chunks(LONGEST_STORED).for_each(|chunk| stored(chunk, bits));
        }
        self.steps.clear();
        self.length = 0;
        self.literals = [0; LITERALS];
        self.distances = [0; DISTANCES];
    }

    fn encode(&self, mut rest: &[u8], codes: &huffman::Codes, bits: &mut Bits<'_>) {
        let lengths = codes.lengths();
        for step in &self.steps {
            let (literals, after) = rest.split_at(step.literals as usize);
            let mut threes = literals.chunks_exact(3);
            for three in &mut threes {
                // Three codes have 45 bits at most.
                let [a, b, c] = [0, 1, 2].map(|at| codes.literal(three[at]));
                bits.put(
                    a.bits | b.bits << a.length | c.bits << (a.length + b.length),
                    a.length + b.length + c.length,
                );
            }
            for &literal in threes.remainder() {
                let code = codes.literal(literal);
                bits.put(code.bits, code.length);
            }
            if step.length > 0 {
                // 15 and 5 bits of the length, 15 and 13 of the distance.
                let length = lengths[usize::from(step.length) - 3];
                let distance = codes.distance(step.distance);
                bits.put(length.bits | distance.bits << length.length, length.length + distance.length);
            }
            rest = after.get(usize::from(step.length)..).unwrap_or_default();
        }
        let end = codes.end();
        bits.put(end.bits, end.length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::DeflateDecoder;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::io::Read;

    /// What another implementation reads in it.
    fn inflated(mut deflated: Vec<u8>) -> Vec<u8> {
        deflated.extend([3, 0]);
        let mut bytes = Vec::new();
        let mut decoder = DeflateDecoder::new(deflated.as_slice());
        decoder.read_to_end(&mut bytes).expect("it inflates");
        assert_eq!(decoder.total_in(), deflated.len() as u64);
        bytes
    }

    fn deflated(deflater: &mut Deflater, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        deflater.deflate(bytes, &mut out);
        out
    }

    /// Bytes of this many kinds, as a generator of its own makes them.
    fn noise(length: usize, kinds: u64) -> Vec<u8> {
        let mut state = 88_172_645_463_325_252_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u8::try_from(state % kinds).expect("a byte")
        };
        std::iter::repeat_with(&mut next).take(length).collect()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let words = b"/registry/pods/default/nginx-7f5b8 ".repeat(40_000);
        let mixed: Vec<u8> =
            noise(300_000, 256).into_iter().chain(words.clone()).chain(vec![0; 900_000]).collect();
        let mut deflater = Deflater::default();
        for length in
            [0, 1, 2, 3, 7, 8, 12, 13, 257, 258, 259, 260, 261, 519, 32_767, 32_768, 32_769, 70_000, 1 << 20]
        {
            for kind in [&vec![0; length], &noise(length, 256), &noise(length, 2), &noise(length, 40)] {
                assert_eq!(&inflated(deflated(&mut deflater, kind)), kind, "{length} bytes");
            }
        }
        for bytes in [words, mixed] {
            assert_eq!(inflated(deflated(&mut deflater, &bytes)), bytes);
        }
    }

    #[test]
    fn blocks_stand_one_behind_the_other() {
        let (mut deflater, mut out) = (Deflater::default(), Vec::new());
        let blocks = [noise(5000, 20), noise(70_000, 256), vec![7; 100_000], Vec::new(), noise(5000, 20)];
        for block in &blocks {
            deflater.deflate(block, &mut out);
            store(block, &mut out);
        }
        assert_eq!(inflated(out), blocks.map(|block| block.repeat(2)).concat());
    }

    #[test]
    fn the_same_bytes_always_come_out_the_same() {
        let (mut deflater, block) = (Deflater::default(), noise(100_000, 30));
        let first = deflated(&mut deflater, &block);
        deflated(&mut deflater, &noise(300_000, 17));
        assert_eq!(deflated(&mut deflater, &block), first);
    }

    #[test]
    fn what_does_not_shrink_hardly_grows() {
        let bytes = noise(1 << 20, 256);
        let size = deflated(&mut Deflater::default(), &bytes).len();
        assert!(size <= bytes.len() + 5 * (bytes.len() / LONGEST_STORED + 2), "{size}");
        assert!(deflated(&mut Deflater::default(), &vec![0; 1 << 20]).len() < 2000);
    }

    /// As Kubernetes' objects come behind a release of Helm's, which is gzip in base64.
    #[test]
    fn what_comes_behind_noise_shrinks_all_the_same() {
        let objects: Vec<u8> = (0..20_000)
            .flat_map(|n| format!("/registry/pods/default/nginx-{:05x}", n * 7919 % 104_729).into_bytes())
            .collect();
        let apart = deflated(&mut Deflater::default(), &objects).len();
        let bytes = [noise(200_000, 64), objects].concat();
        let size = deflated(&mut Deflater::default(), &bytes).len();
        assert!(size < 150_000 + apart + apart / 3, "{size}, and {apart} of them alone");
    }

    /// Counts as a Fibonacci series has them make the deepest of all trees, which has to be cut to 15 levels.
    #[test]
    fn codes_that_would_be_too_long_are_not() {
        let (mut few, mut many) = (1, 1);
        let mut bytes = Vec::new();
        for byte in 0..26 {
            bytes.extend(std::iter::repeat_n(byte, few));
            (few, many) = (many, few + many);
        }
        // Apart from each other, so that they are no matches.
        let order = noise(bytes.len(), 251);
        let mut pairs: Vec<_> =
            order.iter().zip(&bytes).enumerate().map(|(n, (o, b))| ((*o, n * 7919 % 1009), *b)).collect();
        pairs.sort_unstable_by_key(|pair| pair.0);
        let bytes: Vec<u8> = pairs.into_iter().map(|pair| pair.1).collect();
        assert_eq!(inflated(deflated(&mut Deflater::default(), &bytes)), bytes);
    }

    proptest! {
        #[test]
        fn anything_comes_out_as_it_went_in(
            pieces in vec((vec(any::<u8>(), 0..40), 1_usize..60, 0_usize..50_000), 0..30),
        ) {
            let mut bytes = Vec::new();
            for (piece, times, back) in pieces {
                bytes.extend(piece.repeat(times));
                let from = bytes.len().saturating_sub(back);
                bytes.extend_from_within(from..from + (bytes.len() - from).min(700));
            }
            let mut deflater = Deflater::default();
            prop_assert_eq!(inflated(deflated(&mut deflater, &bytes)), bytes);
        }
    }
}
