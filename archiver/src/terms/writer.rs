//! Writes the terms of a segment, frame by frame as the segment is written.
//!
//! It holds the compressed sections of the segment and one section in the making: of at most [`SECTION_FRAMES`] frames, and
//! [`SECTION_TERMS_BYTES`] of terms beside those of one frame (INV-BOUND). A frame whose terms are longer than its text, because that is no
//! language, is open: it is always read, and none of its terms is kept.

use std::collections::{BTreeMap, HashSet};
use std::mem;

use backscroll_shard::archive::SegmentId;
use backscroll_shard::message::StoredMessage;
use backscroll_shard::search::terms::each_term;
use bytes::Bytes;
use twox_hash::XxHash3_64;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use super::{
    DIRECTORY_HEADER, DIRECTORY_MAX, DIRECTORY_STEP, ENTRY_BYTES, Frames, MAGIC, SECTION_FRAMES,
    SKIPPABLE, SKIPPABLE_HEADER, SectionEntry, TermsError,
};

/// Bytes of terms after which a section is full.
const SECTION_TERMS_BYTES: usize = 1 << 20;
/// Bytes of terms up to which a frame is never open.
const OPEN_BYTES: usize = 16 << 10;
/// zstd's level: as that of segments is by default. 3 takes a fifth more.
const LEVEL: i32 = 9;
/// The most frames of a term that are listed one by one. Of more there is a bit for each frame.
pub(super) const LISTED: u32 = 7;

/// The terms of a segment that is being written.
pub struct TermsWriter {
    segment: SegmentId,
    /// The terms of the frame that is being written, their bytes, and those of its texts.
    frame: HashSet<Box<str>>,
    frame_bytes: usize,
    text_bytes: usize,
    /// The frames of the section, and those that are always read.
    offsets: Vec<u64>,
    open: Frames,
    terms: BTreeMap<Box<str>, Frames>,
    terms_bytes: usize,
    compressor: Compressor<'static>,
    sections: Vec<SectionEntry>,
    written: Vec<u8>,
    /// Room for folded texts.
    folded: String,
}

impl TermsWriter {
    /// Begins the terms of a segment.
    ///
    /// # Errors
    /// When the compressor cannot be set up.
    pub fn new(segment: SegmentId) -> Result<Self, TermsError> {
        let unwritten = |error: std::io::Error| TermsError::Unwritten {
            segment,
            problem: error.to_string(),
        };
        let mut compressor = Compressor::new(LEVEL).map_err(unwritten)?;
        compressor
            .set_parameter(CParameter::ChecksumFlag(true))
            .map_err(unwritten)?;
        Ok(Self {
            segment,
            frame: HashSet::new(),
            frame_bytes: 0,
            text_bytes: 0,
            offsets: Vec::new(),
            open: 0,
            terms: BTreeMap::new(),
            terms_bytes: 0,
            compressor,
            sections: Vec::new(),
            written: Vec::new(),
            folded: String::new(),
        })
    }

    /// Adds a message of the frame that is being written.
    pub fn add(&mut self, message: &StoredMessage) {
        if message.deleted_at.is_some() {
            return; // no search finds it
        }
        let Self {
            frame, frame_bytes, ..
        } = self;
        self.text_bytes += message.content.len();
        each_term(&message.content, &mut self.folded, |term| {
            if !frame.contains(term) {
                *frame_bytes += term.len() + 1;
                frame.insert(term.into());
            }
        });
    }

    /// Ends the frame, which is at `offset` in the segment.
    ///
    /// # Errors
    /// When a section that is full cannot be compressed.
    pub fn end_frame(&mut self, offset: u64) -> Result<(), TermsError> {
        let bit = 1 << self.offsets.len();
        self.offsets.push(offset);
        let (terms, text) = (
            mem::take(&mut self.frame_bytes),
            mem::take(&mut self.text_bytes),
        );
        // Pairs of characters of a script without spaces are about as long as the text.
        if terms > OPEN_BYTES.max(text / 2 * 3) {
            self.frame.clear();
            self.open |= bit;
        }
        for term in self.frame.drain() {
            let bytes = term.len() + 1;
            let frames = self.terms.entry(term).or_insert_with(|| {
                self.terms_bytes += bytes;
                0
            });
            *frames |= bit;
        }
        if self.offsets.len() == SECTION_FRAMES || self.terms_bytes >= SECTION_TERMS_BYTES {
            self.end_section()?;
        }
        Ok(())
    }

