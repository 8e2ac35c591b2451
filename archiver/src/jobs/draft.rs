//! Writing one segment: intent, rows in, object out, and its terms; everything read back.

use std::hash::Hasher as _;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{
    About, ArchivedRun, Generation, Lease, SegmentId, begin_segment, check_lease,
};
use backscroll_shard::ids::ConversationId;
use backscroll_shard::message::StoredMessage;
use backscroll_shard::node::Shard;
use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use twox_hash::XxHash3_64;

use super::throttle::Throttle;
use super::{ArchiveError, ArchiveJobs, Result, Step, transaction};
use crate::object_store::{ObjectKey, StoreError, transfer};
use crate::segment::reader::Frame;
use crate::segment::writer::{FinishedFrame, SegmentWriter};
use crate::segment::{FrameLocation, IndexEntry, SegmentError, SegmentHeader, object_key};
use crate::terms::TermsError;
use crate::terms::writer::TermsWriter;

/// Frames that wait to be uploaded.
const FRAMES_WAITING: usize = 4;

/// About how many bytes are read back with one request, and how many such requests at once.
const READ_BACK_BYTES: usize = 1 << 20;
const READ_BACK_AT_ONCE: usize = 2;

/// A digest over the messages of a frame, every field of them, in order: of the rows that were read, and again of what
/// came back from the object store.
struct RowsDigest {
    hasher: XxHash3_64,
    buffer: Vec<u8>,
}

impl Default for RowsDigest {
    fn default() -> Self {
        Self {
            hasher: XxHash3_64::new(),
            buffer: Vec::new(),
        }
    }
}

impl RowsDigest {
    fn add(&mut self, conversation: ConversationId, message: &StoredMessage) {
        self.buffer.clear();
        let buffer = &mut self.buffer;
        buffer.extend_from_slice(conversation.as_bytes());
        let numbers = [
            Some(message.seq.as_i64()),
            Some(message.rev.as_i64()),
            message.body_digest,
            Some(message.message_type as i64),
            message.reply_to.map(|seq| seq.as_i64()),
            Some(message.created_at.0),
            message.edited_at.map(|at| at.0),
            message.deleted_at.map(|at| at.0),
            message.pin.as_ref().map(|pin| pin.at.0),
        ];
        for number in numbers {
            buffer.push(u8::from(number.is_some()));
            buffer.extend_from_slice(&number.unwrap_or(0).to_le_bytes());
        }
        let texts = [
            Some(message.sender.as_str()),
            message.client_msg_id.as_deref(),
            Some(message.content.as_str()),
            message.attachments.as_deref(),
            message.reactions.as_deref(),
            message.metadata.as_deref(),
            message.edit_history.as_deref(),
            message.pin.as_ref().map(|pin| pin.by.as_str()),
            message.mentions.as_deref(),
        ];
        for text in texts {
            buffer.push(u8::from(text.is_some()));
            let text = text.unwrap_or("");
            buffer.extend_from_slice(&(text.len() as u64).to_le_bytes());
            buffer.extend_from_slice(text.as_bytes());
        }
        self.hasher.write(&self.buffer);
    }

    /// The digest of what was added since the last.
    fn finish(&mut self) -> u64 {
        std::mem::take(&mut self.hasher).finish()
    }
}

/// Messages on their way into a segment.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) abouts: Vec<(ConversationId, About)>,
    pub(super) rows: Vec<(ConversationId, StoredMessage)>,
}

/// A segment that is being written and uploaded.
pub(super) struct Draft {
    id: SegmentId,
    key: ObjectKey,
    generation: Generation,
    /// Away while a batch is being compressed.
    writing: Option<Box<Writing>>,
    entries: Vec<IndexEntry>,
    written: Vec<WrittenFrame>,
    frames: mpsc::Sender<Bytes>,
    upload: Upload,
}

/// What is made of the messages.
struct Writing {
    segment: SegmentWriter,
    terms: TermsWriter,
    /// Of the frame that is being written.
    rows: RowsDigest,
}

