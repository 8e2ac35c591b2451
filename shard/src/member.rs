//! Members of a conversation: roles and watermarks.
//!
//! Watermarks in a row may be behind: the head's [latest senders](crate::latest_senders) have read up to their own newest
//! message. So what is read of a row is a [`StoredMembership`], which does not show them; [`StoredMembership::complete`]
//! makes a [`Membership`] of it and of the latest senders, which are read before.

use crate::db::{Columns, Value, in_rows, padded, placeholders, rows_of, values};
use crate::db::{WRITE_ROWS, pad};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, Rev, Seq, UserId};
use crate::latest_senders::LatestSenders;
use crate::model::{DeliveryStatus, Member, Role, Timestamp};
use crate::owned::{OwnedReader, OwnedTransaction};

/// A membership as stored, also one that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMembership {
    /// The user.
    pub user: UserId,
    /// What they may do; `None` after they left.
    pub role: Option<Role>,
    /// The change that touched the membership last. Watermarks take no rev.
    pub rev: Rev,
    joined_at: Timestamp,
    read_seq: Seq,
    delivered_seq: Seq,
}

/// A membership with its watermarks.
#[derive(Clone, Debug, PartialEq)]
pub struct Membership {
    /// The user.
    pub user: UserId,
    /// What they may do; `None` after they left.
    pub role: Option<Role>,
    /// Up to where they have read.
    pub read_seq: Seq,
    /// Up to where their devices have received; never below `read_seq`.
    pub delivered_seq: Seq,
    /// The change that touched the membership last. Watermarks take no rev.
    pub rev: Rev,
    /// When they joined.
    pub joined_at: Timestamp,
}

impl StoredMembership {
    pub(crate) fn read(columns: &mut Columns<'_>) -> Result<Self> {
        Ok(Self {
            user: columns.user()?,
            role: role_of(columns.int()?)?,
            read_seq: Seq::from_i64(columns.int()?),
            delivered_seq: Seq::from_i64(columns.int()?),
            rev: Rev::from_i64(columns.int()?),
            joined_at: Timestamp(columns.int()?),
        })
    }

    /// An ordinary membership that has read nothing.
    #[cfg(test)]
    pub(crate) fn for_test(user: UserId) -> Self {
        Self {
            user,
            role: Some(Role::Member),
            rev: Rev(1),
            joined_at: Timestamp(0),
            read_seq: Seq(0),
            delivered_seq: Seq(0),
        }
    }

    /// Whether the user is a member now.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.role.is_some()
    }

    /// With its watermarks: the row's, or the user's newest message if they are among the latest senders of the
    /// conversation's head, which was read before the row.
    #[must_use]
    pub fn complete(self, latest_senders: &LatestSenders) -> Membership {
        let sent = latest_senders.newest_of(&self.user).unwrap_or(Seq(0));
        Membership {
            user: self.user,
            role: self.role,
            read_seq: self.read_seq.max(sent),
            delivered_seq: self.delivered_seq.max(sent),
            rev: self.rev,
            joined_at: self.joined_at,
        }
    }
}

impl Membership {
    /// The watermarks of a sender that fell out of the latest senders: all that is to be written of their membership.
    #[must_use]
    pub(crate) fn of_fallen_sender(user: UserId, newest: Seq) -> Self {
        Self {
            user,
            role: None,
            read_seq: newest,
            delivered_seq: newest,
            rev: Rev(0),
            joined_at: Timestamp(0),
        }
    }

    /// Whether the user is a member now.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.role.is_some()
    }

    /// Whether the user may do what needs `role`.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.role.is_some_and(|mine| mine >= role)
    }

    /// As callers see it.
    #[must_use]
    pub fn into_member(self) -> Member {
        Member {
            user_id: self.user,
            role: self.role.unwrap_or(Role::Member),
            read_seq: self.read_seq,
            delivered_seq: self.delivered_seq,
            joined_at: self.joined_at,
            removed: self.role.is_none(),
        }
    }
}

/// All by the primary key `(conversation_id, user_id)`.
const SELECT_ONE: &str = "SELECT user_id, role, read_seq, delivered_seq, rev, joined_at FROM members \
     WHERE conversation_id = ? AND user_id = ?";
const SELECT_SOME: &str = "SELECT user_id, role, read_seq, delivered_seq, rev, joined_at FROM members {by PRIMARY} \
     WHERE conversation_id = ? AND user_id IN (";
const SELECT_PAIRS: &str = "SELECT conversation_id, user_id, role, read_seq, delivered_seq, rev, joined_at FROM members {by PRIMARY} WHERE ";
const SELECT_PAGE: &str = "SELECT user_id, role, read_seq, delivered_seq, rev, joined_at FROM members \
     WHERE conversation_id = ? AND user_id > ? AND role > 0 ORDER BY user_id LIMIT ?";
