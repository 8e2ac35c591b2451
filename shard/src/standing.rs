//! Standings: a conversation's head, a user's membership in it, and the fence of its range, read by one statement and so as of
//! one moment (INV-MEMBER, INV-OWNER). With a membership of an earlier moment a past member would see messages that were
//! sent after the removal, and read messages would count as unread.

use crate::db::{Row, Value, in_rows, padded, values};
use crate::error::Result;
use crate::fence::{self, JOIN_READ_FENCE, READ_FENCE_COLUMNS};
use std::time::Instant;

use crate::head::{HEAD_COLUMN_COUNT, Head, head_columns};
use crate::ids::{ConversationId, UserId};
use crate::map::Assignment;
use crate::member::{Membership, StoredMembership};
use crate::node::Shard;
use crate::owned::OwnedReader;

const MEMBERSHIP_COLUMN_COUNT: usize = 6;

/// By the primary keys of all three tables.
const SELECT: &str = concat!(
    "SELECT ",
    head_columns!("c."),
    ", m.user_id, m.role, m.read_seq, m.delivered_seq, m.rev, m.joined_at, "
);
const FROM: &str = " FROM members m {by PRIMARY} JOIN conversations c ON c.id = m.conversation_id";
const WHERE: &str = " WHERE c.deleted_at IS NULL AND m.role > 0 AND ";

/// The conversations of those of `pairs`, at least one, that are a conversation and a member of it, each with the membership;
/// and the reader of their rows. All pairs belong to `assignment`.
///
/// # Errors
/// [`Error::NotOwner`](crate::error::Error::NotOwner) when this shard does not answer for them, and as [`Shard::reader`].
pub(crate) async fn of_pairs(
    shard: &Shard,
    assignment: &Assignment,
    pairs: &[(ConversationId, &UserId)],
    deadline: Instant,
) -> Result<(OwnedReader<'static>, Vec<(Head, Membership)>)> {
    let mut connection = shard.reader(deadline).await?;
    let start = fence::read_fence_start(assignment);
    let keys = padded(pairs).flat_map(|(id, user)| values![id, *user]);
    let args: Vec<Value<'_>> = std::iter::once(Value::from(&start)).chain(keys).collect();
    let condition = in_rows(["m.conversation_id", "m.user_id"], (args.len() - 1) / 2);
    let statement =
        format!("{SELECT}{READ_FENCE_COLUMNS}{FROM}{JOIN_READ_FENCE}{WHERE}{condition}");
    let rows = connection.fetch_all(&statement, &args).await?;
    let permit = match rows.first() {
        Some(row) => {
            let fence = HEAD_COLUMN_COUNT + MEMBERSHIP_COLUMN_COUNT;
            let mut fence = row.columns_from(fence);
            fence::permit_read_of_row(&mut fence, shard.name(), assignment)?
        }
        None => fence::permit_read(&mut connection, shard.name(), assignment).await?,
    };
    let standing = |row: &Row| {
        let mut columns = row.columns();
        let head = Head::read(&mut columns)?;
        let member = head.complete(StoredMembership::read(&mut columns)?);
        Ok((head, member))
    };
    let standings = rows.iter().map(standing).collect::<Result<_>>()?;
    Ok((OwnedReader::permitted(connection, permit), standings))
}
