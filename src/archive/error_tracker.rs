//! Tracks which reader failed first: the file, or one of the decoders above it.
//!
//! To a decoder, a failing disk or network looks like a file that ends too early. This module must never report such a
//! failure as damage of the archive, or an error of a lower layer as one of the layer above it.

use crate::archive::damage::{Damage, Layer};
use anyhow::{Context, Result};
use std::cell::RefCell;
use std::io::{self, ErrorKind, Read};

/// The first errors of the readers of an archive.
#[derive(Debug, Default)]
pub(super) struct ErrorTracker {
    file: RefCell<Option<io::Error>>,
    layer: RefCell<Option<(Layer, String)>>,
}

impl ErrorTracker {
    /// Wraps the archive's file, which has `size` bytes if that is known.
    pub fn file<R: Read>(&self, source: R, size: Option<u64>) -> FileReader<'_, R> {
        FileReader { source, size, read: 0, watch: self }
    }

    /// Wraps a decoder.
    pub fn layer<R: Read>(&self, layer: Layer, source: R) -> LayerReader<'_, R> {
        LayerReader { source, layer, watch: self }
    }

    /// Returns the damage that a reader of `layer` reports as `detail`. If a lower layer failed before, returns its
    /// damage.
    pub fn framing(&self, layer: Layer, detail: &str) -> Damage {
        let (layer, detail) = self.layer.borrow().clone().unwrap_or_else(|| (layer, detail.to_owned()));
        Damage::Framing { layer, detail }
    }

    /// Returns the outcome of reading the archive `shown`, or the error of its file if that failed.
    pub fn outcome<T>(&self, shown: &str, outcome: Result<T>) -> Result<T> {
        match self.file.take() {
            Some(error) => Err(error).with_context(|| format!("reading {shown}")),
            None => outcome,
        }
    }
}

/// A reader of the archive's file.
pub(super) struct FileReader<'a, R> {
    source: R,
    size: Option<u64>,
    read: u64,
    watch: &'a ErrorTracker,
}

impl<R: Read> FileReader<'_, R> {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.read += length as u64;
        match self.size {
            // The file was replaced while it was read, or a response was cut off.
            Some(size) if length == 0 && !buffer.is_empty() && self.read != size => {
                let why = format!("it ended after {} of {size} bytes", self.read);
                Err(io::Error::new(ErrorKind::UnexpectedEof, why))
            }
            _ => Ok(length),
        }
    }
}

impl<R: Read> Read for FileReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != ErrorKind::Interrupted {
                self.watch.file.borrow_mut().get_or_insert(error);
            }
            kind.into()
        })
    }
}

/// A reader of a decoder's output.
pub(super) struct LayerReader<'a, R> {
    source: R,
    layer: Layer,
    watch: &'a ErrorTracker,
}

impl<R: Read> Read for LayerReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read(buffer).inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                self.watch.layer.borrow_mut().get_or_insert_with(|| (self.layer, error.to_string()));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_the_error_of_the_lowest_layer() {
        let watch = ErrorTracker::default();
        let mut gzip = watch.layer(Layer::Gzip, Failing);
        assert!(gzip.read(&mut [0]).is_err());
        assert_eq!(
            watch.framing(Layer::Tar, "a header is cut short"),
            Damage::Framing { layer: Layer::Gzip, detail: "no luck".to_owned() }
        );
        assert_eq!(
            ErrorTracker::default().framing(Layer::Tar, "a wrong sum"),
            Damage::Framing { layer: Layer::Tar, detail: "a wrong sum".to_owned() }
        );
    }

    #[test]
    fn does_not_report_a_failing_or_short_file_as_damage() {
        for (source, size, why) in [
            (&mut Failing as &mut dyn Read, 9, "reading a.zip: no luck"),
            (&mut &b"1234"[..], 9, "reading a.zip: it ended after 4 of 9 bytes"),
            (&mut &b"1234"[..], 3, "reading a.zip: it ended after 4 of 3 bytes"),
        ] {
            let watch = ErrorTracker::default();
            let read = io::copy(&mut watch.file(source, Some(size)), &mut io::sink());
            let damaged =
                read.map_err(|error| watch.framing(Layer::Zip, &error.to_string()).of("a.zip").into());
            assert_eq!(format!("{:#}", watch.outcome("a.zip", damaged).unwrap_err()), why);
        }
        let watch = ErrorTracker::default();
        let read = io::copy(&mut watch.file(&b"1234"[..], Some(4)), &mut io::sink());
        assert_eq!(watch.outcome("a.zip", read.map_err(Into::into)).unwrap(), 4);
    }

    struct Failing;

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("no luck"))
        }
    }
}
