//! Messenger's download as JSON: a folder for each conversation, with message_1.json, message_2.json …, newest first.
//!
//! Texts are UTF-8 that was written as if each byte were a character; they are put right. People have no ids, only names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backscroll_shard::model::ConversationKind;
use serde::{Deserialize, Deserializer};

use super::files::{self, Room, bad};
use super::{Attachment, Conversation, Each, Export, Message};

#[derive(Deserialize)]
struct Part {
    participants: Vec<Participant>,
    messages: Vec<Post>,
    title: Option<Repaired>,
    thread_path: Option<String>,
    thread_type: Option<String>,
    joinable_mode: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Participant {
    name: Repaired,
}

#[derive(Deserialize)]
struct Post {
    sender_name: Repaired,
    timestamp_ms: i64,
    content: Option<Repaired>,
    #[serde(default)]
    photos: Vec<File>,
    #[serde(default)]
    videos: Vec<File>,
    #[serde(default)]
    audio_files: Vec<File>,
    #[serde(default)]
    files: Vec<File>,
    #[serde(default)]
    gifs: Vec<File>,
    sticker: Option<File>,
    share: Option<Share>,
    #[serde(default)]
    reactions: Vec<Reaction>,
    #[serde(default)]
    is_unsent: bool,
    #[serde(rename = "type")]
    kind: Option<String>,
    call_duration: Option<u64>,
}

#[derive(Deserialize)]
struct File {
    uri: Repaired,
}

#[derive(Deserialize)]
struct Share {
    link: Option<Repaired>,
}

#[derive(Deserialize)]
struct Reaction {
    reaction: Repaired,
    actor: Repaired,
}

/// A text as its author wrote it.
struct Repaired(String);

impl<'de> Deserialize<'de> for Repaired {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(repaired(text)))
    }
}

/// The text whose UTF-8 bytes are the characters of `text`; a text that is none is right as it is.
fn repaired(text: String) -> String {
    let bytes: Option<Vec<u8>> = text
        .chars()
        .map(|c| u8::try_from(u32::from(c)).ok())
        .collect();
    match bytes.map(String::from_utf8) {
        Some(Ok(repaired)) => repaired,
        _ => text,
    }
}

pub(super) fn read(path: &Path, each: Each<'_>) -> anyhow::Result<Export> {
    let is_part = |name: &str| {
        let number = name
            .strip_prefix("message_")
            .and_then(|it| it.strip_suffix(".json"));
        number.is_some_and(|it| it.parse::<u32>().is_ok())
    };
    let mut folders: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for file in files::find(path, is_part, "file message_1.json")? {
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        folders.entry(folder).or_default().push(file);
    }
    let mut export = Export::default();
    for (folder, mut parts) in folders {
        // message_10 comes after message_9.
        parts.sort_by_key(|part| (part.as_os_str().len(), part.clone()));
        let mut room = Room::new();
        let mut conversation: Option<Conversation> = None;
        for part in parts {
            let file = files::shown(&part, path);
            let read: Part = room.json(&part)?;
            let fallback = folder.file_name().unwrap_or_default().to_string_lossy();
            let (begun, posts) = begin(read, &fallback, &mut export);
            let conversation = conversation.get_or_insert(begun);
            for (number, post) in posts.into_iter().enumerate() {
                if post.timestamp_ms <= 0 {
                    let what = format!("messages[{number}].timestamp_ms: is no time");
                    return Err(bad(&part, what).into());
                }
                add(post, (&file, number), conversation);
            }
        }
        if let Some(conversation) = &mut conversation {
            conversation.messages.reverse(); // newest first: also those of one time
        }
        conversation.map_or(Ok(()), &mut *each)?;
    }
    Ok(export)
}

fn begin(part: Part, folder: &str, export: &mut Export) -> (Conversation, Vec<Post>) {
    let members: Vec<String> = part.participants.into_iter().map(|it| it.name.0).collect();
    for member in &members {
        export.people.insert(member.clone(), String::new());
    }
    let is_group = members.len() > 2
        || part.joinable_mode.is_some()
        || part.thread_type.is_some_and(|kind| kind == "RegularGroup");
    let kind = match is_group {
        true => ConversationKind::Group,
        false => ConversationKind::Direct,
    };
    let title = part
        .title
        .map(|title| title.0)
        .filter(|title| !title.is_empty());
    let id = part.thread_path.unwrap_or_else(|| folder.to_owned());
    let name = title.unwrap_or_else(|| folder.to_owned());
    let mut conversation = Conversation::new(id, name, kind);
    conversation.members = members;
    (conversation, part.messages)
}

fn add(post: Post, place: (&Arc<str>, usize), conversation: &mut Conversation) {
    let id = format!("{}:{}", place.0, place.1);
    let mut message = Message::new(place, id, post.timestamp_ms);
    message.sender = Some(post.sender_name.0);
    message.text = post.content.map(|text| text.0).unwrap_or_default();
    let is_told = |kind: &str| !matches!(kind, "Generic" | "Share");
    message.is_system = post.call_duration.is_some() || post.kind.as_deref().is_some_and(is_told);
    if post.is_unsent {
        message.deleted_at = Some(message.at); // when is not told
    }
    for (files, media_type) in [
        (post.photos, "photo"),
        (post.videos, "video"),
        (post.audio_files, "audio"),
        (post.files, "file"),
        (post.gifs, "gif"),
        (post.sticker.into_iter().collect(), "sticker"),
    ] {
        let files = files
            .iter()
            .map(|file| Attachment::at(&file.uri.0, Some(media_type)));
        message.attachments.extend(files);
    }
    if let Some(link) = post.share.and_then(|share| share.link) {
        if message.text.is_empty() {
            message.text = link.0;
        } else if !message.text.contains(&link.0) {
            message.text = format!("{}\n{}", message.text, link.0);
        }
    }
    for Reaction { reaction, actor } in post.reactions {
        message.reactions.push((reaction.0, vec![actor.0]));
    }
    conversation.messages.push(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_put_right_once() {
        let written = |text: &str| text.bytes().map(char::from).collect::<String>();
        for text in ["plain", "café", "日本 😀", "naïve – “q”"] {
            assert_eq!(repaired(written(text)), text);
            assert_eq!(repaired(text.to_owned()), text);
        }
    }
}
