//! A deployment of which one shard misbehaves on command, and what is done with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, MessageId, Seq, ShardName};
use backscroll_shard::model::{HistoryRecord, Message, MessageType, Position};
use backscroll_shard::settings::{DatabaseUrl, PoolSettings};
use backscroll_shard::store::Store;
use backscroll_testkit::{Mode, Proxy, socket_address, sql_server_url};
use tokio::task::JoinSet;

use super::WELL_AGAIN;
use crate::bed::{Bed, PATIENCE, caller, text, text_as, user};
use crate::faults::home_of;
use crate::logged;

/// A deployment whose first shard is behind a proxy, with a conversation and an import there.
pub(crate) struct Scene {
    pub(crate) bed: Bed,
    pub(crate) proxy: Proxy,
    pub(crate) shard: ShardName,
    pub(crate) conversation: ConversationId,
    pub(crate) message: MessageId,
    pub(crate) import: ConversationId,
    pub(crate) imported: AtomicU64,
}

impl Scene {
    pub(crate) async fn set(adjust: impl FnOnce(&mut PoolSettings)) -> Self {
        logged::expect_outage();
        let proxy = Proxy::start(socket_address(&sql_server_url()));
        let mut bed = Bed::server_with(|settings| {
            let primary = &mut settings.shards[0].primary;
            *primary = DatabaseUrl(proxy.url(&primary.0));
        })
        .await;
        let shard = bed.settings.shards[0].name.clone();
        let is_there = |name: &String| home_of(&bed, name).shard == shard;
        let owner = (0..).map(|n| format!("user{n}")).find(is_there).unwrap();
        let conversation = bed.group(&owner, &["alice", "bob"]).await;
        let message = bed.say("alice", conversation, "first").await.id;
        let (import, _) = bed.store.import_begin("talk", &user(&owner)).await.unwrap();
        let message = message.to_string().parse().unwrap();
        bed.settle().await;
        bed.store.close(Instant::now() + PATIENCE).await;
        adjust(&mut bed.settings.pool);
        bed.store = Bed::another(&bed.settings).await;
        Self {
            bed,
            proxy,
            shard,
            conversation,
            message,
            import,
            imported: AtomicU64::new(0),
        }
    }

    pub(crate) async fn send(&self) -> Result<()> {
        let (store, alice) = (&self.bed.store, caller("alice"));
        let sent = store.send(&alice, self.conversation, text("x"));
        sent.await.map(drop)
    }

    pub(crate) async fn send_together(&self) -> Result<()> {
        let (store, bob) = (&self.bed.store, caller("bob"));
        let messages = vec![text("y"), text("z")];
        let sent = store.send_all(&bob, self.conversation, messages).await;
        sent.into_iter().collect::<Result<Vec<_>>>().map(drop)
    }

    pub(crate) async fn page(&self) -> Result<()> {
        let (store, bob) = (&self.bed.store, caller("bob"));
        let page = store.history(&bob, self.conversation, Position::Latest, 5);
        page.await.map(drop)
    }

    pub(crate) async fn watermark(&self) -> Result<()> {
        let (store, bob) = (&self.bed.store, caller("bob"));
        let moved = store.mark_read(&bob, self.conversation, None);
        moved.await.map(drop)
    }

    pub(crate) async fn edit(&self) -> Result<()> {
        let (store, alice) = (&self.bed.store, caller("alice"));
        let content = format!("edited {}", rand::random::<u64>());
        let edited = store.edit_message(&alice, self.message, content);
        edited.await.map(drop)
    }

    /// The next two records.
    pub(crate) async fn job(&self) -> Result<()> {
        let position = self.imported.load(Ordering::Relaxed);
        let record = |n: u64| HistoryRecord {
            channel: "talk".into(),
            user: user("carol"),
            at: 1_507_466_702_000 + i64::try_from(n).unwrap(),
            text: n.to_string(),
            message_type: MessageType::Text,
            reply_to: None,
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
        };
        let records = [record(position), record(position + 1)];
        let store = &self.bed.store;
        let stored = store.import_append(self.import, position, &records).await?;
        self.imported.store(stored, Ordering::Relaxed);
        Ok(())
    }

