//! Copying entities again that were written to while their range moves.
//!
//! Entities of one kind are copied together, with one statement for each table; the statements of a side are sent together. The heads are
//! read first, and written last, in the transaction that completes them: so what the target's head has as its rev is copied, and the
//! next time the rows with a greater one are read. Of the tables without a rev everything that the entities have is compared; one that has no rows of them on
//! either side costs nothing ([`presence`]). A crash in between leaves older heads, and the same is done again.

use std::collections::BTreeSet;

use futures_util::future::try_join;

use super::copy::{self, Changes, Stretch};
use super::presence::{self, Presence};
use super::rows::{self, Cell, Reading, Record};
use super::scope::{Entities, Scope};
use super::segments;
use super::tables::{MOVED, Owner, Table};
use super::{Sides, work};
use crate::archive::SegmentRecord;
use crate::db::Connection;
use crate::error::{Error, Result};
use crate::node::Shard;
use crate::owned::Entity;

/// Most rows that are read of one table at once.
const PAGE: usize = 2000;

/// Rows of one table that were read from the source.
#[derive(Debug)]
struct Part {
    table: &'static Table,
    records: Vec<Record>,
    /// All rows from here on; else some, ordered by rev.
    stretch: Option<(Option<Vec<Cell>>, bool)>,
    segments: Vec<SegmentRecord>,
}

/// Everything of some entities that their copies may lack, if it is not much.
#[derive(Debug)]
pub(crate) struct Batch {
    owner: Owner,
    entities: Entities,
    parts: Vec<Part>,
    /// Which tables of the target may have rows of them.
    there: Presence,
}

/// The tables of one kind of entity, that with the head first.
pub(super) fn tables_of(owner: Owner) -> impl Iterator<Item = &'static Table> {
    MOVED.iter().filter(move |table| table.owner == owner)
}

/// The table that has the heads.
pub(super) fn head_of(owner: Owner) -> &'static Table {
    tables_of(owner).next().unwrap_or(&MOVED[0])
}

/// The next rows of an entity that were changed after rev `since`, a page or more.
async fn changed(
    source: &mut Connection,
    table: &'static Table,
    since: (&[Cell], i64),
) -> Result<Part> {
    let mut limit = PAGE;
    let records = loop {
        let mut records = rows::read_since(source, table, &[since], limit).await?;
        // Rows with the last rev may go on behind the page.
        let last = records.last().map(|it| it.rev(table));
        let is_full = records.len() == limit;
        if is_full {
            records.retain(|it| Some(it.rev(table)) != last);
        }
        if !is_full || !records.is_empty() {
            break records;
        }
        limit *= 2;
    };
    Ok(Part {
        table,
        records,
        stretch: None,
        segments: Vec::new(),
    })
}

/// The next rows of a table without a rev, a page at most.
async fn page(
    source: &mut Connection,
    table: &'static Table,
    scope: &Scope,
    after: Option<Vec<Cell>>,
) -> Result<Part> {
    let records = rows::read(source, table, scope, after.as_deref(), PAGE).await?;
    let named = segments::named(table, &records)?;
    let segments = segments::registered(source, &named).await?;
    let has_ended = records.len() < PAGE;
    Ok(Part {
        table,
        records,
        stretch: Some((after, has_ended)),
        segments,
    })
}

/// In a transaction on the target, after [`work::check`]. Gives where the part goes on, when it is not done.
async fn apply(target: &mut Connection, scope: &Scope, part: &Part) -> Result<Option<Vec<Cell>>> {
    segments::arrive(target, &part.segments).await?;
    let Some((after, has_ended)) = &part.stretch else {
        copy::take(target, part.table, &part.records).await?;
        return Ok(None);
    };
    let stretch = Stretch {
        table: part.table,
        scope,
        after: after.as_deref(),
        records: &part.records,
        has_ended: *has_ended,
    };
    Ok(copy::equalise(target, &stretch).await?.after)
}

/// Reads what the copies of some entities of one kind may lack; nothing when it is too much for one transaction. Two round trips, of
/// which the first asks both sides at once.
///
/// # Errors
/// When a database fails.
pub(crate) async fn read<'e>(
    sides: &Sides<'_>,
    owner: Owner,
    entities: impl IntoIterator<Item = &'e Entity>,
) -> Result<Option<Batch>> {
    let entities = Entities::of(entities);
    let known = async |shard: &Shard| {
        let mut connection = shard.reader(sides.deadline()).await?;
        let known = presence::of(&mut connection, owner, &entities).await?;
        Ok::<_, Error>((connection, known))
    };
    let ((mut source, here), (_, there)) =
        try_join(known(sides.source), known(sides.target)).await?;
    let copied = there.revs(&entities);
    let scope = Scope::Entities(entities.clone());
    let readings: Vec<Reading> = tables_of(owner)
        .skip(1)
        .filter_map(|table| match table.rev {
            Some(_) => Reading::since(table, &copied, PAGE),
            None if here.present.has(table) => Reading::first(table, &scope, PAGE),
            None => None,
        })
        .collect();
    let mut found = rows::fetch_all(&mut source, &readings).await?;
    drop(copied);
    if found.iter().map(Vec::len).sum::<usize>() >= PAGE {
        return Ok(None);
    }
    let mut parts = Vec::new();
    for table in tables_of(owner).skip(1) {
        let at = readings.iter().position(|it| it.table() == table);
        let records = at.map(|at| std::mem::take(&mut found[at]));
        let records = records.unwrap_or_default();
        let named = segments::named(table, &records)?;
        parts.push(Part {
            table,
            segments: segments::registered(&mut source, &named).await?,
            records,
            stretch: table.rev.is_none().then_some((None, true)),
        });
    }
    parts.push(whole(head_of(owner), here.heads));
    Ok(Some(Batch {
        owner,
        entities,
        parts,
        there: there.present,
    }))
}

