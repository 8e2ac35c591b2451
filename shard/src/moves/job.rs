//! The durable job of a move: its row in the directory, and what happened to it.
//!
//! The row decides. Every change of it is one conditional statement: it names the state that it expects, and the runner or the
//! attempt whose work it is, so a process that was stopped for a while changes nothing any more. Times are those of the
//! directory's clock, in the statements themselves. What happened is added to `move_events` in the same transactions.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::move_id::MoveId;

use super::reason::Reason;
use crate::audit::{Act, Action, Reference};
use crate::db::{Connection, Row, Statement, values};
use crate::error::{Error, Result};
use crate::ids::{Epoch, ShardName, UserKey};
use crate::model::Timestamp;
use crate::range::KeyRange;

/// How far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveState {
    /// The rows are being copied; writers of the range mark what they touch.
    Copying,
    /// What was marked is being copied again, and both sides are compared.
    CatchingUp,
    /// The source takes no writes of the range for a moment, while the rest is copied.
    Frozen,
    /// The map names the target. From here on a move only goes forward.
    Committed,
    /// The target serves the range; the source keeps its rows for a while.
    Draining,
    /// The source has no rows of the range any more.
    Done,
    /// It was given up before the commit; the source serves the range, and what was copied is being deleted.
    Aborting,
    /// It was given up, and left nothing.
    Aborted,
    /// Another move brought the range back before the source had deleted its rows.
    Reversed,
}

impl MoveState {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Copying,
        Self::CatchingUp,
        Self::Frozen,
        Self::Committed,
        Self::Draining,
        Self::Done,
        Self::Aborting,
        Self::Aborted,
        Self::Reversed,
    ];

    /// As stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::CatchingUp => "catching_up",
            Self::Frozen => "frozen",
            Self::Committed => "committed",
            Self::Draining => "draining",
            Self::Done => "done",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
            Self::Reversed => "reversed",
        }
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Aborted | Self::Reversed)
    }

    /// Whether it can still be given up.
    #[must_use]
    pub fn precedes_commit(self) -> bool {
        matches!(self, Self::Copying | Self::CatchingUp | Self::Frozen)
    }

    fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|state| state.name() == text);
        found.ok_or_else(|| Error::corrupt(format_args!("unknown state {text} of a move")))
    }
}

/// A move of a range from one shard to another, as the directory has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// Its name.
    pub id: MoveId,
    /// The keys.
    pub range: KeyRange,
    /// The shard that had them.
    pub source: ShardName,
    /// The shard that gets them.
    pub target: ShardName,
    /// The range's epoch on the source; the target has it at the next one.
    pub epoch: Epoch,
    /// How far it has come.
    pub state: MoveState,
    /// How often the range was frozen.
    pub attempt: u64,
    /// Until when the freeze may be committed, by the directory's clock.
    pub frozen_until: Option<Timestamp>,
    /// How many processes have worked on it, this one included.
    pub runner: u64,
    /// The process that does, for people.
    pub runner_name: String,
    /// When another process may take it over, by the directory's clock.
    pub runner_until: Timestamp,
    /// Nothing is copied, and nothing frozen, until it is resumed.
    pub paused: bool,
    /// Until when the source keeps its rows.
    pub keep_until: Option<Timestamp>,
    /// Who asked for it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it came into its state.
    pub changed_at: Timestamp,
    /// About how many rows the range has; unknown before the move begins.
    pub expected_rows: Option<u64>,
    /// About how many bytes these have.
    pub expected_bytes: Option<u64>,
    /// How fast it was, from the beginning of the copy to the commit; unknown before, and where little was copied.
    pub rows_per_second: Option<u64>,
    /// How long writers waited at its end, in milliseconds.
    pub freeze_ms: Option<u64>,
    /// How many rows a second it may copy, compare and delete; as many as it can without.
    pub throttle: Option<u64>,
    /// What its runner waits for, or is at.
    #[serde(skip)]
    pub(super) waits: Option<Reason>,
    /// The directory's time when this was read.
    pub now: Timestamp,
}

