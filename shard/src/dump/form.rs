//! A row as a JSON object and back: the columns in camel case, in their order, without those that are null and without the key
//! of the owner, who is named elsewhere. A round trip gives the same row, byte for byte.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{DumpRow, LEFT_OUT};
use crate::ids::{ConversationId, KeyFunction, UserId};
use crate::moves::rows::{Cell, Record};
use crate::moves::tables::{Kind, Owner, Table};

/// How a column's values are written.
#[derive(Clone, Copy)]
enum Form {
    Int,
    /// A code as a word; the first word is that of the code beside it.
    Word(i64, &'static [&'static str]),
    /// 64 bits as 16 hexadecimal digits: more than a JSON number holds for everybody.
    Digest,
    Text,
    /// Text that is JSON, as itself.
    Json,
    /// Bytes that are text.
    Name,
    Hex,
}

const KINDS: &[&str] = &["direct", "group", "channel"];
const MESSAGE_TYPES: &[&str] = &["text", "image", "voice", "file", "system"];

fn form_of(table: &Table, (name, kind): (&str, Kind)) -> Form {
    match (table.name, name, kind) {
        ("members", "role", _) => Form::Word(0, &["left", "member", "admin", "owner"]),
        ("conversations" | "list_entries", "kind", _) => Form::Word(1, KINDS),
        (_, "last_type", _) => Form::Word(1, MESSAGE_TYPES),
        ("notifications", "priority", _) => Form::Word(1, &["low", "normal", "high", "urgent"]),
        ("media", "kind", _) => Form::Word(1, &["image", "voice", "file"]),
        ("media", "state", _) => Form::Word(1, &["pending", "ready", "rejected", "removed"]),
        (_, name, Kind::Int) if name.ends_with("digest") => Form::Digest,
        (_, _, Kind::Int) => Form::Int,
        (_, "metadata" | "first_members" | "writers" | "blocked_by", Kind::Text) => Form::Json,
        (_, _, Kind::Text) => Form::Text,
        (_, "user_id" | "blocked_id" | "created_by" | "last_sender" | "uploader", Kind::Bytes) => {
            Form::Name
        }
        (_, _, Kind::Bytes) => Form::Hex,
    }
}

/// What an import computes anew.
fn is_derived(table: &Table, column: &str) -> bool {
    table.name == "conversations" && column == "oldest_hot_at"
}

impl DumpRow {
    /// Appends `{"table":{…}}` without the closing brace of the line, so that a caller may add more.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(self.table.name.as_bytes());
        out.extend_from_slice(b"\":{");
        let mut separator = "";
        let columns = self.table.columns.iter().zip(self.record.cells()).skip(1);
        for ((name, kind), cell) in columns {
            if *cell == Cell::Null || is_derived(self.table, name) {
                continue;
            }
            out.extend_from_slice(separator.as_bytes());
            out.push(b'"');
            out.extend_from_slice(camel_case(name).as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(written(cell, form_of(self.table, (name, *kind))).as_bytes());
            separator = ",";
        }
        out.push(b'}');
    }

    /// A row of a conversation. `None` when no exported table has this name.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn of_conversation(
        table: &str,
        id: ConversationId,
        fields: &BTreeMap<&str, &RawValue>,
    ) -> Option<Result<Self, String>> {
        let table = named(table, Owner::Conversation)?;
        Some(read(table, Cell::Bytes(id.as_bytes().to_vec()), fields))
    }

    /// A row of a user, who is named in it. `None` when no exported table has this name.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn of_user(
        table: &str,
        keys: KeyFunction,
        fields: &BTreeMap<&str, &RawValue>,
    ) -> Option<Result<Self, String>> {
        let table = named(table, Owner::User)?;
        let key = || {
            let user = fields.get("userId").ok_or("userId: is missing")?;
            let user: UserId =
                serde_json::from_str(user.get()).map_err(|error| format!("userId: {error}"))?;
            keys.key(&user)
                .map_err(|error| format!("userId: `{user}`: {error}"))
        };
        Some(key().and_then(|key| read(table, Cell::Bytes(key.to_bytes().to_vec()), fields)))
    }
}

