//! The text of an exported WhatsApp chat, as Android and iOS write it. People are the names in the writer's address book.
//!
//! Lines stand in the order of the messages; a line without a time goes on with the message before. Times are those of the
//! phone's zone, which only the user knows. Deleted and edited messages are recognised in English exports.

use std::path::Path;
use std::sync::Arc;

use backscroll_shard::model::ConversationKind;

use super::files::{self, Room, bad};
use super::whatsapp_time::{self, Written};
use super::{Attachment, Conversation, Each, Export, Hints, Message};

const DELETED: [&str; 4] = [
    "This message was deleted",
    "This message was deleted.",
    "You deleted this message",
    "You deleted this message.",
];
const EDITED: &str = "<This message was edited>";
/// What stands for a file in an export without files.
const OMITTED: &str = " omitted";

/// A message's first line, and the lines after it.
struct Block<'a> {
    number: usize,
    when: Written,
    text: String,
    first: &'a str,
}

pub(super) fn read(path: &Path, hints: &Hints, each: Each<'_>) -> anyhow::Result<Export> {
    let Some(zone) = &hints.zone else {
        let what =
            "its times have no zone; say that of the phone with --time-zone, as Europe/Berlin";
        return Err(bad(path, what).into());
    };
    let is_text = |name: &str| Path::new(name).extension().is_some_and(|it| it == "txt");
    let mut found = files::find(path, is_text, "file *.txt")?;
    if found.len() > 1 {
        return Err(bad(path, "has several chats; import them one by one").into());
    }
    let path = &*found.swap_remove(0);
    let bytes = Room::new().bytes(path)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| bad(path, "is not UTF-8: convert it, for example with iconv"))?;
    let blocks = blocks(&text).map_err(|what| bad(path, what))?;
    let order = match hints.dates {
        Some(order) => order,
        None => whatsapp_time::order(blocks.iter().map(|block| block.when))
            .map_err(|what| bad(path, what))?,
    };
    let name = hints.channel.clone().unwrap_or_else(|| name(path));
    let kind = hints.kind.unwrap_or(ConversationKind::Group);
    let mut conversation = Conversation::new("", name, kind);
    let mut export = Export::default();
    let file: Arc<str> = path.display().to_string().into();
    for block in blocks {
        let line = |what: String| bad(path, format_args!("line {}: {what}", block.number + 1));
        let at = block.when.read(order).map_err(line)?;
        let at = at
            .to_zoned(zone.clone())
            .map_err(|error| line(error.to_string()))?;
        let at = at.timestamp().as_millisecond();
        let message = message(&block, &file, at, &mut conversation);
        if let Some(sender) = &message.sender {
            export.people.entry(sender.clone()).or_default();
        }
        conversation.messages.push(message);
    }
    each(conversation)?;
    Ok(export)
}

/// Marks of the direction of text, which stand at any place.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

fn blocks(text: &str) -> Result<Vec<Block<'_>>, String> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some((when, first)) = whatsapp_time::split(line.trim_start_matches(is_mark)) {
            blocks.push(Block {
                number,
                when,
                text: String::new(),
                first,
            });
        } else if let Some(block) = blocks.last_mut() {
            block.text.push('\n');
            block.text.push_str(line);
        } else if !line.trim().is_empty() {
            return Err(format!(
                "line {}: does not begin with a date and a time, as `12/31/20, 9:15 PM - ` or `[31.12.20, 21:15:03] `",
                number + 1
            ));
        }
    }
    Ok(blocks)
}

fn message(
    block: &Block<'_>,
    file: &Arc<str>,
    at: i64,
    conversation: &mut Conversation,
) -> Message {
    let mut message = Message::new((file, block.number), block.number.to_string(), at);
    message.order = block.number.try_into().unwrap_or(i64::MAX); // times are of minutes, and go back with the clock
    let said = block
        .first
        .split_once(": ")
        .or(block.first.strip_suffix(':').map(|name| (name, "")));
    // A notice may have a colon, in a title that it quotes.
    let said = said.filter(|(name, _)| !name.contains(['"', '“', '”']));
    // iOS has notices of a group under the group's name, with a mark before them.
    let is_group = |name: &str| {
        conversation.kind != ConversationKind::Direct
            && name.trim_matches(is_mark) == conversation.name
    };
    let is_notice = said.is_some_and(|(name, text)| is_group(name) && text.starts_with('\u{200E}'));
    let first = match said {
        Some((_, first)) if is_notice => {
            message.is_system = true;
            first
        }
        Some((name, first)) => {
            message.sender = Some(
                name.trim_matches(is_mark)
                    .trim_start_matches("~\u{a0}")
                    .to_owned(),
            );
            first
        }
        None => {
            message.is_system = true;
            block.first
        }
    };
    let mut text = first.trim_start_matches(is_mark).to_owned() + &block.text;
    if let Some(before) = text.trim_end_matches(is_mark).strip_suffix(EDITED) {
        text = before.trim_end_matches(is_mark).trim_end().to_owned();
        message.edited_at = Some(at); // when is not told
    }
    if DELETED.contains(&text.trim_matches(is_mark)) && said.is_some() {
        message.deleted_at = Some(at);
    }
    let (head, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let head = head.trim_matches(is_mark);
    let attached = head
        .strip_prefix("<attached: ")
        .and_then(|it| it.strip_suffix('>'));
    if let Some(name) = attached.or(head.strip_suffix(" (file attached)")) {
        message.attachments.push(Attachment::at(name, None));
        text = rest.to_owned();
    } else if head == "<Media omitted>" || head.ends_with(OMITTED) && first.starts_with('\u{200E}')
    {
        conversation
            .left_out
            .add("files that the export was made without", 1);
    }
    message.text = text;
    message
}

/// The chat's name, from that of the file, or of its folder.
fn name(path: &Path) -> String {
    let stem = |path: &Path| {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let mut name = stem(path);
    if name == "_chat" {
        let folder = path
            .parent()
            .map(|folder| folder.file_name().unwrap_or_default().to_string_lossy());
        name = folder.unwrap_or_default().into_owned();
    }
    let prefixes = ["WhatsApp Chat with ", "WhatsApp Chat - "];
    let short = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
    short.map(str::to_owned).unwrap_or(name)
}