impl Writing {
    /// Ends a frame, and gives the digest of its rows.
    fn end_frame(&mut self, frame: &FinishedFrame) -> Result<u64, TermsError> {
        if let Some(entry) = frame.entries.first() {
            self.terms.end_frame(entry.frame.offset)?;
        }
        Ok(self.rows.finish())
    }

    fn push(&mut self, batch: Batch) -> Result<Vec<(FinishedFrame, u64)>> {
        let mut frames = Vec::new();
        for (conversation, about) in batch.abouts {
            self.segment.describe(conversation, about);
        }
        for (conversation, message) in &batch.rows {
            self.rows.add(*conversation, message);
            self.terms.add(message);
            if let Some(frame) = self.segment.push(*conversation, message)? {
                let rows = self.end_frame(&frame)?;
                frames.push((frame, rows));
            }
        }
        Ok(frames)
    }

    /// The last frame of the segment, the digest of its rows, and the terms.
    fn finish(mut self) -> Result<(FinishedFrame, u64, Bytes)> {
        let last = self.segment.finish()?;
        if let Some(entry) = last.entries.first() {
            self.terms.end_frame(entry.frame.offset)?;
        }
        Ok((last, self.rows.finish(), self.terms.finish()?))
    }
}

/// A frame, and the digest of the rows that are in it.
struct WrittenFrame {
    location: FrameLocation,
    rows: u64,
}

/// The task that uploads; given up with the draft.
struct Upload(JoinHandle<Result<u64, StoreError>>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A segment whose object is there and is right.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) id: SegmentId,
    pub(super) bytes: u64,
    pub(super) messages: u64,
    pub(super) runs: Vec<(ConversationId, ArchivedRun)>,
}

impl Draft {
    /// Puts the intent down, and begins to upload.
    pub(super) async fn begin(archive: &ArchiveJobs, shard: &Shard, lease: &Lease) -> Result<Self> {
        let id = SegmentId::random();
        let (generation, now) = transaction(shard, async |connection| {
            let now = check_lease(connection, lease).await?;
            Ok((begin_segment(connection, lease, id, now).await?, now))
        })
        .await?;
        archive.passed(Step::Intended);
        let key = object_key(id);
        let header = SegmentHeader {
            name: key.clone(),
            generation,
            created_at: now,
        };
        let options = archive.settings.segment_options();
        let writing = Writing {
            segment: SegmentWriter::new(&header, options)?,
            terms: TermsWriter::new(id)?,
            rows: RowsDigest::default(),
        };
        let (frames, received) = mpsc::channel::<Bytes>(FRAMES_WAITING);
        let content = stream::unfold(received, |mut received| async move {
            received
                .recv()
                .await
                .map(|bytes| (io::Result::Ok(bytes), received))
        });
        let (objects, upload_key) = (Arc::clone(&archive.objects), key.clone());
        let upload = archive.uploads.spawn(async move {
            transfer::put_stream(objects.as_ref(), &upload_key, content).await
        })?;
        Ok(Self {
            id,
            key,
            generation,
            writing: Some(Box::new(writing)),
            entries: Vec::new(),
            written: Vec::new(),
            frames,
            upload: Upload(upload),
        })
    }

