//! Reading what an export has.

use super::{DumpRow, exported};
use crate::archive;
use crate::db::values;
use crate::error::Result;
use crate::ids::{ConversationId, Rev, Seq};
use crate::model::Timestamp;
use crate::moves::rows::{self, Cell, Record};
use crate::moves::scope::Scope;
use crate::moves::tables::{Owner, Table};
use crate::owned::{Entity, OwnedReader};
use crate::range::KeyRange;

/// Most rows read at once (INV-BOUND): of the largest, notifications, about 2 MB.
const PAGE: usize = 256;

/// By the primary key.
const IS_IMPORTED: &str = "SELECT 1 FROM imports WHERE conversation_id = ?";
/// By the primary key, within one conversation; there is no index on times.
const FIRST_HOT_AT: &str =
    "SELECT MIN(seq) FROM messages WHERE conversation_id = ? AND created_at >= ?";
/// By the primary key.
const FIRST_ARCHIVED_AT: &str = "SELECT MIN(first_seq) FROM archive_runs {by PRIMARY} \
     WHERE conversation_id = ? AND last_at >= ? AND segment IS NOT NULL";
/// By the index `messages_rev`.
const NEXT_HOT: &str = "SELECT MIN(seq) FROM messages {by messages_rev} \
     WHERE conversation_id = ? AND rev > ? AND seq > ?";
/// By the index `archive_runs_rev`.
const NEXT_ARCHIVED: &str = "SELECT MIN(first_seq) FROM archive_runs {by archive_runs_rev} \
     WHERE conversation_id = ? AND last_rev > ? AND last_seq > ? AND segment IS NOT NULL";

/// Where the rows of users go on.
#[derive(Clone, Debug, Default)]
pub struct UsersCursor {
    table: usize,
    pub(crate) start: u64,
    after: Option<Vec<Cell>>,
}

impl UsersCursor {
    /// The next rows of the range that `start` is in and that ends at `end`; `None` when the range has been read and the
    /// next one begins, or nothing is left.
    pub(crate) async fn read(
        &self,
        rows: &mut OwnedReader<'_>,
        end: Option<u64>,
    ) -> Result<(Vec<DumpRow>, Self)> {
        let Some(table) = exported(Owner::User).nth(self.table) else {
            return Ok((Vec::new(), self.clone()));
        };
        let start = self.start;
        let scope = Scope::Range(KeyRange { start, end });
        let found = rows::read(rows, table, &scope, self.after.as_deref(), PAGE).await?;
        let mut next = self.clone();
        match (found.last().filter(|_| found.len() == PAGE), end) {
            (Some(last), _) => next.after = Some(last.key(table).to_vec()),
            (None, Some(end)) => (next.start, next.after) = (end, None),
            (None, None) => {
                next = Self {
                    table: self.table + 1,
                    ..Self::default()
                }
            }
        }
        Ok((of_table(table, found), next))
    }

    /// Whether every table was read.
    pub(crate) fn is_done(&self) -> bool {
        exported(Owner::User).nth(self.table).is_none()
    }
}

fn of_table(table: &'static Table, records: Vec<Record>) -> Vec<DumpRow> {
    let row = |record| {
        let mut row = DumpRow { table, record };
        if row.int("removed") == Some(1) {
            row.set("title", Cell::Null); // nobody may see it any more
        }
        row
    };
    records.into_iter().map(row).collect()
}

/// Where the conversations go on.
#[derive(Clone, Debug, Default)]
pub struct ConversationsCursor {
    pub(crate) start: u64,
    after: Option<Vec<Cell>>,
    pub(crate) is_done: bool,
}

/// The conversations after a cursor, in a range that ends at `end`: each with when it was deleted, if it was.
///
/// # Errors
/// When the database fails.
impl ConversationsCursor {
    pub(crate) async fn read(
        &self,
        rows: &mut OwnedReader<'_>,
        end: Option<u64>,
    ) -> Result<(Vec<(ConversationId, Option<Timestamp>)>, Self)> {
        let Some(table) = Table::named("conversations") else {
            return Ok((Vec::new(), self.clone()));
        };
        let start = self.start;
        let scope = Scope::Range(KeyRange { start, end });
        let found = rows::read(rows, table, &scope, self.after.as_deref(), PAGE).await?;
        let mut next = self.clone();
        match (found.last().filter(|_| found.len() == PAGE), end) {
            (Some(last), _) => next.after = Some(last.key(table).to_vec()),
            (None, Some(end)) => (next.start, next.after) = (end, None),
            (None, None) => next.is_done = true,
        }
        let mut all = Vec::with_capacity(found.len());
        for row in of_table(table, found) {
            if let Entity::Conversation(id) = row.entity()? {
                all.push((id, row.int("deleted_at").map(Timestamp)));
            }
        }
        Ok((all, next))
    }
}

