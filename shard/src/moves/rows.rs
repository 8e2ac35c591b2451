//! Rows of any moved table, as the registry describes it: read in the order of the primary key, inserted, deleted, digested.

use twox_hash::XxHash3_64;

pub(crate) use super::cell::Cell;
use super::scope::{Condition, Scope, equal, in_columns, stretches};
use super::tables::{Compared, Kind, Table};
use crate::db::{Answer, Connection, Dialect, Row, Statement, Value, list_size, padded, rows_of};
use crate::error::{Error, Result};

/// Most rows of one INSERT; the sizes are powers of two, so that few statements are prepared.
const INSERT_ROWS: usize = 128;
/// Most bytes of one INSERT, unless a row alone is larger.
const INSERT_BYTES: usize = 1 << 20;
/// Most rows of one DELETE.
const DELETE_ROWS: usize = 128;

/// A row: a value for each column of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record(Vec<Cell>);

impl Record {
    fn from_row(row: &Row, table: &Table) -> Result<Self> {
        let cell = |(column, (_, kind)): (usize, &(&str, Kind))| {
            Ok(match kind {
                Kind::Int => row.opt_int(column)?.map_or(Cell::Null, Cell::Int),
                Kind::Bytes => row.opt_bytes(column)?.map_or(Cell::Null, Cell::Bytes),
                Kind::Text => row.opt_text(column)?.map_or(Cell::Null, Cell::Text),
            })
        };
        let cells = table.columns.iter().enumerate().map(cell);
        cells.collect::<Result<_>>().map(Self)
    }

    /// A row of these values, one for each column of its table.
    pub(crate) fn new(cells: Vec<Cell>) -> Self {
        Self(cells)
    }

    pub(crate) fn cells(&self) -> &[Cell] {
        &self.0
    }

    pub(crate) fn cell(&self, column: usize) -> &Cell {
        &self.0[column]
    }

    /// The values of the primary key.
    pub(crate) fn key(&self, table: &Table) -> &[Cell] {
        &self.0[..table.key]
    }

    /// The number that orders its versions; 0 where the table has none.
    pub(crate) fn rev(&self, table: &Table) -> i64 {
        match table.rev.map(|column| &self.0[column]) {
            Some(Cell::Int(rev)) => *rev,
            _ => 0,
        }
    }

    /// About how many bytes it takes in a statement.
    pub(crate) fn size(&self) -> usize {
        self.0.iter().map(Cell::size).sum()
    }

    /// What is compared of it.
    pub(crate) fn compared(mut self, table: &Table) -> Self {
        if let Compared::Without(column) | Compared::Numbered(column) = table.compared {
            self.0[column] = Cell::Null;
        }
        self
    }

    /// Whether a copy of it needs no change.
    pub(crate) fn is_copied_by(&self, copy: &Self, table: &Table) -> bool {
        let numbered = match table.compared {
            Compared::Numbered(column) => Some(column),
            _ => None,
        };
        let pairs = self.0.iter().zip(&copy.0).enumerate();
        pairs
            .into_iter()
            .all(|(column, (one, other))| Some(column) == numbered || one == other)
    }

    pub(crate) fn set(&mut self, column: usize, cell: Cell) {
        self.0[column] = cell;
    }
}

/// A statement that reads rows of a table.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    table: &'static Table,
    text: String,
    values: Vec<Cell>,
}

impl Reading {
    fn new(table: &'static Table, rest: &str, values: Vec<Cell>) -> Self {
        let text = format!("SELECT {} FROM {} {rest}", table.column_list(), table.name);
        Self {
            table,
            text,
            values,
        }
    }

    /// At most `limit` rows in the order of the primary key, from the first on.
    pub(crate) fn first(table: &'static Table, scope: &Scope, limit: usize) -> Option<Self> {
        stretches(table, scope, None)
            .into_iter()
            .next()
            .map(|condition| Self::of(table, condition, limit))
    }

    fn of(table: &'static Table, mut condition: Condition, limit: usize) -> Self {
        condition.values.push(as_limit(limit));
        let (text, keys) = (condition.text, table.key_list());
        let rest = format!("{{by PRIMARY}} WHERE {text} ORDER BY {keys} LIMIT ?");
        Self::new(table, &rest, condition.values)
    }

    /// At most `limit` rows of some entities, of each those whose rev is greater than the one beside it, in the order of entities
    /// and revs: by the table's index of that name. None without entities.
    pub(crate) fn since(
        table: &'static Table,
        since: &[(&[Cell], i64)],
        limit: usize,
    ) -> Option<Self> {
        let one = format!("({} AND rev > ?)", equal(table, since.first()?.0).text);
        let owner = table.names(0, table.owner.columns());
        let alternatives = vec![one; list_size(since.len())].join(" OR ");
        let rest = format!(
            "{{by {}_rev}} WHERE {alternatives} ORDER BY {owner}, rev LIMIT ?",
            table.name
        );
        let mut values: Vec<Cell> = Vec::new();
        for (prefix, rev) in padded(since) {
            values.extend_from_slice(prefix);
            values.push(Cell::Int(*rev));
        }
        values.push(as_limit(limit));
        Some(Self::new(table, &rest, values))
    }

