//! Mattermost's bulk export: JSON Lines, each with a `type` and the object of that name. People are their usernames.
//!
//! Posts come in no order, those of all channels among each other, so the whole file is held, within the bound of one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use backscroll_shard::model::ConversationKind;
use serde::Deserialize;

use super::files::{self, Room, bad};
use super::{Attachment, Conversation, Each, Export, Message};

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Version {
        version: u32,
    },
    Channel {
        channel: Channel,
    },
    User {
        user: User,
    },
    Post {
        post: Post,
    },
    DirectChannel {
        direct_channel: DirectChannel,
    },
    DirectPost {
        direct_post: Post,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Channel {
    team: String,
    name: String,
    #[serde(default)]
    display_name: String,
}

#[derive(Deserialize)]
struct User {
    username: String,
    nickname: Option<String>,
    #[serde(default)]
    first_name: Option<String>,
    #[serde(default)]
    last_name: Option<String>,
    teams: Option<Vec<Team>>,
}

#[derive(Deserialize)]
struct Team {
    name: String,
    channels: Option<Vec<Membership>>,
}

#[derive(Deserialize)]
struct Membership {
    name: String,
}

#[derive(Deserialize)]
struct DirectChannel {
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    participants: Vec<Participant>,
}

#[derive(Deserialize)]
struct Participant {
    username: String,
}

#[derive(Deserialize)]
struct Post {
    #[serde(default)]
    team: String,
    #[serde(default)]
    channel: String,
    #[serde(default)]
    channel_members: Vec<String>,
    user: String,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    message: String,
    create_at: i64,
    edit_at: Option<i64>,
    delete_at: Option<i64>,
    props: Option<Props>,
    reactions: Option<Vec<Reaction>>,
    replies: Option<Vec<Post>>,
    attachments: Option<Vec<File>>,
    is_pinned: Option<bool>,
}

#[derive(Deserialize)]
struct Props {
    attachments: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Reaction {
    user: String,
    emoji_name: String,
}

#[derive(Deserialize)]
struct File {
    path: String,
}

/// The conversations so far, in the order of the file, each found by its key.
#[derive(Default)]
struct Found {
    list: Vec<Conversation>,
    places: HashMap<String, usize>,
}

impl Found {
    fn get(&mut self, key: &str, make: impl FnOnce() -> Conversation) -> &mut Conversation {
        let next = self.list.len();
        let place = *self.places.entry(key.to_owned()).or_insert(next);
        if place == next {
            self.list.push(make());
        }
        &mut self.list[place]
    }

    fn channel(&mut self, team: &str, name: &str) -> &mut Conversation {
        let key = format!("{team}/{name}");
        let make = || Conversation::new(key.clone(), name, ConversationKind::Channel);
        self.get(&key, make)
    }

    /// The conversation of these people.
    fn direct(&mut self, mut members: Vec<String>) -> &mut Conversation {
        members.sort();
        members.dedup();
        let (key, name) = (members.join("\t"), members.join(", "));
        let kind = match members.len() {
            0..=2 => ConversationKind::Direct,
            _ => ConversationKind::Group,
        };
        self.get(&key, || {
            let mut made = Conversation::new(name.clone(), name, kind);
            made.members = members;
            made
        })
    }
}

pub(super) fn read(path: &Path, each: Each<'_>) -> anyhow::Result<Export> {
    let path = &*files::find(path, is_jsonl, "file *.jsonl")?.swap_remove(0);
    let bytes = Room::new().bytes(path)?;
    let file: Arc<str> = path.display().to_string().into();
    let mut export = Export::default();
    let mut found = Found::default();
    let mut is_first = true;
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let at_line = |what: String| bad(path, format_args!("line {}: {what}", number + 1));
        let line: Line = files::json(line).map_err(at_line)?;
        if is_first != matches!(line, Line::Version { .. }) {
            return Err(at_line("the first line, and no other, says the version: {\"type\":\"version\",\"version\":1}".into()).into());
        }
        is_first = false;
        take(line, (&file, number), &mut export, &mut found).map_err(at_line)?;
    }
    found.list.into_iter().try_for_each(each)?;
    Ok(export)
}

fn is_jsonl(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|it| it == "jsonl")
}

fn take(
    line: Line,
    place: (&Arc<str>, usize),
    export: &mut Export,
    found: &mut Found,
) -> Result<(), String> {
    match line {
        Line::Version { version: 1 } => {}
        Line::Version { version } => return Err(format!("version {version} is not known, only 1")),
        Line::Channel { channel } => {
            let made = found.channel(&channel.team, &channel.name);
            if !channel.display_name.is_empty() {
                made.name = channel.display_name;
            }
        }
        Line::User { user } => {
            let full = [user.first_name, user.last_name].into_iter().flatten();
            let full = full
                .filter(|name| !name.is_empty())
                .collect::<Vec<_>>()
                .join(" ");
            let nickname = user.nickname.filter(|name| !name.is_empty());
            for team in user.teams.into_iter().flatten() {
                for channel in team.channels.into_iter().flatten() {
                    let made = found.channel(&team.name, &channel.name);
                    made.members.push(user.username.clone());
                }
            }
            export
                .people
                .insert(user.username, nickname.unwrap_or(full));
        }
        Line::Post { post } => {
            if post.channel.is_empty() {
                return Err("post: names no channel".into());
            }
            let conversation = found.channel(&post.team, &post.channel);
            add(post, place, None, conversation);
        }
        Line::DirectChannel { direct_channel } => {
            let DirectChannel {
                members,
                participants,
            } = direct_channel;
            let participants = participants.into_iter().map(|it| it.username);
            found.direct(members.into_iter().chain(participants).collect());
        }
        Line::DirectPost { mut direct_post } => {
            let members = std::mem::take(&mut direct_post.channel_members);
            if members.is_empty() {
                return Err("direct_post: names no channel_members".into());
            }
            add(direct_post, place, None, found.direct(members));
        }
        Line::Other => export
            .left_out
            .add("teams, roles, emoji and other lines", 1),
    }
    Ok(())
}

/// Adds a post with its replies.
fn add(
    post: Post,
    place: (&Arc<str>, usize),
    answered: Option<&str>,
    conversation: &mut Conversation,
) {
    let id = conversation.messages.len().to_string();
    let mut message = Message::new(place, id.clone(), post.create_at);
    message.sender = Some(post.user);
    message.text = post.message;
    message.is_system = post.kind.is_some_and(|kind| kind.starts_with("system_"));
    message.reply_to = answered.map(str::to_owned);
    message.edited_at = post.edit_at.filter(|at| *at > 0);
    message.deleted_at = post.delete_at.filter(|at| *at > 0);
    let files = post.attachments.into_iter().flatten();
    message.attachments = files.map(|file| Attachment::at(&file.path, None)).collect();
    for reaction in post.reactions.into_iter().flatten() {
        let same = message
            .reactions
            .iter_mut()
            .find(|(emoji, _)| *emoji == reaction.emoji_name);
        match same {
            Some((_, people)) => people.push(reaction.user),
            None => message
                .reactions
                .push((reaction.emoji_name, vec![reaction.user])),
        }
    }
    let left_out = &mut conversation.left_out;
    let has_boxes = post.props.is_some_and(|props| props.attachments.is_some());
    left_out.add("boxes of apps (props.attachments)", u64::from(has_boxes));
    left_out.add(
        "marks of pinned posts",
        u64::from(post.is_pinned == Some(true)),
    );
    conversation.messages.push(message);
    for reply in post.replies.into_iter().flatten() {
        add(reply, place, Some(&id), conversation);
    }
}
