//! How much a range holds, without reading it.
//!
//! The keys between the first and the last one that have rows are cut into 32 parts. In each part up to a few thousand rows of every large table are
//! counted in the order of the primary key. If there are no more, the count is exact; if there are, the rest follows from how far the
//! counted ones reach into the part. A part that has more than a thirty-second of everything is cut again, down to a single
//! key, so the parts are fine where much is. Messages are not counted: a conversation's are its head without what is archived. The
//! size of a row is the mean of some that are read.
//!
//! So a look costs a bounded number of short statements on primary keys, however large the range is. Not seen are messages that
//! came back from the archive because they were changed, and the tables with at most a row for each conversation or user.

use std::collections::BinaryHeap;
use std::time::Instant;

use serde::Serialize;

use crate::db::{Connection, Value};
use crate::error::{Error, Result};
use crate::ids::UserKey;
use crate::moves::rows;
use crate::moves::scope::Scope;
use crate::moves::tables::{MOVED, Owner, Table};
use crate::range::KeyRange;

/// Into how many parts the keys are cut, and how often some part is cut again.
const PARTS: u32 = 32;
const CUTS: usize = 64;
/// A single key cannot be cut: so many times as many rows of it are counted.
const SINGLE: i64 = 50;
/// Rows that are read for the size of a table's rows.
const SIZED: usize = 64;

/// The tables whose rows are counted by the user.
const OF_USERS: [&str; 4] = ["list_entries", "notifications", "users", "last_seen"];
/// By the primary keys of both tables; `{}` is the condition on the keys.
const CONVERSATIONS: (&str, &str) = (
    "SELECT COUNT(*), CAST(COALESCE(SUM(hot), 0) AS {signed}), CAST(COALESCE(SUM(member_count), 0) AS {signed}), \
     CAST(COALESCE(SUM(runs), 0) AS {signed}), CAST(COALESCE(SUM(rev), 0) AS {signed}), MAX(id) FROM (SELECT id, member_count, rev, \
     head_seq - COALESCE((SELECT MAX(r.last_seq) FROM archive_runs r {by PRIMARY} WHERE r.conversation_id = conversations.id), 0) AS hot, \
     (SELECT COUNT(*) FROM archive_runs r {by PRIMARY} WHERE r.conversation_id = conversations.id) AS runs \
     FROM conversations {by PRIMARY} WHERE ",
    " ORDER BY id LIMIT ?) some",
);
/// By the primary key.
const REVS: &str = "SELECT CAST(COALESCE(SUM(rev), 0) AS {signed}) FROM conversations {by PRIMARY} WHERE id >= ? AND id <= ?";

/// What keys hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Weight {
    /// Rows of the hot tables.
    pub rows: u64,
    /// Bytes of their columns. On disk they take about twice that.
    pub bytes: u64,
    /// Changes of conversations a second: messages, edits, reactions, changes of members.
    pub writes_per_second: f64,
}

impl Weight {
    pub(super) fn plus(&self, other: &Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            bytes: self.bytes + other.bytes,
            writes_per_second: self.writes_per_second + other.writes_per_second,
        }
    }

    /// Its part of `total`, each figure by its factor; what there is none of counts for nothing.
    #[expect(clippy::cast_precision_loss, reason = "shares")]
    pub(super) fn load(&self, total: &Self, factors: (u32, u32, u32)) -> f64 {
        let shares = [
            (self.rows as f64, total.rows as f64, factors.0),
            (self.bytes as f64, total.bytes as f64, factors.1),
            (self.writes_per_second, total.writes_per_second, factors.2),
        ];
        let counted = shares.iter().filter(|(_, total, _)| *total > 0.0);
        let all: f64 = counted.clone().map(|it| f64::from(it.2)).sum();
        let sum: f64 = counted.map(|it| it.0 / it.1 * f64::from(it.2)).sum();
        if all > 0.0 { sum / all } else { 0.0 }
    }
}

/// A small part of a range.
#[derive(Clone, Debug)]
pub(in crate::moves) struct Part {
    pub(in crate::moves) range: KeyRange,
    pub(in crate::moves) weight: Weight,
    is_counted: bool,
    mark: WriteMark,
}

