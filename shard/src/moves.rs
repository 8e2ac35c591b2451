//! Moving ranges between shards while they are written to (INV-OWNER, INV-ACK, INV-TIER).
//!
//! A move is a row of the directory's table `moves`, its *job*, and any process can go on with it ([`run`]). At every moment the row
//! says what the fences of both shards have to say; after a crash any process makes them say so ([`serving`]).
//!
//! | state | what is done | after a crash |
//! |---|---|---|
//! | `copying` | the map and the source's fence are cut, the fence says `moving`, and all rows are copied in the order of their primary keys, the progress in the transactions of the target that store them | the next runner goes on from there |
//! | `catching_up` | what writers marked is copied again; then all rows are compared, and a row that differs although nothing marked it stops the move and is named | marks and rows are there; the comparison begins again |
//! | `frozen` | when the rest is small twice in a row: the source's fence says `frozen`, the last marks are copied, what was copied last is compared, the fence says `gone`, and one conditional transaction of the directory commits | until the freeze's lease ends the range takes no writes; then any process ends the freeze, first in the directory, where it can no longer be committed, then at the fence |
//! | `committed` | the target's fence opens at the next epoch | any process opens it |
//! | `draining` | what was copied last is looked for on the target; the source keeps its rows for a while, and while the move is paused, so that a move back copies little; then they are deleted | the next runner goes on |
//! | `done` | | |
//! | `aborting`, `aborted` | given up before the commit: the source's fence is open, the copied rows are deleted | any process opens the fence, the next runner deletes |
//! | `reversed` | another move brought the range back | |
//!
//! **Leases.** The runner's lease and the freeze's are columns of the row, taken, renewed and compared by the directory's clock in the
//! statements themselves. A runner that was overtaken changes nothing: in the directory its number is in every statement, on the
//! shards it is in the work row that every transaction changes first ([`work`]), and every fence statement names the move and the
//! attempt ([`fences`]).
//!
//! **Marks.** While a fence says `moving`, a write transaction marks the entities that it touches, a conversation or a user, in the
//! same transaction ([`marks`]). The mark has a random token; the mover clears it only with the token it read before copying.
//!
//! **Replay.** The target is not served, one runner at a time writes to it, and reads the source before each write. So the version of
//! a row that was read later is the newer one; where a rev orders versions, an older one is refused ([`tables`] says it for each
//! table). A stretch that is copied again is compared with what is there and only what differs is written ([`copy`]), so
//! beginning again anywhere, even over the rows of an earlier move, ends with the same rows.
//!
//! **Before and after the commit.** The source's fence says `gone` before the commit, so the target can open without the source, and no
//! reader is ever answered by a shard that gave the key up. If the commit does not happen, the fence goes back to `moving`, which
//! the directory decides: once its row says that the attempt is over, that attempt cannot be committed.
//!
//! **Archive.** Objects stay, index rows move, and the target's registry learns of the segments ([`segments`]). A move begins only
//! while no archive job has a lease on the source; while it is under way jobs get none on either shard.
//!
//! | module | what it holds |
//! |---|---|
//! | `tables`, `rows`, `cell`, `scope`, `entity` | which tables a range consists of; rows of any of them, of a range or of some entities |
//! | `copy`, `catch_up`, `presence`, `segments` | making the target's rows those of the source |
//! | `compare`, `comparing`, `served` | digests of both sides, and the rows that differ, before the cut-over and after it |
//! | `marks`, `marked` | what was written to meanwhile, and catching up with it |
//! | `work` | the right to change rows of a range that a shard does not serve, and how far the copy is |
//! | `fences`, `serving` | what the two shards serve |
//! | `job`, `figures`, `move_id` | the directory's row, and the events |
//! | `mover`, `orders`, `run`, `preparing`, `freezing`, `cleanup` | asking for a move; the runner |
//! | `pace`, `brakes`, `telling`, `reason`, `explain` | how fast the runner goes on, what it waits for, and why a move does not cut over now |
//! | `balance` | which moves are worth asking for; where a range is cut, and which ranges become one |
//! | `watch` | what every node does by itself |
//! | `views` | what foreign readers of the tables are to read |

mod balance;
mod brakes;
mod catch_up;
mod cell;
mod cleanup;
mod compare;
mod comparing;
mod copy;
mod drain;
mod entity;
mod explain;
mod fences;
mod figures;
mod freezing;
pub(crate) mod job;
mod marked;
mod marks;
mod move_id;
mod mover;
mod orders;
mod pace;
mod preparing;
mod presence;
mod reason;
pub(crate) mod rows;
mod run;
pub(crate) mod scope;
mod segments;
mod served;
mod serving;
pub(crate) mod tables;
mod telling;
mod views;
mod watch;
mod work;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use balance::{Forecast, Merged, Plan, PlanOptions, PlannedMove, ShardLoad, Weight};
pub use compare::Difference;
pub use drain::{Drained, Transfer};
pub use job::{Move, MoveEvent, MoveId, MoveState, Order};
pub(crate) use marks::mark;
pub use mover::Mover;
pub use reason::Reason;
pub use views::owned_views;
pub use watch::start;
pub(crate) use work::all as arriving;

