//! The directory: the database that says which shard owns which keys, and every router's copy of it.
//!
//! A router reads the map when it starts, looks every second whether it changed, and at once when a shard says that it
//! does not own a key. While the directory is away it goes on with its copy: a stale map costs a retry, never a wrong
//! answer, because every shard checks its own fences. A router that starts while the directory is away puts the map
//! together from those fences.
//!
//! The first map is written by `migrate`: in the directory first, in one transaction, then as fences on each shard. A
//! crash in between is mended by the next run, which adds the fences that are missing at epoch 1.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use crate::db::{Connection, Database, Row, Value, rows_of, values};
use crate::error::{Error, Result};
use crate::fence::{self, FenceState};
use crate::ids::{Epoch, ShardName, UserKey};
use crate::map::{Assignment, ShardMap};
use crate::model::Timestamp;
use crate::node::Shard;
use crate::range::KeyRange;
use crate::settings::{PoolSettings, StoreSettings};

/// How long the first map may take to be written.
const INITIALISE: Duration = Duration::from_secs(60);

/// The whole table: one row a range.
const ALL_RANGES: &str =
    "SELECT range_start, range_end, shard, epoch FROM ranges ORDER BY range_start";
const INSERT_RANGES: &str = "INSERT INTO ranges (range_start, range_end, shard, epoch) VALUES ";
const INSERT_SHARDS: &str = "INSERT INTO shards (name, added_at) VALUES ";
const PROPERTY: &str = "SELECT value FROM properties WHERE name = ?";
/// Taken first by every transaction that changes the map, so that they come one after the other.
const LOCK_KEY_FUNCTION: &str = "INSERT INTO properties (name, value) VALUES ('key_function', ?) {on_duplicate name} name = {new name}";

/// The directory's database and this process's copy of the map.
#[derive(Debug)]
pub struct Directory {
    database: Database,
    map: watch::Sender<Arc<ShardMap>>,
    refreshing: Mutex<()>,
    timeout: Duration,
}

