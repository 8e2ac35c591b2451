//! A deployment: SQLite files and a folder of objects, in memory, and the processes that work on it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backscroll_archiver::jobs::{ArchiveJobs, Order, Progress};
use backscroll_archiver::object_store::disk::DiskStore;
use backscroll_archiver::object_store::layer::Layered;
use backscroll_archiver::object_store::{ObjectStore, ObjectStoreSettings};
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_archiver::tier::Tier;
use backscroll_shard::cold_tier::{ColdPart, ColdTier};
use backscroll_shard::commit_event::NoListener;
use backscroll_shard::db::{Connection, Database};
use backscroll_shard::error::Result;
use backscroll_shard::ids::{ConversationId, Seq, UserId};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::model::Caller;
use backscroll_shard::node::Shard;
use backscroll_shard::settings::{Span, StoreSettings};
use backscroll_shard::steps;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::time;

use crate::scheduler::Gate;

/// How many shards a deployment has.
const SHARDS: u32 = 1;

/// Longer than any schedule takes, so that no timeout ends anything.
const LONG: Span = Span::secs(30 * 86_400);

/// A file system in memory, where there is one.
const MEMORY: &str = "/dev/shm";

/// Most rows that a run reads at once, and so about how many messages a segment has.
const READ_ROWS: usize = 4;

const LEAVE_WAL_MODE: &str = "PRAGMA journal_mode = DELETE";
const ENTER_WAL_MODE: &str = "PRAGMA journal_mode = WAL";
const CLOSING_POLL: Duration = Duration::from_millis(1);

/// The conversation that actors use, and another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversations {
    pub(crate) main: ConversationId,
    pub(crate) other: ConversationId,
}

/// An empty folder for a deployment.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new(MEMORY);
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a folder can be made")
}

/// Waits until the connections of processes that are gone are closed, which threads of their own do. A file leaves WAL mode
/// only for its last connection.
pub(crate) fn wait_until_closed(folder: &Path) {
    // Its time is the machine's: a schedule's clock would jump to the end of every wait.
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(leave_wal_mode(folder));
}

async fn leave_wal_mode(folder: &Path) {
    let settings = store_settings(folder);
    let urls = settings.shards.iter().map(|shard| &shard.primary);
    for url in urls.chain([&settings.directory.url]) {
        let database = Database::open_any(url, &settings.pool).unwrap();
        let mut connection = database.writer(Instant::now() + LONG.0).await.unwrap();
        while !leaves_wal_mode(&mut connection).await {
            time::sleep(CLOSING_POLL).await;
        }
        connection.execute_raw(ENTER_WAL_MODE).await.unwrap();
        drop(connection);
        database.close().await;
    }
}

async fn leaves_wal_mode(connection: &mut Connection) -> bool {
    let mode = connection.fetch_optional(LEAVE_WAL_MODE, &[]).await;
    mode.is_ok_and(|row| row.is_some_and(|row| row.text(0).unwrap() == "delete"))
}

/// Copies a deployment that no process has open.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// The store's settings for the deployment in `folder`.
pub(crate) fn store_settings(folder: &Path) -> StoreSettings {
    let folder = folder.to_str().expect("a path in UTF-8");
    let mut settings = StoreSettings::embedded(folder, SHARDS);
    settings.pool.max_connections = 4;
    settings.pool.acquire_timeout = LONG;
    settings.pool.statement_timeout = LONG;
    settings.directory.refresh_interval = LONG;
    settings.relay.sweep_interval = LONG;
    settings
}

/// Segments as small as possible, and no grace period: an object is deleted while readers are still at it.
pub(crate) fn archive_settings() -> ArchiveSettings {
    ArchiveSettings {
        level: 1,
        segment_bytes: 1,
        delete_batch: 2,
        busy_share: 100,
        max_latency: LONG,
        lease: LONG,
        gc_grace: Span::secs(0),
        cache_bytes: 1 << 20,
        ..ArchiveSettings::default()
    }
}

/// A process: a store, a router, pools and caches of its own.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) gate: Gate,
    pub(crate) store: Arc<Store>,
    pub(crate) archive: ArchiveJobs,
    pub(crate) conversations: Conversations,
    pub(crate) cold: Arc<dyn ColdTier>,
    objects: Arc<dyn ObjectStore>,
    folder: PathBuf,
}

impl Process {
    /// Opens a process on the deployment in `folder`.
    pub(crate) async fn open(
        gate: Gate,
        folder: &Path,
        conversations: Conversations,
        settings: ArchiveSettings,
    ) -> Self {
        gate.use_clock();
        let object_settings = ObjectStoreSettings {
            path: folder.join("objects"),
            ..ObjectStoreSettings::default()
        };
        let backend = DiskStore::open(&object_settings).await.unwrap();
        let objects = Layered::around(Arc::new(backend), gate.clone());
        let cold: Arc<dyn ColdTier> = Arc::new(NoReadAhead(Tier::new(objects.clone(), &settings)));
        let store_settings = store_settings(folder);
        let (listener, supervisor) = (Arc::new(NoListener), Supervisor::default());
        let opened = Store::open(&store_settings, cold.clone(), listener, &supervisor);
        let store = steps::scope(Arc::new(gate.clone()), opened).await.unwrap();
        let archive = ArchiveJobs::new(store.router().clone(), objects.clone(), settings)
            .with_read_rows(READ_ROWS);
        Self {
            gate,
            store,
            archive,
            conversations,
            cold,
            objects,
            folder: folder.to_owned(),
        }
    }

    /// Its archive with other settings.
    pub(crate) fn archive_with(&self, change: impl FnOnce(&mut ArchiveSettings)) -> ArchiveJobs {
        let mut settings = self.archive.settings().clone();
        change(&mut settings);
        ArchiveJobs::new(self.store.router().clone(), self.objects.clone(), settings)
            .with_read_rows(READ_ROWS)
    }

    /// The same process, with the two conversations exchanged.
    pub(crate) fn with_other_conversation(&self) -> Self {
        let Conversations { main, other } = self.conversations;
        Self {
            conversations: Conversations {
                main: other,
                other: main,
            },
            ..self.clone()
        }
    }

    /// A connection to each shard.
    pub(crate) async fn shard_connections(&self) -> Vec<Connection> {
        let mut connections = Vec::new();
        for shard in self.store.router().shards() {
            connections.push(shard.reader(Instant::now() + LONG.0).await.unwrap());
        }
        connections
    }

    /// The folder of its deployment.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The cold tier without reading ahead, which changes no answer.
struct NoReadAhead(Tier);

#[async_trait]
impl ColdTier for NoReadAhead {
    async fn read(
        &self,
        conversation: ConversationId,
        parts: &[ColdPart],
        deadline: Instant,
    ) -> Vec<Result<Vec<StoredMessage>>> {
        self.0.read(conversation, parts, deadline).await
    }

    fn read_ahead(&self, _shard: &Arc<Shard>, _conversation: ConversationId, _before: Seq) {}
}

/// A caller without a deadline that matters.
pub(crate) fn caller(name: &str) -> Caller {
    Caller::new(UserId::new(name).unwrap(), LONG.0)
}

/// An order for all shards.
pub(crate) fn order() -> Order {
    Order {
        actor: "stepper".into(),
        reason: "a test".into(),
        shard: None,
    }
}

/// A progress that is not looked at.
pub(crate) fn progress() -> Progress {
    Progress::default()
}
