//! Slack's workspace export: lists of users and conversations, and for each conversation a folder with a file of each day.
//!
//! A message is named by its `ts` in its conversation. People keep their ids (U…), also bots (B…).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use backscroll_shard::model::ConversationKind;
use serde::Deserialize;

use super::files::{self, Room, bad};
use super::slack_text::Names;
use super::{Attachment, Conversation, Each, Export, Message};

#[derive(Deserialize)]
struct User {
    id: String,
    name: Option<String>,
    #[serde(default)]
    profile: Profile,
}

#[derive(Default, Deserialize)]
struct Profile {
    display_name: Option<String>,
    real_name: Option<String>,
}

#[derive(Deserialize)]
struct Channel {
    id: String,
    /// None of a direct conversation, whose folder is named by its id.
    name: Option<String>,
    creator: Option<String>,
    #[serde(default)]
    members: Vec<String>,
}

#[derive(Deserialize)]
struct Post {
    #[serde(rename = "type")]
    kind: Option<String>,
    subtype: Option<String>,
    user: Option<String>,
    bot_id: Option<String>,
    username: Option<String>,
    ts: String,
    thread_ts: Option<String>,
    #[serde(default)]
    text: Option<String>,
    edited: Option<Edited>,
    #[serde(default)]
    files: Vec<File>,
    #[serde(default)]
    attachments: Vec<Box_>,
    #[serde(default)]
    reactions: Vec<Reaction>,
}

#[derive(Deserialize)]
struct Edited {
    ts: String,
}

#[derive(Deserialize)]
struct File {
    name: Option<String>,
    title: Option<String>,
    mimetype: Option<String>,
    size: Option<u64>,
    url_private: Option<String>,
    mode: Option<String>,
}

/// A preview of a link, or what an app has to say.
#[derive(Deserialize)]
struct Box_ {
    text: Option<String>,
    fallback: Option<String>,
}

#[derive(Deserialize)]
struct Reaction {
    name: String,
    #[serde(default)]
    users: Vec<String>,
    count: Option<u64>,
}

/// The lists of conversations, and what becomes of theirs.
const LISTS: [(&str, ConversationKind); 4] = [
    ("channels.json", ConversationKind::Channel),
    ("groups.json", ConversationKind::Channel),
    ("mpims.json", ConversationKind::Group),
    ("dms.json", ConversationKind::Direct),
];

/// Subtypes of what people and bots say; all others are notices.
const SAID: [&str; 7] = [
    "bot_message",
    "file_comment",
    "file_share",
    "me_message",
    "reply_broadcast",
    "thread_broadcast",
    "bot_thread_broadcast",
];

pub(super) fn read(path: &Path, each: Each<'_>) -> anyhow::Result<Export> {
    if !files::is_folder(path)? {
        return Err(bad(
            path,
            "is neither a ZIP file nor a folder; name the export as it was downloaded, or unpacked",
        )
        .into());
    }
    let users: Vec<User> = Room::new().json(&path.join("users.json"))?;
    let mut export = Export::default();
    for user in users {
        let names = [user.name, user.profile.display_name, user.profile.real_name];
        let name = names.into_iter().flatten().find(|name| !name.is_empty());
        export.people.insert(user.id, name.unwrap_or_default());
    }
    let mut is_listed = false;
    for (list, kind) in LISTS {
        let list = path.join(list);
        if !list.exists() {
            continue; // exports of public channels have only those
        }
        is_listed = true;
        let channels: Vec<Channel> = Room::new().json(&list)?;
        for channel in channels {
            each(conversation(path, channel, kind, &export.people)?)?;
        }
    }
    match is_listed {
        true => Ok(export),
        false => Err(bad(
            path,
            "has none of channels.json, groups.json, mpims.json and dms.json",
        )
        .into()),
    }
}