/// The exported table of this name, or that of the heads.
fn named(name: &str, owner: Owner) -> Option<&'static Table> {
    let table = Table::named(name).filter(|table| table.owner == owner)?;
    let is_left_out = LEFT_OUT.iter().any(|(left_out, _)| *left_out == name);
    (name == "conversations" || !is_left_out).then_some(table)
}

fn read(
    table: &'static Table,
    owner: Cell,
    fields: &BTreeMap<&str, &RawValue>,
) -> Result<DumpRow, String> {
    let mut cells = vec![owner];
    let mut known = 0;
    for (place, (name, kind)) in table.columns.iter().enumerate().skip(1) {
        let key = camel_case(name);
        let value = fields
            .get(key.as_str())
            .filter(|_| !is_derived(table, name));
        known += usize::from(value.is_some());
        let cell = match value {
            None if place < table.key => return Err(format!("{key}: is missing")),
            None => Cell::Null,
            Some(value) => parsed(value.get(), form_of(table, (name, *kind)), *kind)
                .ok_or_else(|| format!("{key}: is not what an export has there"))?,
        };
        cells.push(cell);
    }
    if known < fields.len() {
        let names: Vec<String> = table
            .columns
            .iter()
            .map(|(name, _)| camel_case(name))
            .collect();
        let unknown = fields
            .keys()
            .find(|key| !names.iter().any(|name| name == *key));
        let unknown = unknown.copied().unwrap_or_default();
        return Err(format!(
            "{unknown}: this version has no such field; use one that is not older than the export"
        ));
    }
    let record = Record::new(cells);
    Ok(DumpRow { table, record })
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut all = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        all.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        all.push_str(letters.as_str());
    }
    all
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn written(cell: &Cell, form: Form) -> String {
    match (cell, form) {
        (Cell::Int(code), Form::Word(first, words)) => {
            let word = usize::try_from(code - first)
                .ok()
                .and_then(|at| words.get(at));
            word.map_or_else(|| code.to_string(), |word| quoted(word))
        }
        (Cell::Int(value), Form::Digest) => format!("\"{:016x}\"", value.cast_unsigned()),
        (Cell::Int(value), _) => value.to_string(),
        (Cell::Text(text), Form::Json) if is_one_line_object(text) => text.clone(),
        (Cell::Text(text), _) => quoted(text),
        (Cell::Bytes(bytes), Form::Name) => quoted(&String::from_utf8_lossy(bytes)),
        (Cell::Bytes(bytes), _) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("\"{digits}\"")
        }
        (Cell::Null, _) => "null".to_owned(),
    }
}

/// Whether it can stand in a line as itself and be read back byte for byte; and is not taken for a string.
fn is_one_line_object(text: &str) -> bool {
    let value: Result<&RawValue, _> = serde_json::from_str(text);
    text.starts_with(['{', '['])
        && !text.contains(['\n', '\r'])
        && value.is_ok_and(|it| it.get() == text)
}