/// All rows that some entities have in a table.
fn whole(table: &'static Table, records: Vec<Record>) -> Part {
    Part {
        table,
        records,
        stretch: Some((None, true)),
        segments: Vec::new(),
    }
}

/// In a transaction on the target, after [`work::check`]: completes entities that were read, in two round trips. Gives what is not done:
/// the batches of which more is to be deleted than one transaction does; each of their entities is to be done by [`large`].
///
/// # Errors
/// When the database fails; as [`copy::equalise`].
pub(crate) async fn complete<'b>(
    target: &mut Connection,
    batches: impl IntoIterator<Item = &'b Batch>,
) -> Result<Vec<&'b Batch>> {
    let mut asked: Vec<(&Batch, &Part, Vec<Reading>)> = Vec::new();
    for batch in batches {
        let scope = Scope::Entities(batch.entities.clone());
        for part in &batch.parts {
            asked.push((batch, part, there(batch, part, &scope)));
        }
    }
    let readings: Vec<Reading> = asked.iter().flat_map(|it| it.2.clone()).collect();
    let mut found = rows::fetch_all(target, &readings).await?.into_iter();
    let mut known: Vec<(&Batch, &Part, Vec<Record>)> = Vec::new();
    for (batch, part, readings) in &asked {
        let records = found.by_ref().take(readings.len()).flatten().collect();
        known.push((batch, part, records));
    }
    let is_full = |(_, part, there): &&(&Batch, &Part, Vec<Record>)| {
        part.stretch.is_some() && there.len() >= 2 * PAGE
    };
    let unfinished: Vec<&Batch> = known.iter().filter(is_full).map(|it| it.0).collect();
    known.retain(|(batch, ..)| !unfinished.iter().any(|it| std::ptr::eq(*it, *batch)));
    write(target, &known).await?;
    Ok(unfinished)
}

/// What reads the rows of the target in whose place a part comes.
fn there(batch: &Batch, part: &Part, scope: &Scope) -> Vec<Reading> {
    let table = part.table;
    let is_head = table == head_of(batch.owner);
    if table.rev.is_some() {
        let keys: Vec<&[Cell]> = part.records.iter().map(|it| it.key(table)).collect();
        Reading::of_keys(table, &keys)
    } else if is_head || batch.there.has(table) {
        Reading::first(table, scope, 2 * PAGE).into_iter().collect()
    } else {
        Vec::new()
    }
}

/// Makes what the target was found to have what the parts are.
async fn write(target: &mut Connection, known: &[(&Batch, &Part, Vec<Record>)]) -> Result<()> {
    let mut all = Vec::new();
    let mut unnamed = BTreeSet::new();
    for (_, part, there) in known {
        segments::arrive(target, &part.segments).await?;
        let changes = Changes::between(part.table, &part.records, there)?;
        if !changes.gone.is_empty() {
            unnamed.append(&mut segments::named(part.table, there)?);
        }
        let numbered = copy::numbered(target, part.table, &changes.written).await?;
        all.push((changes, numbered));
    }
    let dialect = target.dialect();
    let statements: Vec<_> = all
        .iter()
        .flat_map(|(changes, numbered)| changes.statements(dialect, numbered.as_deref()))
        .collect();
    target.run_all(&statements).await?;
    segments::depart(target, &unnamed).await
}

/// Copies an entity in as many transactions as it takes.
///
/// # Errors
/// When a database fails; [`Error::LeaseLost`]; as [`copy::equalise`].
pub(crate) async fn large(sides: &Sides<'_>, entity: &Entity) -> Result<()> {
    let owner = entity.owner();
    let entities = Entities::of([entity]);
    let scope = Scope::Entities(entities.clone());
    let mut target = sides.target.reader(sides.deadline()).await?;
    let there = presence::of(&mut target, owner, &entities).await?;
    let copied = there.revs(&entities);
    drop(target);
    let mut source = sides.source.reader(sides.deadline()).await?;
    let first = presence::of(&mut source, owner, &entities).await?.heads;
    drop(source);
    for table in tables_of(owner).skip(1) {
        match table.rev {
            Some(_) => {
                for since in &copied {
                    large_changes(sides, (table, &scope), *since).await?;
                }
            }
            None => large_table(sides, table, &scope).await?,
        }
    }
    match store(sides, &scope, &whole(head_of(owner), first)).await? {
        None => Ok(()),
        Some(_) => Err(Error::Unexpected("an entity with more than one head")),
    }
}

async fn large_changes(
    sides: &Sides<'_>,
    (table, scope): (&'static Table, &Scope),
    (prefix, mut since): (&[Cell], i64),
) -> Result<()> {
    loop {
        let mut source = sides.source.reader(sides.deadline()).await?;
        let part = changed(&mut source, table, (prefix, since)).await?;
        drop(source);
        let Some(last) = part.records.last().map(|it| it.rev(table)) else {
            return Ok(());
        };
        since = last;
        store(sides, scope, &part).await?;
    }
}

async fn large_table(sides: &Sides<'_>, table: &'static Table, scope: &Scope) -> Result<()> {
    let mut after = None;
    loop {
        let mut source = sides.source.reader(sides.deadline()).await?;
        let part = page(&mut source, table, scope, after).await?;
        drop(source);
        after = store(sides, scope, &part).await?;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn store(sides: &Sides<'_>, scope: &Scope, part: &Part) -> Result<Option<Vec<Cell>>> {
    sides
        .on_target(async |target| {
            work::check(target, sides.target.name(), sides.job).await?;
            apply(target, scope, part).await
        })
        .await
}