/// Where changes of a part's conversations are counted from.
#[derive(Clone, Debug)]
struct WriteMark {
    at: Instant,
    revs: i64,
    /// The last conversation that was counted, and for how many each counted one stands.
    last: Option<Vec<u8>>,
    scale: f64,
}

/// A range in parts, in the order of their keys: all of its keys are in one of them.
#[derive(Clone, Debug)]
pub(in crate::moves) struct Weighed {
    pub(in crate::moves) parts: Vec<Part>,
}

impl Weighed {
    pub(in crate::moves) fn total(&self) -> Weight {
        let weights = self.parts.iter().map(|part| part.weight);
        weights.fold(Weight::default(), |sum, it| sum.plus(&it))
    }

    /// Whether all rows were counted; else some are estimated.
    pub(super) fn is_counted(&self) -> bool {
        self.parts.iter().all(|part| part.is_counted)
    }
}

/// The mean sizes of rows, in bytes.
struct Sizes {
    conversation: u64,
    member: u64,
    message: u64,
    run: u64,
    of_users: [u64; OF_USERS.len()],
}

/// Weighs a range; up to `counted` rows of a table are counted in each of its parts.
///
/// # Errors
/// When the database fails.
pub(in crate::moves) async fn weigh(
    connection: &mut Connection,
    range: KeyRange,
    counted: u32,
) -> Result<Weighed> {
    let sizes = Sizes::of(connection, range).await?;
    let look = Look {
        counted: i64::from(counted),
        sizes,
    };
    let mut small: Vec<Part> = Vec::new();
    let mut large: BinaryHeap<ByRows> = BinaryHeap::new();
    let mut total = 0;
    let mut pending = Some(range);
    let mut cuts = 0;
    while let Some(whole) = pending.take() {
        for part in look.cut(connection, whole).await? {
            total += part.weight.rows;
            large.push(ByRows(part));
        }
        cuts += 1;
        while let Some(ByRows(part)) = large.pop() {
            let is_fine = part.range.width() == 1 || part.weight.rows <= total / u64::from(PARTS);
            if is_fine || cuts > CUTS {
                small.push(part);
                continue;
            }
            total -= part.weight.rows;
            pending = Some(part.range);
            break;
        }
    }
    small.sort_by_key(|part| part.range.start);
    Ok(Weighed { parts: small })
}

/// Parts, the heaviest first.
struct ByRows(Part);

impl PartialEq for ByRows {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByRows {}

impl PartialOrd for ByRows {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByRows {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let order = |it: &Self| (it.0.weight.rows, it.0.range.start);
        order(self).cmp(&order(other))
    }
}

struct Look {
    counted: i64,
    sizes: Sizes,
}

impl Look {
    /// A range in about 32 parts, each weighed; the keys before the first and after the last row are parts of their own.
    async fn cut(&self, connection: &mut Connection, range: KeyRange) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let Some((first, last)) = ends(connection, range).await? else {
            parts.push(Part::empty(range));
            return Ok(parts);
        };
        let end = last.checked_add(1);
        parts.extend(KeyRange::new(range.start, Some(first)).map(Part::empty));
        let held = KeyRange { start: first, end };
        for cell in held.split_into(PARTS) {
            parts.push(self.weigh(connection, cell).await?);
        }
        if let Some(end) = end.filter(|end| Some(*end) != range.end) {
            parts.extend(KeyRange::new(end, range.end).map(Part::empty));
        }
        Ok(parts)
    }

    async fn weigh(&self, connection: &mut Connection, range: KeyRange) -> Result<Part> {
        let most = if range.width() == 1 {
            self.counted * SINGLE
        } else {
            self.counted
        };
        let (condition, bounds) = within(&MOVED[0], &range);
        let (before, after) = CONVERSATIONS;
        let statement = format!("{before}{condition}{after}");
        let mut args: Vec<Value<'_>> = bounds.iter().map(|it| Value::Bytes(it)).collect();
        args.push(most.into());
        let at = Instant::now();
        let row = connection.fetch_optional(&statement, &args).await?;
        let row = row.ok_or(Error::Unexpected("a COUNT gave no row"))?;
        let figure = |column| Ok::<_, Error>(row.int(column)?.max(0).cast_unsigned());
        let last = row.opt_bytes(5)?;
        let is_capped = row.int(0)? >= most;
        let scale = match &last {
            Some(last) if is_capped => scale(&range, last),
            _ => 1.0,
        };
        let mut part = Part::empty(range);
        part.is_counted = !is_capped;
        part.mark = WriteMark {
            at,
            revs: row.int(4)?,
            last,
            scale,
        };
        let sizes = &self.sizes;
        for (column, size) in [
            (0, sizes.conversation),
            (1, sizes.message),
            (2, sizes.member),
            (3, sizes.run),
        ] {
            part.add(figure(column)?, scale, size);
        }
        for (name, size) in OF_USERS.into_iter().zip(sizes.of_users) {
            let (count, last) = count(connection, named(name)?, &range, most).await?;
            let is_capped = count >= most;
            part.is_counted &= !is_capped;
            let scale = match last {
                Some(last) if is_capped => self::scale(&range, &last),
                _ => 1.0,
            };
            part.add(count.cast_unsigned(), scale, size);
        }
        Ok(part)
    }
}

