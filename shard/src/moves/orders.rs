//! Asking for moves, and what can be done with one that is under way. Each is recorded in the audit log, in its own transaction.

use serde_json::json;

use super::job::{self, Move, MoveId, MoveState, Order};
use super::mover::Mover;
use super::{figures, serving};
use crate::audit::{self, Action};
use crate::db::Connection;
use crate::directory::{self, MemberState};
use crate::error::{Error, Result};
use crate::ids::{ShardName, UserKey};
use crate::map::Assignment;
use crate::range::KeyRange;

impl Mover {
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
            directory::lock(it, self.router().settings()).await?;
            self.put_down(it, id, (range, target), order).await
        })
        .await?;
        let job = self.find(id).await?;
        serving::settle(&self.sides_of(&job)?).await?;
        Ok(job)
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
        job::note(connection, id, &order.actor, ("copying", &words)).await?;
        let act = order.act(Action::MoveBegin, id).with(json!({
            "range": part.range, "from": part.shard, "to": target,
        }));
        audit::append(connection, &act).await.map(drop)
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
            job::note(it, id, &order.actor, ("aborting", &order.reason)).await?;
            audit::append(it, &order.act(Action::MoveAbort, id)).await
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
            directory::lock(it, self.router().settings()).await?;
            let old = serving::read(it, id).await?;
            if !job::reverse(it, &old).await? {
                return Err(Error::Conflict(
                    "only a move whose source still keeps its rows can be reversed",
                ));
            }
            let words = format!("by move {back}: {}", order.reason);
            job::note(it, id, &order.actor, ("reversed", &words)).await?;
            let act = order.act(Action::MoveReverse, id);
            audit::append(it, &act.with(json!({ "by": back }))).await?;
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
            let (event, action) = match paused {
                true => ("paused", Action::MovePause),
                false => ("resumed", Action::MoveResume),
            };
            job::note(it, id, &order.actor, (event, &order.reason)).await?;
            audit::append(it, &order.act(action, id)).await
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
            job::note(it, id, &order.actor, ("throttled", &words)).await?;
            let act = order.act(Action::MoveThrottle, id);
            audit::append(it, &act.with(json!({ "rowsPerSecond": rows }))).await
        })
        .await?;
        self.find(id).await
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
