//! What may be sent: checked against the limits, with its digest.

use std::collections::HashSet;

use twox_hash::XxHash3_64;

use super::{StoredMessage, attachments, message_type_code};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, MediaId, Rev, Seq, UserId};
use crate::mentions;
use crate::model::{AnyObject, MessageType, NewMessage, RawJson, Timestamp};
use crate::settings::LimitSettings;
use crate::text;

/// Longest client message id in bytes.
pub const CLIENT_MSG_ID_MAX_BYTES: usize = 64;

/// A message that was checked and can be stored.
#[derive(Clone, Debug)]
pub struct Draft {
    pub(crate) content: String,
    pub(crate) message_type: MessageType,
    pub(crate) client_msg_id: Option<String>,
    pub(crate) reply_to: Option<Seq>,
    /// As given; what is stored says more of the files ([`attachments::fill`]).
    pub(crate) attachments: Option<String>,
    /// The files that the attachments name.
    pub(crate) media: Vec<MediaId>,
    pub(crate) metadata: Option<String>,
    /// Each once.
    pub(crate) mentions: Vec<UserId>,
    /// Where it mentions all members: most members that the conversation may have.
    pub(crate) mention_all: Option<u32>,
    pub(crate) body_digest: Option<i64>,
}

impl Draft {
    /// About how many bytes it holds in memory while it waits.
    pub(crate) fn bytes(&self) -> usize {
        let texts = [&self.attachments, &self.metadata];
        let texts = texts.into_iter().flatten().map(String::len);
        let mentions = self.mentions.iter().map(|user| user.as_str().len());
        let texts = texts.sum::<usize>() + mentions.sum::<usize>();
        size_of::<Self>() + self.content.len() + texts
    }

    /// Checks `new` against the limits and the conversation it goes to.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field and the rule.
    pub fn check(
        new: NewMessage,
        conversation: ConversationId,
        limits: &LimitSettings,
    ) -> Result<Self> {
        if new.message_type == MessageType::System {
            return Err(Error::invalid(
                "messageType",
                "system messages cannot be sent by clients",
            ));
        }
        let attachments = new
            .attachments
            .map(|json| check_attachments(&json, limits))
            .transpose()?
            .flatten();
        check_content(&new.content, attachments.is_some(), limits)?;
        let metadata = new
            .metadata
            .map(|json| check_object("metadata", &json, limits.metadata_bytes))
            .transpose()?
            .flatten();
        let mentions = check_mentions(new.mentions, limits)?;
        let reply_to = match new.reply_to {
            Some(id) if id.conversation != conversation => {
                return Err(Error::invalid(
                    "replyTo",
                    "the message answered must be in the same conversation",
                ));
            }
            other => other.map(|id| id.seq),
        };
        if let Some(id) = &new.client_msg_id {
            check_client_msg_id(id)?;
        }
        let mut draft = Self {
            content: new.content,
            message_type: new.message_type,
            client_msg_id: new.client_msg_id,
            reply_to,
            media: attachments
                .as_deref()
                .map(attachments::named)
                .transpose()?
                .unwrap_or_default(),
            attachments,
            metadata,
            mention_all: mentions
                .iter()
                .any(mentions::is_everybody)
                .then_some(limits.mention_all_members),
            mentions,
            body_digest: None,
        };
        draft.body_digest = draft.client_msg_id.is_some().then(|| draft.digest());
        Ok(draft)
    }

    /// XXH3-64 over every part, each with its length before it.
    fn digest(&self) -> i64 {
        let mut body = Vec::with_capacity(self.content.len() + 64);
        body.push(u8::try_from(message_type_code(self.message_type)).unwrap_or(0));
        body.extend_from_slice(&self.reply_to.unwrap_or_default().0.to_le_bytes());
        for part in [
            Some(&self.content),
            self.attachments.as_ref(),
            self.metadata.as_ref(),
        ] {
            let text = part.map_or("", String::as_str);
            body.extend_from_slice(&(text.len() as u64).to_le_bytes());
            body.extend_from_slice(text.as_bytes());
        }
        for user in &self.mentions {
            body.extend_from_slice(&(user.as_str().len() as u64).to_le_bytes());
            body.extend_from_slice(user.as_str().as_bytes());
        }
        XxHash3_64::oneshot(&body).cast_signed()
    }

