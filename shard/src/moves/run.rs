//! The runner: goes on with a move from whatever state it is in.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::copy::{self, Stretch};
use super::freezing::Attempt;
use super::pace::Pace;
use super::plan::Mover;
use super::rows::{self, Cell, Record, Scope};
use super::tables::{MOVED, Owner, Table};
use super::{
    Move, MoveState, Sides, Step, catch_up, cleanup, fences, job, marks, segments, serving, work,
};
use crate::archive::SegmentRecord;
use crate::error::{Error, Result};
use crate::metrics;
use crate::owned::Entity;
use crate::settings::RebalanceSettings;

/// How many rows one transaction of the copy has: at first, at least, at most.
const ROWS: (usize, usize, usize) = (500, 50, 20_000);
/// How many marked entities are copied in one transaction, and read at once.
const ENTITIES: (usize, usize) = (64, 8);
/// Most marks that are counted for the estimate.
const COUNTED: u64 = 10_000;
/// How many entities are compared once more within the freeze.
const TOUCHED: usize = 200;
/// How long a runner that has nothing to copy waits.
const IDLE: Duration = Duration::from_millis(20);

/// One process's work on one move.
#[derive(Debug)]
pub(super) struct Runner<'a> {
    mover: &'a Mover,
    /// How long copying one marked entity takes, lately.
    per_entity: Duration,
    /// The entities that were copied last.
    pub(super) touched: VecDeque<Entity>,
    /// Entities that were written to whenever they were compared.
    pub(super) restless: BTreeSet<Entity>,
    pub(super) pace: Pace,
}

/// Rows of the source, read for one transaction of the copy.
struct Chunk {
    records: Vec<Record>,
    segments: Vec<SegmentRecord>,
    has_ended: bool,
}

impl<'a> Runner<'a> {
    pub(super) fn new(mover: &'a Mover) -> Self {
        Self {
            mover,
            per_entity: Duration::from_millis(5),
            touched: VecDeque::new(),
            restless: BTreeSet::new(),
            pace: Pace::default(),
        }
    }

