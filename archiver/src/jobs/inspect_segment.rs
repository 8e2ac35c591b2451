//! What is wrong with a segment, for [`super::verify`] to tell and [`super::repair`] to mend: its registry row, its object, and
//! the index of what it has.
//!
//! It looks beside writers and jobs: a segment that the index does not name any more after it was looked at was written anew
//! meanwhile, and is not told of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{self, ArchivedRun, SegmentId, SegmentRecord, SegmentState};
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::node::Shard;

use super::rewrite::runs_of;
use super::{ArchiveError, ArchiveJobs, Result, STEP};
use crate::object_store::{ErrorKind, ObjectMeta, StoreError};
use crate::segment::object_key;
use crate::segment::reader::{Frame, Run};
use crate::segment::seek_table::FrameSpan;

/// What is wrong with a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SegmentFault {
    /// The object, or its registry row: the object store may have another version of it, and nothing here mends it.
    Object(String),
    /// The index does not say what the object has; the object is whole.
    Index(String),
}

impl SegmentFault {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Object(text) | Self::Index(text) => text,
        }
    }
}

/// What was seen of a segment.
#[derive(Debug, Default)]
pub(super) struct SegmentLook {
    pub(super) faults: Vec<SegmentFault>,
    /// Frames that were read.
    pub(super) frames: u64,
    /// Messages in them, as the index has them.
    pub(super) messages: u64,
}

impl SegmentLook {
    fn object(&mut self, text: impl Into<String>) {
        self.faults.push(SegmentFault::Object(text.into()));
    }

    fn index(&mut self, text: String) {
        self.faults.push(SegmentFault::Index(text));
    }
}

