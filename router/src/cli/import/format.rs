//! Exports of other systems: a reader for each format, and the one form in which all of them give what they have.
//!
//! A reader gives one conversation after the other. Within a conversation the messages may come in any order; they are put
//! in the order of time by [`super::foreign`], so a conversation is held in memory, up to [`files::CONVERSATION_MAX_BYTES`]
//! of input (INV-BOUND). People keep the ids that the export has for them, or the names where it has no ids.

mod discord;
mod files;
mod mattermost;
mod messenger;
mod slack;
mod slack_text;
mod telegram;
mod whatsapp;
mod whatsapp_time;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use backscroll_shard::model::ConversationKind;
use clap::ValueEnum;
use jiff::tz::TimeZone;
use serde::Serialize;

pub(super) use files::CONVERSATION_MAX_BYTES;
pub(super) use whatsapp_time::DateOrder;

/// Whose export it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A workspace export, as the ZIP file or unpacked: channels.json, users.json, and a folder for each channel
    Slack,
    /// The bulk export, JSON Lines
    Mattermost,
    /// JSON of DiscordChatExporter, a file, or a folder or ZIP file of them
    Discord,
    /// The text of an exported chat; needs --time-zone
    Whatsapp,
    /// The JSON of a download: its ZIP file, the folder of a conversation or of several, or one message_1.json
    Messenger,
    /// result.json of Telegram Desktop
    Telegram,
}

/// What is known besides the export.
#[derive(Clone, Debug)]
pub(super) struct Hints {
    /// The zone of times that name none.
    pub zone: Option<TimeZone>,
    /// In which order days, months and years are written.
    pub dates: Option<DateOrder>,
    /// The name of the only conversation.
    pub channel: Option<String>,
    /// What the only conversation becomes.
    pub kind: Option<ConversationKind>,
}

/// How often something was left out, by what it was and why.
#[derive(Debug, Default)]
pub(super) struct LeftOut(BTreeMap<&'static str, u64>);

impl LeftOut {
    /// Counts it.
    pub(super) fn add(&mut self, what: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// Adds what another has counted.
    pub(super) fn join(&mut self, other: &Self) {
        other
            .0
            .iter()
            .for_each(|(what, count)| self.add(what, *count));
    }

    /// What was left out, in order.
    pub(super) fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.0
    }
}

/// What an export has besides its conversations.
#[derive(Debug, Default)]
pub(super) struct Export {
    /// The names of people by their ids.
    pub people: BTreeMap<String, String>,
    pub left_out: LeftOut,
}

/// A conversation of an export.
#[derive(Debug)]
pub(super) struct Conversation {
    /// Tells it from others of the same name.
    pub id: String,
    pub name: String,
    pub kind: ConversationKind,
    /// The person by whom it was made.
    pub owner: Option<String>,
    /// Members, who may never have written; of a direct conversation all.
    pub members: Vec<String>,
    pub messages: Vec<Message>,
    pub left_out: LeftOut,
}

impl Conversation {
    fn new(id: impl Into<String>, name: impl Into<String>, kind: ConversationKind) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            kind,
            owner: None,
            members: Vec::new(),
            messages: Vec::new(),
            left_out: LeftOut::default(),
        }
    }
}

/// A message of an export.
#[derive(Debug)]
pub(super) struct Message {
    /// Where it stands.
    pub file: Arc<str>,
    /// Which record, or line, of the file it is, from 1.
    pub number: u64,
    /// By what answers name it.
    pub id: String,
    /// What it is ordered by in its conversation.
    pub order: i64,
    /// In milliseconds since 1970.
    pub at: i64,
    /// None of a notice of the system that names nobody.
    pub sender: Option<String>,
    pub text: String,
    pub is_system: bool,
    /// The id of the message that it answers.
    pub reply_to: Option<String>,
    pub attachments: Vec<Attachment>,
    /// Emoji with the people.
    pub reactions: Vec<(String, Vec<String>)>,
    pub edited_at: Option<i64>,
    pub deleted_at: Option<i64>,
    /// From whom it was forwarded.
    pub forwarded_from: Option<String>,
}

impl Message {
    fn new((file, number): (&Arc<str>, usize), id: impl Into<String>, at: i64) -> Self {
        Self {
            file: file.clone(),
            number: number as u64 + 1,
            id: id.into(),
            order: at,
            at,
            sender: None,
            text: String::new(),
            is_system: false,
            reply_to: None,
            attachments: Vec::new(),
            reactions: Vec::new(),
            edited_at: None,
            deleted_at: None,
            forwarded_from: None,
        }
    }
}

/// A file of the other system: its bytes stay there.
#[derive(Debug, Default, Serialize)]
pub(super) struct Attachment {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The media type, or what the export calls it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// An address, or a path within the export.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl Attachment {
    /// A file of the export at `path`.
    fn at(path: &str, media_type: Option<&str>) -> Self {
        let name = path.rsplit('/').next().filter(|name| !name.is_empty());
        Self {
            name: name.map(str::to_owned),
            size: None,
            media_type: media_type.map(str::to_owned),
            url: Some(path.to_owned()),
        }
    }
}

impl Format {
    /// Whether an export is several files, which may be in one ZIP file.
    pub(super) fn has_several_files(self) -> bool {
        matches!(self, Self::Slack | Self::Discord | Self::Messenger)
    }
}

/// Takes the conversations.
pub(super) type Each<'a> = &'a mut dyn FnMut(Conversation) -> anyhow::Result<()>;

/// Reads the export at `path`.
///
/// # Errors
/// [`crate::cli::BadInput`] naming the file and the place of what cannot be read; what `each` says.
pub(super) fn read(
    format: Format,
    path: &Path,
    hints: &Hints,
    each: Each<'_>,
) -> anyhow::Result<Export> {
    match format {
        Format::Slack => slack::read(path, each),
        Format::Mattermost => mattermost::read(path, each),
        Format::Discord => discord::read(path, each),
        Format::Whatsapp => whatsapp::read(path, hints, each),
        Format::Messenger => messenger::read(path, each),
        Format::Telegram => telegram::read(path, hints, each),
    }
}
