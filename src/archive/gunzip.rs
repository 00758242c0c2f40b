//! Decompresses a gzip file of any number of members. Zeros after the last member are ignored, as gzip(1) does: tapes and
//! disks pad files with them. This module must never ignore any other byte.

use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};

/// The most zeros after the last member in bytes.
const MAX_PADDING: u64 = 1 << 20;

/// The bytes that are decompressed at a time. zlib-rs copies its window after each call, so small pieces cost more.
const PIECE_SIZE: usize = 128 << 10;

/// A reader of the decompressed bytes.
pub(super) struct Gunzip<R: Read>(Option<GzDecoder<BufReader<R>>>);

impl<R: Read> Gunzip<R> {
    pub fn new(source: R) -> Self {
        Self(Some(GzDecoder::new(BufReader::with_capacity(PIECE_SIZE, source))))
    }
}

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let length = member.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            let next = first_byte(member.get_mut())?;
            let rest = self.0.take().map(GzDecoder::into_inner);
            match (rest, next) {
                (Some(mut rest), Some(0)) => skip_zeros(&mut rest)?,
                (Some(rest), Some(_)) => self.0 = Some(GzDecoder::new(rest)),
                _ => {}
            }
        }
        Ok(0)
    }
}

/// Returns the next byte without consuming it; `None` at the end.
fn first_byte(source: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        match source.fill_buf() {
            Ok(bytes) => return Ok(bytes.first().copied()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn skip_zeros(rest: &mut impl Read) -> io::Result<()> {
    let mut padding = Vec::new();
    let length = rest.take(MAX_PADDING + 1).read_to_end(&mut padding)?;
    if length as u64 > MAX_PADDING || padding.iter().any(|byte| *byte != 0) {
        return Err(io::Error::new(ErrorKind::InvalidData, "more bytes follow its end"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Gunzip;
    use flate2::{Compression, write::GzEncoder};
    use std::io::{Read, Write};

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn gunzip(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        Gunzip::new(bytes).read_to_end(&mut content).is_ok().then_some(content)
    }

    #[test]
    fn ignores_only_zeros_after_the_last_member() {
        let one = gzip(b"one");
        let followed = |rest: &[u8]| gunzip(&[&one, rest].concat());
        assert_eq!(followed(b"").as_deref(), Some(&b"one"[..]));
        assert_eq!(followed(&gzip(b", two")).as_deref(), Some(&b"one, two"[..]));
        assert_eq!(followed(&[0; 5000]).as_deref(), Some(&b"one"[..]));
        assert_eq!(followed(&[gzip(b"!"), vec![0; 9]].concat()).as_deref(), Some(&b"one!"[..]));
        for rest in [b"x".to_vec(), [vec![0; 600], b"x".to_vec()].concat(), vec![0; 2 << 20]] {
            assert_eq!(followed(&rest), None, "{} bytes", rest.len());
        }
        assert_eq!(followed(&[vec![0; 10], one.clone()].concat()), None);
        assert_eq!(gunzip(&one[..one.len() - 1]), None);
        assert_eq!(gunzip(&gzip(b"").repeat(10_000)).as_deref(), Some(&b""[..]));
    }
}
