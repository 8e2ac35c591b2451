//! The table of a segment's frames: the seekable format's, in a skippable frame at the end of the file.

use super::{Place, SegmentError};
use crate::object_store::ObjectKey;

/// Skippable frame, as the seekable format asks for it.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
/// The last four bytes of a seekable file.
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// Magic and size of the skippable frame.
const HEAD: usize = 8;
/// Compressed and plain size of a frame.
const ENTRY: usize = 8;
/// The bytes at the end of a segment from which [`SeekTable::size`] tells where the table begins: number of frames,
/// descriptor, magic.
pub const FOOTER: usize = 9;
/// Most frames that the format allows.
const MAX_FRAMES: usize = 0x0800_0000;

/// A frame's place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSpan {
    /// Bytes before it.
    pub offset: u64,
    /// Its compressed bytes.
    pub length: u32,
    /// Its plain bytes.
    pub plain_length: u32,
}

/// The frames of a segment, in order; the first one is the file's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeekTable {
    frames: Vec<FrameSpan>,
}

impl SeekTable {
    /// The frames.
    #[must_use]
    pub fn frames(&self) -> &[FrameSpan] {
        &self.frames
    }

    /// Where the next frame begins.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.frames
            .last()
            .map_or(0, |last| last.offset + u64::from(last.length))
    }

    /// Adds the next frame.
    pub(super) fn add(
        &mut self,
        length: u32,
        plain_length: u32,
    ) -> Result<FrameSpan, SegmentError> {
        if self.frames.len() == MAX_FRAMES {
            return Err(SegmentError::TooLarge(format!(
                "a segment has at most {MAX_FRAMES} frames"
            )));
        }
        let span = FrameSpan {
            offset: self.end(),
            length,
            plain_length,
        };
        self.frames.push(span);
        Ok(span)
    }

    /// The table as it stands in the file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let size = self.frames.len() * ENTRY + FOOTER;
        let mut bytes = Vec::with_capacity(HEAD + size);
        bytes.extend(SKIPPABLE_MAGIC.to_le_bytes());
        // At most 2^27 frames of 8 bytes: it fits.
        bytes.extend(u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
        for frame in &self.frames {
            bytes.extend(frame.length.to_le_bytes());
            bytes.extend(frame.plain_length.to_le_bytes());
        }
        bytes.extend(
            u32::try_from(self.frames.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        bytes.push(0);
        bytes.extend(SEEKABLE_MAGIC.to_le_bytes());
        bytes
    }

    /// How many bytes the table takes at the end of a segment that ends with `footer`.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] when these are not the last bytes of a segment.
    pub fn size(segment: &ObjectKey, footer: [u8; FOOTER]) -> Result<usize, SegmentError> {
        let [frames @ .., descriptor, m0, m1, m2, m3] = footer;
        if u32::from_le_bytes([m0, m1, m2, m3]) != SEEKABLE_MAGIC {
            return Err(damaged(segment, "the file does not end as a seekable one"));
        }
        let frames = u32::from_le_bytes(frames) as usize;
        if descriptor != 0 || frames == 0 || frames > MAX_FRAMES {
            return Err(damaged(segment, "its footer is not one that is written"));
        }
        Ok(HEAD + frames * ENTRY + FOOTER)
    }

    /// Reads the table from its own bytes, the last ones of a segment of `file_size` bytes.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] when it is not a table, or does not fit the file.
    pub fn parse(segment: &ObjectKey, bytes: &[u8], file_size: u64) -> Result<Self, SegmentError> {
        let footer = bytes
            .last_chunk()
            .ok_or_else(|| damaged(segment, "the file is too short"))?;
        if bytes.len() != Self::size(segment, *footer)? {
            return Err(damaged(segment, "another size than its footer says"));
        }
        let (words, _) = bytes[..bytes.len() - FOOTER].as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        let expected_head = [
            SKIPPABLE_MAGIC,
            u32::try_from(bytes.len() - HEAD).unwrap_or(u32::MAX),
        ];
        if expected_head.iter().any(|word| words.next() != Some(*word)) {
            return Err(damaged(segment, "it does not begin as one"));
        }
        let mut table = Self::default();
        while let (Some(length), Some(plain_length)) = (words.next(), words.next()) {
            table.add(length, plain_length)?;
        }
        if table.end() + bytes.len() as u64 != file_size {
            return Err(damaged(segment, "its frames do not make up the file"));
        }
        Ok(table)
    }
}

fn damaged(segment: &ObjectKey, problem: &str) -> SegmentError {
    SegmentError::Damaged {
        segment: segment.to_string(),
        place: Place::SeekTable,
        problem: problem.into(),
    }
}
