//! A message as an answer, an event or an export shows it, and the unique texts that messages are sent with.
//!
//! Every text begins with a token that no other text has. So a text that appears in the wrong place, or after its deletion,
//! is recognized wherever it is found: in an answer, in an object's bytes, in a row.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::Value;

use crate::faults::ledger::user_name;

/// The beginning of every text; the token follows.
const MARK: &str = "tk";
/// The number of hexadecimal digits of a token.
const DIGITS: usize = 16;
/// The characters of a text's padding: random ones compress by hardly more than a quarter, so segments fill soon.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A text, as the parameters that generate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// Unique in a run.
    pub token: u64,
    /// Characters of padding.
    pub padding: u16,
    /// The position of the user whom a message that is sent with it mentions.
    pub mentions: Option<usize>,
    /// The seq of the message that a message that is sent with it answers.
    pub answers: Option<u64>,
}

impl Text {
    /// The text.
    #[must_use]
    pub fn render(self) -> String {
        let mut text = format!("{MARK}{:016x} ", self.token);
        let mut random = SmallRng::seed_from_u64(self.token);
        let mut word = 0_u64;
        for n in 0..self.padding {
            if n % 10 == 0 {
                word = random.random();
            }
            text.push(char::from(LETTERS[(word & 63) as usize]));
            word >>= 6;
        }
        text
    }

    /// The names of the users whom a message that is sent with it mentions.
    #[must_use]
    pub fn mentioned(self) -> Vec<String> {
        self.mentions.map(user_name).into_iter().collect()
    }

    /// The id of the message that a message that is sent with it in this conversation answers.
    #[must_use]
    pub fn answered(self, conversation: &str) -> Option<String> {
        self.answers.map(|seq| format!("{conversation}-{seq}"))
    }
}

/// Every token in `bytes`.
pub fn tokens(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let length = MARK.len() + DIGITS;
    bytes.windows(length).filter_map(move |window| {
        let digits = window.strip_prefix(MARK.as_bytes())?;
        let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        let digits = digits.iter().all(is_hex).then_some(digits)?;
        u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    })
}

/// The token that `content` begins with.
#[must_use]
pub fn token_of(content: &str) -> Option<u64> {
    let bytes = content.as_bytes().get(..MARK.len() + DIGITS)?;
    tokens(bytes).next()
}

/// A message as it was observed.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The conversation's id.
    pub conversation_id: String,
    /// Its place in the conversation.
    pub seq: u64,
    /// The rev of its latest change.
    pub rev: u64,
    /// The sender.
    pub sender_id: String,
    /// The text.
    pub content: String,
    message_type: String,
    /// The sender's id for it.
    pub client_msg_id: Option<String>,
    /// The message that it answers.
    pub reply_to: Option<String>,
    /// The number of its replies.
    #[serde(default)]
    pub reply_count: u64,
    attachments: Value,
    /// The users who reacted, by emoji.
    pub reactions: BTreeMap<String, Vec<String>>,
    metadata: Value,
    /// The users whom it mentions.
    #[serde(default)]
    pub mentions: Vec<String>,
    /// Since when it is pinned.
    pub pinned_at: Option<String>,
    pinned_by: Option<String>,
    created_at: String,
    /// The time of its latest edit.
    pub edited_at: Option<String>,
    /// The time of its deletion.
    pub deleted_at: Option<String>,
    /// Earlier texts; only in the answer to a request for a single message.
    pub edit_history: Option<Vec<Earlier>>,
}

/// An earlier text.
#[derive(Clone, Debug, Deserialize)]
pub struct Earlier {
    /// The text.
    pub content: String,
}

/// A line of an export.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    user: String,
    text: String,
    #[serde(default)]
    reactions: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    mentions: Vec<String>,
    pinned_at: Option<i64>,
    pinned_by: Option<String>,
    deleted_at: Option<i64>,
}

impl Observed {
    /// A line of an export, which has no rev.
    #[must_use]
    pub fn exported(seq: u64, record: Record) -> Self {
        Self {
            conversation_id: String::new(),
            seq,
            rev: 0,
            sender_id: record.user,
            content: record.text,
            message_type: String::new(),
            client_msg_id: None,
            reply_to: None,
            reply_count: 0,
            attachments: Value::Null,
            reactions: record.reactions,
            metadata: Value::Null,
            mentions: record.mentions,
            pinned_at: record.pinned_at.map(|at| at.to_string()),
            pinned_by: record.pinned_by,
            created_at: String::new(),
            edited_at: None,
            deleted_at: record.deleted_at.map(|at| at.to_string()),
            edit_history: None,
        }
    }

    /// A digest of all fields that a rev determines: all but the delivery status and the edit history.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.sender_id, &self.content, &self.message_type).hash(&mut hasher);
        (&self.client_msg_id, &self.reply_to, &self.reactions).hash(&mut hasher);
        (&self.created_at, &self.edited_at, &self.deleted_at).hash(&mut hasher);
        (&self.mentions, &self.pinned_at, &self.pinned_by).hash(&mut hasher);
        (self.attachments.to_string(), self.metadata.to_string()).hash(&mut hasher);
        hasher.finish()
    }

    /// Whether nothing of its content is there, as of a deleted message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
            && self.reactions.is_empty()
            && self.mentions.is_empty()
            && self.pinned_at.is_none()
    }

    /// A short description for reports.
    #[must_use]
    pub fn brief(&self) -> String {
        let text: String = self.content.chars().take(MARK.len() + DIGITS).collect();
        let deleted = if self.deleted_at.is_some() {
            ", deleted"
        } else {
            ""
        };
        let reactions: Vec<&String> = self.reactions.keys().collect();
        let pinned = if self.pinned_at.is_some() {
            ", pinned"
        } else {
            ""
        };
        let (rev, mentions) = (self.rev, &self.mentions);
        format!("rev {rev} `{text}`{deleted}{pinned} {reactions:?} mentions {mentions:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_by_its_token_wherever_it_stands() {
        let text = Text {
            token: 0xfeed_0000_1234_abcd,
            padding: 35,
            mentions: None,
            answers: None,
        };
        let rendered = text.render();
        assert_eq!(rendered.len(), MARK.len() + DIGITS + 1 + 35);
        assert_eq!(token_of(&rendered), Some(text.token));
        assert_eq!(token_of("tk12"), None);
        let other = Text {
            token: 7,
            padding: 0,
            mentions: None,
            answers: None,
        }
        .render();
        let bytes = format!("{{\"text\":\"{rendered}\"}} tk!{other}");
        let found: Vec<u64> = tokens(bytes.as_bytes()).collect();
        assert_eq!(found, [text.token, 7]);
    }
}
