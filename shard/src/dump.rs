//! All rows of conversations and users, out of a deployment and into another: what `backscroll export --all` writes and
//! `backscroll import` takes.
//!
//! What there is of a conversation or a user is what moves between shards ([`crate::moves`]), so the registry of the moved
//! tables says which rows an export has: a table that is added there is in the next export. Left out is what belongs to the
//! deployment, not to its users ([`LEFT_OUT`]). Messages come from both tiers, each once (INV-COPY), and all become hot rows.
//!
//! A conversation's head is written last, and everybody reads a conversation through its head: until it is whole it is not
//! there. A crash leaves rows without a head, and the next import of the same export goes on over them, row by row. Ids, seqs
//! and revs are kept (INV-SEQ, INV-REV), so clients go on with the cursors that they have.
//!
//! Users' lists are read after the conversations, so they have followed what these have, or the head says that they have not
//! (`marked`) and the relay of the new deployment brings them up to date.
//!
//! `copied_conversations` has the rev that a conversation came with. An export that is not newer changes nothing; a newer one
//! adds what changed, unless the conversation was changed here meanwhile: two logs are never mixed.

mod form;
mod read;
mod take;

use crate::error::Result;
use crate::ids::{ConversationId, Rev, Seq, UserId};
use crate::message::StoredMessage;
use crate::moves::rows::{Cell, Record};
use crate::moves::tables::{MOVED, Owner, Table};
use crate::owned::Entity;

pub use read::{Begun, ConversationsCursor, RowsCursor, UsersCursor};
pub(crate) use read::{begin, changed_since, first_changed, rows_of_conversation};
pub(crate) use take::{delete_copy, take, take_users};

/// Tables that are no part of an export, and why.
const LEFT_OUT: [(&str, &str); 9] = [
    ("conversations", "the head: it closes the conversation"),
    ("messages", "written from both tiers"),
    ("pins", "messages say themselves that they are pinned"),
    ("replies", "messages say themselves which they answer"),
    ("threads", "made from the replies"),
    (
        "list_marks",
        "the relay's, which has done them when the lists are read",
    ),
    (
        "archive_runs",
        "where this deployment's archive has what the export has whole",
    ),
    ("erasures", "what this deployment's archive has erased"),
    (
        "copied_conversations",
        "from where this deployment has its own",
    ),
];

/// A row of a table, with its owner.
#[derive(Clone, Debug, PartialEq)]
pub struct DumpRow {
    table: &'static Table,
    record: Record,
}

impl DumpRow {
    /// The table's name.
    #[must_use]
    pub fn table(&self) -> &'static str {
        self.table.name
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.record.size()
    }

    /// Whose row it is.
    ///
    /// # Errors
    /// [`crate::error::Error::Corrupt`] when its key names nobody.
    pub fn entity(&self) -> Result<Entity> {
        Entity::of(self.table, self.record.key(self.table))
    }

    /// The conversation that a row of a user is about, if it is about one.
    #[must_use]
    pub fn about(&self) -> Option<ConversationId> {
        match self.cell("conversation_id") {
            Cell::Bytes(id) => ConversationId::from_bytes(id),
            _ => None,
        }
    }

    fn cell(&self, column: &str) -> &Cell {
        let place = self
            .table
            .columns
            .iter()
            .position(|(name, _)| *name == column);
        place.map_or(&Cell::Null, |place| self.record.cell(place))
    }

    fn int(&self, column: &str) -> Option<i64> {
        match self.cell(column) {
            Cell::Int(value) => Some(*value),
            _ => None,
        }
    }

    fn set(&mut self, column: &str, cell: Cell) {
        let place = self
            .table
            .columns
            .iter()
            .position(|(name, _)| *name == column);
        if let Some(place) = place {
            self.record.set(place, cell);
        }
    }
}

/// The tables of an owner that an export has, in the order in which it has them.
fn exported(owner: Owner) -> impl Iterator<Item = &'static Table> {
    let is_left_out = |table: &&Table| LEFT_OUT.iter().any(|(name, _)| *name == table.name);
    MOVED
        .iter()
        .filter(move |table| table.owner == owner && !is_left_out(table))
}

/// A part of a conversation out of an export: some rows and some consecutive messages, and with the last part the head.
#[derive(Clone, Debug)]
pub struct Part {
    /// The conversation.
    pub id: ConversationId,
    /// Its rev when its export began.
    pub rev: Rev,
    /// Rows of its tables.
    pub rows: Vec<DumpRow>,
    /// Messages in order.
    pub messages: Vec<StoredMessage>,
    /// The messages up to this one were dropped when their retention ended.
    pub dropped: Option<Seq>,
    /// The head, with which the conversation is whole.
    pub head: Option<DumpRow>,
}

/// What came of a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Messages that were stored or replaced.
    pub messages: u64,
    /// Rows that were stored or replaced.
    pub rows: u64,
    /// Why nothing of the conversation is taken.
    pub refused: Option<&'static str>,
}

/// The name under which an imported channel is known, and its conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedChannel {
    /// The channel's name.
    pub channel: String,
    /// For whom it was imported, if the owner was named.
    pub owner: Option<UserId>,
    /// The conversation.
    pub conversation: ConversationId,
}
