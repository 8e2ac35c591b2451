//! Comparing both sides: a digest of each stretch, and the rows that differ.
//!
//! A row that differs although nothing marked its entity was not changed by a writer of the source: the copy is wrong, or the
//! target was changed by somebody else. Such a row is named, and the move does not go on.

use std::collections::BTreeMap;
use std::fmt;

use futures_util::future::try_join;

use super::catch_up::tables_of;
use super::presence;
use super::rows::{self, Cell, Reading, Record};
use super::scope::{Entities, Scope};
use super::tables::{Compared, Owner, Table};
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
    let (right, there) = try_join(
        rows::read(source, table, scope, after, limit),
        rows::read(target, table, scope, after, most(limit)),
    )
    .await?;
    read(table, (right, there), limit)
}

/// How many rows of the target are read beside `limit` of the source.
fn most(limit: usize) -> usize {
    2 * limit + 16
}

/// Compares rows that were read: `limit` of the source, [`most`] of the target.
fn read(
    table: &'static Table,
    (mut right, mut there): (Vec<Record>, Vec<Record>),
    limit: usize,
) -> Result<Comparison> {
    let last = |records: &[Record]| records.last().map(|it| it.key(table).to_vec());
    let mut upto = if right.len() == limit {
        last(&right)
    } else {
        None
    };
    // A target with many rows more is compared as far as they were read: both sides of one stretch.
    if there.len() == most(limit)
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
    let scope = Scope::entity(entity);
    for table in tables_of(entity.owner()) {
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

/// Compares what of some entities of one kind was changed last, with a bounded effort: what can be compared while writers wait. Of the
/// tables without a rev `limit` rows are compared, of the others those with the last `revs` revs of each entity. Two round trips, both
/// sides at once.
///
/// # Errors
/// As [`stretch`].
pub(crate) async fn latest<'e>(
    (source, target): (&mut Connection, &mut Connection),
    owner: Owner,
    entities: impl IntoIterator<Item = &'e Entity>,
    (limit, revs_back): (usize, i64),
) -> Result<Vec<Difference>> {
    let entities = Entities::of(entities);
    let scope = Scope::Entities(entities.clone());
    let (here, there) = try_join(
        presence::of(source, owner, &entities),
        presence::of(target, owner, &entities),
    )
    .await?;
    let mut since = here.revs(&entities);
    for (_, rev) in &mut since {
        *rev -= revs_back;
    }
    let has_rows = |table: &&Table| {
        table.rev.is_some()
            || table.compared != Compared::Not
                && (here.present.has(table) || there.present.has(table))
    };
    let tables: Vec<&'static Table> = tables_of(owner).filter(has_rows).collect();
    let readings = |stretch: usize| -> Vec<Reading> {
        let tables = tables.iter().copied();
        tables
            .filter_map(|table| match table.rev {
                Some(_) => Reading::since(table, &since, limit),
                None => Reading::first(table, &scope, stretch),
            })
            .collect()
    };
    let (of_source, of_target) = (readings(limit), readings(most(limit)));
    let (right, there) = try_join(
        rows::fetch_all(source, &of_source),
        rows::fetch_all(target, &of_target),
    )
    .await?;
    let mut found = Vec::new();
    for (table, (right, there)) in tables.into_iter().zip(right.into_iter().zip(there)) {
        found.extend(match table.rev {
            Some(_) => differences(table, &right, &there)?,
            None => read(table, (right, there), limit)?.differences,
        });
    }
    Ok(found)
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
    let found = found.into_iter();
    found
        .map(|(key, how)| difference(table, &key, how))
        .collect()
}

/// The row of this key differs.
///
/// # Errors
/// When the key names no conversation and no user.
pub(super) fn difference(table: &Table, key: &[Cell], how: String) -> Result<Difference> {
    Ok(Difference {
        table: table.name,
        key: rows::key_in_words(table, key),
        how,
        entity: Entity::of(table, key)?,
    })
}

fn columns(table: &Table, one: &Record, other: &Record) -> String {
    let names = table.columns.iter().enumerate();
    let names = names.filter(|(column, _)| one.cell(*column) != other.cell(*column));
    let names: Vec<&str> = names.map(|(_, (name, _))| *name).collect();
    format!("{} differs", names.join(", "))
}
