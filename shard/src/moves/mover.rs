//! The mover: what asks for moves, runs them and tells of them; the methods stand beside what they do (`orders`, `run`, `drain`,
//! `watch`, `explain`, `balance`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::job::{self, Move, MoveEvent, MoveId};
use super::{Hook, Sides, Step, serving, shard_of};
use crate::db::Connection;
use crate::error::Result;
use crate::identity::making::in_transaction;
use crate::ids::ShardName;
use crate::map::ShardMap;
use crate::routing::Router;
use crate::settings::RebalanceSettings;

/// How long a look-up in the directory may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks for moves, runs them, and says how they go.
#[derive(Debug)]
pub struct Mover {
    router: Arc<Router>,
    settings: RebalanceSettings,
    /// The process that works on moves, for people: what the events and the lease say.
    actor: String,
    hook: Hook,
    pub(super) stop: CancellationToken,
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

    /// The target answers, and this process knows it.
    pub(super) async fn check_shard(&self, target: &ShardName) -> Result<()> {
        let shard = shard_of(&self.router, target)?;
        shard.reader(Instant::now() + PATIENCE).await.map(drop)
    }

    /// A move.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::error::Error::NotFound); when the directory fails.
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

    pub(super) fn sides_of<'a>(&'a self, job: &'a Move) -> Result<Sides<'a>> {
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
