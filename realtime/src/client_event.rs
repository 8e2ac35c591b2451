//! Events as clients receive them.
//!
//! One [`ClientEvent`] is shared by all sessions that receive it, and each door encodes it once, when the first of its
//! sessions sends it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use axum::extract::ws::Utf8Bytes;
use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::{ConversationHead, RawJson};
use engineioxide::Str;
use serde::Serialize;

use crate::metrics;
use crate::protocol::events::EventName;
use crate::protocol::{InConversation, Resync};
use crate::push::{Push, PushKind, Subject, Topic};
use crate::socket_io::packet;

/// An event for clients.
#[derive(Debug)]
pub struct ClientEvent {
    name: Cow<'static, str>,
    data: Arc<RawJson>,
    state_of: Option<StateKey>,
    subject: Option<Subject>,
    frame: OnceLock<Utf8Bytes>,
    packet: OnceLock<Str>,
}

/// Identifies a piece of state: of two events with the same key, the later makes the earlier worthless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateKey {
    /// The topic of the push.
    pub(crate) topic: Topic,
    /// The user whose state it is; empty for state of nobody.
    user: String,
}

impl ClientEvent {
    /// An event that must arrive, or end the connection.
    #[must_use]
    pub fn new(name: EventName, data: &impl Serialize) -> Self {
        Self::named(name.name(), Arc::new(RawJson::of(data)))
    }

    /// The same under a name that the protocol does not have, for older front-ends.
    #[must_use]
    pub(crate) fn named(name: impl Into<Cow<'static, str>>, data: Arc<RawJson>) -> Self {
        Self {
            name: name.into(),
            data,
            state_of: None,
            subject: None,
            frame: OnceLock::new(),
            packet: OnceLock::new(),
        }
    }

    /// The event that carries `push`; none for a push that is no event for clients.
    #[must_use]
    pub fn of(topic: &Topic, push: &Push) -> Option<Self> {
        if let Some(name) = &push.name {
            let name = name.as_str().to_owned();
            return Some(Self::named(name, Arc::clone(&push.data)));
        }
        let name = event_name(push.kind)?;
        let user = push.user.as_ref().map_or("", |user| user.as_str());
        let state_of = push.kind.is_state().then(|| StateKey {
            topic: topic.clone(),
            user: user.to_owned(),
        });
        Some(Self {
            state_of,
            subject: push.subject,
            ..Self::named(name.name(), Arc::clone(&push.data))
        })
    }

    /// `resync`: what the session has to load over REST. Counted in [`metrics::RESYNCS`].
    #[must_use]
    pub fn resync(conversations: Vec<ConversationHead>, list: bool) -> Self {
        metrics::RESYNCS.increment(1);
        let data = Resync {
            conversations,
            list,
        };
        Self::new(EventName::Resync, &data)
    }

    /// `left_conversation`: the session's user is no longer a member, or the conversation is gone.
    #[must_use]
    pub fn left_conversation(conversation_id: ConversationId) -> Self {
        Self::new(
            EventName::LeftConversation,
            &InConversation { conversation_id },
        )
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is an event of the deployment's own back end, and no part of the protocol.
    pub(crate) fn is_custom(&self) -> bool {
        matches!(self.name, Cow::Owned(_))
    }

    /// Its data as JSON text.
    #[must_use]
    pub fn data(&self) -> &str {
        self.data.get()
    }

    /// The state that the event carries; none for an event that must arrive.
    pub(crate) fn state_of(&self) -> Option<&StateKey> {
        self.state_of.as_ref()
    }

    /// What the event tells whole; an earlier event of the same subject need not arrive.
    pub(crate) fn subject(&self) -> Option<Subject> {
        self.subject
    }

    /// The native door's frame: `{"event": name, "data": data}`.
    pub fn frame(&self) -> Utf8Bytes {
        let encode = || {
            let (name, data) = (&self.name, self.data.get());
            Utf8Bytes::from(format!(r#"{{"event":"{name}","data":{data}}}"#))
        };
        self.frame.get_or_init(encode).clone()
    }

    /// The Socket.IO door's packet, in the namespace of the API.
    pub fn packet(&self) -> Str {
        let encode = || packet::event(packet::NAMESPACE, &self.name, self.data.get()).into();
        self.packet.get_or_init(encode).clone()
    }
}

/// The event that carries pushes of `kind`. A change of a conversation reaches its members through their lists instead.
fn event_name(kind: PushKind) -> Option<EventName> {
    Some(match kind {
        PushKind::ConversationChanged | PushKind::Custom => return None,
        PushKind::NewMessage => EventName::NewMessage,
        PushKind::MessageUpdated => EventName::MessageUpdated,
        PushKind::MessageDeleted => EventName::MessageDeleted,
        PushKind::MessagesDelivered => EventName::MessagesDelivered,
        PushKind::MessagesRead => EventName::MessagesRead,
        PushKind::UserTyping => EventName::UserTyping,
        PushKind::ConversationUpdated => EventName::ConversationUpdated,
        PushKind::UserOnline => EventName::UserOnline,
        PushKind::UserOffline => EventName::UserOffline,
        PushKind::Notification => EventName::Notification,
        PushKind::NotificationsRead => EventName::NotificationsRead,
        PushKind::MediaReady => EventName::MediaReady,
        PushKind::MediaFailed => EventName::MediaFailed,
    })
}