impl Part {
    /// Counts the changes since it was weighed, and puts their rate down. Gives how many were seen.
    ///
    /// # Errors
    /// When the database fails.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) async fn count_writes(&mut self, connection: &mut Connection) -> Result<f64> {
        let WriteMark {
            at,
            revs,
            last,
            scale,
        } = &self.mark;
        let Some(last) = last else { return Ok(0.0) };
        let first = [&UserKey(self.range.start).to_bytes()[..], &[0; 8]].concat();
        let args = [Value::Bytes(&first), Value::Bytes(last)];
        let row = connection.fetch_optional(REVS, &args).await?;
        let row = row.ok_or(Error::Unexpected("a SUM gave no row"))?;
        let seen = (row.int(0)? - revs).max(0) as f64;
        self.weight.writes_per_second = seen * scale / at.elapsed().as_secs_f64().max(0.001);
        Ok(seen)
    }

    fn empty(range: KeyRange) -> Self {
        Self {
            range,
            weight: Weight::default(),
            is_counted: true,
            mark: WriteMark {
                at: Instant::now(),
                revs: 0,
                last: None,
                scale: 1.0,
            },
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    fn add(&mut self, count: u64, scale: f64, size: u64) {
        let rows = (count as f64 * scale) as u64;
        self.weight.rows = self.weight.rows.saturating_add(rows);
        self.weight.bytes = self.weight.bytes.saturating_add(rows.saturating_mul(size));
    }
}

/// For how many rows each one stands, where those counted reach from the beginning of a range to the key `last`.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn scale(range: &KeyRange, last: &[u8]) -> f64 {
    let mut bytes = [0; 16];
    let length = last.len().min(16);
    bytes[..length].copy_from_slice(&last[..length]);
    let reached = u128::from_be_bytes(bytes) - (u128::from(range.start) << 64);
    let unit = if last.len() <= 8 { 2f64.powi(64) } else { 1.0 }; // up to the end of that key
    let reached = (reached as f64 + unit) / 2f64.powi(64);
    (range.width() as f64 / reached).max(1.0)
}

fn named(name: &str) -> Result<&'static Table> {
    let mut tables = MOVED.iter();
    let found = tables.find(|table| table.name == name);
    found.ok_or(Error::Unexpected(
        "a table that is not in the registry of moves",
    ))
}

/// The condition that a row of `table` is in `range`, one stretch of the primary key, with its values.
fn within(table: &Table, range: &KeyRange) -> (String, Vec<Vec<u8>>) {
    let column = table.columns[0].0;
    let low: &[u8] = match table.owner {
        Owner::Conversation => &[0; 8],
        Owner::User => &[],
    };
    let bound = |key: u64| [&UserKey(key).to_bytes()[..], low].concat();
    match range.end {
        None => (format!("{column} >= ?"), vec![bound(range.start)]),
        Some(end) => (
            format!("{column} >= ? AND {column} < ?"),
            vec![bound(range.start), bound(end)],
        ),
    }
}

