//! The directory: the database that says which shard owns which keys, and every router's copy of it.
//!
//! A router reads the map when it starts, looks every second whether it changed, and at once when a shard says that it
//! does not own a key. While the directory is away it goes on with its copy: a stale map costs a retry, never a wrong
//! answer, because every shard checks its own fences. A router that starts while the directory is away puts the map
//! together from those fences.
//!
//! The tables of the directory are here, with what [`crate::identity`] reads and writes of them: the first map is written
//! when the deployment is made.

mod transaction;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use crate::db::identity::Identity;
use crate::db::{Connection, Database, Row, Statement, Value, rows_of, values};
use crate::error::{Error, Result};
use crate::ids::{Epoch, Incarnation, ShardName, UserKey};
use crate::map::{Assignment, ShardMap};
use crate::range::KeyRange;
use crate::settings::{KeyspaceSettings, PoolSettings, StoreSettings};

/// The migration that brings the states of shards.
pub(crate) const SHARDS_STATE: &str = "0004_shards_state";
/// The tables that every version has had.
pub(crate) const TABLES: [&str; 3] = ["shards", "ranges", "properties"];

/// The whole table: one row a range.
const ALL_RANGES: &str =
    "SELECT range_start, range_end, shard, epoch FROM ranges ORDER BY range_start";
const INSERT_RANGES: &str = "INSERT INTO ranges (range_start, range_end, shard, epoch) VALUES ";
const SHARDS: &str = "SELECT name, state, incarnation FROM shards ORDER BY name";
/// As a version left the table that marked no database.
const SHARDS_UNMARKED: &str = "SELECT name FROM shards ORDER BY name";
const INSERT_SHARD: &str =
    "INSERT INTO shards (name, added_at, state, incarnation) VALUES (?, {now}, ?, ?)";
const SET_SHARD: &str = "UPDATE shards SET state = ?, incarnation = ? WHERE name = ?";
const DELETE_RANGE: &str = "DELETE FROM ranges WHERE range_start = ? AND shard = ? AND epoch = ?";
const GIVE_RANGE: &str = "UPDATE ranges SET shard = ?, epoch = ? WHERE range_start = ? \
     AND (range_end = ? OR (range_end IS NULL AND ? IS NULL)) AND shard = ? AND epoch = ?";
const NEXT_EPOCH: &str = "UPDATE ranges SET epoch = epoch + 1 WHERE shard = ?";
const PROPERTY: &str = "SELECT value FROM properties WHERE name = ?";
/// By the primary key.
const LOCK: &str = "SELECT value FROM properties WHERE name = ? {for_update}";
const SET_PROPERTY: &str =
    "INSERT INTO properties (name, value) VALUES (?, ?) {on_duplicate name} name = {new name}";
const KEY_FUNCTION: &str = "key_function";
/// A digest of [`first_ranges`].
const FIRST_RANGES: &str = "first_ranges";

/// The directory's database and this process's copy of the map.
#[derive(Debug)]
pub struct Directory {
    database: Database,
    map: watch::Sender<Arc<ShardMap>>,
    /// When the map was last begun to be read.
    refreshing: Mutex<Option<Instant>>,
    timeout: Duration,
}

impl Directory {
    /// Prepares its connections; the map is the one that `deployed` was found with.
    ///
    /// # Errors
    /// When the address cannot be understood.
    pub fn open(settings: &StoreSettings, identity: Identity, map: ShardMap) -> Result<Self> {
        let pool = PoolSettings {
            max_connections: 4,
            ..settings.pool.clone()
        };
        let database = Database::open(&settings.directory.url, &pool, 1, identity)?;
        let (map, _) = watch::channel(Arc::new(map));
        Ok(Self {
            database,
            map,
            refreshing: Mutex::new(None),
            timeout: settings.pool.statement_timeout.0,
        })
    }

    /// The map as this process knows it.
    #[must_use]
    pub fn map(&self) -> Arc<ShardMap> {
        self.map.borrow().clone()
    }

    /// Tells every new map.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<ShardMap>> {
        self.map.subscribe()
    }

    /// Reads the map again, unless it is newer than `stale`. One reader at a time; what it reads is the answer to all that asked
    /// before it began, so that many calls that wait for a range read the map once for all.
    ///
    /// # Errors
    /// When the directory is away; the copy stays as it is.
    pub async fn refresh(&self, stale: &Arc<ShardMap>) -> Result<()> {
        let asked = Instant::now();
        let mut begun = self.refreshing.lock().await;
        if !Arc::ptr_eq(&self.map(), stale) || begun.is_some_and(|begun| begun > asked) {
            return Ok(());
        }
        let begins = Instant::now();
        let mut connection = self.database.reader(Instant::now() + self.timeout).await?;
        let map = read_map(&mut connection).await?;
        *begun = Some(begins);
        self.map.send_if_modified(|current| {
            let changed = **current != map;
            if changed {
                tracing::info!(ranges = map.assignments().len(), "the shard map changed");
                *current = Arc::new(map);
            }
            changed
        });
        Ok(())
    }

    /// As [`joined`].
    ///
    /// # Errors
    /// When the directory is away.
    pub(crate) async fn joined(&self) -> Result<Vec<(ShardName, Incarnation)>> {
        let mut connection = self.database.reader(Instant::now() + self.timeout).await?;
        joined(&mut connection).await
    }

    /// Whether the directory answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<()> {
        self.database.ping(Instant::now() + self.timeout).await
    }

    /// Its database, for the jobs that are kept in it.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// Closes its connections.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

