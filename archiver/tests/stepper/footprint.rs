//! Footprints: what a step read and wrote. Two steps commute unless one of them wrote what the other read or wrote.

use std::collections::BTreeSet;
use std::fmt;

use backscroll_archiver::object_store::Operation;
use backscroll_shard::db::Value;

/// Tables on which no answer and no job here depends: the history of jobs, members' watermarks (a message's `status`), and the
/// conversation lists, whose relay stands still.
const UNOBSERVED: [&str; 7] = [
    "archive_jobs",
    "imports",
    "members",
    "list_marks",
    "list_entries",
    "users",
    "last_seen",
];

/// Tables whose rows are told apart by their conversation.
const BY_CONVERSATION: [&str; 2] = ["messages", "conversations"];

/// What stands for a table where an object is meant.
const OBJECTS: &str = "object";

/// A table, or its rows of one conversation; or an object, or all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    table: String,
    key: Option<Vec<u8>>,
}

impl Place {
    fn overlaps(&self, other: &Self) -> bool {
        let same = |key: &Vec<u8>| other.key.as_ref().is_none_or(|other| key == other);
        self.table == other.table && self.key.as_ref().is_none_or(same)
    }
}

/// What a step read and wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    read: BTreeSet<Place>,
    written: BTreeSet<Place>,
}

impl Footprint {
    /// Whether two steps may not commute.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let meet = |these: &BTreeSet<Place>, those: &BTreeSet<Place>| {
            these
                .iter()
                .any(|this| those.iter().any(|that| this.overlaps(that)))
        };
        meet(&self.written, &other.written)
            || meet(&self.written, &other.read)
            || meet(&self.read, &other.written)
    }

    /// Adds a statement; `changed` is how many rows it wrote, nothing for a read or a failure.
    pub(crate) fn add_statement(
        &mut self,
        statement: &str,
        args: &[Value<'_>],
        changed: Option<u64>,
    ) {
        let mut words = statement
            .split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | ';'))
            .filter(|word| !word.is_empty())
            .peekable();
        let verb = words.peek().copied().unwrap_or_default();
        let mut is_target = verb != "SELECT" && changed != Some(0);
        while let Some(word) = words.next() {
            let Some(table) = words.next_if(|table| {
                matches!(word, "FROM" | "JOIN" | "INTO" | "UPDATE") && is_table(table)
            }) else {
                continue;
            };
            // The first table of a write is its target, the others are read.
            let into = if std::mem::take(&mut is_target) {
                &mut self.written
            } else {
                &mut self.read
            };
            if !UNOBSERVED.contains(&table) {
                into.extend(places(table, statement, args));
            }
        }
    }

    /// Adds a request to the object store.
    pub(crate) fn add_request(&mut self, operation: Operation, subject: &str) {
        let key = match operation {
            Operation::List => None,
            _ => Some(subject.as_bytes().to_vec()),
        };
        let place = Place {
            table: OBJECTS.into(),
            key,
        };
        match operation {
            Operation::GetRange | Operation::Head | Operation::List => self.read.insert(place),
            Operation::ListUploads => false, // nothing is uploaded in parts here
            _ => self.written.insert(place),
        };
    }

    /// Makes reads of all writes: their transaction was rolled back.
    pub(crate) fn undo_writes(&mut self) {
        self.read.append(&mut self.written);
    }

    /// Adds another footprint.
    pub(crate) fn add(&mut self, mut other: Self) {
        self.read.append(&mut other.read);
        self.written.append(&mut other.written);
    }
}

