//! Rows of a page: consecutive messages of a conversation, as many as fit an answer.
//!
//! An answer is bounded in bytes (INV-BOUND): where a range holds more, the messages nearest to its anchor are kept, and the
//! range that was read is shorter. Rows beyond the bound are dropped while the answer of the database arrives, so that the
//! memory is bounded, too. Earlier versions of a message can be larger than the message; a page does not read them.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::{StoredMessage, message_columns};
use crate::db::{Columns, Row, values};
use crate::error::Result;
use crate::ids::{ConversationId, Rev, Seq, UserId};
use crate::model::{DeliveryStatus, Message};
use crate::owned::OwnedReader;

/// By the primary key `(conversation_id, seq)`.
pub const PAGE: &str = concat!(
    "SELECT ",
    message_columns!(shown),
    " FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ? ORDER BY seq"
);
/// By the primary key, backwards.
const PAGE_BACKWARD: &str = concat!(
    "SELECT ",
    message_columns!(shown),
    " FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ? ORDER BY seq DESC"
);
/// By the primary key.
const PAGE_WHOLE: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ? ORDER BY seq"
);
/// By the primary key, backwards.
const PAGE_WHOLE_BACKWARD: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ? ORDER BY seq DESC"
);

/// By the primary key, backwards.
const LATEST_SEQS: &str = "SELECT seq FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ? ORDER BY seq DESC LIMIT ?";

/// Which messages from `first` to `last` are hot: the last `limit` of them, the newest first.
///
/// # Errors
/// When the database fails.
pub async fn latest_seqs(
    rows: &mut OwnedReader<'_>,
    conversation: ConversationId,
    (first, last): (Seq, Seq),
    limit: usize,
) -> Result<Vec<Seq>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args = values![&conversation, first, last, limit];
    let found = rows.fetch_all(LATEST_SEQS, &args).await?;
    found
        .iter()
        .map(|row| row.int(0).map(Seq::from_i64))
        .collect()
}

/// A message as pages show it: without its earlier versions, which are not read. It cannot be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown(StoredMessage);

impl Shown {
    /// Reads the next columns of a row, which are those of a page.
    ///
    /// # Errors
    /// When a stored value does not have its form.
    pub(crate) fn read(columns: &mut Columns<'_>) -> Result<Self> {
        StoredMessage::read(columns).map(Self)
    }

    /// Its place in the conversation.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.0.seq
    }

    /// The change that touched it last.
    #[must_use]
    pub fn rev(&self) -> Rev {
        self.0.rev
    }

    /// The user that sent it.
    #[must_use]
    pub fn sender(&self) -> &UserId {
        &self.0.sender
    }

    /// Its parts, to be looked at; not to be shown where it is deleted.
    pub(crate) fn stored(&self) -> &StoredMessage {
        &self.0
    }

    /// Whether it is pinned.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.0.pin.is_some()
    }

    /// What was sent under its client message id.
    pub(crate) fn body_digest(&self) -> Option<i64> {
        self.0.body_digest
    }

    /// The sender's own id for it.
    pub(crate) fn client_msg_id(&self) -> Option<&str> {
        self.0.client_msg_id.as_deref()
    }

    /// Its parts, to be shown; not to be written, as they lack the earlier versions.
    pub(crate) fn into_parts(self) -> StoredMessage {
        self.0.shown()
    }

    /// The message as callers see it.
    #[must_use]
    pub fn into_message(self, conversation: ConversationId, status: DeliveryStatus) -> Message {
        self.0.into_message(conversation, status)
    }
}

impl From<StoredMessage> for Shown {
    fn from(mut stored: StoredMessage) -> Self {
        stored.edit_history = None;
        Self(stored)
    }
}

/// A message with the columns that its reader needs.
pub trait MessageRow: From<StoredMessage> + Send + Sync {
    /// Reads a range in ascending order.
    const ASCENDING: &'static str;
    /// Reads a range in descending order.
    const DESCENDING: &'static str;

    /// Reads a row of these statements.
    ///
    /// # Errors
    /// When a stored value does not have its form.
    fn from_row(row: &Row) -> Result<Self>;

    /// Its place in the conversation.
    fn seq(&self) -> Seq;

    /// About how many bytes it takes in an answer.
    fn shown_bytes(&self) -> usize;
}

impl MessageRow for Shown {
    const ASCENDING: &'static str = PAGE;
    const DESCENDING: &'static str = PAGE_BACKWARD;

