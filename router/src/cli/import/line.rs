//! From lines to records, with an answer for a line that is none.

use std::collections::HashMap;
use std::io::{BufRead as _, Read as _};
use std::sync::Arc;

use anyhow::Context as _;
use backscroll_shard::ids::{KeyFunction, UserId};
use backscroll_shard::import::check_record;
use backscroll_shard::model::{ConversationKind, HistoryRecord};
use backscroll_shard::settings::{LimitSettings, StoreSettings};
use jiff::tz::TimeZone;

use super::members::Members;
use super::order::Order;
use super::source::Source;
use super::table::{Columns, Table};
use crate::cli::BadInput;

/// Longest line, in bytes. A record with the largest content, attachments and metadata that the limits allow is shorter.
const LINE_MAX_BYTES: usize = 4 << 20;

/// What a line of the input is.
pub(super) struct Line {
    /// From 1.
    pub number: u64,
    /// The message, or what is wrong with the line.
    pub record: Result<HistoryRecord, String>,
    /// Its length in the input: what holding the record costs, roughly.
    pub bytes: usize,
}

/// What a record must keep, besides its form.
#[derive(Debug)]
pub(super) struct Rules {
    key_function: KeyFunction,
    limits: LimitSettings,
    kind: ConversationKind,
    members: Members,
    /// The columns of a table, and the zone of its times; none for JSON Lines.
    columns: Option<(Columns, Option<TimeZone>)>,
}

impl Rules {
    /// The rules of a store with these settings.
    ///
    /// # Errors
    /// When `owner` cannot be placed on the key space.
    pub(super) fn new(
        settings: &StoreSettings,
        owner: Option<&UserId>,
        (kind, members): (ConversationKind, Members),
        columns: Option<(Columns, Option<TimeZone>)>,
    ) -> Result<Self, BadInput> {
        let rules = Self {
            key_function: settings.keyspace.function,
            limits: settings.limits.clone(),
            kind,
            members,
            columns,
        };
        match owner.map(|owner| rules.user("--owner", owner)) {
            Some(Err(what)) => Err(BadInput(what)),
            _ => Ok(rules),
        }
    }

    fn user(&self, field: &str, user: &UserId) -> Result<(), String> {
        match self.key_function.key(user) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{field}: `{user}`: {error} (keyspace.function)")),
        }
    }

    /// What channels become.
    pub(super) fn kind(&self) -> ConversationKind {
        self.kind
    }

    /// Most members of a group.
    pub(super) fn group_members(&self) -> u64 {
        u64::from(self.limits.group_members)
    }

    /// Most attachments, and most reactions, of a message.
    pub(super) fn most(&self) -> (usize, usize) {
        (
            self.limits.attachments as usize,
            self.limits.reactions as usize,
        )
    }

    /// Who is named besides those who write.
    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    /// In an import as direct conversations, a record names the other person, or its channel's two are in `--members`. A
    /// channel that has no name of its own is named by the two.
    fn pair(&self, record: &mut HistoryRecord) -> Result<(), String> {
        if self.kind != ConversationKind::Direct {
            return match record.to {
                Some(_) => Err("to: only with --as direct".into()),
                None => Ok(()),
            };
        }
        let named = self.members.of(&record.channel);
        let Some(to) = &record.to else {
            let writes = named.iter().any(|(user, _)| *user == record.user);
            return match named.len() {
                1 | 2 if writes => Ok(()),
                0 => Err("to: is missing; name the other person, or both with --members".into()),
                _ => Err(format!(
                    "user: `{}` is not one of the two that --members names for this channel",
                    record.user
                )),
            };
        };
        self.user("to", to)?;
        to.check_new().map_err(|error| format!("to: {error}"))?;
        let is_named = |user| named.iter().any(|(known, _)| known == user);
        let fits = named.is_empty() || (is_named(to) && is_named(&record.user));
        if !fits {
            return Err("to: --members names others for this channel".into());
        }
        if record.channel.is_empty() {
            let (one, other) = (to.min(&record.user), to.max(&record.user));
            record.channel = format!("{one}\t{other}"); // no id has a tab
        }
        Ok(())
    }

    /// What the store would refuse of message `number` of a channel, said here so that the line can be named.
    pub(super) fn check(&self, record: &HistoryRecord, number: u64) -> Result<(), String> {
        check_record(record, number, &self.limits).map_err(|error| error.to_string())?;
        self.user("user", &record.user)
    }
}

