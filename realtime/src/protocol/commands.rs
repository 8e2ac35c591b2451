//! The table of commands: name, data, answer and summary of each.
//!
//! The table makes three things: [`CommandName`]; the dispatcher ([`dispatch`]), which parses the data, calls the method of a
//! [`CommandHandler`] and encodes the answer; and the description of the commands for the AsyncAPI document
//! ([`describe_commands`]). To add a command, add a row here and its method to the handler in `command/invocation.rs`.
//!
//! `authenticate` is no command: it is the first frame of a native connection, before there is a session.

use std::sync::Arc;

use backscroll_shard::model::{
    ConversationHead, Message, Notification, RawJson, SearchPage, SearchRequest, SyncPage,
    SyncRequest, UnreadCount, UnreadNotifications, Watermarks, from_object,
};
use futures_util::FutureExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::data::{
    DeleteMessage, Done, EditMessage, Failure, InConversation, MarkDelivered, MarkNotificationRead,
    MarkRead, PresenceSubscribe, PresenceUpdate, React, RefreshToken, Refreshed, SendMessage,
    Watched,
};

/// The answer to a command: its data as JSON text.
pub type Answer = Result<Arc<RawJson>, Failure>;

/// Takes down the commands for a document.
pub trait CommandDocument {
    /// A command: the type of its data and of its answer, its name, and a line that says what it does.
    fn command<Data: ToSchema, Reply: ToSchema>(&mut self, name: &str, summary: &str);
}

/// Longest part of an unknown command's name that the answer repeats, in characters.
const UNKNOWN_NAME_MAX: usize = 40;

macro_rules! commands {
    ($($(#[doc = $summary:literal])+ $command:ident, $method:ident = $name:literal: $data:ty => $reply:ty;)+) => {
        /// The commands by their names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum CommandName {
            $($(#[doc = $summary])+ $command,)+
        }

        impl CommandName {
            /// The command that clients call `name`.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$command),)+
                    _ => None,
                }
            }

            /// The name that clients use.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$command => $name,)+ }
            }
        }

        /// Carries out the commands of one session: a method for each.
        pub(crate) trait CommandHandler: Sync {
            $(
                $(#[doc = $summary])+
                fn $method(&self, data: $data) -> impl Future<Output = Result<$reply, Failure>> + Send;
            )+
        }

        /// Parses `data`, has `handler` carry out the command `name`, and encodes its answer.
        ///
        /// Each command is a future on the heap, of a type that the caller does not know: the caller's future is small whatever
        /// the largest command holds.
        ///
        /// # Errors
        /// Why the command was not carried out: there is none of that name, its data is malformed, or the handler refused it.
        pub(crate) async fn dispatch<H: CommandHandler>(handler: &H, name: &str, data: &str) -> Answer {
            match CommandName::parse(name) {
                $(Some(CommandName::$command) => {
                    encode(&handler.$method(parse(data)?).boxed().await?)
                })+
                None => {
                    let name: String = name.chars().take(UNKNOWN_NAME_MAX).collect();
                    Err(Failure::invalid(format!("there is no command `{name}`")))
                }
            }
        }

        /// Adds every command to `document`, in the order of the table.
        pub fn describe_commands(document: &mut impl CommandDocument) {
            $(document.command::<$data, $reply>($name, concat!($($summary),+).trim_ascii());)+
        }
    };
}

commands! {
    /// Open a conversation
    Join, join = "join_conversation": InConversation => ConversationHead;
    /// Close a conversation
    Leave, leave = "leave_conversation": InConversation => Done;
    /// Send a message
    Send, send = "send_message": SendMessage => Message;
    /// Edit an own message
    Edit, edit = "edit_message": EditMessage => Message;
    /// Delete a message
    Delete, delete = "delete_message": DeleteMessage => Message;
    /// Add or remove a reaction
    React, react = "react": React => Message;
    /// Begin typing
    StartTyping, start_typing = "typing_start": InConversation => Done;
    /// Stop typing
    StopTyping, stop_typing = "typing_stop": InConversation => Done;
    /// Move the read watermark
    MarkRead, mark_read = "mark_read": MarkRead => Watermarks;
    /// Move the delivered watermark
    MarkDelivered, mark_delivered = "mark_delivered": MarkDelivered => Watermarks;
    /// Read the changes since a position
    Sync, sync = "sync": SyncRequest => SyncPage;
    /// Search messages
    Search, search = "search": SearchRequest => SearchPage;
    /// Watch the presence of users
    Watch, watch = "presence_subscribe": PresenceSubscribe => Watched;
    /// Choose the status to show
    Show, show = "presence_update": PresenceUpdate => Done;
    /// Count unread messages and conversations
    UnreadCount, unread_count = "unread_count": Done => UnreadCount;
    /// Mark a notification as read
    ReadNotification, read_notification = "mark_notification_read": MarkNotificationRead => Notification;
    /// Mark all notifications as read
    ReadNotifications, read_notifications = "mark_notifications_read": Done => Done;
    /// Count unread notifications
    UnreadNotifications, unread_notifications = "unread_notifications": Done => UnreadNotifications;
    /// Replace the token
    RefreshToken, refresh_token = "refresh_token": RefreshToken => Refreshed;
    /// Measure the round trip
    Ping, ping = "ping": Done => Done;
}

impl CommandName {
    /// Whether clients give the command without their user: it does not show that the user is active.
    #[must_use]
    pub fn is_automatic(self) -> bool {
        matches!(
            self,
            Self::Ping | Self::RefreshToken | Self::MarkDelivered | Self::Sync
        )
    }
}

/// A command of which those that arrive back to back are carried out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchedCommand {
    /// [`CommandName::Send`].
    Send,
    /// [`CommandName::Join`].
    Join,
}