fn parsed(json: &str, form: Form, kind: Kind) -> Option<Cell> {
    let is_text = json.starts_with('"');
    let text = || serde_json::from_str::<String>(json).ok();
    match (kind, form) {
        (Kind::Int, Form::Word(first, words)) if is_text => {
            let text = text()?;
            let place = words.iter().position(|word| *word == text)?;
            Some(Cell::Int(first + i64::try_from(place).ok()?))
        }
        (Kind::Int, Form::Digest) => {
            let digest = u64::from_str_radix(&text()?, 16).ok()?;
            Some(Cell::Int(digest.cast_signed()))
        }
        (Kind::Int, _) => serde_json::from_str(json).ok().map(Cell::Int),
        (Kind::Text, Form::Json) if !is_text => {
            is_one_line_object(json).then(|| Cell::Text(json.to_owned()))
        }
        (Kind::Text, _) => text().map(Cell::Text),
        (Kind::Bytes, Form::Name) => UserId::new(text()?)
            .ok()
            .map(|user| Cell::Bytes(user.as_str().as_bytes().to_vec())),
        (Kind::Bytes, _) => {
            let text = text()?;
            let digits = text.as_bytes().chunks(2);
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let bytes: Option<Vec<u8>> = digits.map(byte).collect();
            bytes.filter(|_| text.len() % 2 == 0).map(Cell::Bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::UserKey;
    use crate::moves::tables::MOVED;

    fn cell(kind: Kind, form: Form) -> BoxedStrategy<Cell> {
        match (kind, form) {
            (Kind::Int, _) => any::<i64>().prop_map(Cell::Int).boxed(),
            (Kind::Text, Form::Json) => prop_oneof![
                Just("{\"a\":\n1}".to_owned()),
                Just("{\"a\":1e400}".to_owned()),
                Just("[ ]".to_owned()),
                Just("\"x\"".to_owned()),
                any::<String>(),
            ]
            .prop_map(Cell::Text)
            .boxed(),
            (Kind::Text, _) => any::<String>().prop_map(Cell::Text).boxed(),
            (Kind::Bytes, Form::Name) => "[^\\p{Cc}]{1,16}"
                .prop_map(|text| Cell::Bytes(text.into_bytes()))
                .boxed(),
            (Kind::Bytes, _) => any::<[u8; 16]>()
                .prop_map(|it| Cell::Bytes(it.to_vec()))
                .boxed(),
        }
    }

    fn row() -> impl Strategy<Value = DumpRow> {
        (0..MOVED.len()).prop_flat_map(|place| {
            let table = &MOVED[place];
            let cells: Vec<BoxedStrategy<Cell>> = table
                .columns
                .iter()
                .enumerate()
                .map(|(place, (name, kind))| {
                    let cell = cell(*kind, form_of(table, (name, *kind)));
                    match place {
                        0 => Just(Cell::Bytes(vec![7; 16])).boxed(),
                        _ if is_derived(table, name) => Just(Cell::Null).boxed(),
                        _ if place < table.key => cell,
                        _ => prop_oneof![Just(Cell::Null), cell].boxed(),
                    }
                })
                .collect();
            cells.prop_map(move |cells| DumpRow {
                table,
                record: Record::new(cells),
            })
        })
    }

    proptest! {
        #[test]
        fn a_row_reads_back_as_it_was(row in row()) {
            let mut line = Vec::new();
            row.write(&mut line);
            line.push(b'}');
            let text = String::from_utf8(line).unwrap();
            prop_assert!(!text.contains(['\n', '\r']));
            let all: BTreeMap<&str, BTreeMap<&str, &RawValue>> = serde_json::from_str(&text).unwrap();
            let fields = &all[row.table.name];
            prop_assert_eq!(read(row.table, Cell::Bytes(vec![7; 16]), fields), Ok(row));
        }
    }

    #[test]
    fn rows_are_named_and_what_is_unknown_is_refused() {
        let id = ConversationId::new(UserKey(1), 2);
        let of = |table: &str, json: &str| {
            let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(json).unwrap();
            DumpRow::of_conversation(table, id, &fields)
        };
        let member =
            r#"{"userId":"bob","role":"owner","readSeq":1,"deliveredSeq":2,"rev":3,"joinedAt":4}"#;
        let row = of("members", member).unwrap().unwrap();
        assert_eq!((row.int("role"), row.int("joined_at")), (Some(3), Some(4)));
        for (json, problem) in [
            (
                r#"{"userId":"bob","colour":1}"#,
                "colour: this version has no such field",
            ),
            (r#"{"role":"owner"}"#, "userId: is missing"),
            (r#"{"userId":"bob","role":"king"}"#, "role: is not what"),
            (r#"{"userId":"bob","rev":"3"}"#, "rev: is not what"),
            (r#"{"userId":""}"#, "userId: is not what"),
        ] {
            let told = of("members", json).unwrap().unwrap_err();
            assert!(told.starts_with(problem), "{told}");
        }
        assert!(of("list_marks", "{}").is_none() && of("users", "{}").is_none());
    }
}