fn is_table(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// The rows of `table` that a statement means by the conversations among its values, or all of it.
fn places(table: &str, statement: &str, args: &[Value<'_>]) -> Vec<Place> {
    let whole = Place {
        table: table.to_owned(),
        key: None,
    };
    let is_range = statement.contains("id > ?") || statement.contains("id >= ?");
    if !BY_CONVERSATION.contains(&table) || is_range {
        return vec![whole];
    }
    let named: BTreeSet<Vec<u8>> = args
        .iter()
        .filter_map(|arg| match arg {
            Value::Bytes(bytes) if bytes.len() == 16 => Some(bytes.to_vec()),
            _ => None,
        })
        .collect();
    if named.is_empty() {
        return vec![whole];
    }
    let part = |key| Place {
        table: table.to_owned(),
        key: Some(key),
    };
    named.into_iter().map(part).collect()
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |places: &BTreeSet<Place>| {
            let tables: BTreeSet<&str> = places.iter().map(|place| place.table.as_str()).collect();
            tables.into_iter().collect::<Vec<_>>().join(" ")
        };
        let (read, written) = (names(&self.read), names(&self.written));
        match (read.is_empty(), written.is_empty()) {
            (true, true) => f.write_str("nothing shared"),
            (false, true) => write!(f, "reads {read}"),
            (true, false) => write!(f, "writes {written}"),
            (false, false) => write!(f, "reads {read}; writes {written}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(statement: &str, args: &[Value<'_>]) -> Footprint {
        let mut footprint = Footprint::default();
        footprint.add_statement(statement, args, Some(1));
        footprint
    }

    #[test]
    fn a_statement_writes_its_target_and_reads_the_rest() {
        let settle = of(
            "UPDATE conversations SET oldest_hot_at = (SELECT m.created_at FROM messages m WHERE m.conversation_id = conversations.id) WHERE id IN (?)",
            &[Value::Bytes(&[1; 16])],
        );
        assert_eq!(settle.to_string(), "reads messages; writes conversations");
        let insert = of(
            "INSERT INTO archive_runs (a) VALUES (?) {on_duplicate a} a = {new a}",
            &[],
        );
        assert_eq!(insert.to_string(), "writes archive_runs");
        let begun = of("INSERT INTO archive_jobs (a) VALUES (?)", &[]);
        assert_eq!(begun.to_string(), "nothing shared");
    }

    #[test]
    fn conversations_are_apart_and_ranges_of_them_are_not() {
        let page = |id: &[u8; 16]| {
            of(
                "SELECT seq FROM messages WHERE conversation_id = ?",
                &[Value::Bytes(id)],
            )
        };
        let delete = of(
            "DELETE FROM messages WHERE conversation_id = ?",
            &[Value::Bytes(&[1; 16])],
        );
        assert!(delete.conflicts(&page(&[1; 16])));
        assert!(!delete.conflicts(&page(&[2; 16])));
        assert!(!page(&[1; 16]).conflicts(&page(&[1; 16])));
        let head = of(
            "UPDATE conversations SET rev = ? WHERE id = ?",
            &[Value::Bytes(&[1; 16])],
        );
        let candidates = of(
            "SELECT c.id FROM conversations c WHERE c.id > ?",
            &[Value::Bytes(&[2; 16])],
        );
        assert!(head.conflicts(&candidates));
    }

    #[test]
    fn a_write_that_changed_nothing_is_a_read() {
        let mut delete = of("DELETE FROM holds WHERE conversation_id = ?", &[]);
        delete.undo_writes();
        assert_eq!(delete.to_string(), "reads holds");
        let mut nothing = Footprint::default();
        nothing.add_statement("DELETE FROM holds WHERE a = ?", &[], Some(0));
        assert_eq!(nothing.to_string(), "reads holds");
    }

    #[test]
    fn a_listing_meets_every_object() {
        let request = |operation, key: &str| {
            let mut footprint = Footprint::default();
            footprint.add_request(operation, key);
            footprint
        };
        let listing = request(Operation::List, "segments/");
        assert!(listing.conflicts(&request(Operation::Put, "a")));
        assert!(!listing.conflicts(&request(Operation::GetRange, "a")));
        assert!(request(Operation::Delete, "a").conflicts(&request(Operation::GetRange, "a")));
        assert!(!request(Operation::Delete, "a").conflicts(&request(Operation::GetRange, "b")));
    }
}
