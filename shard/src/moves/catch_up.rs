//! Copying an entity again that was written to while its range moves.
//!
//! The head is read first, and written last, in the transaction that completes the entity: so what the target's head has as its
//! rev is copied, and the next time the rows with a greater one are read. Of the tables without a rev everything that the
//! entity has is compared. A crash in between leaves an older head, and the same is done again.

use super::copy::{self, Stretch};
use super::rows::{self, Cell, Record, Scope};
use super::segments;
use super::tables::{MOVED, Table};
use super::{Sides, work};
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
    /// All of the entity's rows from here on; else some, ordered by rev.
    stretch: Option<(Option<Vec<Cell>>, bool)>,
    segments: Vec<SegmentRecord>,
}

/// Everything of an entity that its copy may lack, if it is not much.
#[derive(Debug)]
pub(crate) struct Small {
    entity: Entity,
    parts: Vec<Part>,
}

fn head_of(entity: &Entity) -> &'static Table {
    let mut tables = tables_of(entity);
    tables.next().unwrap_or(&MOVED[0])
}

/// The entity's tables, that with its head first.
fn tables_of(entity: &Entity) -> impl Iterator<Item = &'static Table> {
    let owner = entity.owner();
    MOVED.iter().filter(move |table| table.owner == owner)
}

/// The rev of a head: everything up to it is copied with it.
fn rev_of(entity: &Entity, head: &[Record]) -> i64 {
    head.first()
        .map_or(0, |it| rows::head_rev(head_of(entity), it))
}

async fn head(connection: &mut Connection, entity: &Entity) -> Result<Vec<Record>> {
    let scope = Scope::Entity(entity.clone());
    rows::read(connection, head_of(entity), &scope, None, 2).await
}

async fn part(
    source: &mut Connection,
    (entity, table): (&Entity, &'static Table),
    copied: i64,
    after: Option<Vec<Cell>>,
) -> Result<Part> {
    if table.rev.is_some() {
        let mut limit = PAGE;
        let records = loop {
            let mut records = rows::read_since(source, table, entity, copied, limit).await?;
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
        return Ok(Part {
            table,
            records,
            stretch: None,
            segments: Vec::new(),
        });
    }
    let scope = Scope::Entity(entity.clone());
    let records = rows::read(source, table, &scope, after.as_deref(), PAGE).await?;
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

/// Reads what the copy of an entity may lack; nothing when it is too much for one transaction.
///
/// # Errors
/// When a database fails.
pub(crate) async fn read(sides: &Sides<'_>, entity: &Entity) -> Result<Option<Small>> {
    let mut target = sides.target.reader(sides.deadline()).await?;
    let copied = rev_of(entity, &head(&mut target, entity).await?);
    drop(target);
    let mut source = sides.source.reader(sides.deadline()).await?;
    let first = head(&mut source, entity).await?;
    let mut parts = Vec::new();
    let mut rows = 0;
    for table in tables_of(entity).skip(1) {
        let part = part(&mut source, (entity, table), copied, None).await?;
        rows += part.records.len();
        let is_whole = part
            .stretch
            .as_ref()
            .map_or(part.records.len() + 1 < PAGE, |(_, ended)| *ended);
        if !is_whole || rows >= PAGE {
            return Ok(None);
        }
        parts.push(part);
    }
    parts.push(Part {
        table: head_of(entity),
        records: first,
        stretch: Some((None, true)),
        segments: Vec::new(),
    });
    Ok(Some(Small {
        entity: entity.clone(),
        parts,
    }))
}

/// In a transaction on the target, after [`work::check`]: completes an entity that was read. `false` when there is more to delete
/// than one transaction does; then it is to be done by [`large`].
///
/// # Errors
/// When the database fails; as [`copy::equalise`].
pub(crate) async fn complete(target: &mut Connection, small: &Small) -> Result<bool> {
    let scope = Scope::Entity(small.entity.clone());
    for part in &small.parts {
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
    let scope = Scope::Entity(entity.clone());
    let mut target = sides.target.reader(sides.deadline()).await?;
    let copied = rev_of(entity, &head(&mut target, entity).await?);
    drop(target);
    let mut source = sides.source.reader(sides.deadline()).await?;
    let first = head(&mut source, entity).await?;
    drop(source);
    for table in tables_of(entity).skip(1) {
        let mut since = copied;
        let mut after = None;
        loop {
            let mut source = sides.source.reader(sides.deadline()).await?;
            let part = part(&mut source, (entity, table), since, after).await?;
            drop(source);
            if part.stretch.is_none() {
                let Some(last) = part.records.last().map(|it| it.rev(table)) else {
                    break;
                };
                since = last;
            }
            after = store(sides, &scope, &part).await?;
            if part.stretch.is_some() && after.is_none() {
                break;
            }
        }
    }
    let head = Part {
        table: head_of(entity),
        records: first,
        stretch: Some((None, true)),
        segments: Vec::new(),
    };
    match store(sides, &scope, &head).await? {
        None => Ok(()),
        Some(_) => Err(Error::Unexpected("an entity with more than one head")),
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