macro_rules! move_columns {
    () => {
        "id, range_start, range_end, source, target, epoch, state, attempt, frozen_until, runner, runner_name, runner_until, \
         paused, keep_until, actor, reason, created_at, changed_at, expected_rows, expected_bytes, rows_per_second, freeze_ms, \
         throttle, waits, {now}"
    };
}

const INSERT: &str = "INSERT INTO moves (id, range_start, range_end, source, target, epoch, state, attempt, runner, runner_name, \
     runner_until, paused, actor, reason, created_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, 'copying', 0, 0, '', 0, 0, ?, ?, {now}, {now})";
const ONE: &str = concat!("SELECT ", move_columns!(), " FROM moves WHERE id = ?");
/// By the index `moves_state`.
const UNFINISHED: &str = concat!(
    "SELECT ",
    move_columns!(),
    " FROM moves {by moves_state} WHERE state IN ('copying', 'catching_up', 'frozen', 'committed', 'draining', 'aborting') \
     ORDER BY created_at, id"
);
/// The whole table: a row a move that there ever was.
const UNDER_WAY: &str = "SELECT range_start, range_end FROM moves WHERE state NOT IN ('done', 'aborted', 'reversed') OR changed_at > {now} - ?";
/// The whole table: a row a move that there ever was.
const LATEST: &str = concat!(
    "SELECT ",
    move_columns!(),
    " FROM moves ORDER BY created_at DESC, id LIMIT ?"
);
const TAKE: &str = "UPDATE moves SET runner = runner + 1, runner_name = ?, runner_until = {now} + ?, waits = NULL \
     WHERE id = ? AND runner = ? AND runner_until <= {now}";
const RENEW: &str = "UPDATE moves SET runner_until = {now} + ? WHERE id = ? AND runner = ?";
const GIVE_UP: &str = "UPDATE moves SET runner_until = 0 WHERE id = ? AND runner = ?";
const ADVANCE: &str = "UPDATE moves SET state = ?, waits = NULL, changed_at = {now} WHERE id = ? AND state = ? AND runner = ?";
const FREEZE: &str = "UPDATE moves SET state = 'frozen', attempt = attempt + 1, frozen_until = {now} + ?, changed_at = {now} \
     WHERE id = ? AND state = 'catching_up' AND attempt = ? AND runner = ? AND paused = 0";
/// By its runner, or by anybody once it has lapsed.
const UNFREEZE: &str = "UPDATE moves SET state = 'catching_up', frozen_until = NULL, changed_at = {now} \
     WHERE id = ? AND state = 'frozen' AND attempt = ? AND (runner = ? OR frozen_until <= {now})";
const COMMIT: &str = "UPDATE moves SET state = 'committed', frozen_until = NULL, waits = NULL, changed_at = {now} \
     WHERE id = ? AND state = 'frozen' AND attempt = ? AND runner = ? AND frozen_until > {now}";
/// By anybody: its fences are as they have to be.
const DRAIN: &str = "UPDATE moves SET state = 'draining', keep_until = {now} + ?, changed_at = {now} WHERE id = ? AND state = 'committed'";
/// By anybody; whoever works on it finds that another runner has taken over.
const ABORT: &str = "UPDATE moves SET state = 'aborting', frozen_until = NULL, waits = NULL, runner = runner + 1, runner_until = 0, changed_at = {now} \
     WHERE id = ? AND state = ? AND attempt = ?";
/// By anybody, in the transaction that begins the move back.
const REVERSE: &str = "UPDATE moves SET state = 'reversed', runner = runner + 1, runner_until = 0, changed_at = {now} \
     WHERE id = ? AND state = 'draining'";
