//! The look after the cut-over: what was copied last is on the target as it was, or newer.
//!
//! Before the commit both sides were the same. A target that loses its last transactions after that, as a server does that commits
//! without flushing and is restarted, would serve older rows and say nothing. It is found while the source still keeps its own:
//! the move is paused, which keeps them, and the rows are named. A process that completes the move of a dead runner does not
//! look.

use std::collections::BTreeMap;

use super::catch_up::tables_of;
use super::compare::{self, Difference};
use super::marked::{COMPARED, in_parts};
use super::run::Runner;
use super::scope::Entities;
use super::tables::Owner;
use super::{Move, job, presence, rows};
use crate::archive::held_leases;
use crate::db::Connection;
use crate::error::{Error, Result};
use crate::owned::Entity;

impl Runner<'_> {
    /// Looks for what was copied last.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the first row that the target does not have, or has as it was before; when a database fails.
    pub(super) async fn look_after_cut_over(&self, job: &Move) -> Result<()> {
        let sides = self.sides(job, None)?;
        let mut source = sides.source.reader(sides.deadline()).await?;
        let mut target = sides.target.reader(sides.deadline()).await?;
        let mut lost = Vec::new();
        for (owner, entities) in in_parts(&self.copied_last) {
            lost.extend(lost_of((&mut source, &mut target), owner, &entities).await?);
        }
        let Some(first) = lost.first() else {
            return Ok(());
        };
        // An archive job that has begun on the target takes rows away rightly.
        if !held_leases(&mut target).await?.is_empty() {
            return Ok(());
        }
        let words = first.to_string();
        sides
            .in_directory(async |it| {
                job::note(it, job.id, self.actor(), ("differs", &words)).await?;
                job::pause(it, job, true).await
            })
            .await?;
        Err(Error::corrupt(format_args!(
            "shard {} serves {} and has lost what was copied to it: {words}; shard {} keeps its rows while the move is paused: bring \
             the rows of this conversation or user back by hand, then resume the move",
            job.target, job.range, job.source
        )))
    }
}

/// The rows of some entities of one kind, among those with the last revs, that are newer on the source, or only there.
async fn lost_of(
    (source, target): (&mut Connection, &mut Connection),
    owner: Owner,
    entities: &[Entity],
) -> Result<Vec<Difference>> {
    let (limit, revs_back) = COMPARED.1;
    let entities = Entities::of(entities);
    let here = presence::of(source, owner, &entities).await?;
    let mut since = here.revs(&entities);
    let there = presence::of(target, owner, &entities).await?;
    let there = there.revs(&entities);
    let mut lost = Vec::new();
    for ((prefix, here), (_, there)) in since.iter().zip(&there) {
        if there < here {
            let head = tables_of(owner).next();
            let how = format!("rev {there} on the target, {here} on the source");
            lost.extend(head.map(|table| compare::difference(table, prefix, how)));
        }
    }
    for (_, rev) in &mut since {
        *rev -= revs_back;
    }
    for table in tables_of(owner).filter(|it| it.rev.is_some()) {
        let here = rows::read_since(source, table, &since, limit).await?;
        let keys: Vec<_> = here.iter().map(|it| it.key(table)).collect();
        let there = rows::read_keys(target, table, &keys).await?;
        let there: BTreeMap<_, _> = there.iter().map(|it| (it.key(table), it)).collect();
        for record in &here {
            let how = match there.get(record.key(table)) {
                Some(copy) if copy.rev(table) >= record.rev(table) => continue,
                Some(_) => "the target has an older version",
                None => "the target does not have it",
            };
            lost.push(compare::difference(table, record.key(table), how.into()));
        }
    }
    lost.into_iter().collect()
}