use crate::db::Connection;
use crate::error::{Error, Result};
use crate::identity::making::in_transaction;
use crate::node::Shard;
use crate::routing::Router;
use crate::settings::RebalanceSettings;

/// How long one transaction or look-up of a move may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a runner has done; tests end it there, as a crash would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// It has the move's lease.
    Taken,
    /// The source's fence is cut as the map is.
    FenceCut,
    /// Writers of the range mark what they touch.
    Moving,
    /// It has the right to write on the target.
    WorkBegun,
    /// A transaction of the copy is committed.
    ChunkCopied,
    /// All rows were copied.
    Copied,
    /// Some of what was marked is copied again; the marks are there.
    MarksCopied,
    /// The marks are cleared.
    MarksCleared,
    /// All rows were compared.
    Compared,
    /// The directory knows of the freeze.
    FreezeNoted,
    /// The source takes no writes.
    Frozen,
    /// The rest is copied; it is compared while the source gives the range up.
    RestCopied,
    /// The source answers nobody.
    GivenUp,
    /// The move is committed.
    Committed,
    /// The target serves the range.
    TargetOpened,
    /// The directory knows that a freeze has ended.
    FreezeEnded,
    /// A transaction of the clean-up is committed.
    RowsDeleted,
    /// All rows are deleted.
    Cleaned,
    /// Neighbouring ranges are one in the map.
    MapMerged,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Taken,
        Self::FenceCut,
        Self::Moving,
        Self::WorkBegun,
        Self::ChunkCopied,
        Self::Copied,
        Self::MarksCopied,
        Self::MarksCleared,
        Self::Compared,
        Self::FreezeNoted,
        Self::Frozen,
        Self::RestCopied,
        Self::GivenUp,
        Self::Committed,
        Self::TargetOpened,
        Self::FreezeEnded,
        Self::RowsDeleted,
        Self::Cleaned,
        Self::MapMerged,
    ];

    /// Its name, for tests that ask for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Taken => "move-taken",
            Self::FenceCut => "fence-cut",
            Self::Moving => "moving",
            Self::WorkBegun => "work-begun",
            Self::ChunkCopied => "chunk-copied",
            Self::Copied => "copied",
            Self::MarksCopied => "marks-copied",
            Self::MarksCleared => "marks-cleared",
            Self::Compared => "compared",
            Self::FreezeNoted => "freeze-noted",
            Self::Frozen => "frozen",
            Self::RestCopied => "rest-copied",
            Self::GivenUp => "given-up",
            Self::Committed => "committed",
            Self::TargetOpened => "target-opened",
            Self::FreezeEnded => "freeze-ended",
            Self::RowsDeleted => "rows-deleted",
            Self::Cleaned => "cleaned",
            Self::MapMerged => "map-merged",
        }
    }
}

/// Is told of every step that is done; its error ends the runner there, as a crash would.
#[derive(Clone)]
pub struct Hook(Arc<dyn Fn(Step) -> Result<()> + Send + Sync>);

impl Hook {
    /// One that calls `told`.
    pub fn new(told: impl Fn(Step) -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }
}

impl Default for Hook {
    fn default() -> Self {
        Self::new(|_| Ok(()))
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// A move with its two shards and the directory.
#[derive(Debug)]
pub(crate) struct Sides<'a> {
    router: &'a Router,
    source: &'a Shard,
    target: &'a Shard,
    job: &'a Move,
    settings: &'a RebalanceSettings,
    actor: &'a str,
    hook: &'a Hook,
    /// Until when everything has to be done, within a freeze.
    limit: Option<Instant>,
}

impl Sides<'_> {
    fn deadline(&self) -> Instant {
        let patience = Instant::now() + PATIENCE;
        self.limit.map_or(patience, |limit| limit.min(patience))
    }

    fn passed(&self, step: Step) -> Result<()> {
        (self.hook.0)(step)
    }

    async fn on<T>(
        &self,
        shard: &Shard,
        work: impl AsyncFn(&mut Connection) -> Result<T>,
    ) -> Result<T> {
        let work = &work;
        let run = |mut transaction: crate::transaction::Transaction| async move {
            work(&mut transaction).await
        };
        match self.limit {
            Some(limit) => shard.transaction(limit, run).await,
            None => shard.patient_transaction(self.deadline(), run).await,
        }
    }

    async fn on_source<T>(&self, work: impl AsyncFn(&mut Connection) -> Result<T>) -> Result<T> {
        self.on(self.source, work).await
    }

    async fn on_target<T>(&self, work: impl AsyncFn(&mut Connection) -> Result<T>) -> Result<T> {
        self.on(self.target, work).await
    }

    async fn in_directory<T>(&self, work: impl AsyncFn(&mut Connection) -> Result<T>) -> Result<T> {
        let database = self.router.directory().database();
        let mut connection = database.writer(self.deadline()).await?;
        in_transaction(&mut connection, work).await
    }
}

/// The shard of a move, as this process is configured.
fn shard_of<'a>(router: &'a Router, name: &crate::ids::ShardName) -> Result<&'a Arc<Shard>> {
    router.shard(name).map_err(|_| {
        Error::Unprepared(format!(
            "shard {name} takes part in a move and is not in this process's configuration: add it to `shards`, and restart"
        ))
    })
}
