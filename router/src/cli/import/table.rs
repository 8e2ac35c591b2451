//! Input that is a table with a header: CSV (RFC 4180), or the lines with tabs that `mysql --batch` writes. `--columns` says
//! which column is which field.

use std::str::FromStr;

use backscroll_shard::ids::UserId;
use backscroll_shard::model::{DeliveryStatus, HistoryRecord, MessageType};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// What a column may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Channel,
    User,
    To,
    At,
    Text,
    Status,
}

const FIELDS: [(&str, Field); 6] = [
    ("channel", Field::Channel),
    ("user", Field::User),
    ("to", Field::To),
    ("at", Field::At),
    ("text", Field::Text),
    ("status", Field::Status),
];

/// Which column is which field: `user=sender_id,at=created_at,…`.
#[derive(Clone, Debug)]
pub(super) struct Columns(Vec<(Field, String)>);

impl FromStr for Columns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut columns: Vec<(Field, String)> = Vec::new();
        for pair in text.split(',') {
            let (name, column) = pair.split_once('=').unwrap_or((pair, pair));
            let known = FIELDS.iter().find(|(field, _)| *field == name.trim());
            let Some((_, field)) = known else {
                let names = FIELDS.map(|(name, _)| name).join(", ");
                return Err(format!("`{name}` is no field; the fields are {names}"));
            };
            if columns.iter().any(|(other, _)| other == field) {
                return Err(format!("`{name}` is named twice"));
            }
            columns.push((*field, column.trim().to_owned()));
        }
        for (name, field) in FIELDS {
            let is_optional = matches!(field, Field::Channel | Field::To | Field::Status);
            if !is_optional && !columns.iter().any(|(other, _)| *other == field) {
                return Err(format!("`{name}` is missing, as in {name}=COLUMN"));
            }
        }
        Ok(Self(columns))
    }
}

/// How the values of a line are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Commas and quotes.
    Csv,
    /// Tabs, and `\t`, `\n`, `\\`, `\0` in values; `NULL` is none.
    Batch,
}

/// A table whose header was read.
#[derive(Debug)]
pub(super) struct Table {
    form: Form,
    fields: Vec<(Field, usize)>,
    width: usize,
    zone: Option<TimeZone>,
}

/// A value; none is NULL.
type Value = Option<String>;

impl Table {
    /// By its header.
    ///
    /// # Errors
    /// When a column is missing, or there are two of one name.
    pub(super) fn new(
        columns: &Columns,
        zone: Option<TimeZone>,
        header: &str,
    ) -> Result<Self, String> {
        let form = match header.contains('\t') {
            true => Form::Batch,
            false => Form::Csv,
        };
        let names = form.split(header)?.into_iter();
        let names: Vec<String> = names.map(Option::unwrap_or_default).collect();
        let mut fields = Vec::new();
        for (field, column) in &columns.0 {
            let mut places = names.iter().enumerate().filter(|(_, name)| *name == column);
            match (places.next(), places.next()) {
                (Some((place, _)), None) => fields.push((*field, place)),
                (Some(_), Some(_)) => return Err(format!("two columns are named `{column}`")),
                (None, _) => {
                    let names = names.join(", ");
                    return Err(format!("no column is named `{column}`; there are: {names}"));
                }
            }
        }
        let width = names.len();
        Ok(Self {
            form,
            fields,
            width,
            zone,
        })
    }

    /// Whether a record goes on in the next line, when `line` has been added to it: a quoted value may have line ends.
    /// `is_open` says the same of what was there before.
    pub(super) fn goes_on(&self, is_open: bool, line: &[u8]) -> bool {
        let quotes = line.iter().filter(|byte| **byte == b'"').count();
        self.form == Form::Csv && (is_open == (quotes % 2 == 0))
    }

