//! Marks: the lists that have yet to follow a change. They are written in the transaction that makes the change, and cleared
//! by the relay once the lists have followed; after a crash the relay applies the change once more, which changes nothing.
//!
//! A change that concerns every member marks the head ([`Head::marked`]), with the next rev: the relay takes the mark away
//! only from a head that still has the rev it has read. A change that concerns some members only, such as a watermark, has a
//! row for each of them in `list_marks`, with a random token: the relay clears the row by its token, so that a mark that is
//! set again meanwhile stays.
//!
//! Marks are set like every other row of a conversation, through its fence. The relay reads and clears them without one: see
//! [`crate::relay`].

use std::collections::HashSet;

use crate::db::{
    Connection, Value, WRITE_ROWS, in_rows, pad, padded, placeholders, rows_of, values,
};
use crate::error::Result;
use crate::head::Head;
use crate::ids::{ConversationId, UserId};
use crate::owned::OwnedTransaction;

/// Most marks cleared by one statement.
const CLEARED_AT_ONCE: usize = 64;

/// By the primary key.
const AT_REV: &str = "SELECT id FROM conversations {by PRIMARY} WHERE ";
const UNMARK: &str = "UPDATE conversations {by PRIMARY} SET marked = NULL WHERE ";
/// By the index `conversations_marked`.
const MARKED_HEADS: &str = "SELECT id FROM conversations {by conversations_marked} WHERE marked = 1 AND id > ? ORDER BY id LIMIT ?";
const MARK: &str = "INSERT INTO list_marks (conversation_id, user_id, token) VALUES ";
const MARK_UPDATE: &str = " {on_duplicate conversation_id, user_id} token = {new token}";
/// By the primary key.
const MARKS_OF: &str =
    "SELECT conversation_id, user_id, token FROM list_marks WHERE conversation_id IN (";
const MARKS_AFTER: &str = "SELECT DISTINCT conversation_id FROM list_marks WHERE conversation_id > ? ORDER BY conversation_id LIMIT ?";
const ANY_MARK: &str = "SELECT conversation_id FROM list_marks LIMIT 1";
const CLEAR: &str = "DELETE FROM list_marks WHERE ";

/// Marks users' lists that have to follow. The mark for the lists of all members is
/// [`Head::marked`].
///
/// # Errors
/// When the database fails.
pub async fn mark(
    transaction: &mut OwnedTransaction<'_>,
    marks: &[(ConversationId, &UserId)],
) -> Result<()> {
    transaction.require_conversations(marks.iter().map(|(id, _)| *id))?;
    for chunk in marks.chunks(WRITE_ROWS) {
        let mut args = Vec::with_capacity(3 * chunk.len());
        for (id, user) in padded(chunk) {
            args.extend(values![id, *user, rand::random::<i64>()]);
        }
        let rows = rows_of(args.len() / 3, 3);
        transaction
            .execute(&format!("{MARK}{rows}{MARK_UPDATE}"), &args)
            .await?;
    }
    Ok(())
}

/// A row of `list_marks`.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) conversation: ConversationId,
    pub(crate) user: UserId,
    token: i64,
}

/// The rows of these conversations.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of(connection: &mut Connection, ids: &[ConversationId]) -> Result<Vec<Mark>> {
    let mut args: Vec<Value<'_>> = ids.iter().map(Value::from).collect();
    pad(&mut args);
    let statement = format!(
        "{MARKS_OF}{}) ORDER BY conversation_id",
        placeholders(args.len())
    );
    let rows = connection.fetch_all(&statement, &args).await?;
    rows.iter()
        .map(|row| {
            let mut columns = row.columns();
            Ok(Mark {
                conversation: columns.conversation()?,
                user: columns.user()?,
                token: columns.int()?,
            })
        })
        .collect()
}

/// Conversations after `after` that are marked in their head or by a row, in id order; at most `limit`.
///
/// # Errors
/// When the database fails.
pub(crate) async fn after(
    connection: &mut Connection,
    after: Option<ConversationId>,
    limit: i64,
) -> Result<Vec<ConversationId>> {
    let mut found = marked_heads(connection, after, limit).await?;
    let after: &[u8] = after.as_ref().map_or(&[], |id| id.as_bytes());
    let rows = connection
        .fetch_all(MARKS_AFTER, &values![after, limit])
        .await?;
    for row in &rows {
        found.push(row.conversation(0)?);
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}

/// Whether the shard has no mark left.
///
/// # Errors
/// When the database fails.
pub(crate) async fn is_empty(connection: &mut Connection) -> Result<bool> {
    Ok(connection.fetch_optional(ANY_MARK, &[]).await?.is_none()
        && marked_heads(connection, None, 1).await?.is_empty())
}

/// In a write transaction: clears rows that have not been set again since they were read.
///
/// # Errors
/// When the database fails.
pub(crate) async fn clear(connection: &mut Connection, marks: &[Mark]) -> Result<()> {
    for marks in marks.chunks(CLEARED_AT_ONCE) {
        let args: Vec<Value<'_>> = padded(marks)
            .flat_map(|mark| values![&mark.conversation, &mark.user, mark.token])
            .collect();
        let condition = ["(conversation_id = ? AND user_id = ? AND token = ?)"]
            .repeat(args.len() / 3)
            .join(" OR ");
        connection
            .execute(&format!("{CLEAR}{condition}"), &args)
            .await?;
    }
    Ok(())
}

/// Conversations after `after` whose head is marked, in id order.
async fn marked_heads(
    connection: &mut Connection,
    after: Option<ConversationId>,
    limit: i64,
) -> Result<Vec<ConversationId>> {
    let after: &[u8] = after.as_ref().map_or(&[], |id| id.as_bytes());
    let rows = connection
        .fetch_all(MARKED_HEADS, &values![after, limit])
        .await?;
    rows.iter().map(|row| row.conversation(0)).collect()
}

/// Those of `heads` that have not changed since they were read; without a lock.
///
/// # Errors
/// When the database fails.
pub(crate) async fn unchanged<'a>(
    connection: &mut Connection,
    heads: &[&'a Head],
) -> Result<Vec<&'a Head>> {
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let (condition, args) = at_revs(heads);
    let rows = connection
        .fetch_all(&format!("{AT_REV}{condition}"), &args)
        .await?;
    let ids = rows
        .iter()
        .map(|row| row.conversation(0))
        .collect::<Result<HashSet<_>>>()?;
    Ok(heads
        .iter()
        .filter(|head| ids.contains(&head.id))
        .copied()
        .collect())
}

/// In a write transaction: takes the marks away from those of `heads` that have not changed since they were read.
///
/// # Errors
/// When the database fails.
pub(crate) async fn unmark(connection: &mut Connection, heads: &[&Head]) -> Result<()> {
    let (condition, args) = at_revs(heads);
    connection
        .execute(&format!("{UNMARK}{condition}"), &args)
        .await?;
    Ok(())
}

fn at_revs<'a>(heads: &[&'a Head]) -> (String, Vec<Value<'a>>) {
    let mut args: Vec<Value<'a>> = padded(heads).map(|head| Value::from(&head.id)).collect();
    let n = args.len();
    args.extend(padded(heads).flat_map(|head| values![&head.id, head.rev]));
    // The ids by themselves for the primary key.
    let condition = format!(
        "id IN ({}) AND {}",
        placeholders(n),
        in_rows(["id", "rev"], n)
    );
    (condition, args)
}
