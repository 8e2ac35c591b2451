//! A deployment of a test's own: shards, object store, store, archive.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_archiver::jobs::collect::CollectFigures;
use backscroll_archiver::jobs::run::RunFigures;
use backscroll_archiver::jobs::verify::{VerifyOptions, VerifyReport};
use backscroll_archiver::jobs::{ArchiveJobs, Hook, Order, Progress, ShardOutcome};
use backscroll_archiver::object_store::faults::Faults;
use backscroll_archiver::object_store::{KeyPrefix, ObjectKey, ObjectStore, transfer};
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_archiver::terms::segment_of_terms;
use backscroll_archiver::tier::Tier;
use backscroll_shard::archive::Copies;
use backscroll_shard::commit_event::NoListener;
use backscroll_shard::db::Connection;
use backscroll_shard::ids::{ConversationId, MessageId, Seq, ShardName, UserId};
use backscroll_shard::migrate::migrate_all;
use backscroll_shard::model::{
    Caller, HistoryPage, HistoryRecord, Message, MessageType, Position, Timestamp,
};
use backscroll_shard::node::Shard;
use backscroll_shard::settings::{DatabaseUrl, Span, StoreSettings};
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use backscroll_testkit::{Proxy, TestDatabases, socket_address, warnings};
use futures_util::TryStreamExt as _;

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

    /// A channel of messages of long ago, a minute after one another, by two users in turn.
    pub(crate) async fn import(&self, channel: &str, count: u64) -> ConversationId {
        self.import_after(channel, count, 0).await
    }

    /// The same for another owner.
    pub(crate) async fn import_for(
        &self,
        owner: &UserId,
        channel: &str,
        count: u64,
    ) -> ConversationId {
        self.import_records(owner, channel, (1..=count).map(|n| record(channel, n)))
            .await
    }

    /// The same, so many milliseconds later.
    pub(crate) async fn import_after(
        &self,
        channel: &str,
        count: u64,
        later: i64,
    ) -> ConversationId {
        let record = |n| {
            let usual = record(channel, n);
            let at = usual.at + later;
            HistoryRecord { at, ..usual }
        };
        self.import_records(&user("alice"), channel, (1..=count).map(record))
            .await
    }

    async fn import_records(
        &self,
        owner: &UserId,
        channel: &str,
        records: impl Iterator<Item = HistoryRecord>,
    ) -> ConversationId {
        let (id, stored) = self.store.import_begin(channel, owner).await.unwrap();
        assert_eq!(stored, 0);
        let records: Vec<HistoryRecord> = records.collect();
        for (chunk, position) in records.chunks(500).zip((0u64..).step_by(500)) {
            self.store.import_append(id, position, chunk).await.unwrap();
        }
        id
    }

    /// A cursor that is at the end of alice's list.
    pub(crate) async fn cursor(&self) -> String {
        let users = [user("alice")];
        let deadline = Instant::now() + PATIENCE;
        let revs = self.store.list_revs(&users, deadline).await;
        revs.get(&users[0]).map_or(0, |rev| rev.0).to_string()
    }

    /// Archives everything that is there.
    pub(crate) async fn run(&self) -> Vec<ShardOutcome<RunFigures>> {
        let outcomes = self.run_before(Timestamp(Timestamp::now().0 + 1)).await;
        for outcome in &outcomes {
            assert_eq!(outcome.error, None, "{outcome:?}");
        }
        outcomes
    }

    pub(crate) async fn run_before(&self, cutoff: Timestamp) -> Vec<ShardOutcome<RunFigures>> {
        let progress = Progress::default();
        self.archive.run(&order(), cutoff, &progress).await.unwrap()
    }

    pub(crate) async fn collect(&self) -> CollectFigures {
        let mut all = CollectFigures::default();
        for outcome in self.archive.collect(&order(), false).await.unwrap() {
            assert_eq!(outcome.error, None, "{outcome:?}");
            all.abandoned += outcome.figures.abandoned;
            all.superseded += outcome.figures.superseded;
            all.orphans += outcome.figures.orphans;
            all.deleted += outcome.figures.deleted;
            all.erased += outcome.figures.erased;
        }
        all
    }

    /// Erases what is put down, and drops what is too old.
    pub(crate) async fn erase(&self) {
        let (order, progress) = (order(), Progress::default());
        for outcome in self.archive.erase(&order, &progress).await.unwrap() {
            assert_eq!(outcome.error, None, "{outcome:?}");
        }
    }

    /// Erases on one shard alone.
    pub(crate) async fn erase_on(&self, shard: &ShardName) {
        let (order, progress) = (order_on(shard), Progress::default());
        for outcome in self.archive.erase(&order, &progress).await.unwrap() {
            assert_eq!(outcome.error, None, "{outcome:?}");
        }
    }

    /// Collects on one shard alone.
    pub(crate) async fn collect_on(&self, shard: &ShardName) {
        for outcome in self.archive.collect(&order_on(shard), false).await.unwrap() {
            assert_eq!(outcome.error, None, "{outcome:?}");
        }
    }

    /// Archives what is there, erases and collects, until nothing is left to do.
    pub(crate) async fn all_jobs(&self) {
        self.run().await;
        self.erase().await;
        self.collect().await;
        self.collect().await;
    }

    /// Brings a conversation back, and says how many messages that were.
    pub(crate) async fn restore(&self, id: ConversationId) -> u64 {
        let (order, progress) = (order(), Progress::default());
        let outcome = self.archive.restore(&order, id, &progress).await.unwrap();
        assert_eq!(outcome.error, None);
        outcome.figures.messages
    }

    /// Makes the index anew.
    pub(crate) async fn rebuild(&self) {
        let (order, progress) = (order(), Progress::default());
        let outcome = self.archive.rebuild(&order, &progress).await.unwrap();
        assert_eq!((outcome.error, outcome.figures.problems), (None, vec![]));
    }

    /// Alice edits one of her messages, which are those with even numbers.
    pub(crate) async fn edit(&self, id: ConversationId, seq: u64, content: &str) -> Message {
        let (alice, message) = (caller("alice"), message(id, seq));
        let edited = self.store.edit_message(&alice, message, content.into());
        edited.await.unwrap()
    }

    /// Alice, who owns every channel, deletes a message.
    pub(crate) async fn delete(&self, id: ConversationId, seq: u64) {
        let (alice, message) = (caller("alice"), message(id, seq));
        self.store.delete_message(&alice, message).await.unwrap();
    }

    /// Bob reacts to a message.
    pub(crate) async fn react(&self, id: ConversationId, seq: u64) -> Message {
        let (bob, message) = (caller("bob"), message(id, seq));
        self.store.react(&bob, message, "👍").await.unwrap()
    }

    pub(crate) async fn verify(&self) -> VerifyReport {
        let progress = Progress::default();
        let options = VerifyOptions::default();
        self.archive
            .verify(&order(), options, &progress)
            .await
            .unwrap()
    }

    pub(crate) async fn assert_clean(&self) {
        let report = self.verify().await;
        assert!(report.is_clean(), "{report:#?}");
    }

    /// The conversation page by page, from the newest to the oldest, as clients see it.
    pub(crate) async fn walk(&self, id: ConversationId) -> Vec<Message> {
        let mut log: Vec<Message> = Vec::new();
        let mut position = Position::Latest;
        loop {
            let page = self.page(id, position, 50).await;
            if let Some(first) = page.messages.first() {
                position = Position::Before(first.seq);
            }
            log.splice(0..0, page.messages);
            if !page.has_more_before {
                return log;
            }
        }
    }

    pub(crate) async fn page(
        &self,
        id: ConversationId,
        position: Position,
        limit: u32,
    ) -> HistoryPage {
        self.store
            .history(&caller("alice"), id, position, limit)
            .await
            .unwrap()
    }

    /// The shard of a conversation.
    pub(crate) fn shard(&self, id: ConversationId) -> Arc<Shard> {
        let map = self.store.map();
        let name = &map.locate(id.owner_key()).shard;
        self.store.router().shard(name).unwrap().clone()
    }

    /// Runs a statement on the shard of a conversation: to craft what another program, or another clock, left behind.
    pub(crate) async fn execute(&self, id: ConversationId, statement: &str) {
        let mut connection = begin(&self.shard(id)).await;
        connection.execute(statement, &[]).await.unwrap();
        connection.commit().await.unwrap();
    }

    /// The number that a statement on the shard of a conversation gives.
    pub(crate) async fn number(&self, id: ConversationId, statement: &str) -> i64 {
        let shard = self.shard(id);
        let mut connection = shard.reader(Instant::now() + PATIENCE).await.unwrap();
        let row = connection.fetch_optional(statement, &[]).await.unwrap();
        row.unwrap().int(0).unwrap()
    }

    /// Waits until a transaction on the conversation's shard waits for another's lock. SQLite has one writer at a time,
    /// which waits before it reads anything.
    pub(crate) async fn until_somebody_waits_for(&self, id: ConversationId) {
        const MARIADB: &str = "SELECT COUNT(*) FROM information_schema.innodb_trx t \
             JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id \
             WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()";
        // Of MySQL, both of these tables give an error while a statement runs that has bytes which are no text.
        const MYSQL: &str = "SELECT COUNT(*) FROM performance_schema.data_lock_waits w \
             JOIN performance_schema.threads t ON t.thread_id = w.requesting_thread_id \
             WHERE t.processlist_db = DATABASE()";
        let flavor = std::env::var("BACKSCROLL_TEST_SQL_FLAVOR");
        let waiting = match flavor.as_deref() {
            Ok("mysql") => MYSQL,
            _ => MARIADB,
        };
        if self.proxy.is_none() {
            return;
        }
        let shard = self.shard(id);
        loop {
            let mut connection = shard.reader(Instant::now() + PATIENCE).await.unwrap();
            let row = connection.fetch_optional(waiting, &[]).await.unwrap();
            if row.unwrap().int(0).unwrap() > 0 {
                return;
            }
            drop(connection);
            // InnoDB shows what it has shown before to who asks again within 100 ms, whoever asked; a few tests do.
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    }

    pub(crate) async fn hot_rows(&self, id: ConversationId) -> u64 {
        let shard = self.shard(id);
        let mut connection = shard.reader(Instant::now() + PATIENCE).await.unwrap();
        let all = (Seq(1), Seq(i64::MAX.cast_unsigned()));
        backscroll_shard::archive::hot_count(&mut connection, id, all)
            .await
            .unwrap()
    }

    /// Where the archived run begins that has message `seq`.
    pub(crate) async fn first_of_run(&self, id: ConversationId, seq: Seq) -> Seq {
        let shard = self.shard(id);
        let mut connection = shard.reader(Instant::now() + PATIENCE).await.unwrap();
        let copies = Copies::find(&mut connection, id, (seq, seq)).await.unwrap();
        let parts = copies.plan(&[seq].into()).parts();
        parts[0].run().first_seq
    }

    /// The text of every object but the terms, unpacked.
    pub(crate) async fn stored_text(&self) -> String {
        let mut text = String::new();
        for key in self.keys().await {
            text.push_str(std::str::from_utf8(&self.plain(&key).await).unwrap());
        }
        text
    }

    /// The bytes of an object, unpacked.
    async fn plain(&self, key: &ObjectKey) -> Vec<u8> {
        let content = transfer::get_stream(self.objects.as_ref(), key).await;
        let (_, content) = content.unwrap();
        let bytes: Vec<u8> = content.try_collect::<Vec<_>>().await.unwrap().concat();
        zstd::decode_all(bytes.as_slice()).unwrap()
    }

    /// Every object but the terms of segments.
    pub(crate) async fn keys(&self) -> Vec<ObjectKey> {
        let (_, others) = self.terms_and_others().await;
        others
    }

    /// The terms of segments.
    pub(crate) async fn terms_keys(&self) -> Vec<ObjectKey> {
        let (terms, _) = self.terms_and_others().await;
        terms
    }

    async fn terms_and_others(&self) -> (Vec<ObjectKey>, Vec<ObjectKey>) {
        let prefix = KeyPrefix::default();
        let listed = transfer::list(self.objects.as_ref(), &prefix);
        let listed: Vec<ObjectKey> = listed.map_ok(|meta| meta.key).try_collect().await.unwrap();
        let is_terms = |key: &ObjectKey| segment_of_terms(key).is_some();
        listed.into_iter().partition(is_terms)
    }

    /// The terms of all segments, a line each.
    pub(crate) async fn stored_terms(&self) -> BTreeSet<String> {
        let mut terms = BTreeSet::new();
        for key in self.terms_keys().await {
            // Behind the terms are numbers.
            let plain = String::from_utf8_lossy(&self.plain(&key).await).into_owned();
            terms.extend(plain.lines().map(str::to_owned));
        }
        terms
    }

    /// Waits until the shards are as they were before their server went away: no pool has a dead connection left.
    pub(crate) async fn shards_come_back(&self) {
        for shard in self.store.router().shards() {
            let mut answers = 0;
            while answers < 10 {
                let deadline = Instant::now() + PATIENCE;
                let asked = async {
                    shard
                        .reader(deadline)
                        .await?
                        .fetch_optional("SELECT 1", &[])
                        .await
                };
                answers = if asked.await.is_ok() { answers + 1 } else { 0 };
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Waits until the leases of jobs that died are over.
    pub(crate) async fn leases_end(&self) {
        tokio::time::sleep(self.archive_settings.lease.0 * 2).await;
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