    /// The lines of a record.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn record(&self, lines: &[u8]) -> Result<HistoryRecord, String> {
        let lines = std::str::from_utf8(lines).map_err(|_| {
            "is not UTF-8: convert the input, or use --default-character-set=utf8mb4".to_owned()
        })?;
        let values = self.form.split(lines)?;
        if values.len() != self.width {
            return Err(format!(
                "has {} values, the header {} columns",
                values.len(),
                self.width
            ));
        }
        let value = |field: Field| {
            let place = self.fields.iter().find(|(other, _)| *other == field);
            place.and_then(|(_, place)| values[*place].as_deref())
        };
        let user = |field, name| {
            let id =
                value(field).map(|id| UserId::new(id).map_err(|error| format!("{name}: {error}")));
            id.transpose()
        };
        Ok(HistoryRecord {
            channel: value(Field::Channel).unwrap_or_default().to_owned(),
            user: user(Field::User, "user")?.ok_or("user: is NULL")?,
            at: self.time(value(Field::At).ok_or("at: is NULL")?)?,
            text: value(Field::Text).unwrap_or_default().to_owned(),
            message_type: MessageType::Text,
            reply_to: None,
            attachments: None,
            reactions: None,
            metadata: None,
            mentions: Vec::new(),
            pinned_at: None,
            pinned_by: None,
            edited_at: None,
            deleted_at: None,
            to: user(Field::To, "to")?,
            status: value(Field::Status).map(status).transpose()?,
        })
    }

    /// Milliseconds as they are, or a date and a time.
    fn time(&self, text: &str) -> Result<i64, String> {
        let text = text.trim();
        if let Ok(millis) = text.parse::<i64>() {
            return Ok(millis);
        }
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Ok(time.as_millisecond());
        }
        let Ok(time) = text.parse::<DateTime>() else {
            return Err(format!(
                "at: `{text}` is no time; write milliseconds since 1970, or 2019-03-01 12:00:00.125"
            ));
        };
        let zone = self.zone.as_ref().ok_or_else(|| {
            format!(
                "at: `{text}` has no time zone; say which with --time-zone, as UTC or Europe/Berlin"
            )
        })?;
        let zoned = zone.to_ambiguous_zoned(time).compatible();
        zoned
            .map(|zoned| zoned.timestamp().as_millisecond())
            .map_err(|error| format!("at: `{text}`: {error}"))
    }
}

fn status(text: &str) -> Result<DeliveryStatus, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "read" | "1" | "true" => Ok(DeliveryStatus::Read),
        "delivered" => Ok(DeliveryStatus::Delivered),
        "sent" | "0" | "false" | "" => Ok(DeliveryStatus::Sent),
        other => Err(format!(
            "status: `{other}` is none of sent, delivered, read, 0 and 1"
        )),
    }
}

impl Form {
    fn split(self, line: &str) -> Result<Vec<Value>, String> {
        match self {
            Self::Batch => {
                let line = line.trim_end_matches(['\r', '\n']);
                let values = line.split('\t').map(unescaped);
                values.collect()
            }
            Self::Csv => csv(line),
        }
    }
}

/// A value as `mysql --batch` writes it, without `--raw`.
fn unescaped(value: &str) -> Result<Value, String> {
    if value == "NULL" {
        return Ok(None);
    }
    let mut plain = String::with_capacity(value.len());
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        let escaped = (c == '\\').then(|| rest.next());
        plain.push(match escaped {
            None => c,
            Some(Some('n')) => '\n',
            Some(Some('t')) => '\t',
            Some(Some('0')) => '\0',
            Some(Some('\\')) => '\\',
            Some(_) => {
                return Err("has a backslash that stands for nothing; write the table with `mysql --batch`, without --raw".into());
            }
        });
    }
    Ok(Some(plain))
}

