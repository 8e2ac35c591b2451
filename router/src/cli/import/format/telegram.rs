//! result.json of Telegram Desktop, of one chat or of all. People are their ids (user123).

use std::path::Path;
use std::sync::Arc;

use backscroll_shard::model::ConversationKind;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::files::{self, Room, bad};
use super::{Attachment, Conversation, Each, Export, Hints, Message};

#[derive(Deserialize)]
struct Whole {
    personal_information: Option<Me>,
    chats: Option<Chats>,
    left_chats: Option<Chats>,
    // Those of a chat, when there is only one.
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<i64>,
    messages: Option<Vec<Post>>,
}

#[derive(Deserialize)]
struct Me {
    user_id: Option<i64>,
}

#[derive(Deserialize)]
struct Chats {
    list: Vec<Chat>,
}

#[derive(Deserialize)]
struct Chat {
    name: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    id: i64,
    messages: Vec<Post>,
}

#[derive(Deserialize)]
struct Post {
    id: i64,
    #[serde(rename = "type")]
    kind: String,
    date: Option<String>,
    date_unixtime: Option<String>,
    edited_unixtime: Option<String>,
    edited: Option<String>,
    from: Option<String>,
    from_id: Option<Id>,
    actor: Option<String>,
    actor_id: Option<Id>,
    action: Option<String>,
    title: Option<String>,
    #[serde(default)]
    members: Vec<Option<String>>,
    #[serde(default)]
    text: Text,
    reply_to_message_id: Option<i64>,
    forwarded_from: Option<String>,
    photo: Option<String>,
    photo_file_size: Option<u64>,
    file: Option<String>,
    file_name: Option<String>,
    file_size: Option<u64>,
    mime_type: Option<String>,
    media_type: Option<String>,
    #[serde(default)]
    reactions: Vec<Reaction>,
    poll: Option<serde::de::IgnoredAny>,
    location_information: Option<serde::de::IgnoredAny>,
    contact_information: Option<serde::de::IgnoredAny>,
}

/// Older versions wrote numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        match id {
            Id::Text(text) => text,
            Id::Number(number) => format!("user{number}"),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Parts(Vec<Piece>),
}

impl Default for Text {
    fn default() -> Self {
        Self::Plain(String::new())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Piece {
    Plain(String),
    Entity { text: String, href: Option<String> },
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        let pieces = match text {
            Text::Plain(text) => return text,
            Text::Parts(pieces) => pieces.into_iter(),
        };
        let plain = pieces.map(|piece| match piece {
            Piece::Entity {
                text,
                href: Some(href),
            } if href != text => format!("{text} ({href})"),
            Piece::Plain(text) | Piece::Entity { text, .. } => text,
        });
        plain.collect()
    }
}

#[derive(Deserialize)]
struct Reaction {
    count: u64,
    emoji: Option<String>,
    #[serde(default)]
    recent: Vec<Recent>,
}

#[derive(Deserialize)]
struct Recent {
    from_id: Id,
}

pub(super) fn read(path: &Path, hints: &Hints, each: Each<'_>) -> anyhow::Result<Export> {
    let path =
        &*files::find(path, |name| name == "result.json", "file result.json")?.swap_remove(0);
    let whole: Whole = Room::new().json(path)?;
    let me = whole.personal_information.and_then(|me| me.user_id);
    let lists = [whole.chats, whole.left_chats].into_iter().flatten();
    let mut chats: Vec<Chat> = lists.flat_map(|chats| chats.list).collect();
    if let (Some(kind), Some(id), Some(messages)) = (whole.kind, whole.id, whole.messages) {
        let name = whole.name;
        chats.push(Chat {
            name,
            kind,
            id,
            messages,
        });
    }
    if chats.is_empty() {
        return Err(bad(path, "has neither `messages` of a chat nor `chats`").into());
    }
    let file: Arc<str> = path.display().to_string().into();
    let mut export = Export::default();
    for chat in chats {
        let name = chat.name.clone().unwrap_or_default();
        let read = conversation(chat, me, &file, (hints, &mut export));
        let named = |what| bad(path, format_args!("chat `{name}`: {what}"));
        if let Some(conversation) = read.map_err(named)? {
            each(conversation)?;
        }
    }
    Ok(export)
}

fn conversation(
    chat: Chat,
    me: Option<i64>,
    file: &Arc<str>,
    (hints, export): (&Hints, &mut Export),
) -> Result<Option<Conversation>, String> {
    let kind = match chat.kind.as_str() {
        "personal_chat" | "bot_chat" | "saved_messages" => ConversationKind::Direct,
        "private_group" => ConversationKind::Group,
        _ => ConversationKind::Channel,
    };
    let name = chat.name.filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("{} {}", chat.kind, chat.id));
    let mut conversation = Conversation::new(chat.id.to_string(), name.clone(), kind);
    let is_notes = chat.kind == "saved_messages";
    let me = me.map(|id| format!("user{id}"));
    for (number, post) in chat.messages.into_iter().enumerate() {
        let added = add(post, (file, number), &mut conversation, (hints, export));
        added.map_err(|what| format!("messages[{number}]: {what}"))?;
    }
    if kind != ConversationKind::Direct {
        return Ok(Some(conversation));
    }
    if is_notes {
        // What was forwarded to the notes has its author as the sender.
        let owner = me.or_else(|| {
            conversation
                .messages
                .iter()
                .find_map(|it| it.sender.clone())
        });
        for message in &mut conversation.messages {
            message.sender.clone_from(&owner);
        }
        conversation.members.extend(owner);
    } else {
        let other = format!("user{}", chat.id);
        let writers = conversation
            .messages
            .iter()
            .filter_map(|it| it.sender.clone());
        let mine = me.or_else(|| writers.into_iter().find(|writer| *writer != other));
        export.people.entry(other.clone()).or_insert(name);
        conversation.members = [Some(other), mine].into_iter().flatten().collect();
        if conversation.members.len() < 2 {
            let count = conversation.messages.len() as u64;
            export.left_out.add("messages of chats in which only the other person wrote, whose export does not say by whom they were read", count);
            return Ok(None);
        }
    }
    Ok(Some(conversation))
}

