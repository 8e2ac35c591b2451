//! Contacts of a user: the users with whom they share a conversation. Presence is shown to contacts only.
//!
//! Two users are contacts when their direct conversation exists, or when both are members of one of the
//! [`CONVERSATIONS_MAX`] conversations that stand first in the user's list, pinned ones and then those with the latest
//! activity, among those whose lists the relay follows (`relay.max_members`). So the question costs the same however many
//! conversations a user is in (INV-BOUND): the direct conversations by their ids, which follow from the two users; one page
//! of the user's own list; and the members of what is on it, by primary keys.
//!
//! Which conversations are asked about comes from the list, which may lag behind; whether both are members comes from the
//! members' rows, as they are (INV-MEMBER).

use std::collections::HashMap;

use crate::db::{Value, pad, placeholders, values};
use crate::error::Result;
use crate::ids::{ConversationId, UserId, UserKey};
use crate::owned::OwnedReader;

/// Most conversations of a user in which contacts are looked for, besides the direct ones.
pub const CONVERSATIONS_MAX: i64 = 100;

/// By the primary key.
const SELECT_DIRECT: &str = "SELECT id, first_members FROM conversations {by PRIMARY} \
     WHERE kind = 1 AND deleted_at IS NULL AND id IN (";
/// By the index `list_entries_activity`.
const SELECT_LISTED: &str = "SELECT conversation_id FROM list_entries \
     WHERE user_key = ? AND user_id = ? AND relayed = 1 AND removed = 0 \
     ORDER BY pinned DESC, last_at DESC, conversation_id DESC LIMIT ?";
/// By the primary key, on both sides.
const SELECT_SHARING: &str = "SELECT DISTINCT o.user_id FROM members o {by PRIMARY} \
     JOIN members m {by PRIMARY} ON m.conversation_id = o.conversation_id \
     WHERE m.user_id = ? AND m.role > 0 AND o.role > 0 AND o.conversation_id IN (";

/// Those of the `users`, each with the id of their direct conversation with `user`, for whom it exists.
///
/// # Errors
/// When the database fails.
pub(crate) async fn with_direct_conversation(
    rows: &mut OwnedReader<'_>,
    user: &UserId,
    users: &HashMap<ConversationId, &UserId>,
) -> Result<Vec<UserId>> {
    let mut args: Vec<Value<'_>> = users.keys().map(Value::from).collect();
    pad(&mut args);
    let statement = format!("{SELECT_DIRECT}{})", placeholders(args.len()));
    let mut found = Vec::new();
    for row in rows.fetch_all(&statement, &args).await? {
        let mut columns = row.columns();
        let other = users.get(&columns.conversation()?);
        let members: Vec<UserId> = serde_json::from_str(&columns.text()?).unwrap_or_default();
        // Another pair's conversation may have the id (a forged collision).
        let is_theirs = |other: &&&UserId| members.contains(user) && members.contains(**other);
        found.extend(other.filter(is_theirs).map(|other| (*other).clone()));
    }
    Ok(found)
}

/// The conversations in which contacts of a user are looked for.
///
/// # Errors
/// When the database fails.
pub(crate) async fn listed(
    rows: &mut OwnedReader<'_>,
    (key, user): (UserKey, &UserId),
) -> Result<Vec<ConversationId>> {
    let key = key.to_bytes();
    let args = values![&key, user, CONVERSATIONS_MAX];
    let found = rows.fetch_all(SELECT_LISTED, &args).await?;
    let ids = found.iter().map(|row| row.columns().conversation());
    ids.collect()
}

/// Those of `others` who are members of one of the conversations `ids`, of which `user` is a member too. Neither is empty.
///
/// # Errors
/// When the database fails.
pub(crate) async fn sharing(
    rows: &mut OwnedReader<'_>,
    ids: &[ConversationId],
    (user, others): (&UserId, &[UserId]),
) -> Result<Vec<UserId>> {
    let mut among: Vec<Value<'_>> = ids.iter().map(Value::from).collect();
    pad(&mut among);
    let mut asked: Vec<Value<'_>> = others.iter().map(Value::from).collect();
    pad(&mut asked);
    let statement = format!(
        "{SELECT_SHARING}{}) AND o.user_id IN ({})",
        placeholders(among.len()),
        placeholders(asked.len())
    );
    let mut args = values![user].to_vec();
    args.extend(among);
    args.extend(asked);
    let found = rows.fetch_all(&statement, &args).await?;
    found.iter().map(|row| row.user(0)).collect()
}