/// The values of a record of CSV.
fn csv(line: &str) -> Result<Vec<Value>, String> {
    let mut values = Vec::new();
    let mut rest = line.trim_end_matches(['\r', '\n']);
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (value, more) = rest
                .split_once(',')
                .map_or((rest, None), |(it, more)| (it, Some(more)));
            if value.contains('"') {
                return Err(
                    "has a quote within a value; put the value in quotes and write the quote twice"
                        .into(),
                );
            }
            values.push(Some(value.to_owned()));
            match more {
                Some(more) => rest = more,
                None => return Ok(values),
            }
            continue;
        };
        // Up to a quote that is not followed by another one; with the line end, which may be a part of the value.
        let start = line.len() - line.trim_end_matches(['\r', '\n']).len();
        let whole = &line[line.len() - start - quoted.len()..];
        let mut value = String::new();
        let mut chars = whole.char_indices().peekable();
        let end = loop {
            match chars.next() {
                None => return Err("has a quote that is not closed".into()),
                Some((_, '"')) if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                    chars.next();
                    value.push('"');
                }
                Some((place, '"')) => break place,
                Some((_, c)) => value.push(c),
            }
        };
        values.push(Some(value));
        let after = whole[end + 1..].trim_end_matches(['\r', '\n']);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(values),
            None => return Err("has something after a closing quote".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Columns {
        "user=sender_id,to=receiver_id,at=created_at,text=body,status=is_read"
            .parse()
            .unwrap()
    }

    fn table(header: &str, zone: Option<&str>) -> Table {
        let zone = zone.map(|name| TimeZone::get(name).unwrap());
        Table::new(&columns(), zone, header).unwrap()
    }

    #[test]
    fn a_row_that_mysql_wrote_is_read() {
        let table = table(
            "id\tsender_id\treceiver_id\tbody\tis_read\tcreated_at\n",
            Some("Europe/Berlin"),
        );
        let row = table.record(b"1\t100\t7\ta\\tb\\nc\\\\d \"q\"\t1\t2019-07-01 12:00:00.125\n");
        let row = row.unwrap();
        assert_eq!((row.user.as_str(), row.to.unwrap().as_str()), ("100", "7"));
        assert_eq!(row.text, "a\tb\nc\\d \"q\"");
        assert_eq!(
            (row.at, row.status),
            (1_561_975_200_125, Some(DeliveryStatus::Read))
        );
        let null = table
            .record(b"1\t100\t7\tNULL\tNULL\t1561975200125\n")
            .unwrap();
        assert_eq!(
            (null.text.as_str(), null.at, null.status),
            ("", 1_561_975_200_125, None)
        );
    }

    #[test]
    fn csv_is_read_with_quotes_and_line_ends() {
        let table = table("sender_id,receiver_id,created_at,is_read,body\r\n", None);
        let read = |text: &str| table.record(text.as_bytes());
        let open = "1,2,2019-07-01T12:00:00Z,0,\"two\n";
        assert!(table.goes_on(false, open.as_bytes()) && !table.goes_on(true, open.as_bytes()));
        assert!(table.goes_on(true, b"lines\n") && !table.goes_on(false, b"\"\"\n"));
        assert!(
            read(open)
                .unwrap_err()
                .contains("a quote that is not closed")
        );
        let row = read("1,2,2019-07-01T12:00:00Z,0,\"two\r\nlines, \"\"q\"\"\"\r\n").unwrap();
        assert_eq!(
            (row.text.as_str(), row.at),
            ("two\r\nlines, \"q\"", 1_561_982_400_000)
        );
        assert_eq!(read("1,\"2\",5,,\n").unwrap().text, "");
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let table = table("sender_id,receiver_id,created_at,is_read,body", None);
        for (line, problem) in [
            ("1,2,3,0", "has 4 values, the header 5 columns"),
            ("1,2,yesterday,0,x", "at: `yesterday` is no time"),
            (
                "1,2,2019-07-01 12:00:00,0,x",
                "has no time zone; say which with --time-zone",
            ),
            ("1,2,0000-00-00 00:00:00,0,x", "is no time"),
            ("1,2,5,maybe,x", "status: `maybe` is none of"),
            ("1,2,5,0,a\"b", "has a quote within a value"),
            ("1,2,5,0,\"a\"b", "has something after a closing quote"),
            (",2,5,0,x", "user: a user id has 1 to 64 bytes"),
        ] {
            let told = table.record(line.as_bytes()).unwrap_err();
            assert!(told.contains(problem), "{told}");
        }
        for (text, problem) in [
            ("user=a", "`at` is missing"),
            ("user=a,user=b", "named twice"),
            ("colour=a", "`colour` is no field"),
        ] {
            let told = text.parse::<Columns>().unwrap_err();
            assert!(told.contains(problem), "{told}");
        }
        for (header, problem) in [
            ("sender_id,body", "no column is named `receiver_id`"),
            (
                "sender_id,sender_id,body",
                "two columns are named `sender_id`",
            ),
        ] {
            let told = Table::new(&columns(), None, header).unwrap_err();
            assert!(told.contains(problem), "{told}");
        }
    }
}
