//! Conversations that a session opens by itself: for front-ends that open none and expect to hear of all.
//!
//! It opens the first of its list when it begins, and one that is new in the list when the list says so. Membership is asked as
//! for any other session (INV-MEMBER), and no more are open than may be (INV-BOUND).

use std::sync::Arc;

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Rev};
use backscroll_shard::model::Caller;
use serde::Deserialize;

use crate::client_event::ClientEvent;
use crate::command::COMMAND_TIMEOUT;
use crate::gateway::Gateway;
use crate::hub::log_reader::ReplayBudget;
use crate::session::Session;

/// How many conversations a session opens when it begins: the first of its list.
const OPENED: u32 = 100;
/// Most messages that are told of a conversation that is new in the list.
const CAUGHT_UP: u64 = 20;

/// Opens the conversations of a session that begins.
pub(crate) async fn begin(gateway: &Gateway, session: &Arc<Session>) {
    let caller = Caller::new(session.user.clone(), COMMAND_TIMEOUT);
    let store = gateway.store();
    let most = u32::try_from(gateway.settings().joined_conversations).unwrap_or(OPENED);
    let list = store
        .list_conversations(&caller, None, OPENED.min(most))
        .await;
    let conversations = match list {
        Ok(list) => list.conversations,
        Err(error) => {
            tracing::warn!(%error, "the conversations of a session cannot be opened");
            return;
        }
    };
    let opening = conversations
        .into_iter()
        .map(|entry| open(gateway, session, entry.id, None));
    futures_util::future::join_all(opening).await;
}

/// Opens a conversation that `event` says is new in the list.
pub(crate) async fn heard(gateway: &Gateway, session: &Arc<Session>, event: &ClientEvent) {
    if event.name() != "conversation_updated" {
        return;
    }
    let Ok(Updated { conversation }) = serde_json::from_str(event.data()) else {
        return;
    };
    let most = gateway.settings().joined_conversations;
    let known = session.has_joined(conversation.id);
    if known || conversation.removed || session.joined_count() >= most {
        return;
    }
    // It is in the list for what happened in it last, which is not to be missed.
    let missed = conversation.unread_count.clamp(1, CAUGHT_UP);
    let known = Rev(conversation.rev.0.saturating_sub(missed));
    open(gateway, session, conversation.id, Some(known)).await;
}

/// Opens a conversation for `session`, which knows it up to `known`.
pub(crate) async fn open(
    gateway: &Gateway,
    session: &Arc<Session>,
    id: ConversationId,
    known: Option<Rev>,
) {
    let budget = ReplayBudget::full();
    match gateway.hub().join(session, id, known, &budget).await {
        Ok(_) | Err(Error::NotMember) => {}
        Err(error) => tracing::warn!(%error, "a conversation cannot be opened"),
    }
}

#[derive(Deserialize)]
struct Updated {
    conversation: UpdatedEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UpdatedEntry {
    id: ConversationId,
    rev: Rev,
    unread_count: u64,
    #[serde(default)]
    removed: bool,
}
