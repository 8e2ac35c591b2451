//! Which messages mention which members, and which of these are unread.
//!
//! A message says itself whom it mentions ([`StoredMessage::mentions`]), so pages, sync, the archive, exports and moves have it.
//! The table `mentions` finds the messages that mention a member: a row for each mentioned member but the sender, and for nobody
//! else, written in the transaction of the message. It goes when the message is deleted, or soon after the member has read
//! it; a row that is not above the member's watermark counts for nothing.
//!
//! A message may mention all members ([`EVERYBODY`]): that is one row, whatever their number, and stays until the message is
//! deleted; of each conversation the newest [`COUNTED_MAX`] are kept.
//!
//! The head says which message mentioned members last, so a conversation without unread mentions costs no statement. What of
//! them a list entry shows is read after the head and the membership, which the relay reads anyway; an entry keeps the seqs,
//! not their number, so updates that come in any order give the same entry ([`Unread`]).

use std::collections::{BTreeMap, HashMap};

use crate::db::{Value, in_rows, padded, placeholders, rows_of, values};
use crate::db::{WRITE_ROWS, pad};
use crate::error::{Error, Result};
use crate::head::Head;
use crate::ids::{ConversationId, Seq, UserId};
use crate::member::StoredMembership;
use crate::message::{StoredMessage, stored_mentions};
use crate::model::ConversationKind;
use crate::owned::{OwnedReader, OwnedTransaction};

/// Most unread mentions of a member in a conversation that are counted: the newest.
pub const COUNTED_MAX: usize = 100;

/// What a message mentions when it mentions all members. A user with this id cannot be mentioned alone.
pub const EVERYBODY: &str = "@all";

/// By the primary key.
const INSERT: &str = "INSERT INTO mentions (conversation_id, user_id, seq) VALUES ";
const INSERT_AGAIN: &str = " {on_duplicate conversation_id, user_id, seq} seq = {new seq}";
/// By the primary key.
const REMOVE: &str = "DELETE FROM mentions WHERE conversation_id = ? AND seq = ? AND user_id IN (";
/// By the primary key.
const REMOVE_READ: &str =
    "DELETE FROM mentions WHERE conversation_id = ? AND user_id = ? AND seq <= ?";
/// By the primary key, backwards.
const SURPLUS: &str = "SELECT seq FROM mentions WHERE conversation_id = ? AND user_id = ? \
     ORDER BY seq DESC LIMIT 1 OFFSET ?";
/// By the primary key's first column, of one conversation.
const REMOVE_ONE: &str = "DELETE FROM mentions WHERE conversation_id = ? AND seq = ?";
/// By the primary key's first column, of one conversation.
const REMOVE_UP_TO: &str = "DELETE FROM mentions WHERE conversation_id = ? AND seq <= ?";
/// By the primary key.
const UNREAD: &str = "SELECT conversation_id, user_id, seq FROM mentions {by PRIMARY} WHERE ";

/// The unread messages that mention a member, as of some change of the conversation: their seqs, ascending, the newest
/// [`COUNTED_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread(Vec<Seq>);

impl Unread {
    /// From the form in which a list entry has them, without those that were read meanwhile. What does not have the form is
    /// left out.
    pub(crate) fn stored(text: Option<&str>, read: Seq) -> Self {
        let seqs = text.unwrap_or_default().split(',');
        let mut unread = Self(seqs.filter_map(|seq| seq.parse().ok()).collect());
        unread.read_up_to(read);
        unread
    }

