//! Writes a segment, frame by frame.
//!
//! It holds one frame in memory, whatever the size of the segment, and hands each out as soon as it is full: the bytes,
//! which follow those before without a gap, and the index entries of what is in it. Compressing is work: call it where
//! that may block.

use std::collections::HashMap;
use std::mem;

use backscroll_shard::archive::{About, RUN_MAX};
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::model::Timestamp;
use bytes::Bytes;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use super::line::{self, Cursor, FILE_KIND, FileLine, RunLine};
use super::seek_table::SeekTable;
use super::{
    FRAME_MAX_BYTES, FrameDigest, FrameLocation, IndexEntry, SegmentError, SegmentHeader, VERSION,
};

/// How a segment is written.
///
/// On 303,896 real messages of 62.6 B of text each (`examples/segment_size.rs`), level 9 with 128 KiB takes 30.2 B a
/// message, level 3 33.5, level 12 29.8 at a third of the speed and level 19 28.7 at a thirtieth; with 32 KiB it is
/// 33.1, with 256 KiB 29.2, and a page takes a quarter of the time to read or twice as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentOptions {
    /// zstd's level, 1 (quick) to 19 (small).
    pub level: i32,
    /// Plain bytes after which a frame is full. Smaller frames are quicker to read one page from, larger ones smaller.
    pub frame_bytes: usize,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self {
            level: 9,
            frame_bytes: 128 << 10,
        }
    }
}

/// A frame to be stored after those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedFrame {
    /// Its bytes; with the last one, the seek table's too.
    pub bytes: Bytes,
    /// What is in it.
    pub entries: Vec<IndexEntry>,
}

/// A segment that is being written.
pub struct SegmentWriter {
    compressor: Compressor<'static>,
    frame_bytes: usize,
    table: SeekTable,
    /// The file's header, to be put before the first frame.
    pending: Vec<u8>,
    /// The text of the frame's runs that are finished.
    plain: Vec<u8>,
    runs: Vec<Run>,
    /// The text of the run that is not.
    lines: Vec<u8>,
    run: Option<(Run, Cursor)>,
    /// What is to be told of conversations that have no run yet.
    abouts: HashMap<ConversationId, About>,
    messages: u64,
}

/// What will be known of a run.
struct Run {
    conversation: ConversationId,
    first: Seq,
    last: Seq,
    count: u32,
    at: Timestamp,
    rev: u64,
    first_rev: Rev,
    last_rev: Rev,
    earliest: Timestamp,
    latest: Timestamp,
}

impl SegmentWriter {
    /// Begins a segment.
    ///
    /// # Errors
    /// When the compressor cannot be set up, as for a level that there is not.
    pub fn new(header: &SegmentHeader, options: SegmentOptions) -> Result<Self, SegmentError> {
        let mut compressor = Compressor::new(options.level).map_err(compression)?;
        compressor
            .set_parameter(CParameter::ChecksumFlag(true))
            .map_err(compression)?;
        let line = FileLine {
            backscroll: FILE_KIND,
            version: VERSION,
            name: header.name.as_str(),
            generation: header.generation.0,
            created_at: header.created_at.0,
        };
        let mut plain = serde_json::to_vec(&line).map_err(compression)?;
        plain.push(b'\n');
        let mut writer = Self {
            compressor,
            frame_bytes: options.frame_bytes.clamp(1, FRAME_MAX_BYTES / 4),
            table: SeekTable::default(),
            pending: Vec::new(),
            plain,
            runs: Vec::new(),
            lines: Vec::new(),
            run: None,
            abouts: HashMap::new(),
            messages: 0,
        };
        writer.pending = writer.compress()?.0;
        Ok(writer)
    }

