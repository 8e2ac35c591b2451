//! Standings: a conversation, a user's membership in it, and the fence of its range, read by one statement and so as of
//! one moment (INV-MEMBER, INV-OWNER). With a membership of an earlier moment a past member would see messages that were
//! sent after the removal, and read messages would count as unread.
//!
//! A [`Standing`] is what lists and sync show or decide by. It leaves out what only the conversation's own page shows: the
//! title, which list entries hold, and metadata of up to some KiB.

use std::time::Instant;

use crate::blocks::Blockers;
use crate::db::{Columns, Row, Value, in_rows, padded, values};
use crate::error::{Error, Result};
use crate::fence::{self, JOIN_READ_FENCE, READ_FENCE_COLUMNS};
use crate::head::{HEAD_COLUMN_COUNT, Head, head_columns, kind_of};
use crate::history::Access;
use crate::ids::{ConversationId, Rev, Seq, UserId};
use crate::latest_senders::LatestSenders;
use crate::map::Assignment;
use crate::member::{Membership, StoredMembership};
use crate::mentions::{self, Unread};
use crate::message::read_preview;
use crate::model::{MessagePreview, Timestamp};
use crate::node::Shard;
use crate::owned::OwnedReader;

macro_rules! membership_columns {
    () => {
        "m.user_id, m.role, m.read_seq, m.delivered_seq, m.rev, m.joined_at"
    };
}
const MEMBERSHIP_COLUMN_COUNT: usize = 6;

/// All by the primary keys of all three tables.
const SELECT: &str = concat!(
    "SELECT c.id, c.kind, c.head_seq, c.rev, c.member_count, c.last_sender, c.last_type, c.last_preview, c.last_at, c.blocked_by, c.writers, c.threaded, c.last_mention, ",
    membership_columns!(),
    ", "
);
const COLUMN_COUNT: usize = 13;
const SELECT_WHOLE: &str = concat!(
    "SELECT ",
    head_columns!("c."),
    ", ",
    membership_columns!(),
    ", "
);
const FROM: &str = " FROM members m {by PRIMARY} JOIN conversations c ON c.id = m.conversation_id";
const WHERE: &str = " WHERE c.deleted_at IS NULL AND m.role > 0 AND ";

/// Where a conversation stands for one of its members.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) id: ConversationId,
    pub(crate) user: UserId,
    pub(crate) access: Access,
    pub(crate) member_count: u64,
    /// One of the two members blocks the other.
    pub(crate) is_closed: bool,
    pub(crate) last: Option<MessagePreview>,
    pub(crate) last_at: Timestamp,
    pub(crate) read_seq: Seq,
    pub(crate) delivered_seq: Seq,
    /// The newest message that mentions members.
    last_mention: Option<Seq>,
    /// Empty until they were [added](add_mentions).
    pub(crate) mentions: Unread,
}

impl Standing {
    fn read(columns: &mut Columns<'_>) -> Result<Self> {
        let id = columns.conversation()?;
        let kind = kind_of(columns.int()?)?;
        let head_seq = Seq::from_i64(columns.int()?);
        let rev = Rev::from_i64(columns.int()?);
        let member_count = u64::try_from(columns.int()?).unwrap_or(0);
        let (last, last_at) = read_preview(columns, head_seq)?;
        let blockers = Blockers::parse(columns.opt_text()?.as_deref())?;
        let latest_senders = LatestSenders::parse(columns.opt_text()?.as_deref())?;
        let is_threaded = columns.opt_int()?.is_some();
        let last_mention = columns.opt_int()?.map(Seq::from_i64);
        let member = StoredMembership::read(columns)?.complete(&latest_senders);
        Ok(Self {
            id,
            user: member.user,
            access: Access {
                kind,
                head_seq,
                rev,
                latest_senders,
                is_threaded,
            },
            member_count,
            is_closed: !blockers.is_empty(),
            last,
            last_at,
            read_seq: member.read_seq,
            delivered_seq: member.delivered_seq,
            last_mention,
            mentions: Unread::default(),
        })
    }
}

