//! Copying entities again that were written to while their range moves.
//!
//! Entities of one kind are copied together, with one statement for each table. Their heads are read first, and written last, in
//! the transaction that completes them: so what the target's head has as its rev is copied, and the next time the rows with a
//! greater one are read. Of the tables without a rev everything that the entities have is compared; one that has no rows of them on
//! either side costs nothing ([`presence`]). A crash in between leaves older heads, and the same is done again.

use std::collections::BTreeMap;

use super::copy::{self, Stretch};
use super::rows::{self, Cell, Record};
use super::scope::{Entities, Scope};
use super::segments;
use super::tables::{MOVED, Owner, Table};
use super::{Sides, presence, work};
use crate::archive::SegmentRecord;
use crate::db::Connection;
use crate::error::{Error, Result};
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
}

/// The tables of one kind of entity, that with the head first.
pub(super) fn tables_of(owner: Owner) -> impl Iterator<Item = &'static Table> {
    MOVED.iter().filter(move |table| table.owner == owner)
}

fn head_of(owner: Owner) -> &'static Table {
    tables_of(owner).next().unwrap_or(&MOVED[0])
}

/// The heads of some entities.
async fn heads(
    connection: &mut Connection,
    owner: Owner,
    entities: &Entities,
) -> Result<Vec<Record>> {
    let (table, most) = (head_of(owner), entities.len() + 1);
    let scope = Scope::Entities(entities.clone());
    rows::read(connection, table, &scope, None, most).await
}

/// The rev of each entity's head, 0 where there is none: everything up to it is copied with the head.
pub(super) async fn revs<'e>(
    connection: &mut Connection,
    owner: Owner,
    entities: &'e Entities,
) -> Result<Vec<(&'e [Cell], i64)>> {
    let (table, heads) = (head_of(owner), heads(connection, owner, entities).await?);
    let known: BTreeMap<&[Cell], i64> = heads
        .iter()
        .map(|it| (it.key(table), rows::head_rev(table, it)))
        .collect();
    let rev = |prefix| (prefix, known.get(prefix).copied().unwrap_or(0));
    Ok(entities.prefixes().map(rev).collect())
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

/// Reads what the copies of some entities of one kind may lack; nothing when it is too much for one transaction.
///
/// # Errors
/// When a database fails.
pub(crate) async fn read<'e>(
    sides: &Sides<'_>,
    owner: Owner,
    entities: impl IntoIterator<Item = &'e Entity>,
) -> Result<Option<Batch>> {
    let entities = Entities::of(entities);
    let mut target = sides.target.reader(sides.deadline()).await?;
    let copied = revs(&mut target, owner, &entities).await?;
    drop(target);
    let mut source = sides.source.reader(sides.deadline()).await?;
    let first = heads(&mut source, owner, &entities).await?;
    let present = presence::of(&mut source, owner, &entities).await?;
    let scope = Scope::Entities(entities.clone());
    let mut parts = Vec::new();
    let mut rows = 0;
    for table in tables_of(owner).skip(1) {
        let part = match table.rev {
            Some(_) => Part {
                table,
                records: rows::read_since(&mut source, table, &copied, PAGE).await?,
                stretch: None,
                segments: Vec::new(),
            },
            None if present.has(table) => page(&mut source, table, &scope, None).await?,
            None => whole(table, Vec::new()),
        };
        rows += part.records.len();
        if rows >= PAGE {
            return Ok(None);
        }
        parts.push(part);
    }
    drop(copied);
    parts.push(whole(head_of(owner), first));
    Ok(Some(Batch {
        owner,
        entities,
        parts,
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

/// In a transaction on the target, after [`work::check`]: completes entities that were read. `false` when there is more to delete
/// than one transaction does; then each is to be done by [`large`].
///
/// # Errors
/// When the database fails; as [`copy::equalise`].
pub(crate) async fn complete(target: &mut Connection, batch: &Batch) -> Result<bool> {
    let present = presence::of(target, batch.owner, &batch.entities).await?;
    let scope = Scope::Entities(batch.entities.clone());
    for part in &batch.parts {
        let is_there = part.table.rev.is_some() || present.has(part.table);
        if part.records.is_empty() && !is_there {
            continue;
        }
        if apply(target, &scope, part).await?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
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
    let copied = revs(&mut target, owner, &entities).await?;
    drop(target);
    let mut source = sides.source.reader(sides.deadline()).await?;
    let first = heads(&mut source, owner, &entities).await?;
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
