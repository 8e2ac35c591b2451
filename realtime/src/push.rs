//! Topics, and the pushes that nodes publish on them.

use std::fmt;
use std::sync::Arc;

use backscroll_shard::ids::{ConversationId, MessageId, Rev, UserId};
use backscroll_shard::model::{RawJson, Timestamp};
use serde::{Deserialize, Serialize};

use crate::custom_event::{CustomEvent, CustomName};

/// A topic: the unit of subscription.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Changes that concern one user on all their devices. Its revs are the user's, over the entries of their list.
    User(UserId),
    /// Changes of a conversation that sessions have open. Its revs are the conversation's.
    Conversation(ConversationId),
    /// The presence of a user. It has no revs.
    Presence(UserId),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "u:{user}"),
            Self::Conversation(conversation) => write!(f, "c:{conversation}"),
            Self::Presence(user) => write!(f, "p:{user}"),
        }
    }
}

impl std::str::FromStr for Topic {
    type Err = NotATopic;

    fn from_str(text: &str) -> Result<Self, NotATopic> {
        let user = |id: &str| UserId::new(id).map_err(|_| NotATopic);
        match text.split_once(':') {
            Some(("u", id)) => Ok(Self::User(user(id)?)),
            Some(("c", id)) => Ok(Self::Conversation(id.parse().map_err(|_| NotATopic)?)),
            Some(("p", id)) => Ok(Self::Presence(user(id)?)),
            _ => Err(NotATopic),
        }
    }
}

/// A text that is not a topic's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a topic")]
pub struct NotATopic;

/// The kind of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushKind {
    /// A message was sent: `{conversationId, message}`.
    NewMessage,
    /// A message was edited, or a reaction was added or removed: `{conversationId, message}`.
    MessageUpdated,
    /// A message was deleted: `{conversationId, message}`, the message being empty.
    MessageDeleted,
    /// The conversation's title, metadata or members changed, or it was deleted. The data says who is no longer a member
    /// ([`Left`](backscroll_shard::commit_event::Left)). It is no event for clients: members receive the change by their list, and
    /// the sessions of former members are expelled.
    ConversationChanged,
    /// A member's delivered watermark moved: `{conversationId, seq, messageIds, readBy}`.
    MessagesDelivered,
    /// A member's read watermark moved, and with it the delivered one: `{conversationId, seq, messageIds, readBy}`.
    MessagesRead,
    /// A member began or stopped typing: `{conversationId, userId, isTyping}`.
    UserTyping,
    /// An entry of a user's list changed: `{conversation, cursor}`.
    ConversationUpdated,
    /// A user came online, or their status changed: `{userId, status}`.
    UserOnline,
    /// A user went offline: `{userId, lastSeen}`.
    UserOffline,
    /// A user was sent a notification: `{notification}`.
    Notification,
    /// A user read notifications: `{from, through}`.
    NotificationsRead,
    /// The smaller forms of a picture that a user uploaded are there: the file.
    MediaReady,
    /// A picture that a user uploaded could not be decoded: the file.
    MediaFailed,
    /// An event of the deployment's own back end, under [`Push::name`].
    Custom,
}

impl PushKind {
    /// Whether it is state of a user, of which only the latest counts: for a slow client it may be replaced or dropped.
    #[must_use]
    pub fn is_state(self) -> bool {
        matches!(
            self,
            Self::MessagesDelivered
                | Self::MessagesRead
                | Self::UserTyping
                | Self::UserOnline
                | Self::UserOffline
        )
    }

    /// Whether it is a change of a log: it has a rev, is delivered in the order of revs, and is never dropped.
    #[must_use]
    pub fn is_durable(self) -> bool {
        matches!(
            self,
            Self::NewMessage
                | Self::MessageUpdated
                | Self::MessageDeleted
                | Self::ConversationChanged
                | Self::ConversationUpdated
        )
    }
}

/// What a change tells whole, as it is after the change: a later change of the same subject tells all that the earlier one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A message.
    Message(MessageId),
    /// The entry of a conversation in the user's list.
    Entry(ConversationId),
}

/// A push. Its data is encoded once and shared: a clone copies no text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Push {
    /// Its kind.
    #[serde(rename = "k")]
    pub kind: PushKind,
    /// The rev of the change in its topic's log; 0 for a push that is no change.
    #[serde(rename = "r")]
    pub rev: Rev,
    /// The user whose state it is. The latest state of the same user and kind replaces earlier ones.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// What it tells whole; absent where an earlier change may not be left out for it.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// The name of an event of the deployment's own back end; absent in all other pushes.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub name: Option<CustomName>,
    /// When it was published, by the publishing node's clock.
    #[serde(rename = "t", with = "milliseconds")]
    pub at: Timestamp,
    /// The event's data, as JSON text.
    #[serde(rename = "d")]
    pub data: Arc<RawJson>,
}

impl Push {
    /// A change of a log.
    #[must_use]
    pub fn change(kind: PushKind, rev: Rev, data: &impl Serialize) -> Self {
        Self {
            kind,
            rev,
            user: None,
            subject: None,
            name: None,
            at: Timestamp::now(),
            data: Arc::new(RawJson::of(data)),
        }
    }

    /// The same change, which tells `subject` whole.
    #[must_use]
    pub fn of(self, subject: Subject) -> Self {
        Self {
            subject: Some(subject),
            ..self
        }
    }

    /// An event of the deployment's own back end.
    #[must_use]
    pub fn custom(event: CustomEvent) -> Self {
        Self {
            kind: PushKind::Custom,
            rev: Rev(0),
            user: None,
            subject: None,
            name: Some(event.name),
            at: Timestamp::now(),
            data: Arc::new(event.data),
        }
    }

    /// State of `user`.
    #[must_use]
    pub fn state(kind: PushKind, user: UserId, data: &impl Serialize) -> Self {
        Self {
            user: Some(user),
            ..Self::change(kind, Rev(0), data)
        }
    }
}

mod milliseconds {
    use backscroll_shard::model::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(at.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(from).map(Timestamp)
    }
}

#[cfg(test)]
mod tests {
    use backscroll_shard::ids::{Seq, UserKey};

    use super::*;

    #[test]
    fn topics_read_back() {
        let user = UserId::new("a:b ü").unwrap();
        let conversation = ConversationId::new(UserKey(7), 9);
        for topic in [
            Topic::User(user.clone()),
            Topic::Presence(user),
            Topic::Conversation(conversation),
        ] {
            assert_eq!(topic.to_string().parse(), Ok(topic));
        }
        for wrong in ["", "u", "u:", "x:1", "c:1"] {
            assert_eq!(wrong.parse::<Topic>(), Err(NotATopic), "{wrong}");
        }
    }

    #[test]
    fn a_push_reads_back() {
        let push = Push::state(
            PushKind::UserTyping,
            UserId::new("alice").unwrap(),
            &serde_json::json!({"isTyping": true}),
        );
        let text = serde_json::to_string(&push).unwrap();
        let back: Push = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (back.kind, back.rev, &back.user),
            (push.kind, push.rev, &push.user)
        );
        assert_eq!((back.at, back.data.get()), (push.at, push.data.get()));
        let id = MessageId {
            conversation: ConversationId::new(UserKey(7), 9),
            seq: Seq(3),
        };
        let push = push.of(Subject::Message(id));
        let text = serde_json::to_string(&push).unwrap();
        let back: Push = serde_json::from_str(&text).unwrap();
        assert_eq!(back.subject, Some(Subject::Message(id)));
    }
}
