//! Catching up: what writers mark is copied again until little is left, all rows are compared, and the range is frozen.
//!
//! A round copies up to [`ENTITIES`] marked conversations and users, with one statement for each table and side, which are sent
//! together, so that a round takes about as long for one entity as for many. What was copied since all rows were compared is compared again while writers
//! go on: what is the same on both sides then, and changes later, is marked and copied again. So within the freeze only the rest
//! is copied, and only what was copied last is compared.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::{try_join, try_join_all};

use super::freezing::Attempt;
use super::marks::Mark;
use super::run::{IDLE, Runner};
use super::tables::Owner;
use super::{Move, MoveState, Sides, Step, catch_up, compare, job, marks, serving, work};
use crate::error::Result;
use crate::metrics;
use crate::owned::Entity;

/// How many marked entities are copied in one round, in one transaction.
const ENTITIES: usize = 128;
/// Most marks that are counted for the estimate.
const COUNTED: u64 = 10_000;
/// How many entities are read at the same time when they are too much to be read together.
const READ_AT_ONCE: usize = 8;
/// After so many times that one round would do, the range is frozen even if a round takes longer than the budget, as on a busy
/// machine: what is left does not become less. A freeze that takes too long is ended all the same.
const LAST_ROUNDS: u32 = 40;
/// How many touched entities are compared together, how many rows of a table, and how many changes of each.
pub(super) const COMPARED: (usize, (usize, i64)) = (64, (4000, 50));

impl Runner<'_> {
    /// Copies what is marked until little is left, compares all rows, and freezes when little is left twice in a row.
    pub(super) async fn catch_up(&mut self, job: &Move) -> Result<()> {
        serving::settle(&self.sides(job, None)?).await?;
        let sides = self.sides(job, None)?;
        sides
            .on_target(async |it| work::begin(it, sides.target.name(), job).await)
            .await?;
        let mut is_compared = false;
        let (mut in_a_row, mut last_rounds) = (0, 0);
        loop {
            if !self.may_go_on(job, MoveState::CatchingUp).await? {
                return Ok(());
            }
            let copied = self.copy_marks(job).await?;
            match is_compared {
                true if in_a_row == 0 => self.compare_touched_before(job).await?,
                true => {}
                false => self.touched.clear(),
            }
            let (rounds, estimate) = self.estimate(job).await?;
            last_rounds = if rounds > 1 { 0 } else { last_rounds + 1 };
            let is_little = estimate < self.settings().freeze_budget.0;
            if !is_little && last_rounds < LAST_ROUNDS {
                in_a_row = 0;
                continue;
            }
            in_a_row += 1;
            if !is_compared {
                self.compare_all(job).await?;
                is_compared = true;
                in_a_row = 0;
                continue;
            }
            if in_a_row < 2 {
                if copied == 0 {
                    tokio::time::sleep(IDLE).await;
                }
                continue;
            }
            in_a_row = 0;
            let now = self.fresh(job).await?;
            match self.freeze(&now).await? {
                Attempt::Served(took) => return self.measure(job, took).await,
                Attempt::Refused => {}
                Attempt::Ended(why) => {
                    // What was compared stays so: whatever was written since is marked.
                    last_rounds = 0;
                    tracing::warn!(job = %job.id, why, "a freeze was ended; the move goes on catching up");
                    tokio::time::sleep(10 * IDLE).await;
                }
            }
        }
    }

    async fn compare_all(&mut self, job: &Move) -> Result<()> {
        let rows = self.compare(job).await?;
        self.passed(Step::Compared)?;
        let words = format!("{rows} rows compared");
        let sides = self.sides(job, None)?;
        sides
            .in_directory(async |it| {
                job::note(it, job.id, self.actor(), ("compared", &words)).await
            })
            .await
    }

    /// In how many rounds what is marked now will be copied, and how long that will take.
    async fn estimate(&self, job: &Move) -> Result<(u64, Duration)> {
        let sides = self.sides(job, None)?;
        let mut source = sides.source.reader(sides.deadline()).await?;
        let rest = marks::count(&mut source, job.range, COUNTED).await?;
        metrics::MOVE_MARKS.set(rest as f64);
        let rounds = rest.div_ceil(ENTITIES as u64);
        let takes = self
            .per_round
            .saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        self.tell_rest(job, rest, takes).await?;
        Ok((rounds, takes))
    }

    /// Copies some marked entities, clears their marks, and says how many.
    async fn copy_marks(&mut self, job: &Move) -> Result<usize> {
        let begun = Instant::now();
        let sides = self.sides(job, None)?;
        let mut source = sides.source.reader(sides.deadline()).await?;
        let found = marks::first(&mut source, job.range, ENTITIES).await?;
        drop(source);
        if found.is_empty() {
            return Ok(0);
        }
        copy_marked(&sides, &found).await?;
        sides.passed(Step::MarksCopied)?;
        sides
            .on_source(async |it| marks::clear(it, &found).await)
            .await?;
        sides.passed(Step::MarksCleared)?;
        self.per_round = (3 * self.per_round + begun.elapsed()) / 4;
        let count = found.len();
        self.copied_last = found.iter().map(|it| it.entity.clone()).collect();
        self.touched.extend(found.into_iter().map(|it| it.entity));
        Ok(count)
    }

    /// Compares what was touched while writers go on, so that it need not be compared while they wait. What differs and is
    /// marked will be copied again.
    async fn compare_touched_before(&mut self, job: &Move) -> Result<()> {
        let sides = self.sides(job, None)?;
        let mut changed = BTreeSet::new();
        for (owner, entities) in in_parts(&self.touched) {
            let mut source = sides.source.reader(sides.deadline()).await?;
            let mut target = sides.target.reader(sides.deadline()).await?;
            let both = (&mut source, &mut target);
            let mut found = compare::latest(both, owner, &entities, COMPARED.1).await?;
            drop(target);
            let different: BTreeSet<Entity> = found.iter().map(|it| it.entity.clone()).collect();
            for entity in different {
                if marks::is_marked(&mut source, &entity).await? {
                    changed.insert(entity);
                } else {
                    found.retain(|it| it.entity == entity);
                    return self.refuse(job, &found).await;
                }
            }
        }
        self.touched = changed;
        Ok(())
    }
}

