//! What a follower reads of events and answers.

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Joined {
    pub(super) head_seq: u64,
    pub(super) rev: u64,
}

#[derive(Deserialize)]
pub(super) struct Stored {
    pub(super) seq: u64,
    pub(super) rev: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Change {
    pub(super) conversation_id: String,
    pub(super) message: Stored,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resync {
    #[serde(default)]
    pub(super) conversations: Vec<Head>,
    #[serde(default)]
    pub(super) list: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    pub(super) conversation_id: String,
    pub(super) head_seq: u64,
    pub(super) rev: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Synced {
    pub(super) cursor: String,
    pub(super) has_more: bool,
}

#[derive(Deserialize)]
pub(super) struct Cursor {
    pub(super) cursor: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    pub(super) messages: Vec<Stored>,
    pub(super) has_more_after: bool,
}