    /// What came of one of each.
    pub(crate) async fn everything(&self) -> [(&'static str, Result<()>); 6] {
        let (send, together, page, watermark, edit, job) = futures_util::join!(
            self.send(),
            self.send_together(),
            self.page(),
            self.watermark(),
            self.edit(),
            self.job(),
        );
        [
            ("a send", send),
            ("sends together", together),
            ("a page", page),
            ("a watermark", watermark),
            ("an edit", edit),
            ("an import", job),
        ]
    }

    /// Open to the primary of the shard, and idle.
    pub(crate) fn connections(&self) -> (u32, u32) {
        let router = self.bed.store.router();
        router.shard(&self.shard).unwrap().primary().connections()
    }

    /// Until each has succeeded; how long that took.
    pub(crate) async fn well_again(&self) -> Duration {
        let begun = Instant::now();
        futures_util::join!(
            until_ok(|| self.send()),
            until_ok(|| self.send_together()),
            until_ok(|| self.page()),
            until_ok(|| self.watermark()),
            until_ok(|| self.edit()),
            until_ok(|| self.job()),
        );
        begun.elapsed()
    }

    /// An outage is over within [`WELL_AGAIN`] of the end of its cause. Once more if not: a machine that is busy with something
    /// else may stand still for longer.
    pub(crate) async fn is_short(&self, meaning: &str, outage: impl AsyncFn()) {
        let mut took = Duration::ZERO;
        for _ in 0..2 {
            outage().await;
            self.proxy.set(Mode::Pass).await;
            took = self.well_again().await;
            if took < WELL_AGAIN {
                return;
            }
        }
        panic!("{meaning}: well again after {took:?}");
    }

    /// The import holds each record once, and the log has no hole.
    pub(crate) async fn close(self) {
        let (bed, imported) = (self.bed, self.imported.into_inner());
        let log = bed.log("alice", self.conversation).await;
        assert!(
            log.iter()
                .map(|message| message.seq.0)
                .eq(1..=log.len() as u64)
        );
        let mut numbers = Vec::new();
        let mut last = Seq(0);
        loop {
            let records = bed.store.export(self.import, last, 500).await.unwrap();
            let Some((seq, _)) = records.last() else {
                break;
            };
            last = *seq;
            numbers.extend(records.into_iter().map(|(_, record)| record.text));
        }
        let expected = (0..imported).map(|n| n.to_string());
        assert!(expected.eq(numbers), "{imported} were imported");
        bed.close().await;
    }
}

pub(crate) async fn until_ok<F: Future<Output = Result<()>>>(attempt: impl Fn() -> F) {
    let begun = Instant::now();
    while let Err(error) = attempt().await {
        assert!(
            error.is_retryable() && begun.elapsed() < PATIENCE,
            "{error:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn assert_not_now<T: std::fmt::Debug>(
    shard: &ShardName,
    what: &str,
    outcome: &Result<T>,
) {
    match outcome {
        Err(error @ Error::ShardUnavailable(name)) if name == shard => {
            assert!(error.is_retryable(), "{what}");
        }
        outcome => panic!("{what}: {outcome:?}"),
    }
}

/// Senders that repeat what was not acknowledged, until they are told to stop.
pub(crate) struct Senders {
    stop: Arc<AtomicBool>,
    running: JoinSet<Vec<(Seq, String)>>,
}

impl Senders {
    pub(crate) fn start(scene: &Scene, number: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = JoinSet::new();
        for sender in 0..number {
            let (store, stop) = (scene.bed.store.clone(), stop.clone());
            running.spawn(repeat_sends(store, scene.conversation, sender, pause, stop));
        }
        Self { stop, running }
    }

    /// Each message that was acknowledged is in the log, where it was said to be, and once.
    pub(crate) async fn check(mut self, bed: &Bed, conversation: ConversationId) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        while let Some(done) = self.running.join_next().await {
            acknowledged.extend(done.unwrap());
        }
        acknowledged.sort_unstable();
        let log = bed.log("alice", conversation).await;
        let keyed = |message: Message| Some((message.seq, message.client_msg_id?));
        let stored: Vec<_> = log.into_iter().filter_map(keyed).collect();
        assert_eq!(stored, acknowledged);
        stored.len()
    }
}

pub(crate) async fn repeat_sends(
    store: Arc<Store>,
    conversation: ConversationId,
    sender: usize,
    pause: Duration,
    stop: Arc<AtomicBool>,
) -> Vec<(Seq, String)> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{sender}-{n}");
        loop {
            let message = text_as(&key, &key);
            match store.send(&caller("alice"), conversation, message).await {
                Ok(sent) => break acknowledged.push((sent.message.seq, key)),
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
            tokio::time::sleep(pause).await;
        }
        tokio::time::sleep(pause).await;
    }
    acknowledged
}