/// A conversation whose export begins: what of it is written is as of now or later.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The head.
    pub head: DumpRow,
    /// Its rev.
    pub rev: Rev,
    /// Its newest message.
    pub head_seq: Seq,
    /// The messages up to this one were dropped when their retention ended; 0 when none was.
    pub dropped: Seq,
}

/// The head of a conversation that is there and not deleted.
pub(crate) async fn begin(rows: &mut OwnedReader<'_>, id: ConversationId) -> Result<Option<Begun>> {
    let Some(table) = Table::named("conversations") else {
        return Ok(None);
    };
    let scope = Scope::entity(&Entity::Conversation(id));
    let dropped = archive::last_dropped(rows, id).await?;
    let found = rows::read(rows, table, &scope, None, 1).await?;
    let head = of_table(table, found).pop();
    let head = head.filter(|head| head.int("deleted_at").is_none());
    Ok(head.map(|head| Begun {
        rev: Rev::from_i64(head.int("rev").unwrap_or(0)),
        head_seq: Seq::from_i64(head.int("head_seq").unwrap_or(0)),
        dropped,
        head,
    }))
}

/// Where the rows of a conversation go on.
#[derive(Clone, Debug, Default)]
pub struct RowsCursor {
    table: usize,
    after: Option<Vec<Cell>>,
}

/// Rows of a conversation's tables, at least as many as there are, or a page; `None` at the end.
pub(crate) async fn rows_of_conversation(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    mut cursor: RowsCursor,
) -> Result<(Vec<DumpRow>, Option<RowsCursor>)> {
    let scope = Scope::entity(&Entity::Conversation(id));
    let mut all = Vec::new();
    while let Some(table) = exported(Owner::Conversation).nth(cursor.table) {
        let rest = PAGE - all.len();
        let found = rows::read(rows, table, &scope, cursor.after.as_deref(), rest).await?;
        let is_page = found.len() == rest;
        let last = found.last().map(|last| last.key(table).to_vec());
        let shown = of_table(table, found).into_iter().filter(is_for_others);
        all.extend(shown);
        if is_page {
            cursor.after = last;
            return Ok((all, Some(cursor)));
        }
        cursor = RowsCursor {
            table: cursor.table + 1,
            after: None,
        };
    }
    Ok((all, None))
}

/// Of files only those that are ready: what is being uploaded or deleted is this deployment's.
fn is_for_others(row: &DumpRow) -> bool {
    row.table.name != "media" || row.int("state") == Some(2)
}

/// The rev after which every change was made that may have been made since `since`; `None` when the whole conversation may
/// be newer.
///
/// A row does not say when it was changed, only when its message was sent, edited or deleted. So this goes by the first
/// message, in the order of the log, that was sent at `since` or later: whatever was changed since then has a greater rev than
/// the seq before it, because every message takes a rev. What was changed earlier may have one, too. Imported messages are
/// older than their storing, so imported channels are always whole.
pub(crate) async fn changed_since(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    begun: &Begun,
    since: Timestamp,
) -> Result<Option<Rev>> {
    let is_new = begun.head.int("created_at").is_some_and(|at| at >= since.0);
    let imported = rows.fetch_optional(IS_IMPORTED, &values![&id]).await?;
    if is_new || imported.is_some() {
        return Ok(None);
    }
    let mut first = begun.head_seq.next();
    for statement in [FIRST_HOT_AT, FIRST_ARCHIVED_AT] {
        let row = rows
            .fetch_optional(statement, &values![&id, since.0])
            .await?;
        let found = row.map_or(Ok(None), |row| row.opt_int(0))?;
        first = found.map_or(first, |seq| first.min(Seq::from_i64(seq)));
    }
    Ok(Some(Rev(first.0.saturating_sub(1))))
}

/// The first message after `after` that may have a rev above `rev`, in either tier.
pub(crate) async fn first_changed(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    (rev, after): (Rev, Seq),
) -> Result<Option<Seq>> {
    let mut first = None;
    for statement in [NEXT_HOT, NEXT_ARCHIVED] {
        let row = rows
            .fetch_optional(statement, &values![&id, rev, after])
            .await?;
        let found = row.map_or(Ok(None), |row| row.opt_int(0))?;
        first = first.into_iter().chain(found).min();
    }
    Ok(first.map(|seq| Seq::from_i64(seq).max(after.next())))
}