const PAUSE: &str = "UPDATE moves SET paused = ? WHERE id = ? AND paused <> ?";
/// By the primary key: a process that adds an event waits for the one before, and so gives it the next number.
const LOCK: &str = "SELECT 1 FROM moves WHERE id = ? {for_update}";
/// By the primary key; after [`LOCK`], or a statement that changed the move.
const INSERT_EVENT: &str = "INSERT INTO move_events (job, number, at, actor, event, detail) \
     SELECT ?, COALESCE(MAX(number), 0) + 1, {now}, ?, ?, ? FROM move_events WHERE job = ?";
/// By the primary key.
const EVENTS: &str = "SELECT number, at, actor, event, detail FROM move_events WHERE job = ? AND number > ? ORDER BY number LIMIT ?";

/// A range in two columns from `first` on.
pub(super) fn range(row: &Row, first: usize) -> Result<KeyRange> {
    let end = row.opt_bytes(first + 1)?.map(|bytes| {
        UserKey::from_bytes(&bytes).ok_or_else(|| Error::corrupt("the end of a range"))
    });
    Ok(KeyRange {
        start: row.key(first)?.0,
        end: end.transpose()?.map(|key| key.0),
    })
}

impl Move {
    fn from_row(row: &Row) -> Result<Self> {
        let shard =
            |column| ShardName::new(row.text(column)?).map_err(|error| Error::corrupt(error.0));
        Ok(Self {
            id: MoveId::from_bytes(&row.bytes(0)?)?,
            range: range(row, 1)?,
            source: shard(3)?,
            target: shard(4)?,
            epoch: Epoch::from_i64(row.int(5)?),
            state: MoveState::parse(&row.text(6)?)?,
            attempt: row.int(7)?.cast_unsigned(),
            frozen_until: row.opt_int(8)?.map(Timestamp),
            runner: row.int(9)?.cast_unsigned(),
            runner_name: row.text(10)?,
            runner_until: Timestamp(row.int(11)?),
            paused: row.int(12)? != 0,
            keep_until: row.opt_int(13)?.map(Timestamp),
            actor: row.text(14)?,
            reason: row.text(15)?,
            created_at: Timestamp(row.int(16)?),
            changed_at: Timestamp(row.int(17)?),
            expected_rows: row.opt_int(18)?.map(i64::cast_unsigned),
            expected_bytes: row.opt_int(19)?.map(i64::cast_unsigned),
            rows_per_second: row.opt_int(20)?.map(i64::cast_unsigned),
            freeze_ms: row.opt_int(21)?.map(i64::cast_unsigned),
            throttle: row.opt_int(22)?.map(i64::cast_unsigned),
            // One that a later version has put down is not known here.
            waits: row
                .opt_text(23)?
                .and_then(|it| serde_json::from_str(&it).ok()),
            now: Timestamp(row.int(24)?),
        })
    }

    /// Whether its freeze has lapsed, so that it is not committed any more.
    #[must_use]
    pub fn has_lapsed(&self) -> bool {
        self.state == MoveState::Frozen && self.frozen_until.is_none_or(|until| until <= self.now)
    }

    /// Whether its source keeps the rows that the target serves: for a while, and while the move is paused.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        let is_in_time = self.keep_until.is_some_and(|until| until > self.now);
        self.state == MoveState::Draining && (self.paused || is_in_time)
    }

    /// Whether a process works on it.
    #[must_use]
    pub fn is_run(&self) -> bool {
        self.runner_until > self.now
    }
}

/// Who does something, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Who, for people.
    pub actor: String,
    /// Why.
    pub reason: String,
}

impl Order {
    /// What is recorded of doing `action` to a move.
    pub(super) fn act(&self, action: Action, id: MoveId) -> Act {
        let actor = Reference::operator(&self.actor);
        Act::new(actor, action, Some(Reference::moving(id))).because(&self.reason)
    }
}

