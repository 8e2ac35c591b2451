//! Legal holds.

use serde::Serialize;

use crate::db::{Connection, Row, values};
use crate::error::Result;
use crate::ids::ConversationId;
use crate::model::Timestamp;

/// A conversation of which nothing may be deleted, dropped or archived away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Since when.
    pub placed_at: Timestamp,
    /// Who placed it.
    pub actor: String,
    /// Why.
    pub reason: String,
}

const PLACE: &str = "INSERT INTO holds (conversation_id, placed_at, actor, reason) VALUES (?, ?, ?, ?) \
     {on_duplicate conversation_id} actor = {new actor}, reason = {new reason}";
const LIFT: &str = "DELETE FROM holds WHERE conversation_id = ?";
const IS_HELD: &str = "SELECT placed_at FROM holds WHERE conversation_id = ?";
/// The whole table: holds are few, and placed by hand.
const ALL: &str =
    "SELECT conversation_id, placed_at, actor, reason FROM holds ORDER BY conversation_id";

/// In a write transaction: places a hold, or says anew who placed it and why.
///
/// # Errors
/// When the database fails.
pub async fn place_hold(connection: &mut Connection, hold: &Hold) -> Result<()> {
    let args = values![
        &hold.conversation_id,
        hold.placed_at.0,
        hold.actor.as_str(),
        hold.reason.as_str()
    ];
    connection.execute(PLACE, &args).await.map(drop)
}

/// In a write transaction: lifts a hold; `false` if there was none.
///
/// # Errors
/// When the database fails.
pub async fn lift_hold(connection: &mut Connection, conversation: ConversationId) -> Result<bool> {
    Ok(connection.execute(LIFT, &values![&conversation]).await? != 0)
}

/// Whether a conversation is held.
///
/// # Errors
/// When the database fails.
pub async fn is_held(connection: &mut Connection, conversation: ConversationId) -> Result<bool> {
    Ok(connection
        .fetch_optional(IS_HELD, &values![&conversation])
        .await?
        .is_some())
}

/// All holds of a shard.
///
/// # Errors
/// When the database fails.
pub async fn holds(connection: &mut Connection) -> Result<Vec<Hold>> {
    let hold = |row: &Row| {
        let mut columns = row.columns();
        Ok(Hold {
            conversation_id: columns.conversation()?,
            placed_at: Timestamp(columns.int()?),
            actor: columns.text()?,
            reason: columns.text()?,
        })
    };
    connection
        .fetch_all(ALL, &[])
        .await?
        .iter()
        .map(hold)
        .collect()
}
