//! Asking for moves, and what can be done with one that is under way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::job::{self, Move, MoveEvent, MoveId, MoveState, Order};
use super::run::Runner;
use super::{Hook, Reason, Sides, Step, figures, serving, shard_of};
use crate::db::Connection;
use crate::directory::{self, MemberState};
use crate::error::{Error, Result};
use crate::identity::making::in_transaction;
use crate::ids::{ShardName, UserKey};
use crate::map::{Assignment, ShardMap};
use crate::range::KeyRange;
use crate::routing::Router;
use crate::settings::RebalanceSettings;

/// How long a look-up in the directory may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks for moves, runs them, and says how they go.
#[derive(Debug)]
pub struct Mover {
    router: Arc<Router>,
    settings: RebalanceSettings,
    /// Who works on moves, for people: what the events and the lease say.
    actor: String,
    hook: Hook,
    stop: CancellationToken,
    /// The map that the fences were last found to follow.
    settled: Mutex<Option<Arc<ShardMap>>>,
}

impl Mover {
    /// One that works with the shards of `router`.
    #[must_use]
    pub fn new(router: Arc<Router>, actor: impl Into<String>) -> Self {
        Self {
            settings: router.settings().rebalance.clone(),
            router,
            actor: actor.into(),
            hook: Hook::default(),
            stop: CancellationToken::new(),
            settled: Mutex::default(),
        }
    }

    /// The same with other bounds.
    #[must_use]
    pub fn with_settings(mut self, settings: RebalanceSettings) -> Self {
        self.settings = settings;
        self
    }

    /// The same; `hook` is told of every step.
    #[must_use]
    pub fn with_hook(mut self, hook: Hook) -> Self {
        self.hook = hook;
        self
    }

    /// The same; once `stop` is cancelled it ends its work at the next wait, and another process may go on at once.
    #[must_use]
    pub fn stopped_by(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }

    pub(super) fn router(&self) -> &Router {
        &self.router
    }

    pub(super) fn settings(&self) -> &RebalanceSettings {
        &self.settings
    }

    pub(super) fn actor(&self) -> &str {
        &self.actor
    }

    pub(super) fn passed(&self, step: Step) -> Result<()> {
        (self.hook.0)(step)
    }

    pub(super) async fn reader(&self) -> Result<Connection> {
        let database = self.router.directory().database();
        database.reader(Instant::now() + PATIENCE).await
    }

    pub(super) async fn in_directory<T>(
        &self,
        work: impl AsyncFn(&mut Connection) -> Result<T>,
    ) -> Result<T> {
        let database = self.router.directory().database();
        let mut connection = database.writer(Instant::now() + PATIENCE).await?;
        in_transaction(&mut connection, work).await
    }