    pub(super) fn settings(&self) -> &'a RebalanceSettings {
        self.mover.settings()
    }

    pub(super) fn actor(&self) -> &'a str {
        self.mover.actor()
    }

    pub(super) fn passed(&self, step: Step) -> Result<()> {
        self.mover.passed(step)
    }

    pub(super) fn sides<'s>(&'s self, job: &'s Move, limit: Option<Instant>) -> Result<Sides<'s>> {
        self.mover.sides(job, limit)
    }

    /// The move as it is now, if this still is its runner.
    pub(super) async fn fresh(&self, job: &Move) -> Result<Move> {
        let now = self.mover.find(job.id).await?;
        if now.runner != job.runner {
            return Err(Error::LeaseLost(job.source.clone()));
        }
        Ok(now)
    }

    /// Goes on until the move is over, or the source keeps its rows for a while.
    pub(super) async fn run(&mut self, mut job: Move) -> Result<Move> {
        loop {
            match job.state {
                MoveState::Copying => self.copy(&job).await?,
                MoveState::CatchingUp => self.catch_up(&job).await?,
                MoveState::Frozen => {
                    // The runner that froze it is gone, and can no longer commit it.
                    let sides = self.sides(&job, None)?;
                    serving::end_freeze(&sides, "its runner is gone").await?;
                }
                MoveState::Committed => serving::settle(&self.sides(&job, None)?).await?,
                MoveState::Draining if job.keep_until.is_some_and(|until| until > job.now) => {
                    return Ok(job);
                }
                MoveState::Draining => {
                    let sides = self.sides(&job, None)?;
                    let rows = cleanup::all(&sides, sides.source).await?;
                    cleanup::drop_marks(&sides).await?;
                    self.end(
                        &job,
                        MoveState::Done,
                        &format!("{rows} rows deleted on the source"),
                    )
                    .await?;
                }
                MoveState::Aborting => {
                    let sides = self.sides(&job, None)?;
                    serving::settle(&sides).await?;
                    let rows = cleanup::all(&sides, sides.target).await?;
                    cleanup::drop_marks(&sides).await?;
                    self.end(
                        &job,
                        MoveState::Aborted,
                        &format!("{rows} rows deleted on the target"),
                    )
                    .await?;
                }
                MoveState::Done | MoveState::Aborted | MoveState::Reversed => return Ok(job),
            }
            job = self.fresh(&job).await?;
        }
    }

    async fn end(&self, job: &Move, state: MoveState, words: &str) -> Result<()> {
        self.passed(Step::Cleaned)?;
        self.advance(job, state, words).await
    }

    /// From the state that the move was read in to the next.
    async fn advance(&self, job: &Move, to: MoveState, words: &str) -> Result<()> {
        let sides = self.sides(job, None)?;
        let advanced = sides.in_directory(async |it| {
            let advanced = job::advance(it, job, to).await?;
            if advanced {
                job::note(it, job.id, self.actor(), (to.name(), words)).await?;
            }
            Ok(advanced)
        });
        match advanced.await? {
            true => Ok(()),
            // Given up, or another runner's: the move is read again.
            false => self.fresh(job).await.map(drop),
        }
    }

    async fn copy(&mut self, job: &Move) -> Result<()> {
        let sides = self.sides(job, None)?;
        serving::settle(&sides).await?;
        self.passed(Step::FenceCut)?;
        if !self.prepare(job).await? {
            return Ok(());
        }
        sides
            .on_source(async |it| fences::begin_moving(it, job).await)
            .await?;
        self.passed(Step::Moving)?;
        let mut source = sides.source.reader(sides.deadline()).await?;
        let not_gone = segments::not_gone(&mut source).await?;
        drop(source);
        sides
            .on_target(async |it| {
                work::begin(it, sides.target.name(), job).await?;
                segments::arrive(it, &not_gone).await
            })
            .await?;
        self.passed(Step::WorkBegun)?;
        if !self.copy_rows(job).await? {
            return Ok(());
        }
        self.passed(Step::Copied)?;
        let mut target = sides.target.reader(sides.deadline()).await?;
        let copied = work::progress(&mut target, job.id)
            .await?
            .unwrap_or_default();
        drop(target);
        let words = format!("{} rows, {} bytes copied", copied.rows, copied.bytes);
        self.advance(job, MoveState::CatchingUp, &words).await
    }

    /// Copies all rows; `false` when the move is in another state meanwhile.
    async fn copy_rows(&self, job: &Move) -> Result<bool> {
        self.pace.begin();
        let sides = self.sides(job, None)?;
        let scope = Scope::Range(job.range);
        let mut limit = ROWS.0.min(sides.rest(0, Instant::now()).await?);
        let mut ahead: Option<(Option<Vec<Cell>>, Chunk)> = None;
        loop {
            if !self.may_go_on(job, MoveState::Copying).await? {
                return Ok(false);
            }
            let mut target = sides.target.reader(sides.deadline()).await?;
            let progress = work::progress(&mut target, job.id).await?;
            drop(target);
            let progress = progress.ok_or_else(|| Error::LeaseLost(job.target.clone()))?;
            let Some(table) = MOVED.get(progress.step) else {
                return Ok(true);
            };
            let begun = Instant::now();
            let chunk = match ahead.take() {
                Some((after, chunk)) if after == progress.after => chunk,
                _ => read(&sides, table, &scope, progress.after.as_deref(), limit).await?,
            };
            let last = chunk.records.last().map(|it| it.key(table).to_vec());
            let store = sides.on_target(async |it| {
                work::check(it, sides.target.name(), job).await?;
                segments::arrive(it, &chunk.segments).await?;
                let stretch = Stretch {
                    table,
                    scope: &scope,
                    after: progress.after.as_deref(),
                    records: &chunk.records,
                    has_ended: chunk.has_ended,
                };
                let changed = copy::equalise(it, &stretch).await?;
                let mut next = progress.clone();
                next.rows += changed.written;
                next.bytes += changed.bytes;
                next.step += usize::from(changed.after.is_none());
                next.after = changed.after;
                work::advance(it, job, &next).await
            });
            let (stored, next) = if chunk.has_ended {
                (store.await, None)
            } else {
                let read = read(&sides, table, &scope, last.as_deref(), limit);
                let (stored, next) = futures_util::future::join(store, read).await;
                (stored, Some(next))
            };
            stored?;
            ahead = next.transpose()?.map(|chunk| (last, chunk));
            self.passed(Step::ChunkCopied)?;
            let took = begun.elapsed();
            metrics::MOVE_ROWS.increment(chunk.records.len() as u64);
            self.pace.copied(chunk.records.len());
            let throttle = sides.rest(chunk.records.len(), begun).await?;
            if !chunk.has_ended {
                limit = fitting(limit, took, self.settings().chunk.0).min(throttle);
            }
        }
    }

    /// Whether the move is still in this state, after waiting while it is paused.
    pub(super) async fn may_go_on(&self, job: &Move, state: MoveState) -> Result<bool> {
        loop {
            let now = self.fresh(job).await?;
            if now.state != state {
                return Ok(false);
            }
            if !now.paused && !self.is_braked(&now).await? {
                return Ok(true);
            }
            self.pace.waited(10 * IDLE);
            tokio::time::sleep(10 * IDLE).await;
        }
    }

    /// Copies what is marked until little is left, compares all rows, and freezes when little is left twice in a row.
    async fn catch_up(&mut self, job: &Move) -> Result<()> {
        serving::settle(&self.sides(job, None)?).await?;
        let sides = self.sides(job, None)?;
        sides
            .on_target(async |it| work::begin(it, sides.target.name(), job).await)
            .await?;
        let mut is_compared = false;
        let mut in_a_row = 0;
        loop {
            if !self.may_go_on(job, MoveState::CatchingUp).await? {
                return Ok(());
            }
            let copied = self.copy_marks(job, None).await?;
            let estimate = self.estimate(job).await?;
            in_a_row = if estimate < self.settings().freeze_budget.0 {
                in_a_row + 1
            } else {
                0
            };
            if in_a_row == 0 {
                continue;
            }
            if !is_compared {
                let rows = self.compare(job).await?;
                self.passed(Step::Compared)?;
                let words = format!("{rows} rows compared");
                let sides = self.sides(job, None)?;
                sides
                    .in_directory(async |it| {
                        job::note(it, job.id, self.actor(), ("compared", &words)).await
                    })
                    .await?;
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
                    tracing::warn!(job = %job.id, why, "a freeze was ended; the move goes on catching up");
                    tokio::time::sleep(10 * IDLE).await;
                }
            }
        }
    }

    /// How long copying what is marked now will take.
    pub(super) async fn estimate(&self, job: &Move) -> Result<Duration> {
        let sides = self.sides(job, None)?;
        let mut source = sides.source.reader(sides.deadline()).await?;
        let rest = marks::count(&mut source, job.range, COUNTED).await?;
        metrics::MOVE_MARKS.set(rest as f64);
        let estimate = self
            .per_entity
            .saturating_mul(u32::try_from(rest).unwrap_or(u32::MAX));
        self.tell_rest(job, rest, estimate).await?;
        Ok(estimate)
    }

    /// Copies some marked entities, clears their marks, and says how many.
    pub(super) async fn copy_marks(&mut self, job: &Move, limit: Option<Instant>) -> Result<usize> {
        let begun = Instant::now();
        let sides = self.sides(job, limit)?;
        let mut source = sides.source.reader(sides.deadline()).await?;
        let mut found = Vec::new();
        for owner in [Owner::Conversation, Owner::User] {
            let some =
                marks::next(&mut source, (job.range, owner), ENTITIES.0 - found.len()).await?;
            found.extend(some);
        }
        drop(source);
        if found.is_empty() {
            return Ok(0);
        }
        let small: Vec<Option<catch_up::Small>> = stream::iter(&found)
            .map(|mark| catch_up::read(&sides, &mark.entity))
            .buffered(ENTITIES.1)
            .try_collect()
            .await?;
        let (small, mut large): (Vec<_>, Vec<_>) =
            small.iter().zip(&found).partition(|(it, _)| it.is_some());
        let all: Vec<(&catch_up::Small, &marks::Mark)> = small
            .iter()
            .filter_map(|(it, mark)| Some((it.as_ref()?, *mark)))
            .collect();
        let unfinished = sides
            .on_target(async |it| {
                work::check(it, sides.target.name(), job).await?;
                let mut unfinished = Vec::new();
                for (index, (small, _)) in all.iter().enumerate() {
                    if !catch_up::complete(it, small).await? {
                        unfinished.push(index);
                    }
                }
                Ok(unfinished)
            })
            .await?;
        large.extend(
            unfinished
                .into_iter()
                .filter_map(|index| small.get(index).copied()),
        );
        for (_, mark) in &large {
            catch_up::large(&sides, &mark.entity).await?;
        }
        sides.passed(Step::MarksCopied)?;
        sides
            .on_source(async |it| {
                for mark in &found {
                    marks::clear(it, mark).await?;
                }
                Ok(())
            })
            .await?;
        sides.passed(Step::MarksCleared)?;
        let count = found.len();
        let each = begun.elapsed() / u32::try_from(count).unwrap_or(u32::MAX);
        self.per_entity = (3 * self.per_entity + each) / 4;
        for mark in found {
            self.touched.retain(|it| *it != mark.entity);
            self.touched.push_back(mark.entity);
        }
        let old = self.touched.len().saturating_sub(TOUCHED);
        self.touched.drain(..old);
        Ok(count)
    }
}

async fn read(
    sides: &Sides<'_>,
    table: &'static Table,
    scope: &Scope,
    after: Option<&[Cell]>,
    limit: usize,
) -> Result<Chunk> {
    let mut source = sides.source.reader(sides.deadline()).await?;
    let records = rows::read(&mut source, table, scope, after, limit).await?;
    let named = segments::named(table, &records)?;
    let segments = segments::registered(&mut source, &named).await?;
    let has_ended = records.len() < limit;
    Ok(Chunk {
        records,
        segments,
        has_ended,
    })
}

/// How many rows take about as long as they should.
fn fitting(limit: usize, took: Duration, should: Duration) -> usize {
    let factor = (should.as_secs_f64() / took.as_secs_f64().max(1e-6)).clamp(0.25, 2.0);
    ((limit as f64 * factor) as usize).clamp(ROWS.1, ROWS.2)
}
