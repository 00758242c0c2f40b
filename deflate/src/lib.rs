//! Deflate (RFC 1951) for independent blocks, optimised for speed rather than the last percent of
//! compression.
//!
//! No crate without C code is as fast at this ratio (figures in docs/explanation/performance.md). Two small
//! hash tables find matches of eight and of six bytes, as "dfast" of zstd does. This is a separate crate so
//! that debug builds of the program optimise it. A caller must verify archives with another implementation.
//! The crate contains no unsafe code.

mod bits;
mod huffman;
mod matches;

use bits::Bits;
use matches::{Matches, Step};

/// The number of symbols for literals, the end of a block, and lengths.
const LITERALS: usize = 286;
const DISTANCES: usize = 30;
/// The symbol that ends a block.
const END: usize = 256;
/// The number of steps that share a pair of codes. With fewer steps, describing the codes costs more than
/// they save.
const MAX_STEPS: usize = 16 << 10;
/// The maximum number of bytes in a stored block.
const MAX_STORED: usize = 0xffff;

/// Compresses blocks. A value can be reused, which saves allocating its tables.
#[derive(Debug, Default)]
pub struct Deflater {
    matches: Matches,
    plan: Plan,
}

impl Deflater {
    /// Compresses `bytes` and appends the result to `out`. The result consists of complete deflate blocks, is
    /// not marked as the last one, and ends on a byte boundary. It does not refer to other data, and it is
    /// deterministic.
    pub fn deflate(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        out.reserve(bytes.len() / 3 + 64);
        let mut bits = Bits::onto(out);
        let (plan, mut done) = (&mut self.plan, 0);
        self.matches.find(bytes, |literals, step| {
            plan.take(literals, step);
            if plan.steps.len() >= MAX_STEPS {
                let end = done + plan.length;
                plan.write(bytes.get(done..end).unwrap_or_default(), &mut bits);
                done = end;
            }
        });
        plan.write(bytes.get(done..).unwrap_or_default(), &mut bits);
        // A sync flush in zlib's terms: an empty stored block.
        stored(&[], &mut bits);
    }
}

/// Appends `bytes` to `out` uncompressed, in stored blocks that are not marked as the last. `out` must end at
/// the end of a block.
pub fn store(bytes: &[u8], out: &mut Vec<u8>) {
    let mut bits = Bits::onto(out);
    bytes.chunks(MAX_STORED).for_each(|chunk| stored(chunk, &mut bits));
}

fn stored(chunk: &[u8], bits: &mut Bits<'_>) {
    bits.put(0, 3);
    bits.align();
    let length = chunk.len() as u64;
    bits.put(length | (!length & 0xffff) << 16, 32);
    bits.append(chunk);
}

/// The content of the next deflate block, and the frequency of each symbol in it.
#[derive(Debug)]
struct Plan {
    steps: Vec<Step>,
    /// The number of bytes that the steps cover.
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

    /// Writes the block of these bytes and resets the plan.
    fn write(&mut self, bytes: &[u8], bits: &mut Bits<'_>) {
        if bytes.is_empty() {
            return;
        }
        self.literals[END] = 1;
        let codes = huffman::Codes::new(&self.literals, &self.distances);
        if codes.bits(&self.literals, &self.distances) / 8 < bytes.len() as u64 {
            codes.describe(bits);
            self.encode(bytes, &codes, bits);
        } else {
            bytes.chunks(MAX_STORED).for_each(|chunk| stored(chunk, bits));
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
                // Three codes have at most 45 bits.
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
                // At most 15 + 5 bits for the length and 15 + 13 for the distance.
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

    /// Decompresses with another implementation.
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

    /// Returns pseudo-random bytes below `kinds`.
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
    fn restores_the_original_bytes() {
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
    fn blocks_can_be_concatenated() {
        let (mut deflater, mut out) = (Deflater::default(), Vec::new());
        let blocks = [noise(5000, 20), noise(70_000, 256), vec![7; 100_000], Vec::new(), noise(5000, 20)];
        for block in &blocks {
            deflater.deflate(block, &mut out);
            store(block, &mut out);
        }
        assert_eq!(inflated(out), blocks.map(|block| block.repeat(2)).concat());
    }

    #[test]
    fn compression_is_deterministic() {
        let (mut deflater, block) = (Deflater::default(), noise(100_000, 30));
        let first = deflated(&mut deflater, &block);
        deflated(&mut deflater, &noise(300_000, 17));
        assert_eq!(deflated(&mut deflater, &block), first);
    }

    #[test]
    fn incompressible_bytes_grow_little() {
        let bytes = noise(1 << 20, 256);
        let size = deflated(&mut Deflater::default(), &bytes).len();
        assert!(size <= bytes.len() + 5 * (bytes.len() / MAX_STORED + 2), "{size}");
        assert!(deflated(&mut Deflater::default(), &vec![0; 1 << 20]).len() < 2000);
    }

    /// Like Kubernetes objects after a Helm release, which is gzip in base64.
    #[test]
    fn compresses_data_after_noise() {
        let objects: Vec<u8> = (0..20_000)
            .flat_map(|n| format!("/registry/pods/default/nginx-{:05x}", n * 7919 % 104_729).into_bytes())
            .collect();
        let apart = deflated(&mut Deflater::default(), &objects).len();
        let bytes = [noise(200_000, 64), objects].concat();
        let size = deflated(&mut Deflater::default(), &bytes).len();
        assert!(size < 150_000 + apart + apart / 3, "{size}, and {apart} of them alone");
    }

    /// Frequencies in a Fibonacci sequence produce the deepest tree, which must be limited to 15 levels.
    #[test]
    fn limits_the_length_of_codes() {
        let (mut few, mut many) = (1, 1);
        let mut bytes = Vec::new();
        for byte in 0..26 {
            bytes.extend(std::iter::repeat_n(byte, few));
            (few, many) = (many, few + many);
        }
        // Shuffled, so that the bytes form no matches.
        let order = noise(bytes.len(), 251);
        let mut pairs: Vec<_> =
            order.iter().zip(&bytes).enumerate().map(|(n, (o, b))| ((*o, n * 7919 % 1009), *b)).collect();
        pairs.sort_unstable_by_key(|pair| pair.0);
        let bytes: Vec<u8> = pairs.into_iter().map(|pair| pair.1).collect();
        assert_eq!(inflated(deflated(&mut Deflater::default(), &bytes)), bytes);
    }

    proptest! {
        #[test]
        fn restores_arbitrary_bytes(
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
