//! The table of events: name, data and summary of each.
//!
//! The table makes [`EventName`] and the description of the events for the AsyncAPI document ([`describe_events`]). An event
//! that the bus carries between nodes also needs a [`PushKind`](crate::push::PushKind), which `client_event.rs` maps to its
//! name.

use backscroll_shard::model::{ConversationHead, MediaInfo};
use utoipa::ToSchema;

use super::data::{
    ConversationUpdated, Failure, Hello, InConversation, MessageEvent, NotificationEvent,
    NotificationsRead, Presence, Receipt, Reconnect, Resync, UserTyping,
};

/// Takes down the events for a document.
pub trait EventDocument {
    /// An event: the type of its data, its name, and a line that says what it means.
    fn event<Data: ToSchema>(&mut self, name: &str, summary: &str);
}

macro_rules! events {
    ($($(#[doc = $summary:literal])+ $event:ident = $name:literal: $data:ty;)+) => {
        /// The events by their names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EventName {
            $($(#[doc = $summary])+ $event,)+
        }

        impl EventName {
            /// The event that clients call `name`.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$event),)+
                    _ => None,
                }
            }

            /// The name that clients use.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$event => $name,)+ }
            }
        }

        /// Adds every event to `document`, in the order of the table.
        pub fn describe_events(document: &mut impl EventDocument) {
            $(document.event::<$data>($name, concat!($($summary),+).trim_ascii());)+
        }
    };
}

events! {
    /// The first event of a connection
    Hello = "hello": Hello<'_>;
    /// A conversation is open
    JoinedConversation = "joined_conversation": ConversationHead;
    /// The user is no longer a member of a conversation
    LeftConversation = "left_conversation": InConversation;
    /// A message was sent
    NewMessage = "new_message": MessageEvent<'_>;
    /// A message was edited, or its reactions changed; the data is the whole message as it is now
    MessageUpdated = "message_updated": MessageEvent<'_>;
    /// A message was deleted
    MessageDeleted = "message_deleted": MessageEvent<'_>;
    /// A member read messages
    MessagesRead = "messages_read": Receipt<'_>;
    /// A member received messages
    MessagesDelivered = "messages_delivered": Receipt<'_>;
    /// A member types, or stopped
    UserTyping = "user_typing": UserTyping<'_>;
    /// An entry of the user's conversation list changed; the data is the whole entry as it is now
    ConversationUpdated = "conversation_updated": ConversationUpdated<'_>;
    /// A watched user came online, or their status changed
    UserOnline = "user_online": Presence;
    /// A watched user went offline
    UserOffline = "user_offline": Presence;
    /// The user received a notification
    Notification = "notification": NotificationEvent<'_>;
    /// The user read notifications
    NotificationsRead = "notifications_read": NotificationsRead;
    /// The smaller forms of a picture that the user uploaded are there
    MediaReady = "media_ready": MediaInfo;
    /// A picture that the user uploaded could not be decoded: it can be read, but has no smaller forms
    MediaFailed = "media_failed": MediaInfo;
    /// The client has to load something over REST
    Resync = "resync": Resync;
    /// The client has to connect to another node
    Reconnect = "reconnect": Reconnect;
    /// A command without `ack` failed
    Error = "error": Failure;
}
