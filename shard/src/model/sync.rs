//! Catching up after a time without a connection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ConversationHead, ListEntry, Member, Message};
use crate::ids::{ConversationId, Rev};

/// What a client has, to be told what changed since.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SyncRequest {
    /// From the last answer; without it, everything is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Conversations whose messages the client keeps, with the rev it has of each; at most 200.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, Rev>)]
    pub conversations: BTreeMap<ConversationId, Rev>,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncPage {
    /// A conversation each, in the order of the user's own changes.
    pub changes: Vec<ConversationChanges>,
    /// Pass it next time.
    pub cursor: String,
    /// There is more: call again at once with the cursor and the new revs. A page tells the changes of at most 20 of the
    /// conversations that were sent; the others keep the rev that the client has.
    pub has_more: bool,
    /// Conversations that changed too much to be told change by change: fetch them from their head.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resync: Vec<ConversationHead>,
}

/// What changed in a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConversationChanges {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Its entry in my list, if that changed since the cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ListEntry>,
    /// Messages that are new or changed since the rev given, in the order of their revs.
    pub messages: Vec<Message>,
    /// Members who joined, left or changed role since the rev given.
    pub members: Vec<Member>,
    /// What the client has after applying this. Keep it for the next request.
    pub rev: Rev,
}