    /// The row it becomes.
    #[must_use]
    pub(crate) fn into_stored(
        self,
        seq: Seq,
        rev: Rev,
        sender: UserId,
        now: Timestamp,
    ) -> StoredMessage {
        StoredMessage {
            seq,
            rev,
            sender,
            client_msg_id: self.client_msg_id,
            body_digest: self.body_digest,
            message_type: self.message_type,
            content: self.content,
            reply_to: self.reply_to,
            attachments: self.attachments,
            reactions: None,
            metadata: self.metadata,
            edit_history: None,
            created_at: now,
            edited_at: None,
            deleted_at: None,
            pin: None,
            mentions: mentions_json(&self.mentions),
        }
    }
}

/// Whether `content` may be the text of a message, which has attachments or not.
///
/// # Errors
/// When a reader sees nothing of the message, or the text is too long or has a NUL.
pub(crate) fn check_content(
    content: &str,
    has_attachments: bool,
    limits: &LimitSettings,
) -> Result<()> {
    if !has_attachments && !text::is_visible(content) {
        return Err(Error::invalid(
            "content",
            "a message needs text that can be seen, or attachments",
        ));
    }
    let max = limits.message_characters as usize;
    if content.len() > max && content.chars().count() > max {
        return Err(Error::invalid(
            "content",
            format!("at most {max} characters"),
        ));
    }
    if content.contains('\0') {
        return Err(Error::invalid(
            "content",
            "must not contain a NUL character",
        ));
    }
    Ok(())
}

/// The mentioned users, each once.
///
/// # Errors
/// When there are too many.
pub(crate) fn check_mentions(
    mut mentions: Vec<UserId>,
    limits: &LimitSettings,
) -> Result<Vec<UserId>> {
    let mut seen = HashSet::new();
    mentions.retain(|user| seen.insert(user.clone()));
    match mentions.len() > limits.mentions as usize {
        true => Err(Error::invalid(
            "mentions",
            format!("at most {} members", limits.mentions),
        )),
        false => Ok(mentions),
    }
}

/// As stored: a JSON list; none for nobody.
pub(crate) fn mentions_json(mentions: &[UserId]) -> Option<String> {
    (!mentions.is_empty()).then(|| RawJson::of(&mentions).get().to_owned())
}

fn check_client_msg_id(id: &str) -> Result<()> {
    if id.is_empty() || id.len() > CLIENT_MSG_ID_MAX_BYTES || id.chars().any(char::is_control) {
        return Err(Error::invalid(
            "clientMsgId",
            "1 to 64 bytes without control characters",
        ));
    }
    Ok(())
}

/// `json` as it is stored, if it is an object of at most `max` bytes without NUL; `None` for an empty one.
///
/// # Errors
/// When it is not.
pub(crate) fn check_object(field: &str, json: &RawJson, max: u32) -> Result<Option<String>> {
    let text = json.get();
    if text.len() > max as usize {
        return Err(Error::invalid(
            field,
            format!("at most {max} bytes of JSON"),
        ));
    }
    serde_json::from_str::<AnyObject>(text)
        .map_err(|_| Error::invalid(field, "must be a JSON object"))?;
    check_values(field, json)?;
    Ok(Some(json.compact()).filter(|compact| compact != "{}"))
}

/// `json` as it is stored, if it is a list of objects within the limits; `None` for an empty one.
///
/// # Errors
/// When it is not.
pub(crate) fn check_attachments(json: &RawJson, limits: &LimitSettings) -> Result<Option<String>> {
    let text = json.get();
    if text.len() > limits.attachments_bytes as usize {
        return Err(Error::invalid(
            "attachments",
            format!("at most {} bytes of JSON", limits.attachments_bytes),
        ));
    }
    let list: Vec<AnyObject> = serde_json::from_str(text)
        .map_err(|_| Error::invalid("attachments", "must be a list of JSON objects"))?;
    if list.len() > limits.attachments as usize {
        return Err(Error::invalid(
            "attachments",
            format!("at most {}", limits.attachments),
        ));
    }
    check_values("attachments", json)?;
    Ok((!list.is_empty()).then(|| json.compact()))
}