    /// The rows with these primary keys (no two alike), in any order.
    pub(crate) fn of_keys(table: &'static Table, keys: &[&[Cell]]) -> Vec<Self> {
        let some = |keys: &[&[Cell]]| {
            let rest = format!("{{by PRIMARY}} WHERE {}", in_keys(table, keys.len()));
            Self::new(table, &rest, keys.concat())
        };
        keys.chunks(DELETE_ROWS).map(some).collect()
    }

    pub(crate) fn table(&self) -> &'static Table {
        self.table
    }

    pub(crate) fn statement(&self) -> Statement<'_> {
        let values: Vec<Value<'_>> = self.values.iter().map(Cell::value).collect();
        Statement::new(self.text.as_str(), values)
    }

    /// The rows, by the answer to the statement.
    pub(crate) fn records(&self, answer: Option<Answer>) -> Result<Vec<Record>> {
        let answer = answer.ok_or(Error::Unexpected("a statement without an answer"))?;
        self.records_of(&answer.rows)
    }

    fn records_of(&self, rows: &[Row]) -> Result<Vec<Record>> {
        let rows = rows.iter();
        rows.map(|row| Record::from_row(row, self.table)).collect()
    }

    async fn fetch(&self, connection: &mut Connection) -> Result<Vec<Record>> {
        let statement = self.statement();
        let rows = connection.fetch_all(&statement.text, &statement.args);
        self.records_of(&rows.await?)
    }
}

fn as_limit(limit: usize) -> Cell {
    Cell::Int(i64::try_from(limit).unwrap_or(i64::MAX))
}

/// The rows of several statements, which are sent together.
///
/// # Errors
/// When the database fails.
pub(crate) async fn fetch_all(
    connection: &mut Connection,
    readings: &[Reading],
) -> Result<Vec<Vec<Record>>> {
    let statements: Vec<Statement<'_>> = readings.iter().map(Reading::statement).collect();
    let answers = connection.run_all(&statements).await?;
    let each = readings.iter().zip(answers);
    each.map(|(reading, answer)| reading.records(Some(answer)))
        .collect()
}

/// At most `limit` rows in the order of the primary key, after `after`. Fewer than `limit` are all that there are.
///
/// # Errors
/// When the database fails; an error is never the end of the rows.
pub(crate) async fn read(
    connection: &mut Connection,
    table: &'static Table,
    scope: &Scope,
    after: Option<&[Cell]>,
    limit: usize,
) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for condition in stretches(table, scope, after) {
        let rest = limit - records.len();
        records.extend(
            Reading::of(table, condition, rest)
                .fetch(connection)
                .await?,
        );
        if records.len() >= limit {
            break;
        }
    }
    Ok(records)
}

/// As [`Reading::since`].
///
/// # Errors
/// When the database fails.
pub(crate) async fn read_since(
    connection: &mut Connection,
    table: &'static Table,
    since: &[(&[Cell], i64)],
    limit: usize,
) -> Result<Vec<Record>> {
    match Reading::since(table, since, limit) {
        Some(reading) => reading.fetch(connection).await,
        None => Ok(Vec::new()),
    }
}

/// The rows with these primary keys (no two alike), in any order.
///
/// # Errors
/// When the database fails.
pub(crate) async fn read_keys(
    connection: &mut Connection,
    table: &'static Table,
    keys: &[&[Cell]],
) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for reading in Reading::of_keys(table, keys) {
        records.extend(reading.fetch(connection).await?);
    }
    Ok(records)
}

fn in_keys(table: &Table, n: usize) -> String {
    in_columns(&table.key_list(), table.key, n)
}

/// Statements that insert rows. One whose key is taken is an error, never passed over or merged.
pub(crate) fn insertions<'a>(table: &Table, records: &[&'a Record]) -> Vec<Statement<'a>> {
    let mut rest = records;
    let mut statements = Vec::new();
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(batch(rest));
        rest = later;
        let text = format!(
            "INSERT INTO {} ({}) VALUES {}",
            table.name,
            table.column_list(),
            rows_of(batch.len(), table.columns.len())
        );
        let cells = batch.iter().flat_map(|it| it.0.iter());
        statements.push(Statement::new(
            text,
            cells.map(Cell::value).collect::<Vec<_>>(),
        ));
    }
    statements
}

/// In a write transaction: inserts rows, by [`insertions`].
///
/// # Errors
/// When the database refuses one, or fails.
pub(crate) async fn insert(
    connection: &mut Connection,
    table: &Table,
    records: &[&Record],
) -> Result<()> {
    for one in insertions(table, records) {
        connection.execute(&one.text, &one.args).await?;
    }
    Ok(())
}

/// How many of `records` one INSERT takes: a power of two, and one at least.
fn batch(records: &[&Record]) -> usize {
    let mut size = INSERT_ROWS;
    while size > 1 {
        let fits = records.len() >= size
            && records[..size].iter().map(|it| it.size()).sum::<usize>() <= INSERT_BYTES;
        if fits {
            return size;
        }
        size /= 2;
    }
    1
}

