//! Comparing both sides: a digest of each stretch, and the rows that differ.
//!
//! A row that differs although nothing marked its entity was not changed by a writer of the source: the copy is wrong, or the
//! target was changed by somebody else. Such a row is named, and the move does not go on.

use std::collections::BTreeMap;
use std::fmt;

use super::rows::{self, Cell, Record, Scope};
use super::tables::{Compared, Table};
use crate::db::Connection;
use crate::error::Result;
use crate::owned::Entity;

/// A row that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: &'static str,
    /// The primary key, in words.
    pub key: String,
    /// What differs.
    pub how: String,
    /// What the row belongs to.
    pub entity: Entity,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.table, self.key, self.how)
    }
}

/// What a comparison of a stretch found.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// Rows of the source.
    pub(crate) rows: u64,
    /// Of these rows, as the source has them.
    pub(crate) source: u64,
    /// As the target has them.
    pub(crate) target: u64,
    /// The rows that differ, in the order of their keys.
    pub(crate) differences: Vec<Difference>,
    /// The last key that was compared; none when the scope is done.
    pub(crate) after: Option<Vec<Cell>>,
}

/// Compares the next rows of a table, at most `limit` of the source.
///
/// # Errors
/// When a database fails; a failure is never a difference, and never the end.
pub(crate) async fn stretch(
    (source, target): (&mut Connection, &mut Connection),
    table: &'static Table,
    scope: &Scope,
    after: Option<&[Cell]>,
    limit: usize,
) -> Result<Comparison> {
    if table.compared == Compared::Not {
        return Ok(Comparison {
            rows: 0,
            source: 0,
            target: 0,
            differences: Vec::new(),
            after: None,
        });
    }
    let mut right = rows::read(source, table, scope, after, limit).await?;
    let last = |records: &[Record]| records.last().map(|it| it.key(table).to_vec());
    let mut upto = if right.len() == limit {
        last(&right)
    } else {
        None
    };
    let most = 2 * limit + 16;
    let mut there = rows::read(target, table, scope, after, most).await?;
    // A target with many rows more is compared as far as they were read: both sides of one stretch.
    if there.len() == most
        && upto
            .as_ref()
            .is_none_or(|upto| last(&there) < Some(upto.clone()))
    {
        upto = last(&there);
    }
    if let Some(upto) = &upto {
        let is_within = |it: &Record| it.key(table) <= upto.as_slice();
        right.retain(is_within);
        there.retain(is_within);
    }
    let compared = |records: Vec<Record>| -> Vec<Record> {
        records.into_iter().map(|it| it.compared(table)).collect()
    };
    let (right, there) = (compared(right), compared(there));
    let (one, other) = (rows::digest(right.iter()), rows::digest(there.iter()));
    let differences = match one == other {
        true => Vec::new(),
        false => differences(table, &right, &there)?,
    };
    Ok(Comparison {
        rows: right.len() as u64,
        source: one,
        target: other,
        differences,
        after: upto,
    })
}

/// Compares everything of an entity that is compared, and gives the first rows that differ.
///
/// # Errors
/// As [`stretch`].
pub(crate) async fn entity(
    (source, target): (&mut Connection, &mut Connection),
    entity: &Entity,
    limit: usize,
) -> Result<Vec<Difference>> {
    let scope = Scope::Entity(entity.clone());
    for table in super::tables::MOVED
        .iter()
        .filter(|it| it.owner == entity.owner())
    {
        let mut after = None;
        loop {
            let found = stretch((source, target), table, &scope, after.as_deref(), limit).await?;
            if !found.differences.is_empty() {
                return Ok(found.differences);
            }
            after = found.after;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(Vec::new())
}

/// Compares what of an entity was changed last, with a bounded effort: what can be compared while writers wait.
///
/// # Errors
/// As [`stretch`].
pub(crate) async fn latest(
    (source, target): (&mut Connection, &mut Connection),
    entity: &Entity,
    (rows, revs): (usize, i64),
) -> Result<Vec<Difference>> {
    let scope = Scope::Entity(entity.clone());
    let mut head = 0;
    for table in super::tables::MOVED
        .iter()
        .filter(|it| it.owner == entity.owner())
    {
        if table.rev.is_none() {
            let found = stretch((source, target), table, &scope, None, rows).await?;
            if !found.differences.is_empty() {
                return Ok(found.differences);
            }
            if let Some(record) = rows::read(source, table, &scope, None, 1).await?.first() {
                head = head.max(rows::head_rev(table, record));
            }
            continue;
        }
        let right = rows::read_since(source, table, entity, head - revs, rows).await?;
        let there = rows::read_since(target, table, entity, head - revs, rows).await?;
        let found = differences(table, &right, &there)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

fn differences(table: &Table, right: &[Record], there: &[Record]) -> Result<Vec<Difference>> {
    let by_key = |records: &'_ [Record]| -> BTreeMap<Vec<Cell>, Record> {
        records
            .iter()
            .map(|it| (it.key(table).to_vec(), it.clone()))
            .collect()
    };
    let (right, mut there) = (by_key(right), by_key(there));
    let mut found: BTreeMap<Vec<Cell>, String> = BTreeMap::new();
    for (key, one) in right {
        match there.remove(&key) {
            None => {
                found.insert(key, "the target does not have it".into());
            }
            Some(other) if one != other => {
                found.insert(key, columns(table, &one, &other));
            }
            Some(_) => {}
        }
    }
    for key in there.into_keys() {
        found.insert(key, "the source does not have it".into());
    }
    let difference = |(key, how): (Vec<Cell>, String)| {
        Ok(Difference {
            table: table.name,
            key: rows::key_in_words(table, &key),
            how,
            entity: Entity::of(table, &key)?,
        })
    };
    found.into_iter().map(difference).collect()
}

fn columns(table: &Table, one: &Record, other: &Record) -> String {
    let names = table.columns.iter().enumerate();
    let names = names.filter(|(column, _)| one.cell(*column) != other.cell(*column));
    let names: Vec<&str> = names.map(|(_, (name, _))| *name).collect();
    format!("{} differs", names.join(", "))
}