/// Most levels of JSON that others receive: parsers give up at some depth, which is not the same for all.
const NESTING_MAX: usize = 32;

/// JSON writes a NUL as `\u0000`; an escaped backslash before `u0000` is text about it, and not worth telling apart.
fn check_values(field: &str, json: &RawJson) -> Result<()> {
    if json.get().contains("\\u0000") {
        return Err(Error::invalid(field, "must not contain a NUL character"));
    }
    if json.has_lone_surrogate() {
        let rule =
            "must not contain half a character: an escape of a surrogate needs the other one";
        return Err(Error::invalid(field, rule));
    }
    if json.nesting() > NESTING_MAX {
        return Err(Error::invalid(
            field,
            format!("at most {NESTING_MAX} objects and lists in one another"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{MessageId, UserKey};

    fn check(new: NewMessage) -> Result<Draft> {
        Draft::check(
            new,
            ConversationId::new(UserKey(1), 2),
            &LimitSettings::default(),
        )
    }

    fn text(content: &str) -> NewMessage {
        NewMessage {
            content: content.into(),
            ..NewMessage::default()
        }
    }

    fn json(text: &str) -> Option<RawJson> {
        Some(RawJson::parse(text.into()).unwrap())
    }

    #[test]
    fn what_breaks_a_rule_is_refused_and_named() {
        let other = MessageId {
            conversation: ConversationId::new(UserKey(9), 9),
            seq: Seq(1),
        };
        let cases = [
            (text(""), "content"),
            (text(" \n\t"), "content"),
            (text("\u{200B}\u{3164}"), "content"),
            (text("a\0b"), "content"),
            (text(&"x".repeat(5001)), "content"),
            (
                NewMessage {
                    message_type: MessageType::System,
                    ..text("hi")
                },
                "messageType",
            ),
            (
                NewMessage {
                    client_msg_id: Some(String::new()),
                    ..text("hi")
                },
                "clientMsgId",
            ),
            (
                NewMessage {
                    client_msg_id: Some("x".repeat(65)),
                    ..text("hi")
                },
                "clientMsgId",
            ),
            (
                NewMessage {
                    reply_to: Some(other),
                    ..text("hi")
                },
                "replyTo",
            ),
            (
                NewMessage {
                    metadata: json("[1]"),
                    ..text("hi")
                },
                "metadata",
            ),
            (
                NewMessage {
                    metadata: json(r#"{"a":"\u0000"}"#),
                    ..text("hi")
                },
                "metadata",
            ),
            (
                NewMessage {
                    metadata: json(r#"{"a":"\ud83d"}"#),
                    ..text("hi")
                },
                "metadata",
            ),
            (
                NewMessage {
                    attachments: json(r#"["a"]"#),
                    ..text("hi")
                },
                "attachments",
            ),
            (
                NewMessage {
                    attachments: json("[{},{},{},{},{},{},{},{},{},{},{}]"),
                    ..text("hi")
                },
                "attachments",
            ),
        ];
        for (new, field) in cases {
            let error = check(new).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn limits_count_characters_not_bytes() {
        assert!(check(text(&"😀".repeat(5000))).is_ok());
        assert!(check(text(&"😀".repeat(5001))).is_err());
        let only_attachment = NewMessage {
            attachments: json(r#"[{"url":"x"}]"#),
            ..text("")
        };
        assert!(check(only_attachment).is_ok());
    }

    #[test]
    fn the_digest_tells_bodies_apart() {
        let with_id = |content: &str, metadata: Option<RawJson>| {
            check(NewMessage {
                client_msg_id: Some("1".into()),
                metadata,
                ..text(content)
            })
            .unwrap()
            .body_digest
        };
        assert_eq!(with_id("a", None), with_id("a", None));
        assert_ne!(with_id("a", None), with_id("b", None));
        assert_ne!(with_id("a", None), with_id("a", json(r#"{"k":1}"#)));
        assert_eq!(check(text("a")).unwrap().body_digest, None);
    }
}