/// Statements that delete the rows with these primary keys.
pub(crate) fn deletions<'a>(
    dialect: Dialect,
    table: &Table,
    keys: &[&'a [Cell]],
) -> Vec<Statement<'a>> {
    let one = |chunk: &[&'a [Cell]]| {
        // MySQL takes the name of an index only in the form of DELETE that SQLite does not have.
        let from = match dialect {
            Dialect::MySql => format!("{0} FROM {0} {{by PRIMARY}}", table.name),
            Dialect::Sqlite => format!("FROM {}", table.name),
        };
        let text = format!("DELETE {from} WHERE {}", in_keys(table, chunk.len()));
        let cells = chunk.iter().copied().flatten();
        Statement::new(text, cells.map(Cell::value).collect::<Vec<_>>())
    };
    keys.chunks(DELETE_ROWS).map(one).collect()
}

/// In a write transaction: deletes the rows with these primary keys.
///
/// # Errors
/// When the database fails.
pub(crate) async fn delete(
    connection: &mut Connection,
    table: &Table,
    keys: &[&[Cell]],
) -> Result<()> {
    for one in deletions(connection.dialect(), table, keys) {
        connection.execute(&one.text, &one.args).await?;
    }
    Ok(())
}

/// The XXH3-64 digest of rows, in their order.
pub(crate) fn digest<'a>(records: impl Iterator<Item = &'a Record>) -> u64 {
    use std::hash::Hasher as _;
    let mut hash = XxHash3_64::default();
    records
        .flat_map(|it| &it.0)
        .for_each(|cell| cell.digest(&mut hash));
    hash.finish()
}

/// The rev of a head, a row of `conversations` or `users`; 0 of any other row.
pub(crate) fn head_rev(table: &Table, head: &Record) -> i64 {
    let is_head = table.rev.is_none() && table.key == table.owner.columns();
    let column = table
        .columns
        .iter()
        .position(|(name, _)| is_head && *name == "rev");
    match column.map(|column| head.cell(column)) {
        Some(Cell::Int(rev)) => *rev,
        _ => 0,
    }
}

/// A key as it is stored in a position: each value with its length, so that it reads back one way only.
pub(crate) fn key_to_bytes(key: &[Cell]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for cell in key {
        let (tag, value): (u8, &[u8]) = match cell {
            Cell::Null => (0, &[]),
            Cell::Int(value) => (1, &value.to_be_bytes()),
            Cell::Bytes(value) => (2, value),
            Cell::Text(value) => (3, value.as_bytes()),
        };
        bytes.extend([tag, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
        bytes.extend_from_slice(value);
    }
    bytes
}

/// The key whose stored form is `bytes`; none before the first.
pub(crate) fn key_from_bytes(bytes: &[u8]) -> Result<Option<Vec<Cell>>> {
    let corrupt = || Error::corrupt("a position of a move");
    let (mut key, mut rest) = (Vec::new(), bytes);
    while let [tag, length, more @ ..] = rest {
        let (value, later) = more
            .split_at_checked(usize::from(*length))
            .ok_or_else(corrupt)?;
        rest = later;
        key.push(match tag {
            1 => Cell::Int(i64::from_be_bytes(value.try_into().map_err(|_| corrupt())?)),
            2 => Cell::Bytes(value.to_vec()),
            _ => return Err(corrupt()),
        });
    }
    if !rest.is_empty() {
        return Err(corrupt());
    }
    Ok((!key.is_empty()).then_some(key))
}

/// A key for people: hexadecimal where it is no text.
pub(crate) fn key_in_words(table: &Table, key: &[Cell]) -> String {
    let word = |((name, _), cell): (&(&str, Kind), &Cell)| {
        let value = match cell {
            Cell::Null => "NULL".to_owned(),
            Cell::Int(value) => value.to_string(),
            Cell::Text(value) => value.clone(),
            Cell::Bytes(value) if *name == "user_id" => String::from_utf8_lossy(value).into_owned(),
            Cell::Bytes(value) => value.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        format!("{name} {value}")
    };
    let words: Vec<String> = table.columns.iter().zip(key).map(word).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back() {
        let key = vec![Cell::Bytes(vec![7; 8]), Cell::Bytes(vec![]), Cell::Int(-3)];
        assert_eq!(key_from_bytes(&key_to_bytes(&key)).unwrap(), Some(key));
        assert_eq!(key_from_bytes(&[]).unwrap(), None);
        assert!(key_from_bytes(&[2, 9, 1]).is_err() && key_from_bytes(&[1]).is_err());
    }

    #[test]
    fn the_digest_tells_where_a_value_ends() {
        let record =
            |cells: &[&str]| Record(cells.iter().map(|it| Cell::Text((*it).into())).collect());
        let of = |it: &Record| digest(std::iter::once(it));
        assert_ne!(of(&record(&["ab", "c"])), of(&record(&["a", "bc"])));
        assert_ne!(digest(std::iter::empty()), of(&Record(vec![Cell::Null])));
        assert_ne!(of(&Record(vec![Cell::Null])), of(&record(&[""])));
        assert_eq!(of(&record(&["ab"])), of(&record(&["ab"])));
    }
}
