//! Making the rows of the target those of the source, one stretch of a primary key at a time.
//!
//! A stretch is read from the source, then compared with what the target has there in the transaction that writes: rows that are
//! missing are inserted, rows that differ are replaced, rows that the source does not have are deleted. So a copy that begins
//! anywhere, over whatever an earlier move left, ends with the same rows, and repeating it changes nothing. A row whose
//! version is ordered by a rev is never replaced by an older one: that would mean that the source has lost something, and is
//! an error that names the row. Nothing is merged and nothing ignored: a key that is taken fails the transaction.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{self, Cell, Record};
use super::scope::Scope;
use super::segments;
use super::tables::{Compared, Table};
use crate::archive::newest_generation;
use crate::db::{Connection, Dialect, Statement};
use crate::error::{Error, Result};

/// Most rows of the target that are looked at in one statement.
const PAGE: usize = 1024;
/// After so many deletions a transaction ends, and the next one goes on.
const DELETIONS_MAX: usize = 8192;

/// A stretch of a table as the source has it: all its rows after `after`, up to the last of `records`, or to the end of the
/// scope when it has ended.
#[derive(Debug)]
pub(crate) struct Stretch<'a> {
    pub(crate) table: &'static Table,
    pub(crate) scope: &'a Scope,
    pub(crate) after: Option<&'a [Cell]>,
    pub(crate) records: &'a [Record],
    pub(crate) has_ended: bool,
}

/// What a transaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Rows that were inserted or replaced.
    pub(crate) written: u64,
    /// About how many bytes these have.
    pub(crate) bytes: u64,
    /// Rows that were deleted.
    pub(crate) deleted: u64,
    /// The key up to which both sides are the same now; none when the scope is done.
    pub(crate) after: Option<Vec<Cell>>,
}

/// In a transaction on the target, after [`super::work::check`]: makes a stretch what the source had, or its first part when there
/// is much to delete.
///
/// # Errors
/// [`Error::Corrupt`] when the target has a newer version of a row than its owner; when the database fails.
pub(crate) async fn equalise(target: &mut Connection, stretch: &Stretch<'_>) -> Result<Changed> {
    let table = stretch.table;
    let last = stretch.records.last().map(|it| it.key(table));
    let mut upto = if stretch.has_ended { None } else { last };
    let mut wanted: BTreeMap<&[Cell], &Record> = stretch
        .records
        .iter()
        .map(|it| (it.key(table), it))
        .collect();
    let mut replaced: Vec<&Record> = Vec::new();
    let mut deleted = 0;
    let mut unnamed = BTreeSet::new();
    let mut after = stretch.after.map(<[Cell]>::to_vec);
    let cut: Vec<Cell>;
    loop {
        let mut page = rows::read(target, table, stretch.scope, after.as_deref(), PAGE).await?;
        let is_full = page.len() == PAGE;
        let found = page.len();
        page.retain(|it| upto.is_none_or(|upto| it.key(table) <= upto));
        let (gone, taken) = sort_out(table, &mut wanted, &page)?;
        replaced.extend(taken);
        rows::delete(target, table, &gone).await?;
        deleted += gone.len();
        if !gone.is_empty() {
            unnamed.append(&mut segments::named(table, &page)?);
        }
        if !is_full || page.len() < found {
            break;
        }
        after = page.last().map(|it| it.key(table).to_vec());
        if deleted >= DELETIONS_MAX
            && let Some(here) = &after
        {
            cut = here.clone();
            upto = Some(&cut);
            break;
        }
    }
    let new = wanted
        .values()
        .copied()
        .filter(|it| upto.is_none_or(|upto| it.key(table) <= upto));
    let written: Vec<&Record> = new.chain(replaced.iter().copied()).collect();
    let bytes = written.iter().map(|it| it.size() as u64).sum();
    write(target, table, &written).await?;
    segments::depart(target, &unnamed).await?;
    Ok(Changed {
        written: written.len() as u64,
        bytes,
        deleted: (deleted - replaced.len()) as u64,
        after: upto.map(<[Cell]>::to_vec),
    })
}

