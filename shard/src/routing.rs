//! From a key to its shard. A call that met a stale map is made again with a fresh one, until its deadline.
//!
//! While a range is frozen, its writes wait here for its new owner, all ranges' in one room that is bounded in number and in bytes
//! (INV-BOUND); a write that finds no room is refused at once, and may be tried again.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::identity::{self, Deployed};
use crate::ids::{ShardName, UserId, UserKey};
use crate::map::{Assignment, ShardMap};
use crate::metrics;
use crate::node::Shard;
use crate::settings::StoreSettings;
use crate::waiting::{Room, Size};

/// How long a call waits before it asks the directory again whether a range has a new owner; a new map wakes it at once.
const OWNER_WAIT: Duration = Duration::from_millis(20);

/// Most calls that wait for an owner, and most bytes that they hold.
const WAITING: Size = Size {
    number: 16_384,
    bytes: 64 << 20,
};
/// What a call holds besides the messages that it sends, about: it is on the heap, with its caller's request.
const CALL_BYTES: usize = 4096;

/// The shards, and this process's map of them.
#[derive(Debug)]
pub struct Router {
    settings: StoreSettings,
    deployed: Deployed,
    directory: Directory,
    /// Those of the configuration; one without a shard is not part of the deployment yet.
    shards: BTreeMap<ShardName, OnceLock<Arc<Shard>>>,
    /// When the directory was last asked for new shards.
    admitting: Mutex<Option<Instant>>,
    /// The calls that wait for an owner.
    waiting: Arc<Room>,
}

impl Router {
    /// Compares every database with what its address stands for, reads the map, and prepares the pools of every shard of the
    /// deployment.
    ///
    /// # Errors
    /// As [`identity::find`]; when an address cannot be understood.
    pub async fn open(settings: &StoreSettings) -> Result<Self> {
        Self::of(settings, identity::find(settings).await?)
    }

    /// The same for a deployment that was found already.
    ///
    /// # Errors
    /// When an address cannot be understood.
    pub fn of(settings: &StoreSettings, deployed: Deployed) -> Result<Self> {
        let mut shards = BTreeMap::new();
        for shard in &settings.shards {
            let place = OnceLock::new();
            if let Some(identity) = deployed.shard(&shard.name) {
                let opened = Shard::open(shard, &settings.pool, &settings.write, identity)?;
                place.get_or_init(|| Arc::new(opened));
            }
            shards.insert(shard.name.clone(), place);
        }
        Ok(Self {
            settings: settings.clone(),
            directory: Directory::open(settings, deployed.directory(), deployed.map().clone())?,
            deployed,
            shards,
            admitting: Mutex::new(None),
            waiting: Room::new(WAITING),
        })
    }

    /// The deployment, as it was found.
    #[must_use]
    pub fn deployed(&self) -> &Deployed {
        &self.deployed
    }

    /// The configuration it was opened with.
    #[must_use]
    pub fn settings(&self) -> &StoreSettings {
        &self.settings
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// All shards of the deployment, by name. A shard that is added while this process runs is among them a moment
    /// later.
    pub fn shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.shards.values().filter_map(OnceLock::get)
    }

    /// The map as this process knows it.
    #[must_use]
    pub fn map(&self) -> Arc<ShardMap> {
        self.directory.map()
    }

    /// Reads the map again unless another call did since `stale` was current.
    ///
    /// # Errors
    /// When the directory is away.
    pub async fn refresh(&self, stale: &Arc<ShardMap>) -> Result<()> {
        self.directory.refresh(stale).await
    }

    /// Opens the shards of the configuration that were added to the deployment since this process looked. One call at a time asks
    /// the directory, and none once all shards are open.
    ///
    /// # Errors
    /// When the directory is away.
    pub(crate) async fn admit(&self) -> Result<()> {
        let asked = Instant::now();
        let mut begun = self.admitting.lock().await;
        let is_answered = begun.is_some_and(|begun| begun > asked);
        if is_answered || self.shards.values().all(|place| place.get().is_some()) {
            return Ok(());
        }
        let begins = Instant::now();
        for (name, incarnation) in self.directory.joined().await? {
            let mut configured = self.settings.shards.iter();
            let (Some(shard), Some(place)) = (
                configured.find(|it| it.name == name),
                self.shards.get(&name).filter(|place| place.get().is_none()),
            ) else {
                continue;
            };
            let identity = self.deployed.joined(&name, incarnation);
            let (pool, write) = (&self.settings.pool, &self.settings.write);
            let opened = Arc::new(Shard::open(shard, pool, write, identity)?);
            if place.set(opened).is_ok() {
                tracing::info!(shard = %name, "a shard was added to the deployment");
            }
        }
        *begun = Some(begins);
        Ok(())
    }

