//! Reads a segment's frames from their bytes.
//!
//! The order of checks: length and digest of the compressed bytes as the index has them, then zstd's own checksum, then
//! that every line is what the format allows, then that the run asked for is there. Whatever does not hold is
//! [`SegmentError::Damaged`], which names the segment and the frame. Memory is bounded by [`FRAME_MAX_BYTES`].

use backscroll_shard::archive::{About, Generation};
use backscroll_shard::ids::{COUNTER_MAX, ConversationId, Seq};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::model::Timestamp;
use zstd::bulk::Decompressor;
use zstd::zstd_safe;

use super::line::{self, AnyFileLine, Cursor, FILE_KIND, FileLine, RunLine};
use super::{
    FRAME_MAX_BYTES, FrameDigest, FrameLocation, IndexEntry, Place, SegmentError, SegmentHeader,
    VERSION,
};
use crate::object_store::ObjectKey;

/// Messages of a conversation with consecutive seqs.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Whose messages.
    pub conversation: ConversationId,
    /// What is told of it.
    pub about: Option<About>,
    /// The messages, at least one.
    pub messages: Vec<StoredMessage>,
}

/// A frame's content.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The runs, in the order of the file.
    pub runs: Vec<Run>,
    /// Bytes of text it was read from: about what it takes in memory.
    pub plain_bytes: usize,
}

impl Frame {
    /// Reads the frame of `segment` that the index knows at `location`.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] when the bytes are not those that were written.
    pub fn read(
        segment: &ObjectKey,
        location: &FrameLocation,
        compressed: &[u8],
    ) -> Result<Self, SegmentError> {
        let at = Reading {
            segment,
            offset: location.offset,
        };
        if compressed.len() as u64 != u64::from(location.length) {
            return Err(at.damaged(format!(
                "{} bytes instead of {}",
                compressed.len(),
                location.length
            )));
        }
        let digest = FrameDigest::of(compressed);
        if digest != location.digest {
            return Err(at.damaged(format!(
                "its digest is {digest} instead of {}",
                location.digest
            )));
        }
        at.frame(compressed)
    }

    /// Reads a frame of which nothing is known but its place, and gives its index entries too: for rebuilding an index.
    /// Damage shows by zstd's checksum only.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] when it is not a frame of messages.
    pub fn scan(
        segment: &ObjectKey,
        offset: u64,
        compressed: &[u8],
    ) -> Result<(Self, Vec<IndexEntry>), SegmentError> {
        let at = Reading { segment, offset };
        let frame = at.frame(compressed)?;
        let length =
            u32::try_from(compressed.len()).map_err(|_| at.damaged("larger than 4 GiB".into()))?;
        let location = FrameLocation {
            offset,
            length,
            digest: FrameDigest::of(compressed),
        };
        let entries = frame
            .runs
            .iter()
            .filter_map(|run| run.entry(location))
            .collect();
        Ok((frame, entries))
    }

    /// The messages of a conversation's run from `first` to `last`, if there is one with exactly these.
    #[must_use]
    pub fn run(
        &self,
        conversation: ConversationId,
        first: Seq,
        last: Seq,
    ) -> Option<&[StoredMessage]> {
        let is_it = |run: &&Run| {
            run.conversation == conversation && run.first() == first && run.last() == last
        };
        Some(&self.runs.iter().find(is_it)?.messages)
    }
}

impl Run {
    fn first(&self) -> Seq {
        self.messages.first().map_or(Seq(0), |message| message.seq)
    }

    fn last(&self) -> Seq {
        self.messages.last().map_or(Seq(0), |message| message.seq)
    }

    fn entry(&self, frame: FrameLocation) -> Option<IndexEntry> {
        let times = || self.messages.iter().map(|message| message.created_at);
        let revs = || self.messages.iter().map(|message| message.rev);
        Some(IndexEntry {
            conversation: self.conversation,
            first_seq: self.first(),
            last_seq: self.last(),
            count: u32::try_from(self.messages.len()).ok()?,
            first_rev: revs().min()?,
            last_rev: revs().max()?,
            first_at: times().min()?,
            last_at: times().max()?,
            frame,
        })
    }
}