    /// Bytes of the segment so far, the frame that is not full yet left out.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.table.end()
    }

    /// Messages so far.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Tells of a conversation, in the header of its first run after this.
    pub fn describe(&mut self, conversation: ConversationId, about: About) {
        self.abouts.insert(conversation, about);
    }

    /// Adds a message, and gives the frame that it has filled, if it has. Messages of a conversation come in order of
    /// their seqs; where one is missing, a new run begins.
    ///
    /// # Errors
    /// [`SegmentError::Unordered`], and [`SegmentError::TooLarge`] for a message that no frame holds.
    pub fn push(
        &mut self,
        conversation: ConversationId,
        message: &StoredMessage,
    ) -> Result<Option<FinishedFrame>, SegmentError> {
        self.continue_or_begin_run(conversation, message)?;
        let Some((run, cursor)) = &mut self.run else {
            return Ok(None);
        };
        let before = self.lines.len();
        line::write(message, cursor, &mut self.lines).map_err(compression)?;
        if self.lines.len() - before > FRAME_MAX_BYTES / 2 {
            return Err(SegmentError::TooLarge(format!(
                "conversation {conversation}: message {} is larger than a frame",
                message.seq
            )));
        }
        run.last = message.seq;
        run.count += 1;
        run.first_rev = run.first_rev.min(message.rev);
        run.last_rev = run.last_rev.max(message.rev);
        run.earliest = run.earliest.min(message.created_at);
        run.latest = run.latest.max(message.created_at);
        self.messages += 1;
        if self.plain.len() + self.lines.len() < self.frame_bytes {
            return Ok(None);
        }
        self.finish_frame().map(Some)
    }

    fn continue_or_begin_run(
        &mut self,
        conversation: ConversationId,
        message: &StoredMessage,
    ) -> Result<(), SegmentError> {
        if let Some((run, _)) = &self.run {
            if run.conversation == conversation && message.seq <= run.last {
                return Err(SegmentError::Unordered {
                    conversation,
                    last: run.last,
                    given: message.seq,
                });
            }
            if run.conversation == conversation
                && message.seq == run.last.next()
                && u64::from(run.count) < RUN_MAX
            {
                return Ok(());
            }
            self.finish_run()?;
        }
        let run = Run {
            conversation,
            first: message.seq,
            last: message.seq,
            count: 0,
            at: message.created_at,
            rev: message.rev.0,
            first_rev: message.rev,
            last_rev: message.rev,
            earliest: message.created_at,
            latest: message.created_at,
        };
        self.run = Some((run, Cursor::before_message(message)));
        Ok(())
    }

    /// Moves the run's lines into the frame, behind their header.
    fn finish_run(&mut self) -> Result<(), SegmentError> {
        let Some((run, _)) = self.run.take() else {
            return Ok(());
        };
        let header = RunLine {
            conversation: run.conversation,
            first: run.first.0,
            count: run.count,
            at: run.at.0,
            rev: run.rev,
            about: self.abouts.remove(&run.conversation),
        };
        serde_json::to_writer(&mut self.plain, &header).map_err(compression)?;
        self.plain.push(b'\n');
        self.plain.append(&mut self.lines);
        self.runs.push(run);
        Ok(())
    }

    fn finish_frame(&mut self) -> Result<FinishedFrame, SegmentError> {
        self.finish_run()?;
        let (compressed, frame) = self.compress()?;
        let entry = |run: Run| IndexEntry {
            conversation: run.conversation,
            first_seq: run.first,
            last_seq: run.last,
            count: run.count,
            first_rev: run.first_rev,
            last_rev: run.last_rev,
            first_at: run.earliest,
            last_at: run.latest,
            frame,
        };
        let entries = self.runs.drain(..).map(entry).collect();
        let mut bytes = mem::take(&mut self.pending);
        bytes.extend_from_slice(&compressed);
        Ok(FinishedFrame {
            bytes: bytes.into(),
            entries,
        })
    }

    /// Compresses what is in `plain` as the next frame.
    fn compress(&mut self) -> Result<(Vec<u8>, FrameLocation), SegmentError> {
        let compressed = self.compressor.compress(&self.plain).map_err(compression)?;
        let size = |bytes: &[u8]| {
            u32::try_from(bytes.len())
                .map_err(|_| SegmentError::TooLarge("a frame is larger than 4 GiB".into()))
        };
        let span = self.table.add(size(&compressed)?, size(&self.plain)?)?;
        self.plain.clear();
        let digest = FrameDigest::of(&compressed);
        Ok((
            compressed,
            FrameLocation {
                offset: span.offset,
                length: span.length,
                digest,
            },
        ))
    }

    /// Ends the segment, and gives what is still to be stored of it.
    ///
    /// # Errors
    /// When the last frame cannot be compressed.
    pub fn finish(mut self) -> Result<FinishedFrame, SegmentError> {
        let has_more = self.run.is_some() || !self.plain.is_empty();
        let FinishedFrame { bytes, entries } = if has_more {
            self.finish_frame()?
        } else {
            FinishedFrame {
                bytes: mem::take(&mut self.pending).into(),
                entries: Vec::new(),
            }
        };
        let mut bytes = Vec::from(bytes);
        bytes.extend_from_slice(&self.table.to_bytes());
        Ok(FinishedFrame {
            bytes: bytes.into(),
            entries,
        })
    }
}

fn compression(error: impl std::fmt::Display) -> SegmentError {
    SegmentError::Compression(error.to_string())
}
