//! Operations of users, as HTTP requests and as socket commands, and the meaning of their answers.

use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::faults::observed::{Observed, Text};

/// The code of a refusal by the client itself: there was no connection for the request.
const NOT_SENT: &str = "not_sent";

/// An operation of a user.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The conversation's position in the ledger.
    pub conversation: usize,
    /// The conversation's id.
    pub id: String,
    /// The user's position.
    pub user: usize,
    /// The action.
    pub action: Action,
}

/// The action of an operation.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends a new message.
    Send {
        /// The client's id.
        client_id: String,
        /// The text.
        text: Text,
    },
    /// Repeats a send that was acknowledged: the same message is the answer (INV-IDEM).
    Repeat {
        /// The client's id.
        client_id: String,
        /// The text.
        text: Text,
        /// The message's seq.
        seq: u64,
    },
    /// Repeats a send after the time for which INV-IDEM holds: the same message, or one new message, is the answer.
    RepeatLate {
        /// The client's id.
        client_id: String,
        /// The text.
        text: Text,
    },
    /// Sends another text under a client's id that was used: a conflict.
    Clash {
        /// The client's id.
        client_id: String,
        /// The text.
        text: Text,
    },
    /// Edits a message.
    Edit {
        /// The message's seq.
        seq: u64,
        /// The new text.
        text: Text,
    },
    /// Deletes a message.
    Delete {
        /// The message's seq.
        seq: u64,
    },
    /// Adds or removes a reaction.
    React {
        /// The message's seq.
        seq: u64,
        /// The emoji.
        emoji: String,
        /// Whether it is added.
        add: bool,
    },
    /// Pins a message or takes its pin away.
    Pin {
        /// The message's seq.
        seq: u64,
        /// Whether it is pinned.
        add: bool,
    },
    /// Moves the user's read watermark.
    Read {
        /// The message's seq.
        seq: u64,
    },
}

/// The answer to an operation or a question.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Success.
    Done {
        /// The HTTP status; 202 for a socket command.
        status: u16,
        /// The body.
        body: Vec<u8>,
    },
    /// An error.
    Refused(Refusal),
    /// No answer, with the reason: the operation may have had an effect, or have one later.
    Unknown(String),
}

/// An error in an answer: a problem document, or the error of a command.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Refusal {
    /// The code.
    pub code: String,
    detail: String,
    message: String,
    request_id: String,
    retry_after_ms: Option<u64>,
}

impl Refusal {
    /// The client had no connection; nothing was sent.
    #[must_use]
    pub fn not_sent(why: String) -> Self {
        Self {
            code: NOT_SENT.into(),
            detail: why,
            retry_after_ms: Some(0),
            ..Self::default()
        }
    }

    /// A status without a problem document.
    #[must_use]
    pub fn without_document(status: u16) -> Self {
        let code = match status {
            500 => "internal".to_owned(),
            _ => format!("status {status}"),
        };
        Self {
            code,
            ..Self::default()
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retry_after_ms.is_some()
    }

    /// Whether the operation certainly had no effect. If a part of the deployment did not answer in time it may have had one.
    #[must_use]
    pub fn had_no_effect(&self) -> bool {
        let without_effect = [NOT_SENT, "overloaded", "rate_limited", "request_timeout"];
        !self.is_failure() && (!self.is_retryable() || without_effect.contains(&self.code.as_str()))
    }

    /// Whether it is an error that must never be answered.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        ["internal", "archive_damaged"].contains(&self.code.as_str())
    }

    /// A short description for reports.
    #[must_use]
    pub fn brief(&self) -> String {
        let words = format!("{} {}", self.detail, self.message);
        format!(
            "{} ({}) request {}",
            self.code,
            words.trim(),
            self.request_id
        )
    }
}

impl Operation {
    /// The seq of the message that it changes.
    #[must_use]
    pub fn target(&self) -> Option<u64> {
        match self.action {
            Action::Edit { seq, .. }
            | Action::Delete { seq }
            | Action::React { seq, .. }
            | Action::Pin { seq, .. } => Some(seq),
            _ => None,
        }
    }

    /// The HTTP request: method, path and body.
    #[must_use]
    pub fn request(&self) -> (&'static str, String, Option<String>) {
        let id = &self.id;
        match &self.action {
            Action::Send { client_id, text }
            | Action::Repeat {
                client_id, text, ..
            }
            | Action::RepeatLate { client_id, text }
            | Action::Clash { client_id, text } => {
                let body = json!({
                    "content": text.render(), "clientMsgId": client_id, "mentions": text.mentioned(),
                    "replyTo": text.answered(id),
                });
                let path = format!("/chat/conversations/{id}/messages");
                ("POST", path, Some(body.to_string()))
            }
            Action::Edit { seq, text } => {
                let body = json!({"content": text.render()});
                (
                    "PATCH",
                    format!("/chat/messages/{id}-{seq}"),
                    Some(body.to_string()),
                )
            }
            Action::Delete { seq } => ("DELETE", format!("/chat/messages/{id}-{seq}"), None),
            Action::React { seq, emoji, add } => {
                let method = if *add { "PUT" } else { "DELETE" };
                (
                    method,
                    format!("/chat/messages/{id}-{seq}/reactions/{emoji}"),
                    None,
                )
            }
            Action::Pin { seq, add } => {
                let method = if *add { "PUT" } else { "DELETE" };
                (method, format!("/chat/messages/{id}-{seq}/pin"), None)
            }
            Action::Read { seq } => {
                let body = json!({"seq": seq}).to_string();
                (
                    "PATCH",
                    format!("/chat/conversations/{id}/read"),
                    Some(body),
                )
            }
        }
    }

    /// The socket command and its data; none for what clients do over HTTP only.
    #[must_use]
    pub fn command(&self) -> Option<(&'static str, Value)> {
        let id = &self.id;
        let message = |seq: &u64| format!("{id}-{seq}");
        Some(match &self.action {
            Action::Send { client_id, text }
            | Action::Repeat {
                client_id, text, ..
            }
            | Action::RepeatLate { client_id, text }
            | Action::Clash { client_id, text } => {
                let data = json!({
                    "conversationId": id, "content": text.render(), "clientMsgId": client_id,
                    "mentions": text.mentioned(), "replyTo": text.answered(id),
                });
                ("send_message", data)
            }
            Action::Edit { seq, text } => {
                let data = json!({"messageId": message(seq), "content": text.render()});
                ("edit_message", data)
            }
            Action::Delete { seq } => ("delete_message", json!({"messageId": message(seq)})),
            Action::React { seq, emoji, add } => {
                let data = json!({"messageId": message(seq), "emoji": emoji, "remove": !add});
                ("react", data)
            }
            Action::Pin { .. } => return None,
            Action::Read { seq } => ("mark_read", json!({"conversationId": id, "seq": seq})),
        })
    }
}

/// A user's watermarks in one conversation.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watermarks {
    /// The read watermark.
    pub read_seq: u64,
}

/// Parses an answer's body.
///
/// # Errors
/// The violation, if it has another form.
pub fn parse<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| {
        let text = String::from_utf8_lossy(&body[..body.len().min(300)]);
        format!("an answer of another form ({error}): {text}")
    })
}

/// Parses the message in an answer's body.
///
/// # Errors
/// As for [`parse`].
pub fn message(body: &[u8]) -> Result<Observed, String> {
    parse(body)
}

/// An answer, the node that gave it, and the time of the request.
#[derive(Debug)]
pub struct Reply {
    /// The node's position.
    pub node: usize,
    /// The time when the request was sent.
    pub asked: Instant,
    /// The answer.
    pub answer: Answer,
}
