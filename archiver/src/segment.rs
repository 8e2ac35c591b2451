//! Segments: files of archived messages that plain tools read. `archiver/FORMAT.md` is their specification.
//!
//! | module | what it holds |
//! |---|---|
//! | [`writer`] | messages in, frames and their index entries out |
//! | [`reader`] | a frame's bytes in, checked messages out |
//! | [`seek_table`] | where the frames of a file are |
//! | `line` | the JSON lines inside a frame |
//!
//! The archive job writes segments, cold reads and repairs read them; neither asks an object store here, so a frame is
//! bytes. Upholds its part of INV-TIER: what is read back is exactly what was written, every field of it, or an error
//! that names the segment and the frame; damaged bytes are never taken for messages.
//!
//! The zstd crate does the compression. Of the seekable format only the table of sizes is more than plain frames, and
//! that is written and read here, in safe code (a test has the reference implementation read it): the frames have to be
//! cut where a message ends, and are read one by one at places that the index knows. `zeekstd` would add a crate for
//! those few lines, and `zstd-safe` has the reference implementation, whose reader trusts the file more than we want to.

mod line;
pub mod reader;
pub mod seek_table;
#[cfg(test)]
mod tests;
pub mod writer;

pub use line::{read_whole, write_whole};

use std::fmt;
use std::ops::Range;

use backscroll_shard::archive::{ArchivedRun, Generation, SegmentId};
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::model::Timestamp;
use twox_hash::XxHash3_64;

use crate::object_store::ObjectKey;

/// The version of the format that is written. Older ones are read for ever.
pub const VERSION: u32 = 1;

/// Most plain bytes of one frame: a reader refuses to unpack more.
pub const FRAME_MAX_BYTES: usize = 64 << 20;

/// XXH3-64 of a frame's compressed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameDigest(pub u64);

impl FrameDigest {
    /// The digest of a frame.
    #[must_use]
    pub fn of(compressed: &[u8]) -> Self {
        Self(XxHash3_64::oneshot(compressed))
    }
}

impl fmt::Display for FrameDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The object's key.
    pub name: ObjectKey,
    /// The number that it had on the shard that wrote it.
    pub generation: Generation,
    /// When it was begun.
    pub created_at: Timestamp,
}

/// Where a frame is, and how its bytes are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLocation {
    /// Bytes before it.
    pub offset: u64,
    /// Its compressed bytes.
    pub length: u32,
    /// Their digest.
    pub digest: FrameDigest,
}

impl FrameLocation {
    /// Where its bytes are in the segment.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.length)
    }
}

/// Where messages with consecutive seqs are: what the index keeps of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Whose messages.
    pub conversation: ConversationId,
    /// The first.
    pub first_seq: Seq,
    /// The last; all between are there too.
    pub last_seq: Seq,
    /// How many.
    pub count: u32,
    /// The smallest rev among them.
    pub first_rev: Rev,
    /// The greatest rev among them.
    pub last_rev: Rev,
    /// When the earliest was sent.
    pub first_at: Timestamp,
    /// When the latest was sent.
    pub last_at: Timestamp,
    /// The frame they are in, perhaps with others.
    pub frame: FrameLocation,
}

impl IndexEntry {
    /// The row of a shard's index for it.
    #[must_use]
    pub fn to_run(&self, segment: SegmentId, generation: Generation) -> ArchivedRun {
        ArchivedRun {
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            generation,
            first_rev: self.first_rev,
            last_rev: self.last_rev,
            last_at: self.last_at,
            segment: Some(segment),
            offset: self.frame.offset,
            length: self.frame.length,
            digest: self.frame.digest.0,
        }
    }
}

/// What the keys of all segments begin with.
pub const KEY_PREFIX: &str = "archive/";

/// The key of a segment's object: spread by the first two of its random digits, and the same whatever shard names it.
#[must_use]
#[expect(clippy::expect_used, reason = "hexadecimal digits make a key")]
pub fn object_key(segment: SegmentId) -> ObjectKey {
    let name = segment.to_string();
    ObjectKey::new(format!("{KEY_PREFIX}{}/{name}.jsonl.zst", &name[..2])).expect("valid")
}

/// The segment whose object has this key.
#[must_use]
pub fn segment_of(key: &ObjectKey) -> Option<SegmentId> {
    let (_, name) = key.as_str().strip_prefix(KEY_PREFIX)?.split_once('/')?;
    let id = SegmentId::parse(name.strip_suffix(".jsonl.zst")?)?;
    (object_key(id) == *key).then_some(id)
}

/// A segment cannot be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// What was stored is not what was written.
    #[error("segment {segment}, {place}: {problem}")]
    Damaged {
        /// The object's key.
        segment: String,
        /// Where in it.
        place: Place,
        /// What is wrong.
        problem: String,
    },
    /// It was written by a newer version.
    #[error(
        "segment {segment} has format version {version}; this program reads up to {VERSION}: use a newer one"
    )]
    Version {
        /// The object's key.
        segment: String,
        /// Its version.
        version: u32,
    },
    /// Messages of a conversation were given out of order.
    #[error("conversation {conversation}: message {given} was given after message {last}")]
    Unordered {
        /// The conversation.
        conversation: ConversationId,
        /// The one before.
        last: Seq,
        /// The one that is not after it.
        given: Seq,
    },
    /// A message, or a segment, is larger than the format allows.
    #[error("{0}")]
    TooLarge(String),
    /// The compressor failed.
    #[error("compressing: {0}")]
    Compression(String),
}

/// A place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The frame that begins at this offset.
    Frame(u64),
    /// The table of the frames, at the end.
    SeekTable,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(offset) => write!(f, "frame at {offset}"),
            Self::SeekTable => f.write_str("seek table"),
        }
    }
}