impl Directory {
    /// Reads the map, from the directory or, when that is away, from the fences of `shards`.
    ///
    /// # Errors
    /// When neither gives a whole map, or the deployment uses another key function than `settings`.
    pub async fn open(settings: &StoreSettings, shards: &[Arc<Shard>]) -> Result<Self> {
        let pool = PoolSettings {
            max_connections: 4,
            ..settings.pool.clone()
        };
        let database = Database::open(&settings.directory.url, &pool, 1)?;
        let deadline = Instant::now() + settings.pool.statement_timeout.0;
        let map = match load(&database, settings, deadline).await {
            Ok(map) => map,
            Err(
                error @ (Error::Invalid(_) | Error::Corrupt(_) | Error::DirectoryUnavailable(_)),
            ) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the directory cannot be read; putting the map together from the shards' fences");
                map_from_fences(shards, settings.pool.statement_timeout.0).await?
            }
        };
        let (map, _) = watch::channel(Arc::new(map));
        Ok(Self {
            database,
            map,
            refreshing: Mutex::new(()),
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

    /// Reads the map again, unless somebody has since `stale` was current. One reader at a time.
    ///
    /// # Errors
    /// When the directory is away; the copy stays as it is.
    pub async fn refresh(&self, stale: &Arc<ShardMap>) -> Result<()> {
        let _one_at_a_time = self.refreshing.lock().await;
        if !Arc::ptr_eq(&self.map(), stale) {
            return Ok(());
        }
        let mut connection = self.database.reader(Instant::now() + self.timeout).await?;
        let map = read_map(&mut connection).await?;
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

    /// Whether the directory answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<()> {
        self.database.ping(Instant::now() + self.timeout).await
    }

    /// Closes its connections.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

async fn load(
    database: &Database,
    settings: &StoreSettings,
    deadline: Instant,
) -> Result<ShardMap> {
    let mut connection = database.reader(deadline).await?;
    check_key_function(&mut connection, settings).await?;
    let map = read_map(&mut connection).await?;
    for assignment in map.assignments() {
        if !settings
            .shards
            .iter()
            .any(|shard| shard.name == assignment.shard)
        {
            let missing = format!(
                "the directory gives keys to shard `{}`, which is not configured",
                assignment.shard
            );
            return Err(Error::invalid("shards", missing));
        }
    }
    Ok(map)
}

async fn check_key_function(connection: &mut Connection, settings: &StoreSettings) -> Result<()> {
    let stored = connection
        .fetch_optional(PROPERTY, &values!["key_function"])
        .await?;
    let Some(stored) = stored.map(|row| row.text(0)).transpose()? else {
        return Err(Error::DirectoryUnavailable(
            "it is empty; run `backscroll migrate` first".into(),
        ));
    };
    let configured = settings.keyspace.function.name();
    if stored != configured {
        let rule = format!(
            "this deployment's users are placed by `{stored}`, not by `{configured}`; that cannot be changed"
        );
        return Err(Error::invalid("keyspace.function", rule));
    }
    Ok(())
}

async fn read_map(connection: &mut Connection) -> Result<ShardMap> {
    let rows = connection.fetch_all(ALL_RANGES, &[]).await?;
    let assignments = rows.iter().map(assignment).collect::<Result<Vec<_>>>()?;
    ShardMap::new(assignments)
        .map_err(|error| Error::Corrupt(format!("the directory's map: {error}")))
}

fn assignment(row: &Row) -> Result<Assignment> {
    let end = row.opt_bytes(1)?.map(|bytes| {
        UserKey::from_bytes(&bytes).ok_or_else(|| Error::Corrupt("a range's end".into()))
    });
    Ok(Assignment {
        range: KeyRange {
            start: row.key(0)?.0,
            end: end.transpose()?.map(|key| key.0),
        },
        shard: ShardName::new(row.text(2)?).map_err(|error| Error::Corrupt(error.0.into()))?,
        epoch: Epoch::from_i64(row.int(3)?),
    })
}

async fn map_from_fences(shards: &[Arc<Shard>], timeout: Duration) -> Result<ShardMap> {
    let mut assignments = Vec::new();
    for shard in shards {
        let fences =
            async { fence::all(&mut shard.reader(Instant::now() + timeout).await?).await }.await;
        let fences = fences.map_err(|error| {
            Error::DirectoryUnavailable(format!("nor is shard {}: {error}", shard.name()))
        })?;
        let owned = fences
            .into_iter()
            .filter(|fence| fence.state != FenceState::Gone);
        assignments.extend(owned.map(|f| Assignment {
            range: f.range,
            shard: shard.name().clone(),
            epoch: f.epoch,
        }));
    }
    ShardMap::new(assignments).map_err(|error| {
        Error::DirectoryUnavailable(format!("and the fences make no map: {error}"))
    })
}

/// Writes the first map into an empty directory, and the fences that its shards lack.
///
/// # Errors
/// When a database fails, or the deployment was initialised with another key function.
pub async fn initialise(settings: &StoreSettings) -> Result<()> {
    let pool = PoolSettings {
        max_connections: 1,
        ..settings.pool.clone()
    };
    let database = Database::open(&settings.directory.url, &pool, 1)?;
    let map = {
        let mut connection = database.writer(Instant::now() + INITIALISE).await?;
        connection.begin().await?;
        let outcome = initialise_directory(&mut connection, settings).await;
        match &outcome {
            Ok(_) => connection.commit().await?,
            Err(_) => connection.rollback().await,
        }
        outcome?
    };
    database.close().await;
    for shard in &settings.shards {
        let database = Database::open(&shard.primary, &pool, 1)?;
        open_first_fences(
            &mut database.writer(Instant::now() + INITIALISE).await?,
            &map,
            &shard.name,
        )
        .await?;
        database.close().await;
    }
    Ok(())
}

async fn initialise_directory(
    connection: &mut Connection,
    settings: &StoreSettings,
) -> Result<ShardMap> {
    connection
        .execute(
            LOCK_KEY_FUNCTION,
            &values![settings.keyspace.function.name()],
        )
        .await?;
    check_key_function(connection, settings).await?;
    if connection.fetch_optional(ALL_RANGES, &[]).await?.is_some() {
        return read_map(connection).await;
    }
    let map = first_map(settings)?;
    let bounds: Vec<([u8; 8], Option<[u8; 8]>)> = map
        .assignments()
        .iter()
        .map(|a| {
            (
                UserKey(a.range.start).to_bytes(),
                a.range.end.map(|end| UserKey(end).to_bytes()),
            )
        })
        .collect();
    let mut args: Vec<Value<'_>> = Vec::new();
    for (assignment, (start, end)) in map.assignments().iter().zip(&bounds) {
        args.extend(values![
            start,
            end.as_ref(),
            assignment.shard.as_str(),
            assignment.epoch
        ]);
    }
    connection
        .execute(
            &format!("{INSERT_RANGES}{}", rows_of(bounds.len(), 4)),
            &args,
        )
        .await?;
    let now = Timestamp::now().0;
    let shards: Vec<Value<'_>> = settings
        .shards
        .iter()
        .flat_map(|s| values![s.name.as_str(), now])
        .collect();
    connection
        .execute(
            &format!("{INSERT_SHARDS}{}", rows_of(settings.shards.len(), 2)),
            &shards,
        )
        .await?;
    Ok(map)
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

async fn open_first_fences(
    connection: &mut Connection,
    map: &ShardMap,
    shard: &ShardName,
) -> Result<()> {
    connection.begin().await?;
    let existing = fence::all(connection).await?;
    let missing: Vec<&Assignment> = map
        .ranges_of(shard)
        .filter(|a| {
            a.epoch == Epoch(1)
                && existing
                    .iter()
                    .all(|fence| fence.range.start != a.range.start)
        })
        .collect();
    if !missing.is_empty() {
        fence::open_first(connection, &missing).await?;
    }
    connection.commit().await
}