/// By the primary key's first column; stops at the first owner found.
const OTHER_OWNER: &str =
    "SELECT user_id FROM members WHERE conversation_id = ? AND role = 3 AND user_id <> ? LIMIT 1";
const SELECT_OF: &str = "SELECT conversation_id, user_id, role, read_seq, delivered_seq, rev, joined_at FROM members {by PRIMARY} \
     WHERE conversation_id IN (";
/// By the index `members_rev`.
const SELECT_CHANGED: &str = "SELECT user_id, role, read_seq, delivered_seq, rev, joined_at FROM members \
     WHERE conversation_id = ? AND rev > ? AND rev <= ? ORDER BY rev LIMIT ?";
const UPSERT: &str = "INSERT INTO members (conversation_id, user_id, role, read_seq, delivered_seq, rev, joined_at) VALUES ";
const UPSERT_MEMBERSHIP: &str = " {on_duplicate conversation_id, user_id} role = {new role}, \
     read_seq = {greatest}(read_seq, {new read_seq}), delivered_seq = {greatest}(delivered_seq, {new delivered_seq}), \
     rev = {new rev}, joined_at = {new joined_at}";
const UPSERT_WATERMARKS: &str = " {on_duplicate conversation_id, user_id} \
     read_seq = {greatest}(read_seq, {new read_seq}), delivered_seq = {greatest}(delivered_seq, {new delivered_seq})";

/// One user's membership, also one that has ended.
///
/// # Errors
/// When the database fails.
pub async fn one(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    user: &UserId,
) -> Result<Option<StoredMembership>> {
    let row = rows.fetch_optional(SELECT_ONE, &values![&id, user]).await?;
    row.map(|row| StoredMembership::read(&mut row.columns()))
        .transpose()
}

/// The memberships of some users in one conversation, also those that have ended.
///
/// # Errors
/// When the database fails.
pub async fn some(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    users: &[&UserId],
) -> Result<Vec<StoredMembership>> {
    let mut args: Vec<Value<'_>> = users.iter().map(|user| Value::from(*user)).collect();
    pad(&mut args);
    args.insert(0, Value::from(&id));
    let statement = format!("{SELECT_SOME}{})", placeholders(args.len() - 1));
    let found = rows.fetch_all(&statement, &args).await?;
    found
        .iter()
        .map(|row| StoredMembership::read(&mut row.columns()))
        .collect()
}

/// The memberships of pairs of conversation and user.
///
/// # Errors
/// When the database fails.
pub async fn pairs(
    rows: &mut OwnedReader<'_>,
    pairs: &[(ConversationId, &UserId)],
) -> Result<Vec<(ConversationId, StoredMembership)>> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let args: Vec<Value<'_>> = padded(pairs)
        .flat_map(|(id, user)| values![id, *user])
        .collect();
    let condition = in_rows(["conversation_id", "user_id"], args.len() / 2);
    let found = rows
        .fetch_all(&format!("{SELECT_PAIRS}{condition}"), &args)
        .await?;
    found
        .iter()
        .map(|row| {
            let mut columns = row.columns();
            Ok((
                columns.conversation()?,
                StoredMembership::read(&mut columns)?,
            ))
        })
        .collect()
}

/// Active members after `after` in the order of their ids.
///
/// # Errors
/// When the database fails.
pub async fn page(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    after: &[u8],
    limit: usize,
) -> Result<Vec<StoredMembership>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = rows
        .fetch_all(SELECT_PAGE, &values![&id, after, limit])
        .await?;
    found
        .iter()
        .map(|row| StoredMembership::read(&mut row.columns()))
        .collect()
}

/// Whether anybody but `user` owns the conversation.
///
/// # Errors
/// When the database fails.
pub async fn has_other_owner(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    user: &UserId,
) -> Result<bool> {
    Ok(rows
        .fetch_optional(OTHER_OWNER, &values![&id, user])
        .await?
        .is_some())
}

/// All members, past ones too, of conversations that are small.
///
/// # Errors
/// When the database fails.
pub async fn of_conversations(
    rows: &mut OwnedReader<'_>,
    ids: &[ConversationId],
) -> Result<Vec<(ConversationId, StoredMembership)>> {
    let mut args: Vec<Value<'_>> = ids.iter().map(Value::from).collect();
    pad(&mut args);
    let statement = format!("{SELECT_OF}{})", placeholders(args.len()));
    let found = rows.fetch_all(&statement, &args).await?;
    found
        .iter()
        .map(|row| {
            let mut columns = row.columns();
            Ok((
                columns.conversation()?,
                StoredMembership::read(&mut columns)?,
            ))
        })
        .collect()
}

/// Memberships whose rev is above `after` and at most `through`, in the order of their revs.
///
/// # Errors
/// When the database fails.
pub async fn changed(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    (after, through): (Rev, Rev),
    limit: usize,
) -> Result<Vec<StoredMembership>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = rows
        .fetch_all(SELECT_CHANGED, &values![&id, after, through, limit])
        .await?;
    found
        .iter()
        .map(|row| StoredMembership::read(&mut row.columns()))
        .collect()
}