/// Parts of entities, each of one kind.
pub(super) fn in_parts(entities: &BTreeSet<Entity>) -> Vec<(Owner, Vec<Entity>)> {
    let mut parts = Vec::new();
    for owner in [Owner::Conversation, Owner::User] {
        let of_kind = entities.iter().filter(|it| it.owner() == owner);
        let of_kind: Vec<Entity> = of_kind.cloned().collect();
        let some = of_kind.chunks(COMPARED.0).map(|it| (owner, it.to_vec()));
        parts.extend(some);
    }
    parts
}

/// Copies the entities of marks, some at once: what is little in one transaction, the others one by one.
pub(super) async fn copy_marked(sides: &Sides<'_>, found: &[Mark]) -> Result<()> {
    for some in found.chunks(ENTITIES) {
        copy(sides, some).await?;
    }
    Ok(())
}

async fn copy(sides: &Sides<'_>, found: &[Mark]) -> Result<()> {
    let of_kind = |owner| {
        let entities = found.iter().map(|mark| &mark.entity);
        let entities: Vec<&Entity> = entities.filter(|it| it.owner() == owner).collect();
        read(sides, owner, entities)
    };
    let both = try_join(of_kind(Owner::Conversation), of_kind(Owner::User)).await?;
    let (mut batches, mut large) = (both.0.0, both.0.1);
    batches.extend(both.1.0);
    large.extend(both.1.1);
    let unfinished = sides
        .on_target(async |it| {
            work::check(it, sides.target.name(), sides.job).await?;
            let all = batches.iter().map(|(_, batch)| batch);
            let unfinished = catch_up::complete(it, all).await?;
            let is_unfinished =
                |batch: &catch_up::Batch| unfinished.iter().any(|it| std::ptr::eq(*it, batch));
            let of = batches.iter().filter(|(_, batch)| is_unfinished(batch));
            Ok(of
                .flat_map(|(entities, _)| entities.iter().copied())
                .collect::<Vec<_>>())
        })
        .await?;
    for entity in large.into_iter().chain(unfinished) {
        catch_up::large(sides, entity).await?;
    }
    Ok(())
}

/// Some entities of one kind with everything that their copies may lack.
type Batches<'e> = Vec<(Vec<&'e Entity>, catch_up::Batch)>;

/// Reads what the copies of entities of one kind may lack, together if it is little, else one by one; and gives those that are
/// too large for that.
async fn read<'e>(
    sides: &Sides<'_>,
    owner: Owner,
    entities: Vec<&'e Entity>,
) -> Result<(Batches<'e>, Vec<&'e Entity>)> {
    if entities.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    if let Some(batch) = catch_up::read(sides, owner, entities.iter().copied()).await? {
        return Ok((vec![(entities, batch)], Vec::new()));
    }
    let (mut batches, mut large) = (Vec::new(), Vec::new());
    for some in entities.chunks(READ_AT_ONCE) {
        let read = some.iter().map(|it| catch_up::read(sides, owner, [*it]));
        for (entity, batch) in some.iter().zip(try_join_all(read).await?) {
            match batch {
                Some(batch) => batches.push((vec![*entity], batch)),
                None => large.push(*entity),
            }
        }
    }
    Ok((batches, large))
}