    pub(super) fn settled(&self) -> Option<Arc<ShardMap>> {
        let settled = self.settled.lock();
        settled.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_settled(&self, map: Arc<ShardMap>) {
        let settled = self.settled.lock();
        *settled.unwrap_or_else(PoisonError::into_inner) = Some(map);
    }

    /// Puts a move of `range` to shard `target` down. The map and the source's fence are cut where the range is part of another
    /// one. Nothing is copied before [`Mover::run`].
    ///
    /// # Errors
    /// [`Error::Invalid`] when the range has several owners, is the target's already, or the target is no shard of the deployment;
    /// [`Error::Busy`] while another move has one of the shards, or keys of the range.
    pub async fn begin(&self, range: KeyRange, target: &ShardName, order: &Order) -> Result<Move> {
        let id = MoveId::new();
        self.check_shard(target).await?;
        self.in_directory(async |it| {
            directory::lock(it, self.router.settings()).await?;
            self.put_down(it, id, (range, target), order).await
        })
        .await?;
        let job = self.find(id).await?;
        serving::settle(&self.sides_of(&job)?).await?;
        Ok(job)
    }

    /// The target answers, and this process knows it.
    pub(super) async fn check_shard(&self, target: &ShardName) -> Result<()> {
        let shard = shard_of(&self.router, target)?;
        shard.reader(Instant::now() + PATIENCE).await.map(drop)
    }

    async fn put_down(
        &self,
        connection: &mut Connection,
        id: MoveId,
        (range, target): (KeyRange, &ShardName),
        order: &Order,
    ) -> Result<()> {
        let entries = directory::entries(connection, true).await?;
        let joined = entries
            .members
            .get(target)
            .is_some_and(|it| it.state == MemberState::Joined);
        if !joined {
            return Err(Error::invalid(
                "to",
                format!("{target} is no shard of this deployment"),
            ));
        }
        let map = entries.map()?;
        let whole = map.locate(UserKey(range.start));
        if !whole.range.covers(&range) {
            return Err(Error::invalid(
                "range",
                format!(
                    "{range} is not within one range of the map: its beginning is in {}; move the parts one by one",
                    whole.range
                ),
            ));
        }
        if whole.shard == *target {
            return Err(Error::invalid(
                "to",
                format!("shard {target} has {range} already"),
            ));
        }
        for other in job::unfinished(connection).await? {
            exclude(&other, range, [&whole.shard, target])?;
        }
        let part = match whole.range == range {
            true => whole.clone(),
            false => directory::cut(connection, whole, range).await?,
        };
        self.insert(connection, id, &part, target, order).await
    }

    async fn insert(
        &self,
        connection: &mut Connection,
        id: MoveId,
        part: &Assignment,
        target: &ShardName,
        order: &Order,
    ) -> Result<()> {
        job::insert(
            connection,
            (id, part.range, part.epoch),
            (&part.shard, target),
            order,
        )
        .await?;
        let words = format!(
            "{} from {} to {target}: {}",
            part.range, part.shard, order.reason
        );
        job::note(connection, id, &order.actor, ("copying", &words)).await
    }

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
        let lease = self.settings.lease.0;
        let taken = self.in_directory(async |it| job::take(it, &found, &self.actor, lease).await);
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
            tokio::time::sleep(self.settings.lease.0 / 3).await;
            let outcome =
                self.in_directory(async |it| job::renew(it, job, self.settings.lease.0).await);
            match outcome.await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => return Error::LeaseLost(job.source.clone()),
                Err(error) if renewed.elapsed() > self.settings.lease.0 => return error,
                Err(error) => {
                    tracing::warn!(job = %job.id, %error, "the lease of a move is not renewed")
                }
            }
        }
    }

    /// Makes the fences of all moves that are under way, and of ranges that were merged, say what the directory says. What one move
    /// needs does not keep the others waiting.
    ///
    /// # Errors
    /// When the directory fails.
    pub async fn settle(&self) -> Result<()> {
        // Of a shard that is away others tell; it is looked at again.
        if let Err(error) = self.settle_merged().await
            && !error.is_retryable()
        {
            tracing::warn!(%error, "the fences of merged ranges cannot be made to follow the map now");
        }
        for job in self.unfinished().await? {
            let settled = match self.sides_of(&job) {
                Ok(sides) => serving::settle(&sides).await,
                Err(error) => Err(error),
            };
            if let Err(error) = settled {
                tracing::warn!(job = %job.id, %error, "the fences of a move cannot be made to follow the directory now");
            }
        }
        Ok(())
    }

    /// A move.
    ///
    /// # Errors
    /// [`Error::NotFound`]; when the directory fails.
    pub async fn find(&self, id: MoveId) -> Result<Move> {
        serving::read(&mut self.reader().await?, id).await
    }

    /// The moves that are not over, the oldest first.
    ///
    /// # Errors
    /// When the directory fails.
    pub async fn unfinished(&self) -> Result<Vec<Move>> {
        job::unfinished(&mut self.reader().await?).await
    }

    /// The latest `limit` moves, the newest first.
    ///
    /// # Errors
    /// When the directory fails.
    pub async fn history(&self, limit: usize) -> Result<Vec<Move>> {
        job::latest(&mut self.reader().await?, limit).await
    }

    /// What happened to a move after event number `after`, at most `limit` events.
    ///
    /// # Errors
    /// When the directory fails.
    pub async fn events(&self, id: MoveId, after: u64, limit: usize) -> Result<Vec<MoveEvent>> {
        job::events(&mut self.reader().await?, id, after, limit).await
    }

    /// Gives a move up that is not committed. The source serves its range again at once; the copied rows are deleted by
    /// [`Mover::run`].
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is committed: then it can be reversed.
    pub async fn abort(&self, id: MoveId, order: &Order) -> Result<Move> {
        let aborted = self.in_directory(async |it| {
            let job = serving::read(it, id).await?;
            if !job::abort(it, &job).await? {
                return Err(Error::Conflict("only a move that is not committed can be given up; a committed one can be reversed"));
            }
            job::note(it, id, &order.actor, ("aborting", &order.reason)).await
        });
        aborted.await?;
        let job = self.find(id).await?;
        serving::settle(&self.sides_of(&job)?).await?;
        Ok(job)
    }

    /// Puts the move back down of a range whose source still keeps its rows.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the source does not keep them any more, or not yet; as [`Mover::begin`].
    pub async fn reverse(&self, id: MoveId, order: &Order) -> Result<Move> {
        let back = MoveId::new();
        let old = self.find(id).await?;
        self.check_shard(&old.source).await?;
        self.in_directory(async |it| {
            directory::lock(it, self.router.settings()).await?;
            let old = serving::read(it, id).await?;
            if !job::reverse(it, &old).await? {
                return Err(Error::Conflict(
                    "only a move whose source still keeps its rows can be reversed",
                ));
            }
            let words = format!("by move {back}: {}", order.reason);
            job::note(it, id, &order.actor, ("reversed", &words)).await?;
            self.put_down(it, back, (old.range, &old.source), order)
                .await
        })
        .await?;
        let job = self.find(back).await?;
        serving::settle(&self.sides_of(&job)?).await?;
        Ok(job)
    }

    /// Pauses or resumes a move. What is being done when it is paused is finished: a transaction, or a freeze.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is that already.
    pub async fn pause(&self, id: MoveId, paused: bool, order: &Order) -> Result<Move> {
        self.in_directory(async |it| {
            let job = serving::read(it, id).await?;
            if !job::pause(it, &job, paused).await? {
                return Err(Error::Conflict(match paused {
                    true => "the move is paused already",
                    false => "the move is not paused",
                }));
            }
            let event = if paused { "paused" } else { "resumed" };
            job::note(it, id, &order.actor, (event, &order.reason)).await
        })
        .await?;
        self.find(id).await
    }

    /// Lets a move copy, compare and delete at most `rows` a second, or as many as it can; a runner minds it within a second.
    ///
    /// # Errors
    /// [`Error::Invalid`] for 0 rows: that is a pause; [`Error::Conflict`] when the move is over.
    pub async fn throttle(&self, id: MoveId, rows: Option<u64>, order: &Order) -> Result<Move> {
        if rows == Some(0) {
            let rule = "at least 1 row a second; `pause` stops a move";
            return Err(Error::invalid("rows", rule));
        }
        self.in_directory(async |it| {
            if serving::read(it, id).await?.state.is_final() {
                return Err(Error::Conflict("the move is over"));
            }
            figures::throttle(it, id, rows).await?;
            let words = match rows {
                Some(rows) => format!("{rows} rows a second: {}", order.reason),
                None => format!("no limit: {}", order.reason),
            };
            job::note(it, id, &order.actor, ("throttled", &words)).await
        })
        .await?;
        self.find(id).await
    }

    fn sides_of<'a>(&'a self, job: &'a Move) -> Result<Sides<'a>> {
        Ok(Sides {
            router: &self.router,
            source: shard_of(&self.router, &job.source)?,
            target: shard_of(&self.router, &job.target)?,
            job,
            settings: &self.settings,
            actor: &self.actor,
            hook: &self.hook,
            limit: None,
        })
    }

    /// The move with its shards; what is done with it has to be done by `limit`.
    pub(super) fn sides<'a>(&'a self, job: &'a Move, limit: Option<Instant>) -> Result<Sides<'a>> {
        Ok(Sides {
            limit,
            ..self.sides_of(job)?
        })
    }
}

/// One move at a time has a shard, until its target serves the range; and one the keys, until its source has deleted them.
fn exclude(other: &Move, range: KeyRange, shards: [&ShardName; 2]) -> Result<()> {
    let has_shard = shards
        .iter()
        .any(|it| **it == other.source || **it == other.target);
    let is_served = other.state == MoveState::Draining;
    if other.range.overlaps(&range) || (has_shard && !is_served) {
        return Err(Error::Busy(format!(
            "move {} of {} from {} to {} is {}; one move at a time has a shard, and one a range",
            other.id,
            other.range,
            other.source,
            other.target,
            other.state.name()
        )));
    }
    Ok(())
}