/// Milliseconds of a time in seconds, or of one without a zone.
fn millis(
    seconds: Option<&str>,
    date: Option<&str>,
    zone: Option<&TimeZone>,
) -> Result<Option<i64>, String> {
    if let Some(seconds) = seconds {
        let parsed: Option<i64> = seconds.parse().ok();
        let millis = parsed.and_then(|seconds| seconds.checked_mul(1000));
        return millis
            .map(Some)
            .ok_or_else(|| format!("`{seconds}` is no time in seconds"));
    }
    let Some(date) = date else { return Ok(None) };
    let zone =
        zone.ok_or_else(|| format!("`{date}` has no time zone; say which with --time-zone"))?;
    let time: DateTime = date.parse().map_err(|_| format!("`{date}` is no time"))?;
    let time = time
        .to_zoned(zone.clone())
        .map_err(|error| format!("`{date}`: {error}"))?;
    Ok(Some(time.timestamp().as_millisecond()))
}

fn add(
    post: Post,
    place: (&Arc<str>, usize),
    conversation: &mut Conversation,
    (hints, export): (&Hints, &mut Export),
) -> Result<(), String> {
    let zone = hints.zone.as_ref();
    let at = millis(post.date_unixtime.as_deref(), post.date.as_deref(), zone)?;
    let at = at.ok_or("date_unixtime: is missing")?;
    let mut message = Message::new(place, post.id.to_string(), at);
    message.order = post.id;
    message.is_system = post.kind == "service";
    let sender = post.from_id.or(post.actor_id).map(String::from);
    if let (Some(id), Some(name)) = (&sender, post.from.or(post.actor)) {
        export.people.entry(id.clone()).or_insert(name);
    }
    message.sender = sender;
    message.text = post.text.into();
    if message.is_system && message.text.is_empty() {
        let action = post.action.unwrap_or_default().replace('_', " ");
        let told = post.members.into_iter().flatten().chain(post.title);
        let told = told.collect::<Vec<_>>().join(", ");
        message.text = match told.as_str() {
            "" => action,
            told => format!("{action}: {told}"),
        };
    }
    message.edited_at = millis(
        post.edited_unixtime.as_deref(),
        post.edited.as_deref(),
        zone,
    )?;
    message.reply_to = post.reply_to_message_id.map(|id| id.to_string());
    message.forwarded_from = post.forwarded_from;
    let photo = post
        .photo
        .map(|path| (path, None, Some("photo".to_owned()), post.photo_file_size));
    let media_type = post.mime_type.or(post.media_type);
    let file = post
        .file
        .map(|path| (path, post.file_name, media_type, post.file_size));
    for (path, name, media_type, size) in [photo, file].into_iter().flatten() {
        // "(File not included. …)" is no path.
        let mut attachment = match path.starts_with('(') {
            true => Attachment::default(),
            false => Attachment::at(&path, None),
        };
        attachment.name = name.or(attachment.name);
        (attachment.media_type, attachment.size) = (media_type, size);
        message.attachments.push(attachment);
    }
    let left_out = &mut conversation.left_out;
    for reaction in post.reactions {
        let people: Vec<String> = reaction
            .recent
            .into_iter()
            .map(|it| it.from_id.into())
            .collect();
        let Some(emoji) = reaction.emoji else {
            left_out.add("reactions with pictures of one's own", reaction.count);
            continue;
        };
        let unnamed = reaction.count.saturating_sub(people.len() as u64);
        left_out.add("reactions whose people the export does not name", unnamed);
        message.reactions.push((emoji, people));
    }
    for (found, what) in [
        (post.poll, "polls"),
        (post.location_information, "places on a map"),
        (post.contact_information, "address cards"),
    ] {
        left_out.add(what, u64::from(found.is_some()));
    }
    conversation.messages.push(message);
    Ok(())
}
