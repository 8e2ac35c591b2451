//! Where the bytes come from: a file or standard input, plain or zstd.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use anyhow::Context as _;

/// The first bytes of a zstd frame (RFC 8878, 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// Read at once from the disk or the pipe.
const BUFFER_BYTES: usize = 256 * 1024;

/// The input, decompressed.
pub(super) struct Source(Box<dyn BufRead + Send>);

/// Whether opening it again gives the same bytes again.
pub(super) fn can_be_read_twice(path: &Path) -> bool {
    path != Path::new("-") && path.metadata().is_ok_and(|metadata| metadata.is_file())
}

impl Source {
    /// Opens the file at `path`, or standard input for `-`, and looks whether it is compressed.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let open = || -> io::Result<Self> {
            if path == Path::new("-") {
                Self::detect(io::stdin())
            } else {
                Self::detect(File::open(path)?)
            }
        };
        open().with_context(|| format!("cannot read {}", path.display()))
    }

    fn detect(mut raw: impl Read + Send + 'static) -> io::Result<Self> {
        let mut start = Vec::with_capacity(ZSTD_MAGIC.len());
        raw.by_ref()
            .take(ZSTD_MAGIC.len() as u64)
            .read_to_end(&mut start)?;
        let is_zstd = start == ZSTD_MAGIC;
        let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(start).chain(raw));
        if !is_zstd {
            return Ok(Self(Box::new(whole)));
        }
        let plain = zstd::stream::read::Decoder::with_buffer(whole)?;
        Ok(Self(Box::new(BufReader::with_capacity(
            BUFFER_BYTES,
            plain,
        ))))
    }

    #[cfg(test)]
    pub(super) fn of(bytes: impl Into<Vec<u8>>) -> Self {
        Self::detect(Cursor::new(bytes.into())).unwrap()
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: Vec<u8>) -> io::Result<String> {
        let mut text = String::new();
        Source::of(bytes).read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn zstd_is_recognised_whatever_the_name() {
        let compress = |text: &str| zstd::encode_all(text.as_bytes(), 3).unwrap();
        assert_eq!(read(b"plain".to_vec()).unwrap(), "plain");
        assert_eq!(read(compress("one frame")).unwrap(), "one frame");
        assert_eq!(
            read([compress("two "), compress("frames")].concat()).unwrap(),
            "two frames"
        );
        assert_eq!(read(vec![]).unwrap(), "");
        assert_eq!(read(b"{}".to_vec()).unwrap(), "{}");
    }

    #[test]
    fn a_cut_off_frame_is_an_error_not_an_end() {
        let mut cut = zstd::encode_all("a long enough text ".repeat(1000).as_bytes(), 3).unwrap();
        cut.truncate(cut.len() - 5);
        assert!(read(cut).is_err());
    }
}