/// Reads records line by line. Empty lines are passed over.
pub(super) struct LineReader {
    source: Source,
    rules: Arc<Rules>,
    buffer: Vec<u8>,
    number: u64,
    /// How many messages of each channel were read.
    messages: HashMap<String, u64>,
    /// The two of each channel, in an import as direct conversations.
    pairs: HashMap<String, (UserId, UserId)>,
    /// The table whose rows come, once its header was read.
    table: Option<Table>,
    order: Order,
}

impl LineReader {
    /// Reads from `source`.
    pub(super) fn new(source: Source, rules: Arc<Rules>) -> Self {
        Self {
            source,
            rules,
            buffer: Vec::new(),
            number: 0,
            messages: HashMap::new(),
            pairs: HashMap::new(),
            table: None,
            order: Order::default(),
        }
    }

    /// The next line that is not empty; `None` at the end.
    ///
    /// # Errors
    /// When the input cannot be read or decompressed; nothing sensible follows.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Line>> {
        loop {
            self.buffer.clear();
            let line = self.number + 1;
            let limit = LINE_MAX_BYTES as u64 + 1;
            let context = || format!("cannot read line {line}");
            let bytes = self
                .source
                .by_ref()
                .take(limit)
                .read_until(b'\n', &mut self.buffer)
                .with_context(context)?;
            if bytes == 0 {
                return Ok(None);
            }
            self.number = line;
            if bytes > LINE_MAX_BYTES && self.buffer.last() != Some(&b'\n') {
                self.source.skip_until(b'\n').with_context(context)?;
                let record = Err(format!("is longer than {LINE_MAX_BYTES} bytes"));
                return Ok(Some(Line {
                    number: line,
                    record,
                    bytes,
                }));
            }
            let mut text = self.buffer.as_slice();
            if line == 1 {
                text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text); // a byte order mark, as some editors write
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            if let (None, Some((columns, zone))) = (&self.table, &self.rules.columns) {
                let header = std::str::from_utf8(text).unwrap_or_default();
                let table = Table::new(columns, zone.clone(), header);
                self.table = Some(table.map_err(|what| BadInput(format!("line {line}: {what}")))?);
                continue;
            }
            let parsed = match &self.table {
                None => parse(text),
                Some(_) => self.row()?,
            };
            let record = parsed.and_then(|record| self.accept(record));
            return Ok(Some(Line {
                number: line,
                record,
                bytes,
            }));
        }
    }

    /// The row that begins with the line in the buffer, with the lines that belong to it.
    fn row(&mut self) -> anyhow::Result<Result<HistoryRecord, String>> {
        let Some(table) = &self.table else {
            return Ok(Err("comes before the header".into()));
        };
        let mut is_open = table.goes_on(false, &self.buffer);
        while is_open {
            let before = self.buffer.len();
            let room = LINE_MAX_BYTES.saturating_sub(before) as u64;
            let read = self.source.line(&mut self.buffer, room);
            if !read.with_context(|| format!("cannot read line {}", self.number + 1))? {
                break; // at the end, or at the bound: the quote is not closed
            }
            self.number += 1;
            is_open = table.goes_on(true, &self.buffer[before..]);
        }
        Ok(table.record(&self.buffer))
    }

    /// Whether everything that was read is the newest first.
    ///
    /// # Errors
    /// [`BadInput`] that says how to turn it round.
    pub(super) fn check_order(&self) -> Result<(), BadInput> {
        self.order.check().map_err(BadInput)
    }
}