impl BatchedCommand {
    /// The command `name`, if it is batched.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match CommandName::parse(name)? {
            CommandName::Send => Some(Self::Send),
            CommandName::Join => Some(Self::Join),
            _ => None,
        }
    }
}

/// Parses the data of a command.
pub(crate) fn parse<T: DeserializeOwned>(data: &str) -> Result<T, Failure> {
    // A command that takes no data ignores what comes, whatever it is.
    let parsed = from_object(data).or_else(|error| serde_json::from_str("null").map_err(|_| error));
    parsed.map_err(|error| Failure::invalid(format!("data: {}", in_fields::<T>(data, &error))))
}

/// What is wrong with `text`, which `error` says is no `T`: the field by its name instead of a position in the text.
pub(crate) fn in_fields<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> String {
    let mut reader = serde_json::Deserializer::from_str(text);
    let path = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(located) => located.path().to_string(),
        Ok(_) => ".".to_owned(),
    };
    let what = error.to_string();
    let what = what.split(" at line ").next().unwrap_or_default();
    match path.as_str() {
        "." => what.to_owned(),
        field => format!("{field}: {what}"),
    }
}

/// Encodes the answer to a command.
pub(crate) fn encode(data: &impl Serialize) -> Answer {
    Ok(Arc::new(RawJson::of(data)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Authenticate;

    #[test]
    fn a_failure_names_the_field() {
        let failure = |data: &str| parse::<SendMessage>(data).unwrap_err().message;
        let id = "00000000000003e900000000000004d2";
        let wrong = format!(r#"{{"conversationId":"{id}","content":7}}"#);
        let wrong = failure(&wrong);
        assert!(wrong.starts_with("data: content: invalid type"), "{wrong}");
        let missing = failure(&format!(r#"{{"conversationId":"{id}"}}"#));
        assert_eq!(missing, "data: missing field `content`");
        let error = from_object::<Authenticate>("{}").map(drop).unwrap_err();
        let missing = in_fields::<Authenticate>("{}", &error);
        assert_eq!(missing, "missing field `token`");
    }
}