/// Adds members, or changes their role; watermarks only grow.
///
/// # Errors
/// When the database fails.
pub async fn save(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    members: &[Membership],
) -> Result<()> {
    let rows: Vec<(ConversationId, &Membership)> =
        members.iter().map(|member| (id, member)).collect();
    upsert(transaction, &rows, UPSERT_MEMBERSHIP).await
}

/// Moves the watermarks of members forward.
///
/// # Errors
/// When the database fails.
pub async fn save_watermarks(
    transaction: &mut OwnedTransaction<'_>,
    members: &[(ConversationId, &Membership)],
) -> Result<()> {
    upsert(transaction, members, UPSERT_WATERMARKS).await
}

async fn upsert(
    transaction: &mut OwnedTransaction<'_>,
    members: &[(ConversationId, &Membership)],
    update: &str,
) -> Result<()> {
    transaction.require_conversations(members.iter().map(|(id, _)| *id))?;
    for chunk in members.chunks(WRITE_ROWS) {
        let mut args = Vec::with_capacity(7 * chunk.len());
        for (id, member) in padded(chunk) {
            args.extend(values![
                id,
                &member.user,
                role_code(member.role),
                member.read_seq,
                member.delivered_seq,
                member.rev,
                member.joined_at.0,
            ]);
        }
        let rows = rows_of(args.len() / 7, 7);
        transaction
            .execute(&format!("{UPSERT}{rows}{update}"), &args)
            .await?;
    }
    Ok(())
}

fn role_code(role: Option<Role>) -> i64 {
    match role {
        None => 0,
        Some(Role::Member) => 1,
        Some(Role::Admin) => 2,
        Some(Role::Owner) => 3,
    }
}

pub(crate) fn role_of(code: i64) -> Result<Option<Role>> {
    Ok(match code {
        0 => None,
        1 => Some(Role::Member),
        2 => Some(Role::Admin),
        3 => Some(Role::Owner),
        _ => return Err(Error::corrupt(format_args!("unknown role {code}"))),
    })
}

/// How far messages have come, from the watermarks of everybody but the sender.
#[derive(Debug, Default)]
pub struct Progress {
    members: Vec<(UserId, Seq, Seq)>,
}

impl Progress {
    /// From the active members of a direct conversation or a group. Without members, everything is `sent`.
    #[must_use]
    pub fn of(members: Vec<Membership>) -> Self {
        Self {
            members: members
                .into_iter()
                .map(|m| (m.user, m.read_seq, m.delivered_seq))
                .collect(),
        }
    }

    /// The status of one message.
    #[must_use]
    pub fn status(&self, sender: &UserId, seq: Seq) -> DeliveryStatus {
        let mut others = self
            .members
            .iter()
            .filter(|(user, ..)| user != sender)
            .peekable();
        if others.peek().is_none() {
            return DeliveryStatus::Sent;
        }
        let (read, delivered) = others.fold(
            (Seq(u64::MAX), Seq(u64::MAX)),
            |(r, d), (_, read, delivered)| (r.min(*read), d.min(*delivered)),
        );
        if seq <= read {
            DeliveryStatus::Read
        } else if seq <= delivered {
            DeliveryStatus::Delivered
        } else {
            DeliveryStatus::Sent
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_only_moves_forward() {
        let [sender, reader] = ["\"sender\"", "reader"].map(|name| UserId::new(name).unwrap());
        let mut senders = LatestSenders::default();
        assert_eq!(senders.sent(&sender, Seq(5)), None);
        let completed = |user: &UserId, read: u64| {
            let stored = StoredMembership {
                read_seq: Seq(read),
                ..StoredMembership::for_test(user.clone())
            };
            let member = stored.complete(&senders);
            (member.read_seq.0, member.delivered_seq.0)
        };
        assert_eq!(completed(&sender, 3), (5, 5));
        assert_eq!(completed(&sender, 9), (9, 5));
        assert_eq!(completed(&reader, 3), (3, 0));
    }

    #[test]
    fn a_message_is_read_when_everybody_else_has_read_it() {
        let member =
            |name: &str, read, delivered| (UserId::new(name).unwrap(), Seq(read), Seq(delivered));
        let progress = Progress {
            members: vec![member("a", 9, 9), member("b", 3, 5), member("c", 4, 9)],
        };
        let status = |sender: &str, seq| progress.status(&UserId::new(sender).unwrap(), Seq(seq));
        assert_eq!(status("a", 3), DeliveryStatus::Read);
        assert_eq!(status("a", 4), DeliveryStatus::Delivered);
        assert_eq!(status("b", 4), DeliveryStatus::Read);
        assert_eq!(status("a", 6), DeliveryStatus::Sent);
        assert_eq!(
            Progress::default().status(&UserId::new("a").unwrap(), Seq(1)),
            DeliveryStatus::Sent
        );
    }
}