fn conversation(
    root: &Path,
    channel: Channel,
    kind: ConversationKind,
    people: &BTreeMap<String, String>,
) -> anyhow::Result<Conversation> {
    let name = channel.name.unwrap_or_else(|| channel.id.clone());
    let folder = [&name, &channel.id].map(|name| root.join(name));
    let folder = folder.into_iter().find(|folder| folder.is_dir());
    let mut conversation = Conversation::new(channel.id, name, kind);
    conversation.owner = channel.creator.filter(|_| kind != ConversationKind::Direct);
    conversation.members = channel.members;
    let Some(folder) = folder else {
        return Ok(conversation); // nobody has written in it
    };
    let mut room = Room::new();
    let is_day = |name: &str| Path::new(name).extension().is_some_and(|it| it == "json");
    let days = folder.read_dir()?.next().is_some();
    let days = match days {
        true => files::find(&folder, is_day, "files of days")?,
        false => Vec::new(),
    };
    for day in days {
        let file = files::shown(&day, root);
        let posts: Vec<Post> = room.json(&day)?;
        for (number, post) in posts.into_iter().enumerate() {
            let place = (&file, number);
            let message = message(place, post, people, &mut conversation)
                .map_err(|what| bad(&day, format_args!("record {}: {what}", number + 1)))?;
            conversation.messages.extend(message);
        }
    }
    Ok(conversation)
}

/// The microseconds of `1512085950.000216`.
fn micros(ts: &str) -> Result<i64, String> {
    let fault = || format!("ts: `{ts}` is no time as 1512085950.000216");
    let (seconds, fraction) = ts.split_once('.').unwrap_or((ts, "0"));
    let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let seconds: i64 = seconds.parse().map_err(|_| fault())?;
    let fraction: i64 = digits.parse().map_err(|_| fault())?;
    seconds
        .checked_mul(1_000_000)
        .and_then(|all| all.checked_add(fraction))
        .ok_or_else(fault)
}

fn message(
    place: (&Arc<str>, usize),
    post: Post,
    people: &BTreeMap<String, String>,
    conversation: &mut Conversation,
) -> Result<Option<Message>, String> {
    let left_out = &mut conversation.left_out;
    if post.kind.as_deref().is_some_and(|kind| kind != "message") {
        left_out.add("records that are no messages", 1);
        return Ok(None);
    }
    let micros_of = micros(&post.ts)?;
    let mut message = Message::new(place, post.ts.clone(), micros_of / 1000);
    message.order = micros_of;
    let subtype = post.subtype.as_deref();
    message.is_system = subtype.is_some_and(|it| !SAID.contains(&it) && it != "tombstone");
    message.sender = post.user.or(post.bot_id).or(post.username);
    if subtype == Some("tombstone") {
        message.deleted_at = Some(message.at); // when is not told
    }
    let mut text = post.text.unwrap_or_default();
    if text.is_empty() {
        let said = |it: &Box_| it.text.clone().or(it.fallback.clone());
        text = post
            .attachments
            .iter()
            .filter_map(said)
            .collect::<Vec<_>>()
            .join("\n");
    } else {
        left_out.add(
            "previews of links and boxes of apps beside a text",
            post.attachments.len() as u64,
        );
    }
    message.text = Names(people).plain(&text);
    message.reply_to = post.thread_ts.filter(|thread| *thread != post.ts);
    message.edited_at = post
        .edited
        .map(|edited| micros(&edited.ts))
        .transpose()?
        .map(|it| it / 1000);
    for file in post.files {
        if matches!(file.mode.as_deref(), Some("tombstone" | "hidden_by_limit")) {
            left_out.add("files that Slack had deleted or hidden", 1);
            continue;
        }
        message.attachments.push(Attachment {
            name: file.name.or(file.title),
            size: file.size,
            media_type: file.mimetype,
            url: file.url_private,
        });
    }
    for reaction in post.reactions {
        let unnamed = reaction
            .count
            .unwrap_or(0)
            .saturating_sub(reaction.users.len() as u64);
        left_out.add("reactions whose people the export does not name", unnamed);
        message.reactions.push((reaction.name, reaction.users));
    }
    Ok(Some(message))
}