impl ArchiveJobs {
    /// Compares a segment with its registry row and its size; if `is_read`, its frames with their digests, and the index
    /// with what the frames have. Nothing when the index does not name the segment any more.
    pub(super) async fn look_at_segment(
        &self,
        shard: &Arc<Shard>,
        id: SegmentId,
        is_read: bool,
    ) -> Result<Option<SegmentLook>> {
        let mut look = SegmentLook::default();
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let record = archive::segment(&mut connection, id).await?;
        drop(connection);
        check_record(record.as_ref(), &mut look);
        // Of one that was written anew the registry has no size, and the index not all that it has.
        let is_whole = record.is_none_or(|record| record.state != SegmentState::Superseded);
        match self.objects.head(&object_key(id)).await {
            Ok(meta) => {
                if let Some(record) = record.filter(|it| is_whole && it.bytes != meta.size) {
                    let (found, right) = (meta.size, record.bytes);
                    look.object(format!("its object has {found} bytes instead of {right}"));
                }
                if is_read {
                    self.look_at_frames(shard, &meta, (id, is_whole), &mut look)
                        .await?;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                look.object("its object is missing");
            }
            Err(error) => return Err(error.into()),
        }
        if look.faults.is_empty() {
            return Ok(Some(look));
        }
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let is_named = archive::is_named(&mut connection, id).await?;
        Ok(is_named.then_some(look))
    }

    async fn look_at_frames(
        &self,
        shard: &Arc<Shard>,
        object: &ObjectMeta,
        (id, is_whole): (SegmentId, bool),
        look: &mut SegmentLook,
    ) -> Result<()> {
        // A segment that came with a range has messages of other shards, too.
        let map = self.router.map();
        let is_own =
            |id: ConversationId| is_whole && map.locate(id.owner_key()).shard == *shard.name();
        let mut rows: BTreeMap<u64, Vec<(ConversationId, ArchivedRun)>> = BTreeMap::new();
        for row in runs_of(shard, id).await? {
            rows.entry(row.1.offset).or_default().push(row);
        }
        for rows in rows.values() {
            let Some((_, first)) = rows.first() else {
                continue;
            };
            look.frames += 1;
            look.messages += rows.iter().map(|(_, run)| run.messages()).sum::<u64>();
            match self.read_frame(id, first).await {
                Ok(frame) => compare_frame(rows, &frame, is_own, look),
                Err(ArchiveError::Segment(error)) => look.object(error.to_string()),
                Err(ArchiveError::Objects(error)) if is_object(&error) => {
                    look.object(format!("frame at {}: {error}", first.offset));
                }
                Err(error) => return Err(error),
            }
        }
        match self.seek_table(object).await {
            Ok(table) => {
                let frames = table.frames().iter().filter(|frame| frame.offset > 0);
                for frame in frames.filter(|frame| !rows.contains_key(&frame.offset)) {
                    match self.has_own(object, frame, is_own).await {
                        Ok(false) => {}
                        Ok(true) => look.index(format!(
                            "frame at {}: none of its messages is in the index",
                            frame.offset
                        )),
                        Err(ArchiveError::Segment(error)) => look.object(error.to_string()),
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(ArchiveError::Segment(error)) => look.object(error.to_string()),
            Err(ArchiveError::Objects(error)) if is_object(&error) => {
                look.object(format!("its seek table: {error}"));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether a frame that the index does not name has messages of the shard's own conversations.
    async fn has_own(
        &self,
        object: &ObjectMeta,
        span: &FrameSpan,
        is_own: impl Fn(ConversationId) -> bool,
    ) -> Result<bool> {
        let end = span.offset + u64::from(span.length);
        let bytes = self
            .objects
            .get_range(&object.key, span.offset..end)
            .await?;
        let (key, offset) = (object.key.clone(), span.offset);
        let read = tokio::task::spawn_blocking(move || Frame::scan(&key, offset, &bytes));
        let (frame, _) = read.await.map_err(|_| ArchiveError::Stopped)??;
        Ok(frame.runs.iter().any(|run| is_own(run.conversation)))
    }
}

/// Whether the object itself is at fault, and not the way to it.
fn is_object(error: &StoreError) -> bool {
    matches!(error.kind(), ErrorKind::OutOfRange | ErrorKind::NotFound)
}

/// A superseded one is named where other conversations of it came with a range after it was written anew; the next job writes
/// these anew, too.
fn check_record(record: Option<&SegmentRecord>, look: &mut SegmentLook) {
    let is_no_part = |state| matches!(state, SegmentState::Writing | SegmentState::Deleting);
    match record {
        None => look.object("the index names it, and it is not registered"),
        Some(record) if is_no_part(record.state) => {
            let state = record.state.name();
            look.object(format!("the index names it, and it is {state}"));
        }
        Some(_) => {}
    }
}

/// Compares the rows of the index that name a frame with what the frame has of the shard's own conversations, in both
/// directions.
fn compare_frame(
    rows: &[(ConversationId, ArchivedRun)],
    frame: &Frame,
    is_own: impl Fn(ConversationId) -> bool,
    look: &mut SegmentLook,
) {
    let offset = rows.first().map_or(0, |(_, run)| run.offset);
    let mut runs: BTreeMap<(ConversationId, Seq, Seq), &Run> = BTreeMap::new();
    for run in &frame.runs {
        if let (Some(first), Some(last)) = (run.messages.first(), run.messages.last()) {
            runs.insert((run.conversation, first.seq, last.seq), run);
        }
    }
    for (conversation, row) in rows {
        let (first, last) = (row.first_seq, row.last_seq);
        let Some(run) = runs.remove(&(*conversation, first, last)) else {
            look.index(format!(
                "frame at {offset}: it does not have messages {first} to {last} of conversation {conversation} as the \
                 index says"
            ));
            continue;
        };
        let revs = || run.messages.iter().map(|message| message.rev);
        let (least, greatest) = (revs().min(), revs().max());
        // Rows from before it was kept do not have the smallest one.
        let is_least = row.first_rev == Rev(0) || Some(row.first_rev) == least;
        if !is_least || Some(row.last_rev) != greatest {
            look.index(format!(
                "frame at {offset}: messages {first} to {last} of conversation {conversation} do not have the revs that \
                 the index says"
            ));
        }
    }
    let own = runs.into_keys().filter(|(id, _, _)| is_own(*id));
    for (conversation, first, last) in own {
        look.index(format!(
            "frame at {offset}: its messages {first} to {last} of conversation {conversation} are not in the index"
        ));
    }
}
