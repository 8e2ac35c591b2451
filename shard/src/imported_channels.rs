//! Which conversation the import of a channel goes to; in the directory.
//!
//! An imported channel is the same whoever spoke first in it; one that was imported for a given owner is another channel.
//! When its conversation was deleted, its name goes to a new one. Two processes that enter a name at once meet at the primary key, and the second goes by what the
//! first has entered. A crash leaves a name whose conversation is not made yet: the next import makes it.

use std::time::Instant;

use crate::db::{Database, Row, values};
use crate::error::{Error, Result, StatementFault};
use crate::ids::{ConversationId, UserId};

/// By the primary key.
const FIND: &str = "SELECT conversation_id FROM imported_channels WHERE name = ?";
const ENTER: &str = "INSERT INTO imported_channels (name, conversation_id) VALUES (?, ?)";
/// By the primary key.
const REPLACE: &str =
    "UPDATE imported_channels SET conversation_id = ? WHERE name = ? AND conversation_id = ?";

/// By the primary key.
const AFTER: &str =
    "SELECT name, conversation_id FROM imported_channels WHERE name > ? ORDER BY name LIMIT ?";

/// Under what a channel is known.
#[derive(Debug)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// As stored.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The channel's name, and the owner if it has been imported for a given one.
    ///
    /// # Errors
    /// When it is not what was stored.
    pub(crate) fn parts(&self) -> Result<(String, Option<UserId>)> {
        let corrupt = || Error::corrupt("the name of an imported channel");
        let name = String::from_utf8(self.0.clone()).map_err(|_| corrupt())?;
        match name.split_once('\0') {
            None => Ok((name, None)),
            Some((owner, channel)) => {
                let owner = UserId::new(owner).map_err(|_| corrupt())?;
                Ok((channel.to_owned(), Some(owner)))
            }
        }
    }

    /// By its name only.
    pub(crate) fn unowned(channel: &str) -> Self {
        Self(channel.as_bytes().to_vec())
    }

    /// By its name and the owner for whom it is imported. Neither has a NUL, so this reads back one way only.
    pub(crate) fn owned(channel: &str, owner: &UserId) -> Self {
        Self([owner.as_str(), channel].join("\0").into_bytes())
    }
}

/// The conversation of a channel, if one was entered.
///
/// # Errors
/// When the directory is away.
pub(crate) async fn find(
    directory: &Database,
    name: &Name,
    deadline: Instant,
) -> Result<Option<ConversationId>> {
    let mut connection = directory.reader(deadline).await?;
    let row = connection
        .fetch_optional(FIND, &values![name.0.as_slice()])
        .await?;
    row.map(|row| row.conversation(0)).transpose()
}

/// Up to `limit` names after `after`, in order, with their conversations.
///
/// # Errors
/// When the directory is away.
pub(crate) async fn after(
    directory: &Database,
    after: &[u8],
    limit: i64,
    deadline: Instant,
) -> Result<Vec<(Name, ConversationId)>> {
    let mut connection = directory.reader(deadline).await?;
    let found = connection.fetch_all(AFTER, &values![after, limit]).await?;
    let entry = |row: &Row| Ok((Name(row.bytes(0)?), row.conversation(1)?));
    found.iter().map(entry).collect()
}

/// Enters the conversation of a channel; nothing is changed when another was entered meanwhile.
///
/// # Errors
/// When the directory is away.
pub(crate) async fn enter(
    directory: &Database,
    name: &Name,
    id: ConversationId,
    deadline: Instant,
) -> Result<()> {
    let mut connection = directory.writer(deadline).await?;
    match connection
        .execute(ENTER, &values![name.0.as_slice(), &id])
        .await
    {
        Err(Error::Statement {
            fault: StatementFault::UniqueKey,
            ..
        }) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Enters another conversation in place of `old`, which was deleted; nothing is changed when another process has done so.
///
/// # Errors
/// When the directory is away.
pub(crate) async fn replace(
    directory: &Database,
    name: &Name,
    (old, new): (ConversationId, ConversationId),
    deadline: Instant,
) -> Result<()> {
    let mut connection = directory.writer(deadline).await?;
    let args = values![&new, name.0.as_slice(), &old];
    connection.execute(REPLACE, &args).await?;
    Ok(())
}
