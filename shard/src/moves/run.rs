//! The runner: goes on with a move from whatever state it is in.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::copy::{self, Stretch};
use super::mover::Mover;
use super::pace::Pace;
use super::rows::{self, Cell, Record};
use super::scope::Scope;
use super::tables::{MOVED, Table};
use super::{
    Move, MoveId, MoveState, Reason, Sides, Step, cleanup, fences, figures, job, segments, serving,
    work,
};
use crate::archive::SegmentRecord;
use crate::error::{Error, Result};
use crate::metrics;
use crate::owned::Entity;
use crate::settings::RebalanceSettings;

/// How many rows one transaction of the copy has: at first, at least, at most.
const ROWS: (usize, usize, usize) = (500, 50, 20_000);
/// How long a round of catching up is taken to last before the first one.
const FIRST_ROUND: Duration = Duration::from_millis(20);
/// How long a runner that has nothing to copy waits.
pub(super) const IDLE: Duration = Duration::from_millis(20);

/// One process's work on one move.
#[derive(Debug)]
pub(super) struct Runner<'a> {
    mover: &'a Mover,
    /// How long copying marked entities once takes, lately.
    pub(super) per_round: Duration,
    /// The entities that were copied and not compared since.
    pub(super) touched: BTreeSet<Entity>,
    /// The entities of the last round of copying, and those copied within the freeze.
    pub(super) copied_last: BTreeSet<Entity>,
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

impl Mover {
    /// Works on a move until it is over, or until the target serves the range and the source keeps its rows for a while.
    ///
    /// # Errors
    /// [`Error::Busy`] while another process works on it, or an archive job on the source; [`Error::Corrupt`] with the first row
    /// that differs; [`Error::LeaseLost`] when another process has taken over. The move goes on with the next call.
    pub async fn run(&self, id: MoveId) -> Result<Move> {
        let found = self.find(id).await?;
        if found.state.is_final() {
            return Ok(found);
        }
        let lease = self.settings().lease.0;
        let taken = self.in_directory(async |it| job::take(it, &found, self.actor(), lease).await);
        if !taken.await? {
            return Err(Error::Busy(format!(
                "{} works on move {id}; if that process is dead, its lease ends at {} by the directory's clock",
                found.runner_name, found.runner_until
            )));
        }
        let job = self.find(id).await?;
        if job.runner != found.runner + 1 {
            return Err(Error::LeaseLost(job.source));
        }
        self.passed(Step::Taken)?;
        let mut runner = Runner::new(self);
        let outcome = tokio::select! {
            outcome = runner.run(job.clone()) => outcome,
            error = self.keep(&job) => Err(error),
            () = self.stop.cancelled() => Err(Error::Busy(format!("move {id} was stopped here; another process goes on"))),
        };
        if !matches!(outcome, Err(Error::Closing)) {
            let failed = outcome.as_ref().err().filter(|_| !self.stop.is_cancelled());
            let failed = failed.and_then(Reason::of_failure);
            self.in_directory(async |it| {
                if failed.is_some() {
                    figures::tell(it, &job, failed.as_ref()).await?;
                }
                job::give_up(it, &job).await
            })
            .await?;
        }
        outcome
    }

    /// Renews the runner's lease, until it is lost.
    async fn keep(&self, job: &Move) -> Error {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.settings().lease.0 / 3).await;
            let outcome =
                self.in_directory(async |it| job::renew(it, job, self.settings().lease.0).await);
            match outcome.await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => return Error::LeaseLost(job.source.clone()),
                Err(error) if renewed.elapsed() > self.settings().lease.0 => return error,
                Err(error) => {
                    tracing::warn!(job = %job.id, %error, "the lease of a move is not renewed")
                }
            }
        }
    }
}

impl<'a> Runner<'a> {
    fn new(mover: &'a Mover) -> Self {
        Self {
            mover,
            per_round: FIRST_ROUND,
            touched: BTreeSet::new(),
            copied_last: BTreeSet::new(),
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
                MoveState::Draining if job.is_kept() => return Ok(job),
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