/// In a transaction on the target: takes rows, some of which may be there in older versions. The records are those of one read of
/// the source.
///
/// # Errors
/// As [`equalise`].
pub(crate) async fn take(
    target: &mut Connection,
    table: &'static Table,
    records: &[Record],
) -> Result<u64> {
    let keys: Vec<&[Cell]> = records.iter().map(|it| it.key(table)).collect();
    let there = rows::read_keys(target, table, &keys).await?;
    let changes = Changes::between(table, records, &there)?;
    rows::delete(target, table, &changes.gone).await?;
    write(target, table, &changes.written).await?;
    Ok(changes.written.len() as u64)
}

/// What has to be done to rows of the target.
#[derive(Debug)]
pub(crate) struct Changes<'a> {
    pub(crate) table: &'static Table,
    /// The keys of rows that go, or are replaced.
    pub(crate) gone: Vec<&'a [Cell]>,
    /// The rows that come.
    pub(crate) written: Vec<&'a Record>,
}

impl<'a> Changes<'a> {
    /// What makes `there`, which the target has, `records`, which the source has.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the target has a newer version of a row than its owner.
    pub(crate) fn between(
        table: &'static Table,
        records: &'a [Record],
        there: &'a [Record],
    ) -> Result<Self> {
        let mut wanted = records.iter().map(|it| (it.key(table), it)).collect();
        let (gone, replaced) = sort_out(table, &mut wanted, there)?;
        let written = wanted.into_values().chain(replaced).collect();
        Ok(Self {
            table,
            gone,
            written,
        })
    }

    /// The statements that do it, in their order; of rows with a number that the target gives, as `numbered` has them.
    pub(crate) fn statements<'b>(
        &'b self,
        dialect: Dialect,
        numbered: Option<&'b [Record]>,
    ) -> Vec<Statement<'b>> {
        let mut all = rows::deletions(dialect, self.table, &self.gone);
        all.extend(match numbered {
            Some(numbered) => rows::insertions(self.table, &numbered.iter().collect::<Vec<_>>()),
            None => rows::insertions(self.table, &self.written),
        });
        all
    }
}

/// The keys of `there` that go, and those of `wanted` that take the place of one of them. What is there as it should be is wanted no
/// more.
fn sort_out<'t, 'w>(
    table: &'static Table,
    wanted: &mut BTreeMap<&'w [Cell], &'w Record>,
    there: &'t [Record],
) -> Result<(Vec<&'t [Cell]>, Vec<&'w Record>)> {
    let (mut gone, mut replaced) = (Vec::new(), Vec::new());
    for there in there {
        match wanted.remove(there.key(table)) {
            None => gone.push(there.key(table)),
            Some(right) if right.is_copied_by(there, table) => {}
            Some(right) if right.rev(table) < there.rev(table) => {
                return Err(newer_on_target(table, right, there));
            }
            Some(right) => {
                gone.push(there.key(table));
                replaced.push(right);
            }
        }
    }
    Ok((gone, replaced))
}

/// Rows of a table of numbers that the target gives itself, as it is to store them; none of any other table.
///
/// # Errors
/// When the database fails.
pub(crate) async fn numbered(
    target: &mut Connection,
    table: &Table,
    records: &[&Record],
) -> Result<Option<Vec<Record>>> {
    let Compared::Numbered(column) = table.compared else {
        return Ok(None);
    };
    if records.is_empty() {
        return Ok(None);
    }
    // One that is not smaller than any so far.
    let newest = Cell::Int(newest_generation(target).await?.as_i64());
    let numbered = records.iter();
    let numbered = numbered.map(|record| segments::numbered(record, column, &newest));
    Ok(Some(numbered.collect()))
}

async fn write(target: &mut Connection, table: &'static Table, records: &[&Record]) -> Result<()> {
    match numbered(target, table, records).await? {
        Some(numbered) => rows::insert(target, table, &numbered.iter().collect::<Vec<_>>()).await,
        None => rows::insert(target, table, records).await,
    }
}

fn newer_on_target(table: &Table, source: &Record, target: &Record) -> Error {
    Error::corrupt(format_args!(
        "{}: {} is at rev {} on the target and at rev {} on the source, which owns it",
        table.name,
        rows::key_in_words(table, source.key(table)),
        target.rev(table),
        source.rev(table),
    ))
}
