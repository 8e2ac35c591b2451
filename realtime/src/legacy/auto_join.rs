//! Joins conversations for front-ends that join none and expect the messages of all.
//!
//! A session joins the first conversations of its list when it opens, and a conversation that is new in the list when the list
//! says so. It receives the messages after its user's delivered watermark first, which [`Told`](super::told::Told) keeps. Membership
//! is checked as for any other join (INV-MEMBER), and the bound on open conversations holds (INV-BOUND).

use std::sync::Arc;

use backscroll_shard::error::Error;
use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::Caller;
use futures_util::FutureExt as _;
use serde::Deserialize;

use crate::client_event::ClientEvent;
use crate::command::COMMAND_TIMEOUT;
use crate::gateway::Gateway;
use crate::hub::log_reader::ReplayBudget;
use crate::protocol::events::EventName;
use crate::session::Session;

/// How many conversations a session joins when it opens: the first of its list.
const JOINED_AT_FIRST: u32 = 100;

/// Joins the first conversations of the list.
pub(super) async fn session_opened(gateway: &Gateway, session: &Arc<Session>) {
    let caller = Caller::new(session.user.clone(), COMMAND_TIMEOUT);
    let most = u32::try_from(gateway.settings().joined_conversations).unwrap_or(JOINED_AT_FIRST);
    let most = JOINED_AT_FIRST.min(most);
    let listing = gateway.store().list_conversations(&caller, None, most);
    let conversations = match listing.boxed().await {
        Ok(list) => list.conversations,
        Err(error) => {
            tracing::warn!(%error, "the conversations of a session cannot be joined");
            return;
        }
    };
    let budget = ReplayBudget::full();
    let joining = conversations
        .into_iter()
        .map(|entry| join_within(gateway, session, entry.id, &budget));
    futures_util::future::join_all(joining).await;
}

/// Joins the conversation that `event` shows to be new in the list.
pub(super) async fn before_event(gateway: &Gateway, session: &Arc<Session>, event: &ClientEvent) {
    if event.name() != EventName::ConversationUpdated.name() {
        return;
    }
    let Ok(Updated { conversation }) = serde_json::from_str(event.data()) else {
        return;
    };
    let most = gateway.settings().joined_conversations;
    let joined = session.has_joined(conversation.id);
    if joined || conversation.removed || session.joined_count() >= most {
        return;
    }
    join(gateway, session, conversation.id).await;
}

/// Joins a conversation for `session`.
pub(super) async fn join(gateway: &Gateway, session: &Arc<Session>, id: ConversationId) {
    join_within(gateway, session, id, &ReplayBudget::full()).await;
}

async fn join_within(
    gateway: &Gateway,
    session: &Arc<Session>,
    id: ConversationId,
    budget: &ReplayBudget,
) {
    let hub = gateway.hub();
    match hub.join_after_delivered(session, id, budget).await {
        Ok(()) => gateway.commands().show_members(session, id),
        Err(Error::NotMember) => {}
        Err(error) => tracing::warn!(%error, "a conversation cannot be joined"),
    }
}

#[derive(Deserialize)]
struct Updated {
    conversation: UpdatedEntry,
}

#[derive(Deserialize)]
struct UpdatedEntry {
    id: ConversationId,
    #[serde(default)]
    removed: bool,
}
