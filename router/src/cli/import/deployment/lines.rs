//! The lines of an export of a deployment, each checked for what it is and where it stands. The table of them is in
//! `export/all.rs`, which writes them.

use std::collections::BTreeMap;

use anyhow::Context as _;
use backscroll_archiver::segment;
use backscroll_shard::dump::{DumpRow, ImportedChannel};
use backscroll_shard::ids::{ConversationId, KeyFunction, Rev, Seq, UserId};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::model::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::source::Source;
use crate::cli::BadInput;

/// Longest line, in bytes: a message with a text of 1 MiB, every character of it escaped, and all that may be beside it.
const LINE_MAX_BYTES: u64 = 16 << 20;

/// The version that is read.
const VERSION: u32 = 1;

/// What a line is.
pub(super) enum Line {
    /// A row of a user.
    User(DumpRow),
    /// A conversation begins.
    Conversation(ConversationId, Rev),
    /// A conversation is deleted; it ends here if it has begun.
    Deleted(ConversationId, Timestamp),
    /// The messages of the conversation up to this one were dropped.
    Dropped(Seq),
    /// A row of the conversation.
    Row(DumpRow),
    /// A message of the conversation.
    Message(Box<StoredMessage>),
    /// The head, with which the conversation ends.
    Head(DumpRow),
    /// Under which name a conversation was imported.
    Channel(ImportedChannel),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct First {
    #[serde(rename = "backscroll")]
    _kind: String,
    version: u32,
    keys: KeyFunction,
    #[serde(rename = "since")]
    _since: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Begin {
    conversation: ConversationId,
    rev: Option<Rev>,
    deleted_at: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Dropped {
    dropped: Seq,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Channel {
    imported_channel: Named,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Named {
    channel: String,
    owner: Option<UserId>,
    conversation: ConversationId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct End {
    #[serde(rename = "end")]
    _kind: String,
    lines: u64,
}

/// The conversation whose lines come.
struct Open {
    id: ConversationId,
    last: Seq,
    rows: u64,
    messages: u64,
}

/// Where in the export the next line is.
enum Place {
    Start,
    Inside,
    In(Open),
    End,
}

/// Reads the lines.
pub(super) struct Lines {
    source: Source,
    keys: KeyFunction,
    buffer: Vec<u8>,
    number: u64,
    place: Place,
}

impl Lines {
    /// Reads from `source`, for a deployment with these keys.
    pub(super) fn new(source: Source, keys: KeyFunction) -> Self {
        Self {
            source,
            keys,
            buffer: Vec::new(),
            number: 0,
            place: Place::Start,
        }
    }

    /// About how many bytes the line that was read last has.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The next line; `None` after the closing one, which is not given.
    ///
    /// # Errors
    /// [`BadInput`] for a line that is none or stands in the wrong place, and at the end of an input without a closing line.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Line>> {
        loop {
            self.buffer.clear();
            let context = || format!("cannot read line {}", self.number + 1);
            let read = self.source.line(&mut self.buffer, LINE_MAX_BYTES);
            if !read.with_context(context)? {
                return match self.place {
                    Place::End => Ok(None),
                    _ => Err(BadInput(format!(
                        "it is not whole: it ends after line {} without its closing line. Export it again",
                        self.number
                    ))
                    .into()),
                };
            }
            self.number += 1;
            let line = match self.buffer.last() {
                Some(b'\n') => self.understand(),
                _ => Err("is cut off, or longer than 16 MiB".to_owned()),
            };
            match line {
                Ok(Some(line)) => return Ok(Some(line)),
                Ok(None) => {} // the first or the last
                Err(what) => return Err(BadInput(format!("line {}: {what}", self.number)).into()),
            }
        }
    }

    fn understand(&mut self) -> Result<Option<Line>, String> {
        let text = std::str::from_utf8(&self.buffer).map_err(|_| "is not UTF-8".to_owned())?;
        let text = text.trim_end();
        let kind = text
            .strip_prefix("{\"")
            .and_then(|rest| rest.split_once('"'));
        let kind = kind.map(|(kind, _)| kind).unwrap_or_default();
        match (&mut self.place, kind) {
            (Place::End, _) => Err("comes after the closing line".into()),
            (Place::Start, "backscroll") => {
                check_first(&parse(text)?, self.keys)?;
                self.place = Place::Inside;
                Ok(None)
            }
            (Place::Start, _) => Err("is not the first line of an export".into()),
            (Place::In(open), "seq") => {
                let message = segment::read_whole(text)?;
                if message.seq <= open.last {
                    return Err(format!(
                        "message {} comes after message {}",
                        message.seq, open.last
                    ));
                }
                open.last = message.seq;
                open.messages += 1;
                Ok(Some(Line::Message(Box::new(message))))
            }
            (Place::In(open), "dropped") => {
                let Dropped { dropped } = parse(text)?;
                open.last = dropped;
                Ok(Some(Line::Dropped(dropped)))
            }
            (Place::In(open), "conversations") => {
                let head = head(text, open)?;
                self.place = Place::Inside;
                Ok(Some(Line::Head(head)))
            }
            (Place::In(open), "end" | "importedChannel") => {
                Err(format!("conversation {} has not ended before it", open.id))
            }
            (Place::In(open), "conversation") => {
                let Begin {
                    conversation,
                    deleted_at,
                    ..
                } = parse(text)?;
                let Some(at) = deleted_at.filter(|_| conversation == open.id) else {
                    return Err(format!("conversation {} has not ended before it", open.id));
                };
                self.place = Place::Inside;
                Ok(Some(Line::Deleted(conversation, Timestamp(at))))
            }
            (Place::In(open), table) => {
                let fields = row(text, table)?;
                let row = DumpRow::of_conversation(table, open.id, &fields);
                open.rows += 1;
                row.ok_or_else(|| unknown(table))?
                    .map(|row| Some(Line::Row(row)))
            }
            (Place::Inside, "conversation") => self.begin(),
            (Place::Inside, "importedChannel") => {
                let Channel { imported_channel } = parse(text)?;
                let Named {
                    channel,
                    owner,
                    conversation,
                } = imported_channel;
                Ok(Some(Line::Channel(ImportedChannel {
                    channel,
                    owner,
                    conversation,
                })))
            }
            (Place::Inside, "end") => {
                let End { lines, .. } = parse(text)?;
                if lines + 1 != self.number {
                    let found = self.number - 1;
                    return Err(format!(
                        "it is not whole: {lines} lines were written, {found} are here"
                    ));
                }
                self.place = Place::End;
                Ok(None)
            }
            (Place::Inside, table) => {
                let fields = row(text, table)?;
                let row = DumpRow::of_user(table, self.keys, &fields);
                row.ok_or_else(|| unknown(table))?
                    .map(|row| Some(Line::User(row)))
            }
        }
    }

    fn begin(&mut self) -> Result<Option<Line>, String> {
        let text = std::str::from_utf8(&self.buffer).unwrap_or_default();
        match parse(text)? {
            Begin {
                conversation,
                deleted_at: Some(at),
                ..
            } => Ok(Some(Line::Deleted(conversation, Timestamp(at)))),
            Begin {
                conversation: id,
                rev: Some(rev),
                ..
            } => {
                let (last, rows, messages) = (Seq(0), 0, 0);
                self.place = Place::In(Open {
                    id,
                    last,
                    rows,
                    messages,
                });
                Ok(Some(Line::Conversation(id, rev)))
            }
            Begin { .. } => Err("rev: is missing".into()),
        }
    }
}

fn check_first(first: &First, keys: KeyFunction) -> Result<(), String> {
    if first.version != VERSION {
        return Err(format!(
            "the export has version {}; this program reads version {VERSION}: use the one that wrote it, or a newer one",
            first.version
        ));
    }
    if first.keys != keys {
        return Err(format!(
            "the export is of a deployment with {0} keys, and this one has {1} keys: its ids would lead elsewhere. Set keyspace.function = \"{0}\" in a new deployment",
            first.keys.name(),
            keys.name()
        ));
    }
    Ok(())
}

fn head(text: &str, open: &Open) -> Result<DumpRow, String> {
    let mut parts: BTreeMap<&str, &RawValue> = parse(text)?;
    let fields: BTreeMap<&str, &RawValue> =
        parse(parts.remove("conversations").map_or("{}", RawValue::get))?;
    for (name, found) in [("rows", open.rows), ("messages", open.messages)] {
        let written: u64 = parse(parts.get(name).map_or("null", |json| json.get()))?;
        if written != found {
            return Err(format!(
                "conversation {} is not whole: {written} {name} were written, {found} are here",
                open.id
            ));
        }
    }
    let head = DumpRow::of_conversation("conversations", open.id, &fields);
    head.ok_or_else(|| unknown("conversations"))?
}

fn row<'a>(text: &'a str, table: &str) -> Result<BTreeMap<&'a str, &'a RawValue>, String> {
    let mut tables: BTreeMap<&str, BTreeMap<&str, &RawValue>> = parse(text)?;
    match (tables.remove(table), tables.is_empty()) {
        (Some(fields), true) => Ok(fields),
        _ => Err("is not a line of an export".into()),
    }
}

fn unknown(table: &str) -> String {
    let table = table.chars().take(60).collect::<String>();
    format!(
        "`{table}` is nothing that this version knows here; use one that is not older than the export"
    )
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let what = message
            .split_once(" at line ")
            .map_or(message.as_str(), |(what, _)| what);
        format!("is not a line of an export: {what}")
    })
}
