//! What is written while a range moves is on the target in the end, and nobody is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::{
    ConversationKind, ConversationPatch, HistoryRecord, MessageType, NewMembers, NewNotification,
    Position, Role, Timestamp,
};
use backscroll_shard::moves::{MoveState, Step};
use backscroll_shard::settings::{RebalanceSettings, Span};
use backscroll_shard::store::Store;

use super::contents::{Contents, contents, of};
use super::{another_shard, dying_at, fill, finish, home, mover, order, quick};
use crate::bed::{Bed, PATIENCE, caller, text, text_as, user};
use crate::logged;

crate::on_every_backend!(
    what_is_written_meanwhile_is_copied_again,
    a_large_conversation_is_copied_again_in_pages,
    a_range_moves_while_everybody_writes,
);

/// A change of every kind.
async fn write(bed: &Bed, ids: &[ConversationId], round: usize) {
    let store = &bed.store;
    let id = ids[round % 5 + 1];
    let sent = bed.say("bob", id, &format!("round {round}")).await;
    let log = bed.log("alice", id).await;
    let mine = log
        .iter()
        .find(|it| it.sender_id == user("alice") && it.deleted_at.is_none());
    let edited = store
        .edit_message(
            &caller("alice"),
            mine.unwrap().id,
            format!("edited {round}"),
        )
        .await;
    edited.unwrap();
    store.react(&caller("carol"), sent.id, "👍").await.unwrap();
    store.mark_read(&caller("carol"), id, None).await.unwrap();
    store
        .mark_delivered(&caller("bob"), id, Some(sent.seq))
        .await
        .unwrap();
    if round.is_multiple_of(3) {
        store.delete_message(&caller("bob"), sent.id).await.unwrap();
    }
    let new = NewMembers {
        members: vec![user(&format!("new{round}"))],
        role: Role::Member,
    };
    store.add_members(&caller("alice"), id, new).await.unwrap();
    let patch = ConversationPatch {
        muted: Some(round.is_multiple_of(2)),
        ..ConversationPatch::default()
    };
    store
        .update_conversation(&caller("alice"), id, patch)
        .await
        .unwrap();
    let new = NewNotification {
        user_ids: vec![user("alice"), user("bob")],
        kind: "offer".to_owned(),
        title: format!("round {round}"),
        ..NewNotification::default()
    };
    store.notify(&caller("admin"), new).await.unwrap();
    if round % 2 == 1 {
        store.read_notifications(&caller("alice")).await.unwrap();
    }
    let seen = [(user("alice"), Timestamp(100 + round as i64))];
    store
        .save_last_seen(&seen, Instant::now() + PATIENCE)
        .await
        .unwrap();
    let (me, troll) = (caller("alice"), user(&format!("troll{}", round / 2)));
    if round.is_multiple_of(2) {
        store.block(&me, &troll).await.unwrap();
    } else {
        store.unblock(&me, &troll).await.unwrap();
    }
    let created = bed.group("alice", &[&format!("new{round}")]).await;
    bed.say("alice", created, "a new one").await;
    bed.settle().await;
}

/// Everything that is served: without the copies so far.
async fn served(bed: &Bed, target: &backscroll_shard::ids::ShardName) -> Contents {
    home(bed).await;
    let (there, others): (Vec<_>, Vec<_>) = bed
        .settings
        .shards
        .iter()
        .cloned()
        .partition(|shard| shard.name == *target);
    let owned: Vec<_> = bed
        .store
        .map()
        .ranges_of(target)
        .map(|it| it.range)
        .collect();
    let served = of(&others, None).await;
    served.and(of(&there, Some(&owned)).await)
}