/// What the directory has, as it is stored.
#[derive(Debug)]
pub(crate) struct Entries {
    pub(crate) key_function: String,
    /// What the map was made with; unknown where it was made by a version that did not note that.
    pub(crate) first_ranges: Option<String>,
    pub(crate) assignments: Vec<Assignment>,
    pub(crate) members: BTreeMap<ShardName, Member>,
}

/// A shard of the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) state: MemberState,
    pub(crate) incarnation: Incarnation,
}

/// What is known of a shard's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberState {
    /// It was made by a version that marked none, and is to be marked.
    Unmarked,
    /// It is being made: it is empty, or is marked and about to be used.
    Joining,
    /// It is marked.
    Joined,
}

impl MemberState {
    const ALL: [Self; 3] = [Self::Unmarked, Self::Joining, Self::Joined];

    fn name(self) -> &'static str {
        match self {
            Self::Unmarked => "unmarked",
            Self::Joining => "joining",
            Self::Joined => "joined",
        }
    }
}

impl Entries {
    /// The map.
    pub(crate) fn map(&self) -> Result<ShardMap> {
        map_of(self.assignments.clone())
    }
}

/// Everything that the directory has; one of an older version has no states of its shards.
///
/// # Errors
/// When the database fails.
pub(crate) async fn entries(connection: &mut Connection, has_states: bool) -> Result<Entries> {
    let statement = if has_states { SHARDS } else { SHARDS_UNMARKED };
    let rows = connection.fetch_all(statement, &[]).await?;
    let members = rows.iter().map(|row| member(row, has_states));
    Ok(Entries {
        key_function: property(connection, KEY_FUNCTION)
            .await?
            .unwrap_or_default(),
        first_ranges: property(connection, FIRST_RANGES).await?,
        assignments: assignments(connection).await?,
        members: members.collect::<Result<_>>()?,
    })
}

/// The shards that are part of the deployment now.
///
/// # Errors
/// When the database fails.
pub(crate) async fn joined(connection: &mut Connection) -> Result<Vec<(ShardName, Incarnation)>> {
    let rows = connection.fetch_all(SHARDS, &[]).await?;
    let members = rows.iter().map(|row| member(row, true));
    let members: Vec<(ShardName, Member)> = members.collect::<Result<_>>()?;
    let joined = members.into_iter();
    let joined = joined.filter(|(_, member)| member.state == MemberState::Joined);
    Ok(joined
        .map(|(name, member)| (name, member.incarnation))
        .collect())
}

fn member(row: &Row, has_state: bool) -> Result<(ShardName, Member)> {
    let mut columns = row.columns();
    let name = ShardName::new(columns.text()?).map_err(|error| Error::corrupt(error.0))?;
    let mut member = Member {
        state: MemberState::Unmarked,
        incarnation: Incarnation::FIRST,
    };
    if has_state {
        let text = columns.text()?;
        let state = MemberState::ALL.into_iter().find(|it| it.name() == text);
        member.state =
            state.ok_or_else(|| Error::corrupt(format_args!("unknown state {text} of a shard")))?;
        member.incarnation = Incarnation::from_i64(columns.int()?);
    }
    Ok((name, member))
}

async fn property(connection: &mut Connection, name: &str) -> Result<Option<String>> {
    let row = connection.fetch_optional(PROPERTY, &values![name]).await?;
    row.map(|row| row.text(0)).transpose()
}

/// Where the ranges of a first map begin and whose they are: a digest, to know whether the configuration was changed since.
pub(crate) fn first_ranges(assignments: &[Assignment]) -> String {
    digest(assignments.iter().map(|a| (a.range.start, &a.shard)))
}

/// The same of the configuration; nothing where it leaves the cutting to Backscroll.
pub(crate) fn configured_ranges(keyspace: &KeyspaceSettings) -> Option<String> {
    let ranges = keyspace.ranges.iter();
    let digest = || digest(ranges.map(|range| (range.from, &range.shard)));
    (!keyspace.ranges.is_empty()).then(digest)
}