/// The standings of those of `pairs`, at least one, that are a conversation and a member of it; and the reader of their
/// rows. All pairs belong to `assignment`.
///
/// # Errors
/// [`Error::NotOwner`] when this shard does not answer for them, and as [`Shard::reader`].
pub(crate) async fn of_pairs(
    shard: &Shard,
    assignment: &Assignment,
    pairs: &[(ConversationId, &UserId)],
    deadline: Instant,
) -> Result<(OwnedReader<'static>, Vec<Standing>)> {
    let of = (SELECT, COLUMN_COUNT + MEMBERSHIP_COLUMN_COUNT);
    let (reader, rows) = fetch(shard, assignment, of, pairs, deadline).await?;
    let standings = rows.iter().map(|row| Standing::read(&mut row.columns()));
    Ok((reader, standings.collect::<Result<_>>()?))
}

/// Reads the unread mentions of standings that `rows` has read before; where nobody has any, no statement.
///
/// # Errors
/// When the database fails.
pub(crate) async fn add_mentions(
    rows: &mut OwnedReader<'_>,
    standings: &mut [Standing],
) -> Result<()> {
    let may_have = |it: &&Standing| it.last_mention.is_some_and(|last| last > it.read_seq);
    let place = |it: &Standing| (it.id, it.user.clone(), it.read_seq, it.access.head_seq);
    let places: Vec<_> = standings.iter().filter(may_have).map(place).collect();
    let mut found = mentions::unread(rows, &places).await?;
    for standing in standings {
        let unread = found.remove(&(standing.id, standing.user.clone()));
        standing.mentions = unread.unwrap_or_default();
    }
    Ok(())
}

/// The whole head of a conversation, and the membership of `user`; and the reader of its rows.
///
/// # Errors
/// [`Error::NotMember`], [`Error::NotOwner`], and as [`Shard::reader`].
pub(crate) async fn whole(
    shard: &Shard,
    assignment: &Assignment,
    me: (ConversationId, &UserId),
    deadline: Instant,
) -> Result<(OwnedReader<'static>, Head, Membership)> {
    let of = (SELECT_WHOLE, HEAD_COLUMN_COUNT + MEMBERSHIP_COLUMN_COUNT);
    let (reader, rows) = fetch(shard, assignment, of, &[me], deadline).await?;
    let row = rows.first().ok_or(Error::NotMember)?;
    let mut columns = row.columns();
    let head = Head::read(&mut columns)?;
    let member = head.complete(StoredMembership::read(&mut columns)?);
    Ok((reader, head, member))
}

/// The rows of a statement that begins with `select`, which has so many columns.
async fn fetch(
    shard: &Shard,
    assignment: &Assignment,
    (select, columns): (&str, usize),
    pairs: &[(ConversationId, &UserId)],
    deadline: Instant,
) -> Result<(OwnedReader<'static>, Vec<Row>)> {
    let mut connection = shard.reader(deadline).await?;
    let start = fence::read_fence_start(assignment);
    let keys = padded(pairs).flat_map(|(id, user)| values![id, *user]);
    let args: Vec<Value<'_>> = std::iter::once(Value::from(&start)).chain(keys).collect();
    let condition = in_rows(["m.conversation_id", "m.user_id"], (args.len() - 1) / 2);
    let statement =
        format!("{select}{READ_FENCE_COLUMNS}{FROM}{JOIN_READ_FENCE}{WHERE}{condition}");
    let rows = connection.fetch_all(&statement, &args).await?;
    let permit = match rows.first() {
        Some(row) => {
            let mut fence = row.columns_from(columns);
            fence::permit_read_of_row(&mut fence, shard.name(), assignment)?
        }
        None => fence::permit_read(&mut connection, shard.name(), assignment).await?,
    };
    Ok((OwnedReader::permitted(connection, permit), rows))
}
