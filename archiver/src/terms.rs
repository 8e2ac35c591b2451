//! Terms beside segments: an object for each segment that says which of its frames have which terms, so that a search
//! does not read frames which cannot have what it looks for. `archiver/FORMAT.md` is the specification.
//!
//! | module | what it holds |
//! |---|---|
//! | [`writer`] | messages in, the object's bytes out |
//! | [`reader`] | the object's bytes in, frames that may have the pieces of a query out |
//! | [`index`] | the same out of an object store, cached |
//!
//! What a term is says [`backscroll_shard::search::terms`]. The object holds the terms of texts as they are, so it goes with its
//! segment in every respect: its key is made of the segment's, it is written before the segment is published, and it is
//! deleted before the segment is (INV-ERASE). Of a segment that was never published, or is written anew, it is collected
//! with it.
//!
//! It is only ever too generous: a frame that it does not name has no such message, and a frame that it names is read and
//! looked at. An object that is missing, damaged or of another version rules nothing out. So it can be dropped and
//! built again at any time, and a crash while that is done leaves less of it.

pub mod index;
pub mod reader;
pub mod writer;

use std::ops::Range;

use backscroll_shard::archive::SegmentId;
use backscroll_shard::search::terms;

use crate::object_store::ObjectKey;
use crate::segment::{object_key, segment_of};

/// What the object begins with, after the frame's header.
const MAGIC: [u8; 8] = *b"bscterms";
/// zstd's mark of a frame that it passes over: plain tools show the rest of the object.
const SKIPPABLE: u32 = 0x184D_2A5E;
/// Bytes of the skippable frame's header.
const SKIPPABLE_HEADER: usize = 8;
/// The directory is a multiple of this, and mostly once: what is read first.
pub(crate) const DIRECTORY_STEP: usize = 1024;
/// Most bytes of the directory.
const DIRECTORY_MAX: usize = 1 << 20;
/// Bytes of the directory's beginning: magic, segment, number of sections.
const DIRECTORY_HEADER: usize = 8 + 16 + 4;
/// Bytes of a section's entry in the directory.
const ENTRY_BYTES: usize = 8 + 8 + 8 + 4 + 8;
/// Most frames of a section: the bits of a [`Frames`].
pub(crate) const SECTION_FRAMES: usize = 64;
/// Most plain bytes of a section: a reader refuses to unpack more.
const SECTION_MAX_BYTES: usize = 64 << 20;

/// Which frames of a section: a bit each.
type Frames = u64;

/// How keys end where those of segments end with `.jsonl.zst`: with the version of the terms.
fn suffix(version: u32) -> String {
    format!(".terms{version}.zst")
}

/// The key of the terms of a segment, of the version that is written.
#[must_use]
pub fn terms_key(segment: SegmentId) -> ObjectKey {
    key_of_version(segment, terms::VERSION)
}

/// The keys of the terms of a segment, of every version that there was.
pub fn all_terms_keys(segment: SegmentId) -> impl Iterator<Item = ObjectKey> {
    (1..=terms::VERSION).map(move |version| key_of_version(segment, version))
}

#[expect(clippy::expect_used, reason = "a key with another ending is one")]
fn key_of_version(segment: SegmentId, version: u32) -> ObjectKey {
    let key = object_key(segment);
    let stem = key.as_str().trim_end_matches(".jsonl.zst");
    ObjectKey::new(format!("{stem}{}", suffix(version))).expect("valid")
}

/// The segment whose terms have this key.
#[must_use]
pub fn segment_of_terms(key: &ObjectKey) -> Option<SegmentId> {
    let found = |version| {
        let stem = key.as_str().strip_suffix(&suffix(version))?;
        segment_of(&ObjectKey::new(format!("{stem}.jsonl.zst")).ok()?)
    };
    (1..=terms::VERSION).find_map(found)
}

/// Where a section is, and of which frames it has the terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionEntry {
    /// The offsets of its first and its last frame in the segment.
    pub frames: (u64, u64),
    /// Bytes of the object before it.
    pub offset: u64,
    /// Its compressed bytes.
    pub length: u32,
    /// XXH3-64 of these bytes.
    pub digest: u64,
}

impl SectionEntry {
    /// Where its bytes are in the object.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.length))
    }
}

/// The terms of a segment cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// What was stored is not what was written.
    #[error(
        "terms of segment {segment}: {problem}; `backscroll search index build` writes them anew"
    )]
    Damaged {
        /// The segment.
        segment: SegmentId,
        /// What is wrong.
        problem: String,
    },
    /// The compressor failed, or there is too much.
    #[error("terms of segment {segment} cannot be written: {problem}")]
    Unwritten {
        /// The segment.
        segment: SegmentId,
        /// Why.
        problem: String,
    },
}

#[cfg(test)]
mod tests;