fn digest<'a>(ranges: impl Iterator<Item = (u64, &'a ShardName)>) -> String {
    let text: String = ranges
        .map(|(from, shard)| format!("{from} {shard}\n"))
        .collect();
    format!("{:016x}", twox_hash::XxHash3_64::oneshot(text.as_bytes()))
}

async fn assignments(connection: &mut Connection) -> Result<Vec<Assignment>> {
    let rows = connection.fetch_all(ALL_RANGES, &[]).await?;
    rows.iter().map(assignment).collect()
}

fn map_of(assignments: Vec<Assignment>) -> Result<ShardMap> {
    ShardMap::new(assignments)
        .map_err(|error| Error::corrupt(format_args!("the directory's map: {error}")))
}

async fn read_map(connection: &mut Connection) -> Result<ShardMap> {
    map_of(assignments(connection).await?)
}

fn assignment(row: &Row) -> Result<Assignment> {
    let mut columns = row.columns();
    let start = columns.key()?.0;
    let end = columns
        .opt_bytes()?
        .map(|bytes| UserKey::from_bytes(&bytes).ok_or_else(|| Error::corrupt("a range's end")));
    Ok(Assignment {
        range: KeyRange {
            start,
            end: end.transpose()?.map(|key| key.0),
        },
        shard: ShardName::new(columns.text()?).map_err(|error| Error::corrupt(error.0))?,
        epoch: Epoch::from_i64(columns.int()?),
    })
}

/// In a write transaction: keeps every other one that changes the map waiting, and says which key function was decided on:
/// that of the first.
pub(crate) async fn lock(connection: &mut Connection, settings: &StoreSettings) -> Result<()> {
    let configured = settings.keyspace.function.name();
    connection
        .execute(SET_PROPERTY, &values![KEY_FUNCTION, configured])
        .await?;
    let stored = property(connection, KEY_FUNCTION).await?;
    if stored.as_deref() != Some(configured) {
        let rule = "another process makes this deployment with another key function";
        return Err(Error::invalid("keyspace.function", rule));
    }
    Ok(())
}

/// In a write transaction, after [`lock`]: writes the first map, unless there is one, and notes what it was made with.
pub(crate) async fn write_first_map(
    connection: &mut Connection,
    settings: &StoreSettings,
) -> Result<()> {
    let mut stored = assignments(connection).await?;
    if stored.is_empty() {
        let map = first_map(settings)?;
        insert_ranges(connection, map.assignments()).await?;
        for shard in &settings.shards {
            let first = Member {
                state: MemberState::Joining,
                incarnation: Incarnation::FIRST,
            };
            insert_member(connection, &shard.name, first).await?;
        }
        stored = map.assignments().to_vec();
    }
    let first = first_ranges(&stored);
    let args = values![FIRST_RANGES, first.as_str()];
    connection.execute(SET_PROPERTY, &args).await.map(drop)
}

async fn insert_ranges(connection: &mut Connection, assignments: &[Assignment]) -> Result<()> {
    let bounds: Vec<([u8; 8], Option<[u8; 8]>)> = assignments
        .iter()
        .map(|a| {
            let end = a.range.end.map(|end| UserKey(end).to_bytes());
            (UserKey(a.range.start).to_bytes(), end)
        })
        .collect();
    let mut args: Vec<Value<'_>> = Vec::new();
    for (assignment, (start, end)) in assignments.iter().zip(&bounds) {
        let shard = assignment.shard.as_str();
        args.extend(values![start, end.as_ref(), shard, assignment.epoch]);
    }
    let rows = rows_of(bounds.len(), 4);
    let statement = format!("{INSERT_RANGES}{rows}");
    connection.execute(&statement, &args).await.map(drop)
}

/// In a write transaction, after [`lock`]: cuts a range of the map so that `part` is a range of its own. The pieces stay with their
/// shard, at the next epoch. Gives the piece that is `part`.
///
/// # Errors
/// [`Error::Conflict`] when the map has changed; when the database fails.
pub(crate) async fn cut(
    connection: &mut Connection,
    whole: &Assignment,
    part: KeyRange,
) -> Result<Assignment> {
    let start = UserKey(whole.range.start).to_bytes();
    let args = values![&start, whole.shard.as_str(), whole.epoch];
    if connection.execute(DELETE_RANGE, &args).await? != 1 {
        return Err(Error::Conflict("the map has changed; try again"));
    }
    let piece = |range| Assignment {
        range,
        shard: whole.shard.clone(),
        epoch: whole.epoch.next(),
    };
    let pieces: Vec<Assignment> = whole.range.cut(part).into_iter().map(piece).collect();
    insert_ranges(connection, &pieces).await?;
    let part = pieces.into_iter().find(|it| it.range == part);
    part.ok_or(Error::Unexpected(
        "a range without the part that was cut out of it",
    ))
}