    /// Where `user` is on the key space.
    ///
    /// # Errors
    /// When the id does not fit the key function.
    pub fn key(&self, user: &UserId) -> Result<UserKey> {
        Ok(self.settings.keyspace.function.key(user)?)
    }

    /// A shard by name.
    ///
    /// # Errors
    /// When the map names a shard that is not configured here.
    pub fn shard(&self, name: &ShardName) -> Result<&Arc<Shard>> {
        self.shards
            .get(name)
            .and_then(OnceLock::get)
            .ok_or_else(|| {
                Error::DirectoryUnavailable(format!(
                    "it names shard {name}, which this router does not know"
                ))
            })
    }

    /// Makes a call on the shard that owns `key`. When that shard says it does not, reads the map again and makes it anew; once
    /// also when it could not go on reading. (Transactions are run again by [`Shard::transaction`].)
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`] when the key has found no owner by `deadline`, [`Error::Overloaded`] when too much waits for one
    /// already, or what the call says.
    pub async fn call<T, F>(
        &self,
        key: UserKey,
        deadline: Instant,
        work: impl Fn(Arc<Shard>, Assignment) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.call_with((key, 0), deadline, work).await
    }

    /// As [`Router::call`], for one that holds this many bytes while it waits.
    ///
    /// # Errors
    /// As [`Router::call`].
    pub(crate) async fn call_with<T, F>(
        &self,
        (key, bytes): (UserKey, usize),
        deadline: Instant,
        work: impl Fn(Arc<Shard>, Assignment) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut was_interrupted = false;
        loop {
            let map = self.map();
            let assignment = map.locate(key);
            let shard = match self.shard(&assignment.shard) {
                Ok(shard) => shard,
                Err(error) if self.shards.contains_key(&assignment.shard) => {
                    Box::pin(self.admit()).await?; // it was added a moment ago
                    self.shard(&assignment.shard).map_err(|_| error)?
                }
                Err(error) => return Err(error),
            };
            let begun = Instant::now();
            let outcome = work(shard.clone(), assignment.clone()).await;
            shard.called(begun);
            match outcome {
                // Rare and large: on the heap, so that every call is not as large as this.
                Err(Error::NotOwner(_)) => {
                    Box::pin(self.find_owner(&map, (assignment, bytes), deadline)).await?;
                }
                Err(Error::Interrupted(_) | Error::Contention(_)) if !was_interrupted => {
                    was_interrupted = true;
                }
                Err(Error::Interrupted(_) | Error::Contention(_)) => {
                    return Err(Error::ShardUnavailable(shard.name().clone()));
                }
                outcome => return outcome,
            }
        }
    }

    async fn find_owner(
        &self,
        stale: &Arc<ShardMap>,
        (assignment, bytes): (&Assignment, usize),
        deadline: Instant,
    ) -> Result<()> {
        metrics::STALE_MAP.increment(1);
        let size = Size {
            number: 1,
            bytes: CALL_BYTES + bytes,
        };
        let place = self.waiting.take(size);
        let _place = place.ok_or_else(|| Error::Overloaded(assignment.shard.clone()))?;
        if Instant::now() + OWNER_WAIT >= deadline {
            return Err(Error::ShardUnavailable(assignment.shard.clone()));
        }
        let mut changes = self.directory.changes();
        if let Err(error) = self.refresh(stale).await {
            tracing::warn!(%error, "a shard gave a key up and the directory cannot be asked who has it");
        }
        if Arc::ptr_eq(stale, &self.map()) {
            // In the middle of a move: the new owner is not known yet, or the old one takes writes again.
            tokio::time::timeout(OWNER_WAIT, changes.changed())
                .await
                .ok();
        }
        Ok(())
    }
}