    fn from_row(row: &Row) -> Result<Self> {
        Self::read(&mut row.columns())
    }

    fn seq(&self) -> Seq {
        self.0.seq
    }

    fn shown_bytes(&self) -> usize {
        self.0.shown_bytes()
    }
}

impl MessageRow for StoredMessage {
    const ASCENDING: &'static str = PAGE_WHOLE;
    const DESCENDING: &'static str = PAGE_WHOLE_BACKWARD;

    fn from_row(row: &Row) -> Result<Self> {
        Self::read(&mut row.columns())
    }

    fn seq(&self) -> Seq {
        self.seq
    }

    fn shown_bytes(&self) -> usize {
        StoredMessage::shown_bytes(self) + self.edit_history.as_ref().map_or(0, String::len)
    }
}

/// Bytes of a message in an answer beside its content, attachments, reactions and metadata: ids, times and field names.
const SHOWN_OVERHEAD: usize = 400;

impl StoredMessage {
    /// About how many bytes it takes in an answer, as JSON, without its earlier versions.
    pub(crate) fn shown_bytes(&self) -> usize {
        if self.deleted_at.is_some() {
            return SHOWN_OVERHEAD;
        }
        let json = [
            &self.attachments,
            &self.reactions,
            &self.metadata,
            &self.mentions,
        ];
        let json: usize = json.into_iter().flatten().map(String::len).sum();
        SHOWN_OVERHEAD + json_bytes(&self.content) + json
    }
}

/// How long `text` is as a JSON string, or a little more.
fn json_bytes(text: &str) -> usize {
    let escaped = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    text.len() + 5 * text.bytes().filter(|byte| escaped(byte)).count()
}

/// Which messages of a range are kept when all of them are more than an answer may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Messages near this one are kept, those far from it are not.
    pub anchor: Seq,
    /// Most bytes of an answer. One message is kept even when it is larger.
    pub bytes: usize,
}

impl Room {
    /// For all messages of a range, whose number is bounded already.
    #[must_use]
    pub fn of_all((_, last): (Seq, Seq)) -> Self {
        Self {
            anchor: last,
            bytes: usize::MAX,
        }
    }

    /// How many of the bytes messages up to the anchor may take.
    #[must_use]
    pub fn up_to_anchor(self, (_, last): (Seq, Seq)) -> usize {
        match self.anchor >= last {
            true => self.bytes,
            false => self.bytes / 2,
        }
    }
}

/// Messages of a range, in order, and the part of the range that was read.
#[derive(Clone, Debug)]
pub struct Cut<M> {
    /// The messages.
    pub messages: Vec<M>,
    /// The first and the last seq of the part.
    pub range: (Seq, Seq),
}

impl<M: MessageRow> Cut<M> {
    /// No messages of a range.
    #[must_use]
    pub fn empty(range: (Seq, Seq)) -> Self {
        Self {
            messages: Vec::new(),
            range,
        }
    }

    /// Keeps what `room` allows.
    #[must_use]
    pub(crate) fn fit(self, room: Room) -> Self {
        let mut window = Window::new(self.range, room);
        for message in self.messages {
            if window.add(message).is_break() {
                break;
            }
        }
        window.finish()
    }
}

/// The messages of a range that are kept, while they arrive.
struct Window<M> {
    room: Room,
    range: (Seq, Seq),
    up_to_anchor: usize,
    messages: VecDeque<M>,
    bytes: usize,
}