/// In a write transaction, after [`lock`]: makes neighbouring ranges of one shard, in order, one at the next epoch.
///
/// # Errors
/// [`Error::Conflict`] when the map has changed; when the database fails.
pub(crate) async fn merge(connection: &mut Connection, parts: &[Assignment]) -> Result<()> {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return Ok(());
    };
    for part in parts {
        let start = UserKey(part.range.start).to_bytes();
        let args = values![&start, part.shard.as_str(), part.epoch];
        if connection.execute(DELETE_RANGE, &args).await? != 1 {
            return Err(Error::Conflict("the map has changed; try again"));
        }
    }
    let newest = parts.iter().map(|it| it.epoch).max().unwrap_or(first.epoch);
    let whole = Assignment {
        range: KeyRange {
            start: first.range.start,
            end: last.range.end,
        },
        shard: first.shard.clone(),
        epoch: newest.next(),
    };
    insert_ranges(connection, &[whole]).await
}

/// In a write transaction: keeps every other one that locks the same property waiting.
pub(crate) async fn lock_property(connection: &mut Connection, name: &str) -> Result<()> {
    connection.execute(SET_PROPERTY, &values![name, ""]).await?;
    Ok(())
}

/// First in a write transaction, once the deployment is made: keeps every other one that changes the map waiting, as [`lock`] does.
pub(crate) fn locking() -> Statement<'static> {
    Statement::new(LOCK, values![KEY_FUNCTION])
}

/// The bounds of a range, as they are stored.
pub(crate) type Bounds = ([u8; 8], Option<[u8; 8]>);

/// See [`Bounds`].
pub(crate) fn bounds(range: &Assignment) -> Bounds {
    let end = range.range.end.map(|end| UserKey(end).to_bytes());
    (UserKey(range.range.start).to_bytes(), end)
}

/// In a write transaction, after [`lock`] or [`locking`]: gives a range to another shard, at the next epoch. It changes one row, or
/// none when the map has changed.
pub(crate) fn giving<'a>(
    range: &'a Assignment,
    (start, end): &'a Bounds,
    target: &'a ShardName,
) -> Statement<'a> {
    let (end, source) = (end.as_ref(), range.shard.as_str());
    let args = values![
        target.as_str(),
        range.epoch.next(),
        start,
        end,
        end,
        source,
        range.epoch
    ];
    Statement::new(GIVE_RANGE, args)
}

/// In a write transaction, after [`lock`]: a shard that the directory does not know.
pub(crate) async fn insert_member(
    connection: &mut Connection,
    shard: &ShardName,
    member: Member,
) -> Result<()> {
    let args = values![shard.as_str(), member.state.name(), member.incarnation];
    connection.execute(INSERT_SHARD, &args).await.map(drop)
}

/// In a write transaction, after [`lock`]: what is known of a shard's database.
pub(crate) async fn set_member(
    connection: &mut Connection,
    shard: &ShardName,
    member: Member,
) -> Result<()> {
    let args = values![member.state.name(), member.incarnation, shard.as_str()];
    connection.execute(SET_SHARD, &args).await.map(drop)
}

/// In a write transaction, after [`lock`]: everything that a shard owns gets another owner, which is the same shard: what
/// was its database until now answers nobody any more.
pub(crate) async fn next_epoch(connection: &mut Connection, shard: &ShardName) -> Result<()> {
    let args = values![shard.as_str()];
    connection.execute(NEXT_EPOCH, &args).await.map(drop)
}

/// The ranges of the configuration, or an even split over its shards.
fn first_map(settings: &StoreSettings) -> Result<ShardMap> {
    let configured = &settings.keyspace.ranges;
    let assign = |range: KeyRange, shard: &ShardName| Assignment {
        range,
        shard: shard.clone(),
        epoch: Epoch(1),
    };
    let assignments = if configured.is_empty() {
        let parts = u32::try_from(settings.shards.len()).unwrap_or(u32::MAX);
        KeyRange::split_evenly(parts)
            .into_iter()
            .zip(&settings.shards)
            .map(|(range, shard)| assign(range, &shard.name))
            .collect()
    } else {
        let ends = configured
            .iter()
            .skip(1)
            .map(|next| Some(next.from))
            .chain([None]);
        configured
            .iter()
            .zip(ends)
            .map(|(range, end)| {
                let keys = KeyRange::new(range.from, end).ok_or_else(|| {
                    Error::invalid("keyspace.ranges", "`from` must grow from entry to entry")
                })?;
                Ok(assign(keys, &range.shard))
            })
            .collect::<Result<Vec<_>>>()?
    };
    ShardMap::new(assignments).map_err(|error| Error::invalid("keyspace.ranges", error))
}