impl LineReader {
    /// Checks a record, and counts it if it is good.
    fn accept(&mut self, mut record: HistoryRecord) -> Result<HistoryRecord, String> {
        self.rules.pair(&mut record)?;
        self.check_pair(&record)?;
        let known = self.messages.get_mut(&record.channel);
        let number = known.as_ref().map_or(0, |count| **count) + 1;
        self.rules.check(&record, number)?;
        self.order.add(&record)?;
        match known {
            Some(count) => *count = number,
            None => drop(self.messages.insert(record.channel.clone(), number)),
        }
        Ok(record)
    }
}

impl LineReader {
    /// A channel that becomes a direct conversation has the same two people in every line.
    fn check_pair(&mut self, record: &HistoryRecord) -> Result<(), String> {
        let Some(to) = &record.to else { return Ok(()) };
        let pair = (to.min(&record.user), to.max(&record.user));
        let Some((one, other)) = self.pairs.get(&record.channel) else {
            let pair = (pair.0.clone(), pair.1.clone());
            self.pairs.insert(record.channel.clone(), pair);
            return Ok(());
        };
        match pair == (one, other) {
            true => Ok(()),
            false => Err(format!(
                "to: this channel is the conversation of `{one}` and `{other}`"
            )),
        }
    }
}

fn parse(text: &[u8]) -> Result<HistoryRecord, String> {
    // Serde would also take a list of the fields' values for an object.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err("is not a JSON object".into());
    }
    serde_json::from_slice(text).map_err(|_| explain(text))
}

/// Why `text` is not a record. Slower than parsing, and says which field it is.
fn explain(text: &[u8]) -> String {
    if let Err(error) = std::str::from_utf8(text) {
        let column = error.valid_up_to() + 1;
        return format!(
            "is not UTF-8 (column {column}): convert the input, for example with iconv"
        );
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let error = match serde_path_to_error::deserialize::<_, HistoryRecord>(&mut deserializer) {
        Ok(_) => return "has something after the record; write one record a line".into(),
        Err(error) => error,
    };
    let path = error.path().to_string();
    let message = error.inner().to_string();
    let message = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(message, _position)| message);
    let column = error.inner().column();
    if message.contains("surrogate") || message.contains("hex escape") {
        return format!(
            "has half of a character (column {column}): a \\u escape between D800 and DFFF without its other half is no text; take it out"
        );
    }
    if error.inner().is_eof() {
        return format!("is cut off: the JSON ends in the middle (column {column})");
    }
    if error.inner().is_syntax() {
        return format!("is not JSON: {message} (column {column})");
    }
    let message = in_words(message);
    if path == "." {
        message
    } else {
        format!("{path}: {message}")
    }
}