/// Something that happened to a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveEvent {
    /// 1, 2, 3 …
    pub number: u64,
    /// When, by the directory's clock.
    pub at: Timestamp,
    /// Who did it.
    pub actor: String,
    /// What.
    pub event: String,
    /// Figures and reasons.
    pub detail: String,
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// In a write transaction: puts a move down.
pub(crate) async fn insert(
    connection: &mut Connection,
    (id, range, epoch): (MoveId, KeyRange, Epoch),
    (source, target): (&ShardName, &ShardName),
    order: &Order,
) -> Result<()> {
    let start = range.start.to_be_bytes();
    let end = range.end.map(u64::to_be_bytes);
    let args = values![
        id.as_bytes(),
        &start,
        end.as_ref(),
        source.as_str(),
        target.as_str(),
        epoch,
        order.actor.as_str(),
        order.reason.as_str(),
    ];
    connection.execute(INSERT, &args).await.map(drop)
}

/// In a write transaction, with the change that it is about: adds what happened.
pub(crate) async fn note(
    connection: &mut Connection,
    id: MoveId,
    actor: &str,
    (event, detail): (&str, &str),
) -> Result<()> {
    let lock = Statement::new(LOCK, values![id.as_bytes()]);
    let event = noting(&id, actor, (event, detail));
    connection.run_all(&[lock, event]).await.map(drop)
}

/// In a write transaction that has changed the move: what adds an event to it.
pub(crate) fn noting<'a>(
    id: &'a MoveId,
    actor: &'a str,
    (event, detail): (&'a str, &'a str),
) -> Statement<'a> {
    let id = id.as_bytes();
    Statement::new(INSERT_EVENT, values![id, actor, event, detail, id])
}

/// A move, if there is one of this name.
pub(crate) async fn one(connection: &mut Connection, id: MoveId) -> Result<Option<Move>> {
    let row = connection
        .fetch_optional(ONE, &values![id.as_bytes()])
        .await?;
    row.as_ref().map(Move::from_row).transpose()
}

/// The moves that are not over, the oldest first.
pub(crate) async fn unfinished(connection: &mut Connection) -> Result<Vec<Move>> {
    let rows = connection.fetch_all(UNFINISHED, &[]).await?;
    rows.iter().map(Move::from_row).collect()
}

/// The ranges of moves that are not over, or came into their last state within `lately`.
///
/// # Errors
/// When the database fails.
pub(crate) async fn under_way(
    connection: &mut Connection,
    lately: Duration,
) -> Result<Vec<KeyRange>> {
    let args = values![millis(lately)];
    let rows = connection.fetch_all(UNDER_WAY, &args).await?;
    rows.iter().map(|row| range(row, 0)).collect()
}

/// The latest moves, the newest first.
pub(crate) async fn latest(connection: &mut Connection, limit: usize) -> Result<Vec<Move>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = connection.fetch_all(LATEST, &values![limit]).await?;
    rows.iter().map(Move::from_row).collect()
}

/// What happened to a move after event number `after`, in order.
pub(crate) async fn events(
    connection: &mut Connection,
    id: MoveId,
    after: u64,
    limit: usize,
) -> Result<Vec<MoveEvent>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args = values![id.as_bytes(), after.cast_signed(), limit];
    let event = |row: &Row| {
        Ok(MoveEvent {
            number: row.int(0)?.cast_unsigned(),
            at: Timestamp(row.int(1)?),
            actor: row.text(2)?,
            event: row.text(3)?,
            detail: row.text(4)?,
        })
    };
    let rows = connection.fetch_all(EVENTS, &args).await?;
    rows.iter().map(event).collect()
}

/// Makes this process the runner, unless another one is; `false` then.
pub(crate) async fn take(
    connection: &mut Connection,
    job: &Move,
    name: &str,
    ttl: Duration,
) -> Result<bool> {
    let args = values![
        name,
        millis(ttl),
        job.id.as_bytes(),
        job.runner.cast_signed()
    ];
    Ok(connection.execute(TAKE, &args).await? == 1)
}