impl SegmentHeader {
    /// Reads the first frame of the object `segment`.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] when it is not one, or that of another object; [`SegmentError::Version`] when it is of
    /// a newer format.
    pub fn read(segment: &ObjectKey, compressed: &[u8]) -> Result<Self, SegmentError> {
        let at = Reading { segment, offset: 0 };
        let plain = at.unpack(compressed)?;
        let text = plain
            .strip_suffix('\n')
            .ok_or_else(|| at.damaged("its line does not end".into()))?;
        let problem =
            |error: serde_json::Error| at.damaged(format!("not a segment's first line: {error}"));
        let any: AnyFileLine<'_> = serde_json::from_str(text).map_err(problem)?;
        if any.backscroll != FILE_KIND {
            return Err(at.damaged("not a segment's first line".into()));
        }
        if any.version != VERSION {
            return Err(SegmentError::Version {
                segment: segment.to_string(),
                version: any.version,
            });
        }
        let line: FileLine<'_> = serde_json::from_str(text).map_err(problem)?;
        if line.name != segment.as_str() {
            return Err(at.damaged(format!("it is segment {}", line.name)));
        }
        Ok(Self {
            name: segment.clone(),
            generation: Generation(line.generation),
            created_at: Timestamp(line.created_at),
        })
    }
}

/// A frame that is being read.
#[derive(Clone, Copy)]
struct Reading<'a> {
    segment: &'a ObjectKey,
    offset: u64,
}

impl Reading<'_> {
    fn damaged(&self, problem: String) -> SegmentError {
        SegmentError::Damaged {
            segment: self.segment.to_string(),
            place: Place::Frame(self.offset),
            problem,
        }
    }

    /// The text of one whole frame with nothing behind it.
    fn unpack(&self, compressed: &[u8]) -> Result<String, SegmentError> {
        let length = zstd_safe::find_frame_compressed_size(compressed)
            .map_err(|code| self.damaged(zstd_safe::get_error_name(code).into()))?;
        let size = zstd_safe::get_frame_content_size(compressed).ok().flatten();
        let (Some(size), true) = (
            size.and_then(|size| usize::try_from(size).ok()),
            length == compressed.len(),
        ) else {
            return Err(self.damaged("not one whole zstd frame that states its size".into()));
        };
        if size > FRAME_MAX_BYTES {
            return Err(self.damaged(format!(
                "it states {size} plain bytes; at most {FRAME_MAX_BYTES} are written"
            )));
        }
        let unpacked = Decompressor::new()
            .and_then(|mut decompressor| decompressor.decompress(compressed, size));
        let plain = unpacked.map_err(|error| self.damaged(error.to_string()))?;
        String::from_utf8(plain).map_err(|_| self.damaged("not UTF-8".into()))
    }

    fn frame(&self, compressed: &[u8]) -> Result<Frame, SegmentError> {
        let plain = self.unpack(compressed)?;
        let text = plain
            .strip_suffix('\n')
            .ok_or_else(|| self.damaged("its last line does not end".into()))?;
        let mut lines = text.split('\n').zip(1..);
        let mut runs = Vec::new();
        while let Some((line, number)) = lines.next() {
            runs.push(self.run(line, number, &mut lines)?);
        }
        Ok(Frame {
            runs,
            plain_bytes: plain.len(),
        })
    }

    /// Reads a run whose header is `header`, line `number` of the frame.
    fn run<'a>(
        &self,
        header: &str,
        number: u32,
        lines: &mut impl Iterator<Item = (&'a str, u32)>,
    ) -> Result<Run, SegmentError> {
        let wrong = |number: u32, problem: &dyn std::fmt::Display| {
            self.damaged(format!("line {number}: {problem}"))
        };
        let run: RunLine = serde_json::from_str(header).map_err(|error| wrong(number, &error))?;
        let last = run
            .first
            .checked_add(u64::from(run.count))
            .map(|after| after - 1);
        if run.count == 0 || last.is_none_or(|last| last > COUNTER_MAX) {
            return Err(wrong(number, &"no such messages"));
        }
        let mut cursor = Cursor::before(&run);
        let mut messages = Vec::new();
        for _ in 0..run.count {
            let (line, number) = lines
                .next()
                .ok_or_else(|| wrong(number, &"fewer messages follow than it says"))?;
            messages
                .push(line::read(line, &mut cursor).map_err(|problem| wrong(number, &problem))?);
        }
        Ok(Run {
            conversation: run.conversation,
            about: run.about,
            messages,
        })
    }
}