impl<M: MessageRow> Window<M> {
    fn new(range: (Seq, Seq), room: Room) -> Self {
        Self {
            room,
            range,
            up_to_anchor: room.up_to_anchor(range),
            messages: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Takes the next message in ascending order; breaks when no more are wanted.
    fn add(&mut self, message: M) -> ControlFlow<()> {
        let bytes = message.shown_bytes();
        let is_near = message.seq() <= self.room.anchor;
        if !is_near && !self.messages.is_empty() && self.bytes + bytes > self.room.bytes {
            self.range.1 = Seq(message.seq().0 - 1);
            return ControlFlow::Break(());
        }
        self.messages.push_back(message);
        self.bytes += bytes;
        while is_near && self.bytes > self.up_to_anchor && self.messages.len() > 1 {
            let Some(far) = self.messages.pop_front() else {
                break;
            };
            self.bytes -= far.shown_bytes();
            self.range.0 = far.seq().next();
        }
        ControlFlow::Continue(())
    }

    /// Takes the next message in descending order; breaks when no more are wanted.
    fn add_before(&mut self, message: M) -> ControlFlow<()> {
        let bytes = message.shown_bytes();
        if !self.messages.is_empty() && self.bytes + bytes > self.room.bytes {
            self.range.0 = message.seq().next();
            return ControlFlow::Break(());
        }
        self.messages.push_front(message);
        self.bytes += bytes;
        ControlFlow::Continue(())
    }

    fn finish(self) -> Cut<M> {
        Cut {
            messages: self.messages.into(),
            range: self.range,
        }
    }
}

/// The hot rows of a range, as many as there is room for.
///
/// # Errors
/// When the database fails.
pub async fn rows<M: MessageRow>(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    range: (Seq, Seq),
    room: Room,
) -> Result<Cut<M>> {
    let args = values![&id, range.0, range.1];
    let mut window: Window<M> = Window::new(range, room);
    if room.anchor >= range.1 {
        let take = |row: Row| Ok(window.add_before(M::from_row(&row)?));
        rows.fetch_while(M::DESCENDING, &args, take).await?;
    } else {
        let take = |row: Row| Ok(window.add(M::from_row(&row)?));
        rows.fetch_while(M::ASCENDING, &args, take).await?;
    }
    Ok(window.finish())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{MessageType, Timestamp};

    fn message(seq: u64, bytes: usize) -> Shown {
        Shown(StoredMessage {
            seq: Seq(seq),
            rev: Rev(seq),
            sender: UserId::new("alice").unwrap(),
            client_msg_id: None,
            body_digest: None,
            message_type: MessageType::Text,
            content: "x".repeat(bytes),
            reply_to: None,
            attachments: None,
            reactions: None,
            metadata: None,
            edit_history: None,
            created_at: Timestamp(1),
            edited_at: None,
            deleted_at: None,
            pin: None,
            mentions: None,
        })
    }

    fn cut(count: u64, each: usize, anchor: u64, room: usize) -> (Vec<u64>, (u64, u64)) {
        let cut = Cut {
            messages: (1..=count).map(|seq| message(seq, each)).collect(),
            range: (Seq(1), Seq(count)),
        };
        let room = Room {
            anchor: Seq(anchor),
            bytes: room,
        };
        let cut = cut.fit(room);
        let seqs = cut.messages.iter().map(|message| message.seq().0);
        (seqs.collect(), (cut.range.0.0, cut.range.1.0))
    }

    #[test]
    fn what_is_nearest_to_the_anchor_is_kept() {
        let each = 1000 - SHOWN_OVERHEAD;
        assert_eq!(cut(5, each, 5, 9000), (vec![1, 2, 3, 4, 5], (1, 5)));
        assert_eq!(cut(5, each, 5, 2500), (vec![4, 5], (4, 5)));
        assert_eq!(cut(5, each, 0, 2500), (vec![1, 2], (1, 2)));
        assert_eq!(cut(5, each, 3, 4100), (vec![2, 3, 4, 5], (2, 5)));
        assert_eq!(cut(5, each, 3, 10), (vec![3], (3, 3)));
        assert_eq!(cut(5, each, 5, 10), (vec![5], (5, 5)));
        assert_eq!(cut(5, each, 0, 10), (vec![1], (1, 1)));
    }

    #[test]
    fn escapes_count() {
        for text in ["", "plain", "a\"b\\c", "\u{1}\n", "世界"] {
            let written = serde_json::to_string(text).unwrap().len();
            assert!(json_bytes(text) + 2 >= written, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_cut_is_the_range_that_it_says(
            sizes in prop::collection::vec(0_usize..3000, 1..30), anchor in 0_u64..32, bytes in 1_usize..20_000
        ) {
            let messages: Vec<Shown> = (1..).zip(&sizes).map(|(seq, bytes)| message(seq, *bytes)).collect();
            let range = (Seq(1), Seq(sizes.len() as u64));
            let room = Room { anchor: Seq(anchor), bytes };
            let cut = Cut { messages, range }.fit(room);
            let seqs: Vec<u64> = cut.messages.iter().map(|message| message.seq().0).collect();
            prop_assert_eq!(&seqs, &(cut.range.0.0..=cut.range.1.0).collect::<Vec<_>>());
            let held: usize = cut.messages.iter().map(MessageRow::shown_bytes).sum();
            prop_assert!(seqs.len() == 1 || held <= bytes);
            prop_assert!(anchor == 0 || seqs.contains(&anchor.min(sizes.len() as u64)));
        }
    }
}