/// Extends the runner's lease; `false` when another one has taken over.
pub(crate) async fn renew(connection: &mut Connection, job: &Move, ttl: Duration) -> Result<bool> {
    let args = values![millis(ttl), job.id.as_bytes(), job.runner.cast_signed()];
    connection.execute(RENEW, &args).await?;
    let now = one(connection, job.id).await?;
    Ok(now.is_some_and(|now| now.runner == job.runner))
}

/// Gives the runner's lease up, so that another process need not wait for its end.
pub(crate) async fn give_up(connection: &mut Connection, job: &Move) -> Result<()> {
    let args = values![job.id.as_bytes(), job.runner.cast_signed()];
    connection.execute(GIVE_UP, &args).await.map(drop)
}

/// From one state to the next, by the runner; `false` when it is in another state, or has another runner.
pub(crate) async fn advance(
    connection: &mut Connection,
    job: &Move,
    to: MoveState,
) -> Result<bool> {
    let args = values![
        to.name(),
        job.id.as_bytes(),
        job.state.name(),
        job.runner.cast_signed()
    ];
    Ok(connection.execute(ADVANCE, &args).await? == 1)
}

/// Begins the next attempt to freeze, for `lease` at most.
pub(crate) async fn freeze(
    connection: &mut Connection,
    job: &Move,
    lease: Duration,
) -> Result<bool> {
    let (attempt, runner) = (job.attempt.cast_signed(), job.runner.cast_signed());
    let args = values![millis(lease), job.id.as_bytes(), attempt, runner];
    Ok(connection.execute(FREEZE, &args).await? == 1)
}

/// Ends an attempt to freeze that is not committed; `false` when it is not the current one, or is in time and another's.
pub(crate) async fn unfreeze(connection: &mut Connection, job: &Move) -> Result<bool> {
    let (attempt, runner) = (job.attempt.cast_signed(), job.runner.cast_signed());
    let args = values![job.id.as_bytes(), attempt, runner];
    Ok(connection.execute(UNFREEZE, &args).await? == 1)
}

/// In the transaction that changes the map: the point of no return. It changes the row unless the freeze has lapsed, or another runner
/// has taken over.
pub(crate) fn committing(job: &Move) -> Statement<'_> {
    let (attempt, runner) = (job.attempt.cast_signed(), job.runner.cast_signed());
    Statement::new(COMMIT, values![job.id.as_bytes(), attempt, runner])
}

/// After both fences are as a commit needs them: the source keeps its rows for `keep`.
pub(crate) async fn drain(connection: &mut Connection, job: &Move, keep: Duration) -> Result<bool> {
    let args = values![millis(keep), job.id.as_bytes()];
    Ok(connection.execute(DRAIN, &args).await? == 1)
}

/// Gives a move up; `false` when it has changed since it was read.
pub(crate) async fn abort(connection: &mut Connection, job: &Move) -> Result<bool> {
    if !job.state.precedes_commit() {
        return Ok(false);
    }
    let attempt = job.attempt.cast_signed();
    let args = values![job.id.as_bytes(), job.state.name(), attempt];
    Ok(connection.execute(ABORT, &args).await? == 1)
}

/// In the transaction that begins the move back; `false` when the source no longer keeps its rows.
pub(crate) async fn reverse(connection: &mut Connection, job: &Move) -> Result<bool> {
    Ok(connection
        .execute(REVERSE, &values![job.id.as_bytes()])
        .await?
        == 1)
}

/// Pauses or resumes a move; `false` when it was that already.
pub(crate) async fn pause(connection: &mut Connection, job: &Move, paused: bool) -> Result<bool> {
    let paused = i64::from(paused);
    let args = values![paused, job.id.as_bytes(), paused];
    Ok(connection.execute(PAUSE, &args).await? == 1)
}