async fn what_is_written_meanwhile_is_copied_again(bed: &Bed) {
    let ids = fill(bed).await;
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let begin = mover(bed, quick());
    let job = begin.begin(from.range, &to, &order()).await.unwrap();
    let steps = [
        Step::Moving,
        Step::ChunkCopied,
        Step::ChunkCopied,
        Step::Copied,
        Step::MarksCopied,
        Step::MarksCleared,
        Step::Compared,
        Step::MarksCopied,
        Step::MarksCleared,
        Step::Compared,
    ];
    for (round, step) in steps.into_iter().enumerate() {
        let dying = mover(bed, quick()).with_hook(dying_at(step));
        let died = finish(&dying, job.id).await;
        assert!(matches!(died, Err(Error::Closing)), "{step:?}: {died:?}");
        write(bed, &ids, round).await;
    }
    let before = served(bed, &to).await;
    let done = finish(&begin, job.id).await.unwrap();
    assert_eq!(done.state, MoveState::Done);
    before.assert_eq(&contents(bed).await);
    write(bed, &ids, 11).await;
}

async fn a_large_conversation_is_copied_again_in_pages(bed: &Bed) {
    fill(bed).await;
    let members: Vec<String> = (0..2500).map(|n| format!("member{n:04}")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let channel = bed
        .create("alice", ConversationKind::Channel, &members[..100])
        .await
        .unwrap();
    bed.settle().await;
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let begin = mover(bed, quick());
    let job = begin.begin(from.range, &to, &order()).await.unwrap();
    let dying = mover(bed, quick()).with_hook(dying_at(Step::Copied));
    assert!(matches!(dying.run(job.id).await, Err(Error::Closing)));
    for some in members[100..].chunks(100) {
        let new = NewMembers {
            members: some.iter().map(|name| user(name)).collect(),
            role: Role::Member,
        };
        bed.store
            .add_members(&caller("alice"), channel, new)
            .await
            .unwrap();
    }
    let (imported, _) = bed
        .store
        .import_begin("a channel", &user("alice"))
        .await
        .unwrap();
    let record = |i: i64| HistoryRecord {
        channel: "a channel".into(),
        user: user("alice"),
        at: 1_507_466_702_000 + i,
        text: format!("message {i}"),
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
    let records: Vec<HistoryRecord> = (0..4500).map(record).collect();
    for (position, some) in (0..).zip(records.chunks(500)) {
        bed.store
            .import_append(imported, position * 500, some)
            .await
            .unwrap();
    }
    bed.settle().await;
    let before = served(bed, &to).await;
    let done = finish(&begin, job.id).await.unwrap();
    assert_eq!(done.state, MoveState::Done);
    before.assert_eq(&contents(bed).await);
    assert_eq!(bed.log("alice", imported).await.len(), 4500);
}

/// What a sender was told is stored.
type Acknowledged = BTreeMap<ConversationId, Vec<(Seq, String)>>;

/// Does what a client does: again, when it was refused for now.
async fn repeated<T>(refused: &AtomicU64, call: impl AsyncFn() -> Result<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Ok(done) => return done,
            Err(error) if error.is_retryable() && Instant::now() < until => {
                refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn send(
    store: &Store,
    ids: &[ConversationId],
    name: &str,
    (stop, refused): (&AtomicBool, &AtomicU64),
) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = ids[n % ids.len()];
        let content = format!("{name} {n}");
        let send = async || {
            store
                .send(&caller(name), id, text_as(&content, &content))
                .await
        };
        let message = repeated(refused, send).await.message;
        if n % 7 == 0 {
            let edit = async || {
                store
                    .edit_message(&caller(name), message.id, format!("{content}!"))
                    .await
            };
            repeated(refused, edit).await;
            repeated(refused, async || {
                store.mark_read(&caller(name), id, None).await
            })
            .await;
        }
        acknowledged
            .entry(id)
            .or_default()
            .push((message.seq, content));
        n += 1;
    }
    acknowledged
}

async fn read(store: &Store, ids: &[ConversationId], stop: &AtomicBool, reads: &AtomicU64) {
    let mut heads: BTreeMap<ConversationId, Seq> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        for id in ids {
            let page = store
                .history(&caller("dave"), *id, Position::Latest, 20)
                .await
                .unwrap();
            let before = heads.insert(*id, page.head_seq);
            assert!(
                before <= Some(page.head_seq),
                "a reader goes back: {before:?} {:?}",
                page.head_seq
            );
            let seqs: Vec<u64> = page.messages.iter().map(|it| it.seq.0).collect();
            assert!(
                seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]),
                "{seqs:?}"
            );
            reads.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Senders, editors and readers on two processes, while their range goes from shard to shard.
async fn a_range_moves_while_everybody_writes(bed: &Bed) {
    logged::expect_move();
    logged::expect_outage(); // a file of SQLite has one writer: on a busy machine some wait in vain, and try again
    const MOVES: usize = 6;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(bed.group("alice", &["bob", "carol", "dave"]).await);
    }
    let another = Bed::another(&bed.settings).await;
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let refused = AtomicU64::new(0);
    let it = (&stop, &refused);
    let moving = async {
        for _ in 0..MOVES {
            let from = home(bed).await;
            let to = another_shard(bed, &from.shard);
            let settings = RebalanceSettings {
                lease: Span::secs(10),
                freeze_lease: Span::secs(5),
                longest_freeze: Span::secs(3),
                freeze_budget: Span::secs(2),
                ..quick()
            };
            let mover = Arc::new(mover(bed, settings));
            let job = mover.begin(from.range, &to, &order()).await.unwrap();
            let (runtime, runner) = (tokio::runtime::Handle::current(), Arc::clone(&mover));
            let run = tokio::task::spawn_blocking(move || runtime.block_on(runner.run(job.id)));
            assert_eq!(run.await.unwrap().unwrap().state, MoveState::Done);
            let freezes = mover.events(job.id, 0, 1000).await.unwrap();
            assert!(
                freezes.iter().any(|it| it.event == "committed"),
                "{freezes:?}"
            );
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (one, two, three, (), ()) = tokio::join!(
        send(&bed.store, &ids, "alice", it),
        send(&another, &ids, "bob", it),
        send(&another, &ids, "carol", it),
        read(&bed.store, &ids, &stop, &reads),
        moving,
    );
    assert!(reads.load(Ordering::Relaxed) > 0);
    // Writers of a SQLite file take turns without an order, so one may wait in vain for as long as it waits for a lock.
    let refused = refused.load(Ordering::Relaxed);
    let is_sqlite = bed.settings.shards[0].primary.0.starts_with("sqlite");
    assert!(is_sqlite || refused == 0, "{refused} calls were refused");
    for id in &ids {
        let log = bed.log("dave", *id).await;
        let seqs: Vec<u64> = log.iter().map(|it| it.seq.0).collect();
        assert_eq!(
            seqs,
            (1..=log.len() as u64).collect::<Vec<_>>(),
            "no gap and no repeat"
        );
        let by_seq: BTreeMap<Seq, &str> =
            log.iter().map(|it| (it.seq, it.content.as_str())).collect();
        let mut acknowledged = 0;
        for (seq, content) in [&one, &two, &three]
            .into_iter()
            .filter_map(|it| it.get(id))
            .flatten()
        {
            let stored = by_seq.get(seq).map(|it| it.trim_end_matches('!'));
            assert_eq!(stored, Some(content.as_str()), "INV-ACK");
            acknowledged += 1;
        }
        assert_eq!(acknowledged, log.len(), "nothing that nobody sent");
    }
    let sent: usize = [&one, &two, &three]
        .into_iter()
        .flat_map(BTreeMap::values)
        .map(Vec::len)
        .sum();
    assert!(sent > 6 * MOVES, "only {sent} messages were sent meanwhile");
    bed.say("alice", ids[0], "and on").await;
    bed.store
        .send(&caller("bob"), ids[0], text("and on"))
        .await
        .unwrap();
    another.close(Instant::now() + PATIENCE).await;
}
