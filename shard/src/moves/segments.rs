//! The target's registry of segments learns of what the moved rows name (INV-TIER, INV-OBJECT, INV-ERASE).
//!
//! Objects stay where they are; their keys name no shard. What the index rows of a range name is registered on the target in the
//! transaction that stores these rows, under the number of the source or a greater one, so that the target's next number is
//! beyond it. Segments of the source that are no part of the archive any more, but whose objects may hold content that was
//! erased, are superseded on the target, too: its receipts wait for these objects. They stay superseded when the target names them, as it
//! may for other conversations, until its next job writes those anew. Collecting an object asks all shards whether they name it.
//!
//! A copy over rows that the target kept from earlier takes names away: what is named no longer is forgotten, as on a source whose
//! rows are deleted.

use std::collections::BTreeSet;

use super::rows::{Cell, Record};
use super::tables::Table;
use crate::archive::{
    SegmentId, SegmentRecord, SegmentState, change_segment, forget_settled, is_named,
    register_segment, segment, segments_in,
};
use crate::db::Connection;
use crate::error::{Error, Result};
use crate::model::Timestamp;

/// Of segments that are no part of the archive there are few; more than this are collected first.
const NOT_GONE_MAX: usize = 10_000;

/// The segments that index rows name.
pub(crate) fn named(table: &Table, records: &[Record]) -> Result<BTreeSet<SegmentId>> {
    let mut named = BTreeSet::new();
    let column = table
        .columns
        .iter()
        .position(|(name, _)| *name == "segment");
    let Some(column) = column else {
        return Ok(named);
    };
    for record in records {
        if let Cell::Bytes(id) = record.cell(column) {
            named.insert(SegmentId::from_bytes(id)?);
        }
    }
    Ok(named)
}

/// What the source's registry has of them.
///
/// # Errors
/// [`Error::Corrupt`] when the index names one that is not registered; when the database fails.
pub(crate) async fn registered(
    source: &mut Connection,
    named: &BTreeSet<SegmentId>,
) -> Result<Vec<SegmentRecord>> {
    let mut all = Vec::new();
    for id in named {
        let record = segment(source, *id).await?;
        all.push(record.ok_or_else(|| {
            Error::corrupt(format_args!(
                "the archive's index names segment {id}, which is not registered; `backscroll archive rebuild-index` registers it"
            ))
        })?);
    }
    Ok(all)
}

/// The source's segments that are no part of the archive, but whose objects may be there.
///
/// # Errors
/// [`Error::Busy`] when there are too many; when the database fails.
pub(crate) async fn not_gone(source: &mut Connection) -> Result<Vec<SegmentRecord>> {
    let mut all = Vec::new();
    for state in [
        SegmentState::Writing,
        SegmentState::Superseded,
        SegmentState::Deleting,
    ] {
        let some = segments_in(source, state, Timestamp::MAX, NOT_GONE_MAX).await?;
        if some.len() == NOT_GONE_MAX {
            return Err(Error::Busy(format!(
                "{NOT_GONE_MAX} archived segments and more wait for being collected; `backscroll archive gc` first"
            )));
        }
        all.extend(some.into_iter().map(|record| SegmentRecord {
            state: SegmentState::Superseded,
            ..record
        }));
    }
    Ok(all)
}

/// In a transaction on the target: registers segments of the source. What the target knows keeps the greater number. What one of
/// the two has superseded stays superseded, whoever names it: content of it was erased, and its receipts wait. Hot rows of a published
/// one may have come with the range.
///
/// # Errors
/// When the database fails.
pub(crate) async fn arrive(target: &mut Connection, records: &[SegmentRecord]) -> Result<()> {
    for record in records {
        let known = segment(target, record.id).await?;
        register_segment(target, record).await?;
        let Some(known) = known else { continue };
        let becomes = match (known.state, record.state) {
            (SegmentState::Settled, SegmentState::Published) => Some(SegmentState::Published),
            (SegmentState::Published | SegmentState::Settled, SegmentState::Superseded)
            | (
                SegmentState::Writing | SegmentState::Deleting,
                SegmentState::Published | SegmentState::Settled,
            ) => Some(SegmentState::Superseded),
            _ => None,
        };
        if let Some(state) = becomes {
            change_segment(target, record.id, (known.state, state), record.changed_at).await?;
        }
    }
    Ok(())
}

/// In a transaction that deleted index rows: the shard forgets segments that it no longer names. Another shard names them, or
/// has them in its registry as not collected yet, or their objects are orphans, which are collected as such.
///
/// # Errors
/// When the database fails.
pub(crate) async fn depart(connection: &mut Connection, named: &BTreeSet<SegmentId>) -> Result<()> {
    for id in named {
        if !is_named(connection, *id).await? {
            forget_settled(connection, *id).await?;
        }
    }
    Ok(())
}

/// An erasure as the target stores it: one whose objects may still be there waits for all that the target has to collect now.
pub(crate) fn numbered(record: &Record, column: usize, newest: &Cell) -> Record {
    let mut numbered = record.clone();
    let is_open = matches!((record.cell(3), record.cell(4)), (Cell::Int(_), Cell::Null));
    if is_open {
        numbered.set(column, newest.clone());
    }
    numbered
}
