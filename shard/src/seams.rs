//! What other crates plug into the store. The arrows point here: the archiver and the real-time side depend on this
//! crate, never the other way round; `router` wires them.

use std::time::Instant;

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::ids::{ConversationId, Rev, Seq, UserId};
use crate::message::StoredMessage;
use crate::model::{Message, Watermarks};
use crate::node::Shard;

/// Where messages are that no hot row holds any more (INV-TIER).
#[async_trait]
pub trait ColdTier: Send + Sync {
    /// The messages of `conversation` from `first` to `last`, both included, in order and without a hole.
    /// `shard` is the conversation's, where the archive index is.
    ///
    /// # Errors
    /// [`Error::ArchiveUnavailable`] when any of them cannot be read before `deadline`.
    async fn read(
        &self,
        shard: &Shard,
        conversation: ConversationId,
        first: Seq,
        last: Seq,
        deadline: Instant,
    ) -> Result<Vec<StoredMessage>>;
}

/// No archive: every message is hot, so a message that is not there cannot be read.
#[derive(Debug, Default)]
pub struct NoArchive;

#[async_trait]
impl ColdTier for NoArchive {
    async fn read(
        &self,
        _shard: &Shard,
        _conversation: ConversationId,
        _first: Seq,
        _last: Seq,
        _deadline: Instant,
    ) -> Result<Vec<StoredMessage>> {
        Err(Error::ArchiveUnavailable)
    }
}

/// Something that was committed.
#[derive(Clone, Debug)]
pub enum Event {
    /// A new message.
    MessageCreated(Message),
    /// An edit or a reaction.
    MessageUpdated(Message),
    /// A deletion; the message is marked and empty.
    MessageDeleted(Message),
    /// A member read or received further.
    WatermarksMoved {
        /// Who.
        user: UserId,
        /// To where.
        watermarks: Watermarks,
    },
    /// Its title, metadata or members changed, or it was created or deleted.
    ConversationChanged {
        /// The conversation.
        conversation: ConversationId,
        /// The change.
        rev: Rev,
    },
}

/// Is told what was committed, after the commit and before the caller is answered.
///
/// A hint, never the truth: an event may be lost in a crash; who needs certainty asks by `seq` and `rev`.
pub trait CommitListener: Send + Sync {
    /// Takes events of one transaction, in order. It must not block.
    fn committed(&self, events: Vec<Event>);
}

/// Nobody listens.
#[derive(Debug, Default)]
pub struct NoListener;

impl CommitListener for NoListener {
    fn committed(&self, _events: Vec<Event>) {}
}
