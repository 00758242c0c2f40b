//! Writes the format .xz without compression: LZMA2 has chunks whose bytes are stored as they are.
//!
//! For texts of some kilobytes that another program expects in this format. No archive of ours has it. The format is
//! described in https://tukaani.org/xz/xz-file-format.txt; numbers are little-endian, except for the size of a chunk.

/// The bytes at the beginning of each file.
const HEADER_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
/// The bytes at the end of each file.
const FOOTER_MAGIC: [u8; 2] = *b"YZ";
/// The flags of the stream: the check of a block is a CRC-32.
const STREAM_FLAGS: [u8; 2] = [0, 1];
/// The header of a block without its CRC-32: its size in words minus one, no flags, one filter (LZMA2, with one byte of
/// properties: a dictionary of 4 KiB), and padding.
const BLOCK_HEADER: [u8; 8] = [2, 0, 0x21, 1, 0, 0, 0, 0];
/// The largest chunk, in bytes.
const MAX_CHUNK: usize = 1 << 16;
/// The control bytes of a stored chunk: the first one resets the dictionary.
const FIRST_CHUNK: u8 = 1;
const LATER_CHUNK: u8 = 2;

/// Returns `bytes` as a file in the format .xz.
pub fn store(bytes: &[u8]) -> Vec<u8> {
    let mut block = with_crc(BLOCK_HEADER.to_vec());
    for (number, chunk) in bytes.chunks(MAX_CHUNK).enumerate() {
        // A chunk has 1 to 65536 bytes, and its size is stored minus one.
        let size = u16::try_from(chunk.len() - 1).unwrap_or(u16::MAX);
        block.push(if number == 0 { FIRST_CHUNK } else { LATER_CHUNK });
        block.extend(size.to_be_bytes());
        block.extend(chunk);
    }
    // The end of the chunks.
    block.push(0);
    let check = crc32fast::hash(bytes).to_le_bytes();
    let unpadded_size = block.len() + check.len();
    pad(&mut block);
    block.extend(check);

    // An index with one record.
    let mut index = vec![0, 1];
    push_number(&mut index, unpadded_size);
    push_number(&mut index, bytes.len());
    pad(&mut index);
    let index = with_crc(index);

    let words = u32::try_from(index.len() / 4 - 1).unwrap_or_default();
    let footer = [&words.to_le_bytes()[..], &STREAM_FLAGS].concat();
    let header = [&HEADER_MAGIC[..], &with_crc(STREAM_FLAGS.to_vec())].concat();
    let footer_crc = crc32fast::hash(&footer).to_le_bytes();
    [&header[..], &block, &index, &footer_crc, &footer, &FOOTER_MAGIC].concat()
}

fn with_crc(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Adds zeros up to a multiple of four bytes.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Adds a number in groups of seven bits, the lowest first.
fn push_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/integration/test_cos_agent.py` unpacks a larger file with the library of xz.
    #[test]
    fn stores_bytes_as_xz_reads_them() {
        let expected = "fd377a585a0000016922de360200210100000000372797d6010003657463640084854b7a000118046be9f0a590\
                        42990d010000000001595a";
        let hex: String = store(b"etcd").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }

    #[test]
    fn splits_long_texts_into_chunks() {
        for (length, chunks) in [(0, 0), (MAX_CHUNK, 1), (MAX_CHUNK + 1, 2), (3 * MAX_CHUNK, 3)] {
            let stored = store(&vec![b'x'; length]);
            assert_eq!(stored.len() % 4, 0);
            let rest = stored.len() - length - 3 * chunks;
            assert!((44..=60).contains(&rest), "{length}: {rest} more bytes than the text");
        }
    }
}
