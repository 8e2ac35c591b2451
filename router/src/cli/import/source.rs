//! Where the bytes come from: a file or standard input, plain or zstd.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use anyhow::Context as _;

use crate::cli::BadInput;

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
        let opened = open();
        let unreadable = opened.as_ref().err().and_then(|error| error.get_ref());
        if let Some(unreadable) = unreadable.filter(|inner| inner.is::<Unreadable>()) {
            return Err(BadInput(format!("{}: {unreadable}", path.display())).into());
        }
        opened.with_context(|| format!("cannot read {}", path.display()))
    }

    fn detect(mut raw: impl Read + Send + 'static) -> io::Result<Self> {
        let mut start = Vec::with_capacity(ZSTD_MAGIC.len());
        raw.by_ref()
            .take(ZSTD_MAGIC.len() as u64)
            .read_to_end(&mut start)?;
        if let Some(what) = unreadable(&start) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, Unreadable(what)));
        }
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

    /// Appends the next line, with its end, or the first `max` bytes of it; `false` at the end of the input.
    pub(super) fn line(&mut self, line: &mut Vec<u8>, max: u64) -> io::Result<bool> {
        let read = self.by_ref().take(max).read_until(b'\n', line)?;
        Ok(read > 0)
    }

    /// Whether it begins with `beginning`; nothing is taken from it. Waits until so much has come.
    pub(super) fn begins_with(&mut self, beginning: &[u8]) -> anyhow::Result<bool> {
        let mut start = Vec::with_capacity(beginning.len());
        self.by_ref()
            .take(beginning.len() as u64)
            .read_to_end(&mut start)
            .context("cannot read the beginning")?;
        let begins = start == beginning;
        let rest = std::mem::replace(&mut self.0, Box::new(io::empty()));
        self.0 = Box::new(Cursor::new(start).chain(rest));
        Ok(begins)
    }

    #[cfg(test)]
    pub(super) fn of(bytes: impl Into<Vec<u8>>) -> Self {
        Self::detect(Cursor::new(bytes.into())).unwrap()
    }
}

/// The input is in a form that is not read; the text says in which, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreadable(&'static str);

/// Why an input that begins like this is not read; none when it may be.
fn unreadable(start: &[u8]) -> Option<&'static str> {
    Some(match start {
        [0x1F, 0x8B, ..] => {
            "it is compressed with gzip; unpack it, or pipe it in: zcat FILE | backscroll import -"
        }
        [b'B', b'Z', b'h', ..] => {
            "it is compressed with bzip2; unpack it, or pipe it in: bzcat FILE | backscroll import -"
        }
        [0xFD, b'7', b'z', b'X', ..] => {
            "it is compressed with xz; unpack it, or pipe it in: xzcat FILE | backscroll import -"
        }
        [b'P', b'K', 3, 4, ..] => {
            "it is a ZIP file; unpack it, or pipe it in: unzip -p FILE | backscroll import -"
        }
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] | [_, 0, _, 0, ..] | [0, _, 0, _, ..] => {
            "it is text in UTF-16; convert it to UTF-8, or pipe it in: iconv -f UTF-16 -t UTF-8 FILE | backscroll import -"
        }
        _ => return None,
    })
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
    fn other_forms_are_named() {
        for (start, name) in [
            (&b"\x1f\x8b\x08\0rest"[..], "gzip"),
            (b"BZh91AY", "bzip2"),
            (b"\xfd7zXZ\0", "xz"),
            (b"PK\x03\x04..", "ZIP"),
            (b"\xff\xfe{\0\"\0", "UTF-16"),
            (b"{\0\"\0", "UTF-16"),
            (b"\0{\0\"", "UTF-16"),
        ] {
            let told = unreadable(&start[..4]).unwrap();
            assert!(told.contains(name), "{told}");
        }
        assert_eq!(unreadable(b"{\"ch"), None);
        assert_eq!(unreadable(b""), None);
    }

    #[test]
    fn a_cut_off_frame_is_an_error_not_an_end() {
        let mut cut = zstd::encode_all("a long enough text ".repeat(1000).as_bytes(), 3).unwrap();
        cut.truncate(cut.len() - 5);
        assert!(read(cut).is_err());
    }
}
