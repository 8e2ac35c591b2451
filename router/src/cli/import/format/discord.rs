//! JSON of DiscordChatExporter: a file for each channel, or several parts of one. People are their ids.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backscroll_shard::model::ConversationKind;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::files::{self, Room, bad, millis};
use super::{Attachment, Conversation, Each, Export, Message};

/// The part of a file that says which channel it is of.
#[derive(Deserialize)]
struct Head {
    channel: Channel,
}

#[derive(Deserialize)]
struct Channel {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    category: Option<String>,
    name: String,
}

#[derive(Deserialize)]
struct File {
    messages: Vec<Post>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Post {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    timestamp: String,
    timestamp_edited: Option<String>,
    #[serde(default)]
    is_pinned: bool,
    content: String,
    author: Author,
    #[serde(default)]
    attachments: Vec<Upload>,
    #[serde(default)]
    embeds: Vec<IgnoredAny>,
    #[serde(default)]
    stickers: Vec<Sticker>,
    #[serde(default)]
    reactions: Vec<Reaction>,
    reference: Option<Reference>,
}

#[derive(Deserialize)]
struct Author {
    id: String,
    name: String,
    nickname: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Upload {
    url: String,
    file_name: String,
    file_size_bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sticker {
    name: String,
    source_url: Option<String>,
}

#[derive(Deserialize)]
struct Reaction {
    emoji: Emoji,
    count: u64,
    #[serde(default)]
    users: Vec<Author>,
}

#[derive(Deserialize)]
struct Emoji {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    message_id: Option<String>,
}

/// Types of what people say; all others are notices.
const SAID: [&str; 5] = [
    "Default",
    "Reply",
    "ApplicationCommand",
    "ChatInputCommand",
    "ContextMenuCommand",
];

pub(super) fn read(path: &Path, each: Each<'_>) -> anyhow::Result<Export> {
    let is_json = |name: &str| Path::new(name).extension().is_some_and(|it| it == "json");
    let mut channels: BTreeMap<String, (Channel, Vec<PathBuf>)> = BTreeMap::new();
    for file in files::find(path, is_json, "file *.json")? {
        let Head { channel } = Room::new().json(&file)?;
        let parts = channels.entry(channel.id.clone());
        parts.or_insert((channel, Vec::new())).1.push(file);
    }
    let mut export = Export::default();
    for (channel, parts) in channels.into_values() {
        let kind = match channel.kind.as_str() {
            "DirectTextChat" => ConversationKind::Direct,
            "DirectGroupTextChat" => ConversationKind::Group,
            _ => ConversationKind::Channel,
        };
        let name = match (kind, channel.category) {
            // A thread stands below its channel.
            (ConversationKind::Channel, Some(parent)) if channel.kind.ends_with("Thread") => {
                format!("{parent} / {}", channel.name)
            }
            _ => channel.name,
        };
        let mut conversation = Conversation::new(channel.id, name, kind);
        let mut room = Room::new();
        for part in parts {
            let file = files::shown(&part, path);
            let posts: File = room.json(&part)?;
            for (number, post) in posts.messages.into_iter().enumerate() {
                let added = add(post, (&file, number), &mut conversation, &mut export);
                added.map_err(|what| bad(&part, format_args!("messages[{number}]: {what}")))?;
            }
        }
        each(conversation)?;
    }
    Ok(export)
}

fn add(
    post: Post,
    place: (&Arc<str>, usize),
    conversation: &mut Conversation,
    export: &mut Export,
) -> Result<(), String> {
    let mut person = |author: Author| {
        let name = author.nickname.unwrap_or(author.name);
        export.people.insert(author.id.clone(), name);
        author.id
    };
    let mut message = Message::new(place, post.id, millis(&post.timestamp)?);
    message.sender = Some(person(post.author));
    message.is_system = !SAID.contains(&post.kind.as_str());
    message.text = post.content;
    message.edited_at = post.timestamp_edited.as_deref().map(millis).transpose()?;
    // A notice of a pinned message also refers to one.
    let is_reply = post.kind == "Reply";
    message.reply_to = post
        .reference
        .filter(|_| is_reply)
        .and_then(|it| it.message_id);
    message.attachments = post
        .attachments
        .into_iter()
        .map(|file| Attachment {
            name: Some(file.file_name),
            size: file.file_size_bytes,
            media_type: None,
            url: Some(file.url),
        })
        .collect();
    message
        .attachments
        .extend(post.stickers.into_iter().map(|sticker| Attachment {
            name: Some(sticker.name),
            size: None,
            media_type: Some("sticker".into()),
            url: sticker.source_url,
        }));
    for reaction in post.reactions {
        let unnamed = reaction.count.saturating_sub(reaction.users.len() as u64);
        conversation
            .left_out
            .add("reactions whose people the export does not name", unnamed);
        let people = reaction.users.into_iter().map(&mut person).collect();
        message.reactions.push((reaction.emoji.name, people));
    }
    conversation.left_out.add(
        "previews of links and boxes of apps",
        post.embeds.len() as u64,
    );
    conversation
        .left_out
        .add("marks of pinned messages", u64::from(post.is_pinned));
    conversation.messages.push(message);
    Ok(())
}