/// Of a user's table: how many rows, up to `most`, and the key of the last one.
async fn count(
    connection: &mut Connection,
    table: &Table,
    range: &KeyRange,
    most: i64,
) -> Result<(i64, Option<Vec<u8>>)> {
    let (condition, bounds) = within(table, range);
    let column = table.columns[0].0;
    let statement = format!(
        "SELECT COUNT(*), MAX({column}) FROM (SELECT {column} FROM {} {{by PRIMARY}} WHERE {condition} ORDER BY {column} LIMIT ?) some",
        table.name
    );
    let mut args: Vec<Value<'_>> = bounds.iter().map(|it| Value::Bytes(it)).collect();
    args.push(most.into());
    let row = connection.fetch_optional(&statement, &args).await?;
    let row = row.ok_or(Error::Unexpected("a COUNT gave no row"))?;
    Ok((row.int(0)?, row.opt_bytes(1)?))
}

/// The first and the last key of a range that have rows.
async fn ends(connection: &mut Connection, range: KeyRange) -> Result<Option<(u64, u64)>> {
    let mut ends: Option<(u64, u64)> = None;
    let tables = ["conversations"].into_iter().chain(OF_USERS);
    for name in tables {
        let table = named(name)?;
        for order in ["", " DESC"] {
            let (condition, bounds) = within(table, &range);
            let column = table.columns[0].0;
            let statement = format!(
                "SELECT {column} FROM {} {{by PRIMARY}} WHERE {condition} ORDER BY {column}{order} LIMIT 1",
                table.name
            );
            let args: Vec<Value<'_>> = bounds.iter().map(|it| Value::Bytes(it)).collect();
            let Some(row) = connection.fetch_optional(&statement, &args).await? else {
                break;
            };
            let bytes = row.bytes(0)?;
            let key = bytes.get(..8).and_then(UserKey::from_bytes);
            let key = key
                .ok_or_else(|| Error::corrupt(format_args!("a key of {}", table.name)))?
                .0;
            let (first, last) = ends.unwrap_or((key, key));
            ends = Some((first.min(key), last.max(key)));
        }
    }
    Ok(ends)
}

impl Sizes {
    async fn of(connection: &mut Connection, range: KeyRange) -> Result<Self> {
        let mut size = async |name: &str| {
            let table = named(name)?;
            let scope = Scope::Range(range);
            let records = rows::read(connection, table, &scope, None, SIZED).await?;
            let sum: usize = records.iter().map(rows::Record::size).sum();
            Ok::<_, Error>((sum / records.len().max(1)) as u64)
        };
        Ok(Self {
            conversation: size("conversations").await?,
            member: size("members").await?,
            message: size("messages").await?,
            run: size("archive_runs").await?,
            of_users: [
                size(OF_USERS[0]).await?,
                size(OF_USERS[1]).await?,
                size(OF_USERS[2]).await?,
                size(OF_USERS[3]).await?,
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_stands_for_the_rest_of_the_part() {
        let range = KeyRange::new(1000, Some(2000)).unwrap();
        let conversation = |key: u64, low: u64| [key.to_be_bytes(), low.to_be_bytes()].concat();
        assert!((scale(&range, &conversation(1500, 0)) - 2.0).abs() < 1e-6);
        assert!((scale(&range, &1499u64.to_be_bytes()) - 2.0).abs() < 1e-6);
        assert!((scale(&range, &conversation(1999, u64::MAX)) - 1.0).abs() < 1e-6);
        let key = KeyRange::new(7, Some(8)).unwrap();
        assert!((scale(&key, &conversation(7, 1 << 62)) - 4.0).abs() < 1e-6);
        assert!((scale(&key, &7u64.to_be_bytes()) - 1.0).abs() < 1e-6);
        assert!((scale(&KeyRange::ALL, &conversation(1 << 63, 0)) - 2.0).abs() < 1e-6);
    }

    #[test]
    fn a_load_is_a_share_by_what_counts() {
        let total = Weight {
            rows: 100,
            bytes: 1000,
            writes_per_second: 0.0,
        };
        let part = Weight {
            rows: 50,
            bytes: 100,
            writes_per_second: 0.0,
        };
        assert!(
            (part.load(&total, (1, 1, 1)) - 0.3).abs() < 1e-9,
            "without writes"
        );
        assert!((part.load(&total, (1, 0, 5)) - 0.5).abs() < 1e-9);
        assert!((part.load(&Weight::default(), (1, 1, 1))).abs() < 1e-9);
    }

    #[test]
    fn owners_of_the_counted_tables_are_users() {
        for name in OF_USERS {
            assert_eq!(named(name).unwrap().owner, Owner::User, "{name}");
        }
        assert_eq!(MOVED[0].name, "conversations");
    }
}
