//! What a configuration names, open: the store, which reads through to the archive; the object store behind it; and the
//! archive's jobs.
//!
//! Databases that are away are left out, and nothing is asked of the object store: a service starts without them. What can
//! never work, such as a folder that cannot be made or an address that leads to another database, is an error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use backscroll_archiver::jobs::ArchiveJobs;
use backscroll_archiver::object_store::{self, ObjectStore, ObjectStoreSettings, retry};
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_archiver::tier::Tier;
use backscroll_realtime::bus::in_process::{InProcessBus, InProcessRoster};
use backscroll_realtime::bus::{Bus, Roster};
use backscroll_realtime::publisher::Publisher;
use backscroll_realtime::redis::{Redis, RedisSettings};
use backscroll_realtime::settings::RealtimeSettings;
use backscroll_shard::identity;
use backscroll_shard::settings::StoreSettings;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;

use crate::failpoint;

/// An open deployment. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Deployment {
    /// Conversations, hot and archived alike.
    pub store: Arc<Store>,
    /// Where archived messages are.
    pub objects: Arc<dyn ObjectStore>,
    /// The archive's jobs.
    pub archive: ArchiveJobs,
    /// Carries what is committed to those who listen.
    pub bus: Arc<dyn Bus>,
    /// Who is connected where.
    pub roster: Arc<dyn Roster>,
    redis: Option<Arc<Redis>>,
    /// The bounds of real-time delivery.
    pub realtime: RealtimeSettings,
}

impl Deployment {
    /// Opens everything, once every database was found to be the one that its address stands for. Its tasks run under
    /// `supervisor`.
    ///
    /// # Errors
    /// When settings are wrong or the object store's folder cannot be made; as [`identity::find`].
    pub async fn open(
        store: &StoreSettings,
        objects: &ObjectStoreSettings,
        archive: &ArchiveSettings,
        realtime: &RealtimeSettings,
        redis: &RedisSettings,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Self> {
        let hook = failpoint::from_environment()?;
        // First: where it is refused, nothing is made.
        let deployed = identity::find(store).await?;
        let objects = object_store::open(objects)
            .await
            .context("cannot use the object store that the section object_store describes")?;
        let tier = Tier::new(Arc::clone(&objects), archive);
        let redis = match &redis.url {
            Some(_) => Some(Arc::new(Redis::open(redis, &node_name(), supervisor)?)),
            None => None,
        };
        let bus: Arc<dyn Bus> = match &redis {
            Some(redis) => failpoint::lossy(redis.bus())?,
            None => Arc::new(InProcessBus::default()),
        };
        let roster: Arc<dyn Roster> = match &redis {
            Some(redis) => redis.roster(),
            None => Arc::new(InProcessRoster::default()),
        };
        let publisher = Publisher::new(Arc::clone(&bus));
        let (tier, publisher) = (Arc::new(tier), Arc::new(publisher));
        let store = Store::of(store, deployed, tier, publisher, supervisor)?;
        let jobs = ArchiveJobs::new(
            Arc::clone(store.router()),
            retry::patient(Arc::clone(&objects)),
            archive.clone(),
        );
        let archive = match hook {
            Some(hook) => jobs.with_hook(hook),
            None => jobs,
        };
        Ok(Self {
            store,
            objects,
            archive,
            bus,
            roster,
            redis,
            realtime: realtime.clone(),
        })
    }

    /// Finishes what the store accepted, then publishes what waits for Redis, each for at most `patience`, and closes the
    /// connections.
    pub async fn close(&self, patience: Duration) {
        self.store.close(Instant::now() + patience).await;
        if let Some(redis) = &self.redis {
            redis.close(Instant::now() + patience).await;
        }
    }
}

/// Tells nodes apart in the roster: the host and the process. Not a secret, and not parsed.
pub(crate) fn node_name() -> String {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    format!("{host}/{}", std::process::id())
}
