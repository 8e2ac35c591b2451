//! Comparing all rows of a move, while its range is written to.

use std::collections::BTreeSet;
use std::time::Instant;

use super::run::Runner;
use super::scope::Scope;
use super::tables::MOVED;
use super::{Difference, Move, MoveState, Reason, catch_up, compare, job, marks};
use crate::error::{Error, Result};
use crate::owned::Entity;

/// How often an entity that is being written to is compared before the freeze has to do it, and how many of those there may be.
const RESTLESS: (usize, usize) = (5, 200);
/// Rows of a table that are compared at once.
const COMPARED: usize = 2000;

impl Runner<'_> {
    /// Compares all rows of both sides, and says how many there are.
    pub(super) async fn compare(&mut self, job: &Move) -> Result<u64> {
        self.touched.clear();
        self.restless.clear();
        let scope = Scope::Range(job.range);
        let mut compared = 0;
        for table in &MOVED {
            let mut after = None;
            loop {
                self.may_go_on(job, MoveState::CatchingUp).await?;
                self.tell(job, Some(Reason::Comparing { rows: compared }))
                    .await?;
                let sides = self.sides(job, None)?;
                let begun = Instant::now();
                let mut source = sides.source.reader(sides.deadline()).await?;
                let mut target = sides.target.reader(sides.deadline()).await?;
                let both = (&mut source, &mut target);
                let found =
                    compare::stretch(both, table, &scope, after.as_deref(), COMPARED).await?;
                drop((source, target));
                tracing::debug!(
                    job = %job.id, table = table.name, rows = found.rows,
                    source = format_args!("{:016x}", found.source), target = format_args!("{:016x}", found.target),
                    "compared"
                );
                compared += found.rows;
                let entities: BTreeSet<Entity> = found
                    .differences
                    .iter()
                    .map(|it| it.entity.clone())
                    .collect();
                let rows = usize::try_from(found.rows).unwrap_or(usize::MAX);
                sides.rest(rows, begun).await?;
                for entity in entities {
                    self.explain(job, entity).await?;
                }
                after = found.after;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(compared)
    }

    /// An entity differs: it was written to meanwhile, which a mark says, or the copy is not what it has to be.
    async fn explain(&mut self, job: &Move, entity: Entity) -> Result<()> {
        for _ in 0..RESTLESS.0 {
            let sides = self.sides(job, None)?;
            let mut source = sides.source.reader(sides.deadline()).await?;
            let mut target = sides.target.reader(sides.deadline()).await?;
            let found = compare::entity((&mut source, &mut target), &entity, COMPARED).await?;
            if found.is_empty() {
                return Ok(());
            }
            let is_marked = marks::is_marked(&mut source, &entity).await?;
            drop((source, target));
            if !is_marked {
                return self.refuse(job, &found).await;
            }
            catch_up::large(&sides, &entity).await?;
        }
        self.restless.insert(entity);
        if self.restless.len() > RESTLESS.1 {
            return Err(Error::Busy(format!(
                "more than {} conversations and users of {} are written to faster than they can be compared",
                RESTLESS.1, job.range
            )));
        }
        Ok(())
    }

    /// The move waits for an operator: what differs is put down, and nothing goes on before it is resumed.
    pub(super) async fn refuse(&self, job: &Move, found: &[Difference]) -> Result<()> {
        let words = found.first().map(ToString::to_string).unwrap_or_default();
        let sides = self.sides(job, None)?;
        sides
            .in_directory(async |it| {
                job::note(it, job.id, self.actor(), ("differs", &words)).await?;
                job::pause(it, job, true).await
            })
            .await?;
        self.require_same(found)
    }

    pub(super) fn require_same(&self, found: &[Difference]) -> Result<()> {
        match found.first() {
            None => Ok(()),
            Some(first) => Err(Error::corrupt(format_args!(
                "the copy on the target is not what the source has, and no writer of the source changed it: {first}"
            ))),
        }
    }
}