    fn end_section(&mut self) -> Result<(), TermsError> {
        let (Some(first), Some(last)) = (self.offsets.first(), self.offsets.last()) else {
            return Ok(());
        };
        let frames = (*first, *last);
        let plain = self.section();
        let segment = self.segment;
        let compressed = self.compressor.compress(&plain);
        let compressed = compressed.map_err(|error| TermsError::Unwritten {
            segment,
            problem: error.to_string(),
        })?;
        let length = u32::try_from(compressed.len());
        self.sections.push(SectionEntry {
            frames,
            offset: self.written.len() as u64, // behind the directory
            length: length.map_err(|_| self.too_much())?,
            digest: XxHash3_64::oneshot(&compressed),
        });
        self.written.extend_from_slice(&compressed);
        self.offsets.clear();
        self.open = 0;
        self.terms.clear();
        self.terms_bytes = 0;
        Ok(())
    }

    /// The section's plain bytes: a line for each term, then which frames are open and where the frames are, then for each term its
    /// frames, then how long the parts are.
    fn section(&self) -> Vec<u8> {
        let mut plain = Vec::with_capacity(self.terms_bytes + self.terms.len() * 4 + 1024);
        for term in self.terms.keys() {
            plain.extend_from_slice(term.as_bytes());
            plain.push(b'\n');
        }
        let text = plain.len();
        plain.extend_from_slice(&self.open.to_le_bytes());
        for offset in &self.offsets {
            plain.extend_from_slice(&offset.to_le_bytes());
        }
        for frames in self.terms.values() {
            put_frames(*frames, &mut plain);
        }
        for number in [text, self.terms.len(), self.offsets.len()] {
            plain.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        plain
    }

    fn too_much(&self) -> TermsError {
        TermsError::Unwritten {
            segment: self.segment,
            problem: "there are too many".into(),
        }
    }

    /// Ends the segment, and gives the object's bytes.
    ///
    /// # Errors
    /// When the last section cannot be compressed, or there are too many.
    pub fn finish(mut self) -> Result<Bytes, TermsError> {
        self.end_section()?;
        let least = SKIPPABLE_HEADER + DIRECTORY_HEADER + self.sections.len() * ENTRY_BYTES + 8;
        let size = least.next_multiple_of(DIRECTORY_STEP);
        if size > DIRECTORY_MAX {
            return Err(self.too_much());
        }
        let mut bytes = Vec::with_capacity(size + self.written.len());
        let payload = u32::try_from(size - SKIPPABLE_HEADER).map_err(|_| self.too_much())?;
        let count = u32::try_from(self.sections.len()).map_err(|_| self.too_much())?;
        bytes.extend_from_slice(&SKIPPABLE.to_le_bytes());
        bytes.extend_from_slice(&payload.to_le_bytes());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(self.segment.as_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        for section in &self.sections {
            for number in [
                section.frames.0,
                section.frames.1,
                section.offset + size as u64,
            ] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(&section.length.to_le_bytes());
            bytes.extend_from_slice(&section.digest.to_le_bytes());
        }
        let digest = XxHash3_64::oneshot(&bytes);
        bytes.extend_from_slice(&digest.to_le_bytes());
        bytes.resize(size, 0);
        bytes.append(&mut self.written);
        Ok(bytes.into())
    }
}

/// A few frames as their number and places, many as [`LISTED`] + 1 and a bit each.
fn put_frames(frames: Frames, plain: &mut Vec<u8>) {
    let count = frames.count_ones();
    if count > LISTED {
        plain.push(LISTED as u8 + 1);
        plain.extend_from_slice(&frames.to_le_bytes());
        return;
    }
    plain.push(count as u8);
    plain.extend((0..SECTION_FRAMES as u8).filter(|place| frames >> place & 1 == 1));
}
