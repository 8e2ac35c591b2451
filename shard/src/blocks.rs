//! Blocks: a user who blocks another ends what the two can do to each other in private.
//!
//! A block is a column of the direct conversation of the two, `blocked_by`: [`Blockers`]. That conversation's id follows from
//! the two users, so there is one place to look, in one transaction with whatever the block forbids; a block of a user with
//! whom there is none makes it, in nobody's list. While one of the two blocks the other
//!
//! - the direct conversation takes no messages, edits and reactions, by either of them; a send reads the head anyway;
//! - it takes no typing, and neither is shown the other's presence ([`crate::contacts`]);
//! - the blocked user cannot add the blocker to a conversation, or make one with them. Conversations that both are in
//!   already stay as they are.
//!
//! The blocked user is answered [`Error::NotAccepted`], and so is the blocker.
//!
//! The table `blocks`, on the blocker's own shard, lists whom a user blocks. It is derived: a change of `blocked_by` takes the
//! conversation's next rev and marks the blocker's list, and the relay writes the row together with the list entry, the
//! greater rev winning ([`crate::relay`]). So a crash between the two leaves a block that holds and is not listed until the
//! sweep finds the mark.

use crate::db::{Value, values};
use crate::error::{Error, Result};
use crate::ids::{UserId, UserKey};
use crate::model::RawJson;
use crate::owned::{OwnedReader, OwnedTransaction};

/// Most users that one user blocks (INV-BOUND). Blocks at the same moment may go beyond it.
pub const BLOCKS_MAX: u64 = 1000;

/// All by the primary key.
const INSERT: &str = "INSERT INTO blocks (user_key, user_id, blocked_id) VALUES (?, ?, ?) \
     {on_duplicate user_key, user_id, blocked_id} blocked_id = {new blocked_id}";
const DELETE: &str = "DELETE FROM blocks WHERE user_key = ? AND user_id = ? AND blocked_id = ?";
const SELECT_PAGE: &str = "SELECT blocked_id FROM blocks WHERE user_key = ? AND user_id = ? AND blocked_id > ? \
     ORDER BY blocked_id LIMIT ?";
const COUNT: &str = "SELECT COUNT(*) FROM blocks WHERE user_key = ? AND user_id = ?";

/// Which members of a direct conversation block the other one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blockers(Option<Vec<UserId>>);

impl Blockers {
    /// As stored: a JSON list; none where none ever did.
    ///
    /// # Errors
    /// When it is not what was stored.
    pub(crate) fn parse(stored: Option<&str>) -> Result<Self> {
        let users = stored.map(serde_json::from_str).transpose();
        let users = users.map_err(|error| {
            Error::corrupt(format_args!("the blockers of a conversation: {error}"))
        });
        users.map(Self)
    }

    /// To be stored.
    pub(crate) fn to_json(&self) -> Option<String> {
        let users = self.0.as_ref();
        users.map(|users| RawJson::of(users).get().to_owned())
    }

    /// Whether `user` blocks the other member.
    #[must_use]
    pub fn include(&self, user: &UserId) -> bool {
        self.0.as_ref().is_some_and(|users| users.contains(user))
    }

    /// Whether neither blocks the other.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(Vec::is_empty)
    }

    /// Whether somebody does, or did.
    pub(crate) fn are_known(&self) -> bool {
        self.0.is_some()
    }

    /// Records whether `user` blocks the other member; says whether that is new.
    pub(crate) fn set(&mut self, user: &UserId, blocks: bool) -> bool {
        if self.include(user) == blocks {
            return false;
        }
        let users = self.0.get_or_insert_default();
        users.retain(|other| other != user);
        if blocks {
            users.push(user.clone());
        }
        true
    }
}

/// Whether a user blocks another: what the relay tells the user's own shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) blocked: UserId,
    pub(crate) is_blocked: bool,
}

/// In a transaction that may write the user's rows: lists a block, or what was one no more.
///
/// # Errors
/// When the database fails.
pub(crate) async fn list(
    transaction: &mut OwnedTransaction<'_>,
    (key, user): (UserKey, &UserId),
    listed: &Listed,
) -> Result<()> {
    transaction.require_users([user])?;
    let statement = if listed.is_blocked { INSERT } else { DELETE };
    let key = key.to_bytes();
    let args = values![&key, user, &listed.blocked];
    transaction.execute(statement, &args).await?;
    Ok(())
}

/// Whom a user blocks: those after `after`, in the order of their ids.
///
/// # Errors
/// When the database fails.
pub(crate) async fn page(
    rows: &mut OwnedReader<'_>,
    (key, user): (UserKey, &UserId),
    after: &[u8],
    limit: usize,
) -> Result<Vec<UserId>> {
    let key = key.to_bytes();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args: [Value<'_>; 4] = values![&key, user, after, limit];
    let found = rows.fetch_all(SELECT_PAGE, &args).await?;
    found.iter().map(|row| row.user(0)).collect()
}

/// How many users a user blocks.
///
/// # Errors
/// When the database fails.
pub(crate) async fn count(
    rows: &mut OwnedReader<'_>,
    (key, user): (UserKey, &UserId),
) -> Result<u64> {
    let key = key.to_bytes();
    let row = rows.fetch_optional(COUNT, &values![&key, user]).await?;
    let count = row.map_or(Ok(0), |row| row.int(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blockers_are_stored_and_read_back() {
        let [alice, bob] = ["\"alice\"", "bob"].map(|name| UserId::new(name).unwrap());
        let mut blockers = Blockers::parse(None).unwrap();
        assert!(blockers.is_empty() && !blockers.are_known() && blockers.to_json().is_none());
        assert!(!blockers.set(&alice, false) && !blockers.are_known());
        assert!(blockers.set(&alice, true) && !blockers.set(&alice, true));
        assert!(blockers.set(&bob, true) && blockers.set(&alice, false));
        assert!(blockers.include(&bob) && !blockers.include(&alice) && !blockers.is_empty());
        let stored = blockers.to_json();
        assert_eq!(Blockers::parse(stored.as_deref()).unwrap(), blockers);
        assert!(blockers.set(&bob, false) && blockers.is_empty() && blockers.are_known());
        assert_eq!(blockers.to_json().as_deref(), Some("[]"));
        assert!(Blockers::parse(Some("bob")).is_err());
    }
}