    /// The form in which a list entry has them; none when there are none.
    pub(crate) fn to_stored(&self) -> Option<String> {
        let seqs: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        (!seqs.is_empty()).then(|| seqs.join(","))
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The member has read up to `seq`.
    pub(crate) fn read_up_to(&mut self, seq: Seq) {
        self.0.retain(|mention| *mention > seq);
    }
}

/// The unread mentions of users in conversations; those that have none are not in it.
pub type UnreadMentions = HashMap<(ConversationId, UserId), Unread>;

/// In the transaction that inserts these messages: remembers whom they mention. Without mentions no statement.
///
/// # Errors
/// When the database fails.
pub(crate) async fn insert(
    rows: &mut OwnedTransaction<'_>,
    messages: &[(ConversationId, StoredMessage)],
) -> Result<()> {
    let mentioning = messages.iter().filter(|(_, it)| it.mentions.is_some());
    let mut all: Vec<(ConversationId, UserId, Seq)> = Vec::new();
    for (id, message) in mentioning {
        let mentioned = stored_mentions(message.mentions.as_deref()).into_iter();
        let others = mentioned.filter(|user| *user != message.sender);
        all.extend(others.map(|user| (*id, user, message.seq)));
    }
    add(rows, &all).await
}

/// In a transaction that changes these messages: remembers that they mention these users, or all members.
///
/// # Errors
/// When the database fails.
pub(crate) async fn add(
    rows: &mut OwnedTransaction<'_>,
    all: &[(ConversationId, UserId, Seq)],
) -> Result<()> {
    rows.require_conversations(all.iter().map(|(id, _, _)| *id))?;
    for chunk in all.chunks(WRITE_ROWS) {
        let args: Vec<Value<'_>> = padded(chunk)
            .flat_map(|(id, user, seq)| values![id, user, *seq])
            .collect();
        let statement = format!("{INSERT}{}{INSERT_AGAIN}", rows_of(args.len() / 3, 3));
        rows.execute(&statement, &args).await?;
    }
    let of_everybody = all.iter().filter(|(_, user, _)| is_everybody(user));
    let of_everybody: BTreeMap<ConversationId, &UserId> =
        of_everybody.map(|(id, user, _)| (*id, user)).collect();
    for (id, everybody) in of_everybody {
        let kept = i64::try_from(COUNTED_MAX).unwrap_or(i64::MAX);
        let args = values![&id, everybody, kept];
        if let Some(row) = rows.fetch_optional(SURPLUS, &args).await? {
            let last = Seq::from_i64(row.int(0)?);
            remove_read(rows, (id, everybody), last).await?;
        }
    }
    Ok(())
}

/// Whether a message that mentions `user` mentions all members.
pub(crate) fn is_everybody(user: &UserId) -> bool {
    user.as_str() == EVERYBODY
}

/// Whether a member may mention all members of a conversation: its admins, and both members of a direct conversation; not
/// where there are more than `most`.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::Invalid`].
pub(crate) fn check_everybody(head: &Head, is_admin: bool, most: u32) -> Result<()> {
    if !is_admin && head.kind != ConversationKind::Direct {
        return Err(Error::Forbidden(
            "only admins can mention all members of a conversation",
        ));
    }
    if head.member_count > u64::from(most) {
        let rule = format!("`{EVERYBODY}` only where there are at most {most} members");
        return Err(Error::invalid("mentions", rule));
    }
    Ok(())
}

/// In the transaction that deletes a message, which mentioned these users.
///
/// # Errors
/// When the database fails.
pub(crate) async fn remove(
    rows: &mut OwnedTransaction<'_>,
    (id, seq): (ConversationId, Seq),
    mentioned: &[UserId],
) -> Result<()> {
    if mentioned.is_empty() {
        return Ok(());
    }
    rows.require_conversations([id])?;
    let mut users: Vec<Value<'_>> = mentioned.iter().map(Value::from).collect();
    pad(&mut users);
    let statement = format!("{REMOVE}{})", placeholders(users.len()));
    let mut args = values![&id, seq].to_vec();
    args.extend(users);
    rows.execute(&statement, &args).await.map(drop)
}

/// In the transaction in which a member reads up to `seq`.
///
/// # Errors
/// When the database fails.
pub(crate) async fn remove_read(
    rows: &mut OwnedTransaction<'_>,
    (id, user): (ConversationId, &UserId),
    seq: Seq,
) -> Result<()> {
    rows.require_conversations([id])?;
    let args = values![&id, user, seq];
    rows.execute(REMOVE_READ, &args).await.map(drop)
}

/// In the transaction that deletes a message of which it is not known whom it mentioned.
///
/// # Errors
/// When the database fails.
pub(crate) async fn remove_one(
    rows: &mut OwnedTransaction<'_>,
    id: ConversationId,
    seq: Seq,
) -> Result<()> {
    rows.require_conversations([id])?;
    let args = values![&id, seq];
    rows.execute(REMOVE_ONE, &args).await.map(drop)
}

/// In a job's transaction: the messages up to `last` are no more.
///
/// # Errors
/// When the database fails.
pub async fn remove_up_to(
    rows: &mut OwnedTransaction<'_>,
    id: ConversationId,
    last: Seq,
) -> Result<()> {
    let args = values![&id, last];
    rows.execute(REMOVE_UP_TO, &args).await.map(drop)
}

/// Memberships that were read after their heads, with the unread mentions, which are read after them. Where nobody has any, no
/// statement.
///
/// # Errors
/// When the database fails.
pub(crate) async fn beside(
    rows: &mut OwnedReader<'_>,
    heads: &HashMap<ConversationId, Head>,
    members: Vec<(ConversationId, StoredMembership)>,
) -> Result<Vec<(ConversationId, StoredMembership, Unread)>> {
    let mut places = Vec::new();
    for (id, member) in &members {
        let Some(head) = heads.get(id) else { continue };
        let Some(last) = head.last_mention else {
            continue;
        };
        let member = head.complete(member.clone());
        if member.is_active() && last > member.read_seq {
            places.push((*id, member.user, member.read_seq, head.head_seq));
        }
    }
    let mut found = unread(rows, &places).await?;
    let with = |(id, member): (ConversationId, StoredMembership)| {
        let unread = match found.is_empty() {
            true => None,
            false => found.remove(&(id, member.user.clone())),
        };
        (id, member, unread.unwrap_or_default())
    };
    Ok(members.into_iter().map(with).collect())
}

/// The unread mentions of users in conversations: those above the first seq, up to the second.
///
/// # Errors
/// When the database fails.
pub(crate) async fn unread(
    rows: &mut OwnedReader<'_>,
    places: &[(ConversationId, UserId, Seq, Seq)],
) -> Result<UnreadMentions> {
    let mut found = UnreadMentions::new();
    if places.is_empty() {
        return Ok(found);
    }
    let everybody = Value::from(EVERYBODY.as_bytes());
    let mut keys: Vec<[Value<'_>; 2]> = Vec::with_capacity(places.len() + 1);
    let mut conversations: BTreeMap<ConversationId, Vec<&UserId>> = BTreeMap::new();
    for (id, user, _, _) in places {
        keys.push(values![id, user]);
        let users = conversations.entry(*id).or_default();
        if users.is_empty() {
            keys.push([Value::from(id), everybody]);
        }
        users.push(user);
    }
    let args: Vec<Value<'_>> = padded(&keys).copied().flatten().collect();
    let condition = in_rows(["conversation_id", "user_id"], args.len() / 2);
    let statement = format!("{UNREAD}{condition} ORDER BY conversation_id, user_id, seq");
    let bounds: HashMap<(ConversationId, &str), (Seq, Seq)> = places
        .iter()
        .map(|(id, user, read, end)| ((*id, user.as_str()), (*read, *end)))
        .collect();
    for row in rows.fetch_all(&statement, &args).await? {
        let mut columns = row.columns();
        let (id, user) = (columns.conversation()?, columns.user()?);
        let seq = Seq::from_i64(columns.int()?);
        let own = [&user];
        let mentioned: &[&UserId] = match is_everybody(&user) {
            true => conversations.get(&id).map_or(&[], Vec::as_slice),
            false => &own,
        };
        for user in mentioned {
            let bounds = bounds.get(&(id, user.as_str()));
            if bounds.is_some_and(|(read, end)| seq > *read && seq <= *end) {
                let place = (id, (*user).clone());
                found.entry(place).or_default().0.push(seq);
            }
        }
    }
    for Unread(seqs) in found.values_mut() {
        seqs.sort_unstable();
        seqs.dedup();
        let surplus = seqs.len().saturating_sub(COUNTED_MAX);
        seqs.drain(..surplus);
    }
    Ok(found)
}
