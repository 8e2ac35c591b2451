//! Messages as callers see them. A stored value that does not have its form is left out and counted, each by itself: reading
//! does not fail for it, and the message can be changed and deleted.

use serde::de::DeserializeOwned;

use super::{Reactions, StoredMessage, attachments};
use crate::ids::{ConversationId, MessageId, UserId};
use crate::metrics;
use crate::model::{AnyObject, DeliveryStatus, Edit, Message, MessagePreview, RawJson};

/// How many characters of the newest message a list shows.
const PREVIEW_CHARACTERS: usize = 100;

impl StoredMessage {
    /// As it may be shown: of a deleted message nothing that was in it.
    #[must_use]
    pub(crate) fn shown(mut self) -> Self {
        if self.deleted_at.is_some() {
            self.remove_content();
        }
        self
    }

    /// Its earlier contents, to be shown.
    pub(crate) fn edits(&self) -> Option<RawJson> {
        let edits = self.edit_history.clone();
        let edits = edits.filter(|_| self.deleted_at.is_none());
        edits.map(|json| stored_json::<Vec<Edit>>("edits", Some(json), "[]"))
    }

    /// The message as callers see it; the edit history stays behind. A stored value that does not have its form is left out.
    #[must_use]
    pub fn into_message(self, conversation: ConversationId, status: DeliveryStatus) -> Message {
        let this = self.shown();
        Message {
            id: MessageId {
                conversation,
                seq: this.seq,
            },
            conversation_id: conversation,
            seq: this.seq,
            rev: this.rev,
            sender_id: this.sender,
            content: this.content,
            message_type: this.message_type,
            client_msg_id: this.client_msg_id,
            reply_to: this.reply_to.map(|seq| MessageId { conversation, seq }),
            attachments: stored_json::<Vec<AnyObject>>("attachments", this.attachments, "[]"),
            reactions: stored_reactions(this.reactions.as_deref()).to_json(),
            metadata: stored_json::<AnyObject>("metadata", this.metadata, "{}"),
            mentions: stored_mentions(this.mentions.as_deref()),
            reply_count: 0,
            last_reply_at: None,
            thread: None,
            created_at: this.created_at,
            edited_at: this.edited_at,
            deleted_at: this.deleted_at,
            pinned_at: this.pin.as_ref().map(|pin| pin.at),
            pinned_by: this.pin.map(|pin| pin.by),
            status,
            edit_history: None,
        }
    }

    /// What lists show of it.
    #[must_use]
    pub fn preview(&self) -> MessagePreview {
        let content = match self.deleted_at {
            Some(_) => "",
            None => self.content.as_str(),
        };
        MessagePreview {
            seq: self.seq,
            sender_id: self.sender.clone(),
            content: match &self.attachments {
                Some(attachments) if content.is_empty() && self.deleted_at.is_none() => {
                    shortened(&attachments::preview(attachments, self.message_type))
                }
                _ => shortened(content),
            },
            message_type: self.message_type,
            created_at: self.created_at,
            deleted: self.deleted_at.is_some(),
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(PREVIEW_CHARACTERS).collect()
}

/// Stored reactions; those that do not have their form are left out, and counted.
pub(crate) fn stored_reactions(json: Option<&str>) -> Reactions {
    let (reactions, whole) = json.map_or((Reactions::default(), true), Reactions::stored);
    if !whole {
        left_out("reactions");
    }
    reactions
}

/// The users that a stored message mentions; where the list does not have its form, nobody.
pub(crate) fn stored_mentions(json: Option<&str>) -> Vec<UserId> {
    let Some(json) = json else { return Vec::new() };
    serde_json::from_str(json).unwrap_or_else(|_| {
        left_out("mentions");
        Vec::new()
    })
}

/// A stored value does not have the form that it must have, and is left out of what is shown.
pub(crate) fn left_out(field: &'static str) {
    metrics::STORED_VALUES_LEFT_OUT.with([field]).increment(1);
}

/// Stored JSON of the form `T`; where it is not, `empty`, and counted.
pub(crate) fn stored_json<T: DeserializeOwned>(
    field: &'static str,
    stored: Option<String>,
    empty: &'static str,
) -> RawJson {
    let fitting = stored.and_then(|json| match serde_json::from_str::<T>(&json) {
        Ok(_) => RawJson::parse(json).ok(),
        Err(_) => {
            left_out(field);
            None
        }
    });
    fitting.unwrap_or_else(|| RawJson::literal(empty))
}