    /// Compressed bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        let writing = self.writing.as_ref();
        writing.map_or(0, |writing| writing.segment.bytes())
    }

    /// Adds messages; those of a conversation come in order. What is told of conversations goes before their messages.
    pub(super) async fn push(&mut self, batch: Batch) -> Result<()> {
        let Some(mut writing) = self.writing.take() else {
            return Err(ArchiveError::Stopped);
        };
        let task = tokio::task::spawn_blocking(move || {
            let frames = writing.push(batch)?;
            Ok::<_, ArchiveError>((writing, frames))
        });
        let (writing, frames) = task.await.map_err(|_| ArchiveError::Stopped)??;
        self.writing = Some(writing);
        for (frame, rows) in frames {
            self.upload(frame, rows).await?;
        }
        Ok(())
    }

    async fn upload(&mut self, frame: FinishedFrame, rows: u64) -> Result<()> {
        let location = frame.entries.first().map(|entry| entry.frame);
        self.written
            .extend(location.map(|location| WrittenFrame { location, rows }));
        self.entries.extend(frame.entries);
        if self.frames.send(frame.bytes).await.is_ok() {
            return Ok(());
        }
        // Nobody receives: the upload has failed.
        Err(match (&mut self.upload.0).await {
            Ok(Err(error)) => error.into(),
            _ => ArchiveError::Stopped,
        })
    }

    /// Ends the object, reads it back and compares it with the rows.
    pub(super) async fn finish(
        mut self,
        archive: &ArchiveJobs,
        throttle: Option<&Throttle<'_>>,
    ) -> Result<Written> {
        let Some(writing) = self.writing.take() else {
            return Err(ArchiveError::Stopped);
        };
        let messages = writing.segment.messages();
        let last = tokio::task::spawn_blocking(move || writing.finish()).await;
        let (last, rows, terms) = last.map_err(|_| ArchiveError::Stopped)??;
        self.upload(last, rows).await?;
        let Self {
            id,
            key,
            generation,
            entries,
            written,
            frames,
            mut upload,
            ..
        } = self;
        drop(frames); // ends the object
        let bytes = (&mut upload.0).await.map_err(|_| ArchiveError::Stopped)??;
        archive.passed(Step::Uploaded);
        archive.put_terms(id, terms).await?;
        read_back((archive, throttle), &key, &written).await?;
        archive.passed(Step::ReadBack);
        let run = |entry: &IndexEntry| (entry.conversation, entry.to_run(id, generation));
        Ok(Written {
            id,
            bytes,
            messages,
            runs: entries.iter().map(run).collect(),
        })
    }
}

/// Reads every frame from the store and compares its messages with the rows.
async fn read_back(
    (archive, throttle): (&ArchiveJobs, Option<&Throttle<'_>>),
    key: &ObjectKey,
    frames: &[WrittenFrame],
) -> Result<()> {
    let mut rest = frames;
    while !rest.is_empty() {
        let begin = Instant::now();
        let (bytes, at_once) = throttle.map_or((READ_BACK_BYTES, READ_BACK_AT_ONCE), |it| {
            (it.amount(READ_BACK_BYTES), it.at_once(READ_BACK_AT_ONCE))
        });
        let mut chunks = Vec::with_capacity(at_once);
        while let Some(first) = rest.first()
            && chunks.len() < at_once
        {
            let end = first.location.offset + bytes as u64;
            let fits = |frame: &&WrittenFrame| frame.location.offset < end;
            let (chunk, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            chunks.push(read_chunk_back(archive, key, chunk));
            rest = later;
        }
        try_join_all(chunks).await?;
        if let Some(throttle) = throttle {
            throttle.pace().pause(0, begin).await;
        }
    }
    Ok(())
}

async fn read_chunk_back(
    archive: &ArchiveJobs,
    key: &ObjectKey,
    frames: &[WrittenFrame],
) -> Result<()> {
    let ranges: Vec<Range<u64>> = frames.iter().map(|frame| frame.location.range()).collect();
    let bytes = transfer::get_ranges(archive.objects.as_ref(), key, &ranges).await?;
    let locations: Vec<FrameLocation> = frames.iter().map(|frame| frame.location).collect();
    let name = key.clone();
    let digested = tokio::task::spawn_blocking(move || {
        let mut digest = RowsDigest::default();
        let mut digests = Vec::with_capacity(locations.len());
        for (location, bytes) in locations.iter().zip(bytes) {
            for run in &Frame::read(&name, location, &bytes)?.runs {
                for message in &run.messages {
                    digest.add(run.conversation, message);
                }
            }
            digests.push(digest.finish());
        }
        Ok::<_, SegmentError>(digests)
    });
    let digests = digested.await.map_err(|_| ArchiveError::Stopped)??;
    if frames.iter().map(|frame| frame.rows).eq(digests) {
        Ok(())
    } else {
        Err(ArchiveError::NotAsWritten(key.to_string()))
    }
}
