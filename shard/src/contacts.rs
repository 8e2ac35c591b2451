//! Contacts of a user: the users with whom they share a conversation. Presence is shown to contacts only.
//!
//! Two users are contacts when their direct conversation exists, or when both are members of one of the
//! [`CONVERSATIONS_MAX`] conversations that stand first in the user's list, pinned ones and then those with the latest
//! activity, if it has at most [`MEMBERS_MAX`] members. So the question has a bound however many conversations a user is in
//! (INV-BOUND): the direct conversations by their ids, which follow from the two users; one page of the user's own list; and
//! the members of what is on it.
//!
//! Which conversations are asked about comes from the list, which may lag behind; whether both are members comes from the
//! members' rows, as they are (INV-MEMBER).
//!
//! While one of two users blocks the other they are no contacts, whatever they share ([`crate::blocks`]).

use std::collections::HashMap;

use crate::blocks::Blockers;
use crate::db::{Value, pad, placeholders, values};
use crate::error::Result;
use crate::head::kind_of;
use crate::ids::{ConversationId, UserId, UserKey};
use crate::model::ConversationKind;
use crate::owned::OwnedReader;

/// Most conversations of a user in which contacts are looked for, besides the direct ones.
pub const CONVERSATIONS_MAX: i64 = 100;

/// In larger conversations members are no contacts for that.
pub const MEMBERS_MAX: i64 = 100;

/// By the primary key.
const SELECT_DIRECT: &str =
    "SELECT id, kind, first_members, blocked_by FROM conversations {by PRIMARY} WHERE id IN (";
/// By the index `list_entries_activity`.
const SELECT_LISTED: &str = "SELECT conversation_id, member_count FROM list_entries \
     WHERE user_key = ? AND user_id = ? AND relayed = 1 AND removed = 0 \
     ORDER BY pinned DESC, last_at DESC, conversation_id DESC LIMIT ?";
/// By the primary key, on both sides.
const SELECT_SHARING: &str = "SELECT DISTINCT o.user_id FROM members o {by PRIMARY} \
     JOIN members m {by PRIMARY} ON m.conversation_id = o.conversation_id \
     WHERE m.user_id = ? AND m.role > 0 AND o.role > 0 AND o.conversation_id IN (";

/// What has the id of a direct conversation.
pub(crate) enum Direct {
    /// That of the user with this one, and who blocks whom.
    Of(UserId, Blockers),
    /// The conversation of others: a forged collision. That with this user has another id.
    Taken(UserId),
}

/// The direct conversations of `user` with other users, each asked about by its id; those that are not there are absent.
///
/// # Errors
/// When the database fails.
pub(crate) async fn direct(
    rows: &mut OwnedReader<'_>,
    user: &UserId,
    others: &HashMap<ConversationId, &UserId>,
) -> Result<Vec<Direct>> {
    let mut args: Vec<Value<'_>> = others.keys().map(Value::from).collect();
    pad(&mut args);
    let statement = format!("{SELECT_DIRECT}{})", placeholders(args.len()));
    let mut found = Vec::new();
    for row in rows.fetch_all(&statement, &args).await? {
        let mut columns = row.columns();
        let Some(other) = others.get(&columns.conversation()?) else {
            continue;
        };
        let other = (*other).clone();
        let kind = kind_of(columns.int()?)?;
        let members: Vec<UserId> = serde_json::from_str(&columns.text()?).unwrap_or_default();
        let blockers = Blockers::parse(columns.opt_text()?.as_deref())?;
        let is_theirs =
            kind == ConversationKind::Direct && members.contains(user) && members.contains(&other);
        found.push(match is_theirs {
            true => Direct::Of(other, blockers),
            false => Direct::Taken(other),
        });
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
    let mut ids = Vec::with_capacity(found.len());
    for row in &found {
        if row.int(1)? <= MEMBERS_MAX {
            ids.push(row.conversation(0)?);
        }
    }
    Ok(ids)
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