/// A message about a value, without the names of types.
fn in_words(message: &str) -> String {
    let (found, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let expected = match expected {
        "i64" => "a time in whole milliseconds since 1970",
        "u64" => "the number of a message, from 1",
        "" => return message.to_owned(),
        other => other,
    };
    format!("{found}, expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"channel":"zig","user":"7","at":1507466702000,"text":"hello"}"#;

    fn read(
        input: impl Into<Vec<u8>>,
        function: KeyFunction,
    ) -> Vec<(u64, Result<HistoryRecord, String>)> {
        let mut reader = LineReader::new(
            Source::of(input),
            Arc::new(Rules {
                key_function: function,
                limits: LimitSettings::default(),
                kind: ConversationKind::Channel,
                members: Members::default(),
                columns: None,
            }),
        );
        std::iter::from_fn(|| reader.next().unwrap())
            .map(|line| (line.number, line.record))
            .collect()
    }

    fn problem(line: &str) -> String {
        read(line, KeyFunction::Hashed)
            .pop()
            .unwrap()
            .1
            .unwrap_err()
    }

    #[test]
    fn empty_lines_and_a_byte_order_mark_are_passed_over() {
        let lines = read(
            format!("\u{FEFF}{GOOD}\r\n\n  \n{GOOD}"),
            KeyFunction::Hashed,
        );
        assert_eq!(
            lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            [1, 4]
        );
        assert!(lines.iter().all(|(_, record)| record.is_ok()));
    }

    #[test]
    fn a_bad_line_says_what_is_wrong_with_it() {
        let cases = [
            ("nonsense", "is not a JSON object"),
            ("7", "is not a JSON object"),
            (r#"["zig","a",1507466702000,"x"]"#, "is not a JSON object"),
            (
                r#"{"channel":nonsense}"#,
                "is not JSON: expected ident (column 13)",
            ),
            (
                r#"{"channel":"zig","user":"a","at":1507466702000,"text":"\ud83d"}"#,
                r"has half of a character (column 62): a \u escape between D800 and DFFF without its other half is no text; take it out",
            ),
            (
                r#"{"channel":"zig","user":"a","at":"2017-10-08 12:45","text":"x"}"#,
                "at: invalid type: string \"2017-10-08 12:45\", expected a time in whole milliseconds since 1970",
            ),
            (
                r#"{"channel":"zig","user":"..","at":1507466702000,"text":"x"}"#,
                "user: a user id is not `.` or `..`, which no address can name",
            ),
            (
                r#"{"channel":"zig","user":"a","at":1507466702000"#,
                "is cut off: the JSON ends in the middle (column 46)",
            ),
            (
                r#"{"channel":"zig","user":"a","at":1507466702000}"#,
                "missing field `text`",
            ),
            (
                r#"{"channel":"zig","user":7,"at":1507466702000,"text":"x"}"#,
                "user: invalid type: integer `7`, expected a string",
            ),
            (
                r#"{"channel":"zig","user":"","at":1507466702000,"text":"x"}"#,
                "user: a user id has 1 to 64 bytes",
            ),
            (
                r#"{"channel":"","user":"a","at":1507466702000,"text":"x"}"#,
                "channel: 1 to 255 characters without a NUL character",
            ),
            (
                r#"{"channel":"zig","user":"a","at":-1,"text":"x"}"#,
                "at: -1 is before 1970; write milliseconds since 1970",
            ),
            (
                r#"{"channel":"zig","user":"a","at":1507466702,"text":"x"}"#,
                "at: 1507466702 looks like seconds; write milliseconds since 1970",
            ),
            (
                r#"{"channel":"zig","user":"a","at":15074667020000,"text":"x"}"#,
                "at: 15074667020000 is in the future; write milliseconds since 1970",
            ),
            (
                r#"{"channel":"zig","user":"a","at":1507466702000,"text":"","deletedAt":1507466702}"#,
                "deletedAt: 1507466702 looks like seconds; write milliseconds since 1970",
            ),
            (
                r#"{"channel":"zig","user":"a","at":1507466702000,"text":"x","reactions":[]}"#,
                "reactions: must be a JSON object",
            ),
            (
                r#"{"channel":"zig","user":"a","at":1507466702000,"text":"x","attachments":[1]}"#,
                "attachments: must be a list of JSON objects",
            ),
            (
                r#"{"channel":"zig","user":"a","at":1507466702000,"text":"\u0000"}"#,
                "text: must not contain a NUL character",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(problem(line), expected, "{line}");
        }
        assert!(
            problem(r#"{"channel":"zig","user":"a","at":1507466702000,"text":"x","colour":1}"#)
                .starts_with("colour: unknown field `colour`")
        );
        assert_eq!(
            problem(&format!("{GOOD} {GOOD}")),
            "has something after the record; write one record a line"
        );
    }

    #[test]
    fn numeric_keys_ask_for_numeric_users() {
        let named = GOOD.replace("\"7\"", "\"pupp\"");
        let lines = read(format!("{GOOD}\n{named}\n"), KeyFunction::Numeric);
        assert!(lines[0].1.is_ok());
        let problem = lines[1].1.as_ref().unwrap_err();
        assert!(
            problem.contains("`pupp`") && problem.contains("decimal number"),
            "{problem}"
        );
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let long = format!("{}\n{GOOD}\n", "x".repeat(LINE_MAX_BYTES + 10));
        let lines = read(long, KeyFunction::Hashed);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].1.as_ref().unwrap_err().contains("longer than"));
        assert!(lines[1].1.is_ok() && lines[1].0 == 2);
    }
}
