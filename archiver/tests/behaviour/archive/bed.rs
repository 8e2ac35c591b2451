//! A deployment of a test's own: shards, object store, store, archive.

mod deeds;
mod looks;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_archiver::jobs::{ArchiveJobs, Hook, Order};
use backscroll_archiver::object_store::ObjectStore;
use backscroll_archiver::object_store::faults::Faults;
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_archiver::tier::Tier;
use backscroll_shard::commit_event::NoListener;
use backscroll_shard::db::Connection;
use backscroll_shard::ids::{ConversationId, MessageId, Seq, ShardName, UserId};
use backscroll_shard::migrate::migrate_all;
use backscroll_shard::model::{Caller, HistoryRecord, MessageType, Timestamp};
use backscroll_shard::node::Shard;
use backscroll_shard::settings::{DatabaseUrl, Span, StoreSettings};
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use backscroll_testkit::{Proxy, TestDatabases, socket_address, warnings};

use crate::beds;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// 2020-01-01T00:00:00Z
const LONG_AGO: i64 = 1_577_836_800_000;

/// What the macro makes tests for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Backend {
    /// SQLite and a folder.
    Embedded,
    /// The SQL server and a bucket.
    Server,
}

pub(crate) struct Bed {
    pub(crate) store: Arc<Store>,
    pub(crate) archive: ArchiveJobs,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) faults: Faults,
    pub(crate) archive_settings: ArchiveSettings,
    pub(crate) settings: StoreSettings,
    /// Between the store and the shards' server.
    pub(crate) proxy: Option<Proxy>,
    databases: Vec<TestDatabases>,
    _kept: Vec<Box<dyn Any + Send + Sync>>,
}

/// Small frames and segments, so that little data has many of them; nobody waits long for a dead job, and no job makes
/// room for other tests.
pub(crate) fn small() -> ArchiveSettings {
    ArchiveSettings {
        frame_bytes: 4096,
        segment_bytes: 2048,
        delete_batch: 70,
        busy_share: 100,
        lease: Span::millis(300),
        gc_grace: Span::secs(0),
        ..ArchiveSettings::default()
    }
}

/// A write transaction that its test ends.
pub(crate) async fn begin(shard: &Shard) -> Connection {
    let deadline = Instant::now() + PATIENCE;
    let mut connection = shard.primary().writer(deadline).await.unwrap();
    connection.begin().await.unwrap();
    connection
}

impl Bed {
    pub(crate) async fn open(backend: Backend) -> Self {
        Self::open_with(backend, small()).await
    }

    pub(crate) async fn open_with(backend: Backend, archive_settings: ArchiveSettings) -> Self {
        Self::open_promising(backend, archive_settings, Span::secs(0)).await
    }

    /// With a deployment that promises to recognise repeats for so long; the other beds promise nothing, so that messages
    /// can be archived as soon as they are sent.
    pub(crate) async fn open_promising(
        backend: Backend,
        archive_settings: ArchiveSettings,
        idempotency: Span,
    ) -> Self {
        let (objects, faults, kept): (_, _, Box<dyn Any + Send + Sync>) = match backend {
            Backend::Embedded => {
                let bed = beds::disk().await;
                (bed.store.clone(), bed.faults.clone(), Box::new(bed))
            }
            Backend::Server => {
                let bed = beds::OnServer::start().await;
                (bed.store.clone(), bed.faults.clone(), Box::new(bed))
            }
        };
        let mut bed =
            Self::databases(backend, objects, faults, (archive_settings, idempotency)).await;
        bed._kept.push(kept);
        bed
    }

    async fn databases(
        backend: Backend,
        objects: Arc<dyn ObjectStore>,
        faults: Faults,
        (archive_settings, idempotency): (ArchiveSettings, Span),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = StoreSettings::embedded(folder.path().to_str().unwrap(), 2);
        settings.limits.idempotency = idempotency;
        let mut databases = Vec::new();
        let mut proxy = None;
        if let Backend::Server = backend {
            let created = TestDatabases::create(3).await;
            let mut urls = created.urls().into_iter();
            settings.directory.url = DatabaseUrl(urls.next().unwrap());
            let between = Proxy::start(socket_address(&settings.directory.url.0));
            for shard in &mut settings.shards {
                shard.primary = DatabaseUrl(between.url(&urls.next().unwrap()));
            }
            proxy = Some(between);
            settings.pool.breaker_cooldown = Span::millis(100);
            settings.pool.max_connections = 8;
            databases.push(created);
        }
        warnings::watch();
        migrate_all(&settings, false).await.unwrap();
        let tier = Tier::new(objects.clone(), &archive_settings);
        let listener = Arc::new(NoListener);
        let supervisor = Supervisor::default();
        let store = Store::open(&settings, Arc::new(tier), listener, &supervisor)
            .await
            .unwrap();
        let archive = ArchiveJobs::new(
            store.router().clone(),
            objects.clone(),
            archive_settings.clone(),
        );
        Self {
            store,
            archive,
            objects,
            faults,
            archive_settings,
            settings,
            proxy,
            databases,
            _kept: vec![Box::new(folder)],
        }
    }

    /// Empty databases beside the same bucket: what is left after they are lost.
    pub(crate) async fn databases_lost(&self, backend: Backend) -> Self {
        let (objects, faults) = (self.objects.clone(), self.faults.clone());
        let idempotency = self.store.settings().limits.idempotency;
        let settings = (self.archive_settings.clone(), idempotency);
        Self::databases(backend, objects, faults, settings).await
    }

    pub(crate) async fn close(self) {
        self.store.close(Instant::now() + PATIENCE).await;
        for databases in self.databases {
            databases.drop_all().await;
        }
        warnings::check();
    }

    /// Another archive on the same deployment, that tells of its steps.
    pub(crate) fn archive_with(&self, hook: Hook) -> ArchiveJobs {
        self.archive.clone().with_hook(hook)
    }
}

pub(crate) fn order() -> Order {
    Order {
        actor: "tester".into(),
        reason: "a test".into(),
        shard: None,
    }
}

fn order_on(shard: &ShardName) -> Order {
    Order {
        shard: Some(shard.clone()),
        ..order()
    }
}

pub(crate) fn record(channel: &str, n: u64) -> HistoryRecord {
    let users = ["alice", "bob"];
    let user = users[usize::try_from(n % 2).unwrap()];
    HistoryRecord {
        channel: channel.into(),
        user: UserId::new(user).unwrap(),
        at: LONG_AGO + i64::try_from(n).unwrap() * 60_000,
        text: format!(
            "{channel} message {n} {}",
            "𝄞 ünïcödé ".repeat((n % 5) as usize)
        ),
        message_type: MessageType::Text,
        reply_to: n.is_multiple_of(7).then(|| Seq(n - 1)),
        attachments: None,
        reactions: None,
        metadata: None,
        mentions: Vec::new(),
        pinned_at: None,
        pinned_by: None,
        edited_at: None,
        deleted_at: None,
        to: None,
        status: None,
    }
}

/// When message `n` of a channel was sent.
pub(crate) fn sent_at(n: u64) -> Timestamp {
    Timestamp(LONG_AGO + i64::try_from(n).unwrap() * 60_000)
}

pub(crate) fn message(conversation: ConversationId, seq: u64) -> MessageId {
    MessageId {
        conversation,
        seq: Seq(seq),
    }
}

/// Lets a job of a hook, which cannot wait, do so.
pub(crate) fn wait_for<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn caller(name: &str) -> Caller {
    Caller::new(user(name), PATIENCE)
}

/// Makes a test for both backends out of functions that take a [`Backend`].
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::archive::bed::Backend::Embedded).await;
            })*
        }
        mod on_server {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::archive::bed::Backend::Server).await;
            })*
        }
    };
}
pub(crate) use on_both;
