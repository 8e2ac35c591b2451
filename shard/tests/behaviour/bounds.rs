//! What an answer and a message may hold, in bytes.

use std::collections::BTreeSet;
use std::time::Instant;

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::model::{HistoryPage, Message, Position, SyncRequest};
use backscroll_shard::settings::StoreSettings;

use crate::bed::{Bed, PATIENCE, caller};

crate::on_every_backend!(
    with small:
    pages_are_as_long_as_their_bytes_allow,
    sync_tells_as_much_as_its_bytes_allow,
    an_export_comes_in_parts_of_some_bytes,
    an_edit_that_makes_a_message_too_large_is_refused,
    one_user_leaves_room_for_the_reactions_of_others,
    conversations_that_did_not_change_cost_a_statement_a_shard,
);

const ANSWER: usize = 20_000;

fn small(settings: &mut StoreSettings) {
    settings.limits.answer_bytes = u32::try_from(ANSWER).unwrap();
    settings.limits.message_bytes = 20_000;
    settings.limits.reactions_per_user = 3;
}

/// A conversation of 30 messages of 2 kB, 60 kB in all.
async fn long(bed: &Bed) -> ConversationId {
    let id = bed.group("alice", &["bob"]).await;
    for n in 0..30 {
        bed.say("alice", id, &format!("{n:02}{}", "x".repeat(2000)))
            .await;
    }
    id
}

fn seqs<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<u64> {
    messages.into_iter().map(|message| message.seq.0).collect()
}

fn bytes(messages: &[Message]) -> usize {
    serde_json::to_vec(messages).unwrap().len()
}

fn check(page: &HistoryPage) {
    let range = page.messages[0].seq.0..=page.messages.last().unwrap().seq.0;
    assert_eq!(seqs(&page.messages), range.clone().collect::<Vec<_>>());
    assert!((2..30).contains(&page.messages.len()));
    assert!(bytes(&page.messages) <= ANSWER);
    assert_eq!(page.has_more_before, *range.start() > 1);
    assert_eq!(page.has_more_after, *range.end() < 30);
}

async fn pages_are_as_long_as_their_bytes_allow(bed: &Bed) {
    let id = long(bed).await;
    let latest = bed.page("bob", id, Position::Latest, 200).await;
    check(&latest);
    assert_eq!(latest.messages.last().unwrap().seq, Seq(30));
    let before = bed.page("bob", id, Position::Before(Seq(11)), 200).await;
    check(&before);
    assert_eq!(before.messages.last().unwrap().seq, Seq(10));
    let after = bed.page("bob", id, Position::After(Seq(4)), 200).await;
    check(&after);
    assert_eq!(after.messages[0].seq, Seq(5));
    for around in [1, 15, 30] {
        let page = bed
            .page("bob", id, Position::Around(Seq(around)), 200)
            .await;
        check(&page);
        assert!(seqs(&page.messages).contains(&around));
    }
    let walked = bed.log("bob", id).await;
    assert_eq!(seqs(&walked), (1..=30).collect::<Vec<_>>());
    let (mut last, mut forth) = (Seq(0), BTreeSet::new());
    loop {
        let page = bed.page("bob", id, Position::After(last), 200).await;
        forth.extend(seqs(&page.messages));
        last = page.messages.last().unwrap().seq;
        if !page.has_more_after {
            break;
        }
    }
    assert_eq!(forth.len(), 30);
    // A message that is larger than an answer may be is given alone.
    bed.say("bob", id, &"世".repeat(5000)).await;
    bed.say("bob", id, &format!("{}x", "\u{1}".repeat(4999)))
        .await;
    let page = bed.page("bob", id, Position::Latest, 200).await;
    assert_eq!(seqs(&page.messages), [32]);
    let page = bed.page("bob", id, Position::After(Seq(30)), 200).await;
    assert_eq!(seqs(&page.messages), [31]);
}

async fn sync_tells_as_much_as_its_bytes_allow(bed: &Bed) {
    let ids = [long(bed).await, long(bed).await];
    let mut revs: std::collections::BTreeMap<_, _> = ids.map(|id| (id, Rev(0))).into();
    bed.settle().await;
    let (mut cursor, mut told) = (None, 0);
    for round in 0.. {
        let request = SyncRequest {
            cursor: cursor.clone(),
            conversations: revs.clone(),
        };
        let page = bed.store.sync(&caller("bob"), request).await.unwrap();
        let changed = page.changes.iter().flat_map(|change| &change.messages);
        let size: usize = changed
            .clone()
            .map(|message| bytes(std::slice::from_ref(message)))
            .sum();
        assert!(size <= ANSWER, "{size} bytes in one answer");
        told += changed.count();
        for change in &page.changes {
            if !change.messages.is_empty() || !change.members.is_empty() {
                revs.insert(change.conversation_id, change.rev);
            }
        }
        cursor = Some(page.cursor);
        if !page.has_more {
            assert!(round > 3, "{round} rounds");
            break;
        }
    }
    assert_eq!(told, 60, "each once");
}

async fn an_export_comes_in_parts_of_some_bytes(bed: &Bed) {
    let id = long(bed).await;
    let (mut last, mut parts, mut records) = (Seq(0), 0, 0);
    loop {
        let part = bed.store.export(id, last, 1000).await.unwrap();
        let Some((seq, _)) = part.last() else { break };
        assert_eq!(part[0].0, last.next());
        last = *seq;
        records += part.len();
        parts += 1;
    }
    assert!(parts > 2, "{parts} parts");
    assert_eq!(records, 30);
}

async fn an_edit_that_makes_a_message_too_large_is_refused(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let message = bed.say("alice", id, "short").await;
    let edit = async |text: String| {
        let alice = caller("alice");
        bed.store.edit_message(&alice, message.id, text).await
    };
    let mut edits = 0;
    let refused = loop {
        match edit(format!("{edits}{}", "x".repeat(4000))).await {
            Ok(_) => edits += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(edits, 4);
    let text = refused.to_string();
    assert!(
        text.contains("bytes of a message with its earlier versions") && text.contains("20000"),
        "{text}"
    );
    let alice = caller("alice");
    let unchanged = bed.store.message(&alice, message.id).await.unwrap();
    assert!(unchanged.content.starts_with('3'));
    edit("short again".into()).await.unwrap();
    bed.store.delete_message(&alice, message.id).await.unwrap();
}

async fn one_user_leaves_room_for_the_reactions_of_others(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let message = bed.say("alice", id, "hello").await;
    let alice = caller("alice");
    for emoji in ["1", "2", "3"] {
        bed.store.react(&alice, message.id, emoji).await.unwrap();
    }
    bed.store.react(&alice, message.id, "3").await.unwrap(); // there already
    let fourth = bed.store.react(&alice, message.id, "4").await;
    assert!(
        matches!(fourth, Err(Error::LimitReached { max: 3, .. })),
        "{fourth:?}"
    );
    bed.store
        .react(&caller("bob"), message.id, "4")
        .await
        .unwrap();
    bed.store.unreact(&alice, message.id, "1").await.unwrap();
    bed.store.react(&alice, message.id, "4").await.unwrap();
}

async fn conversations_that_did_not_change_cost_a_statement_a_shard(bed: &Bed) {
    let mut conversations = std::collections::BTreeMap::new();
    for n in 0..20 {
        let owner = format!("owner{n}");
        let id = bed.group(&owner, &["bob"]).await;
        let foreign = bed.group(&owner, &["carol"]).await;
        conversations.insert(foreign, Rev(1));
        let rev = bed.page("bob", id, Position::Latest, 1).await.rev;
        conversations.insert(id, rev);
    }
    bed.settle().await;
    let statements = || -> u64 {
        let shards = bed.store.router().shards();
        shards.map(|shard| shard.statements().all).sum()
    };
    let request = |conversations| SyncRequest {
        cursor: Some("0".into()),
        conversations,
    };
    let sync = async |conversations| {
        let bob = caller("bob");
        bed.store.sync(&bob, request(conversations)).await.unwrap()
    };
    bed.store
        .relay_idle(Instant::now() + PATIENCE)
        .await
        .unwrap();
    let before = statements();
    sync(std::collections::BTreeMap::new()).await;
    let without = statements();
    let page = sync(conversations).await;
    let with = statements();
    assert!(page.changes.iter().all(|change| change.messages.is_empty()));
    let more = (with - without) - (without - before);
    assert!(
        more <= 12,
        "{more} statements for 40 conversations on 4 shards"
    );
}

/// A page reads what it returns: earlier versions that could not even be read do not matter to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_sync_do_not_read_earlier_versions() {
    let bed = Bed::sqlite().await;
    let id = bed.group("alice", &["bob"]).await;
    let sent = bed.say("alice", id, "hello").await;
    let map = bed.store.map();
    let name = &map.locate(id.owner_key()).shard;
    let shard = bed.store.router().shard(name).unwrap();
    let mut connection = shard
        .primary()
        .writer(Instant::now() + PATIENCE)
        .await
        .unwrap();
    connection
        .execute("UPDATE messages SET edit_history = X'FF'", &[])
        .await
        .unwrap();
    drop(connection);
    let page = bed.page("bob", id, Position::Latest, 10).await;
    assert_eq!(page.messages.len(), 1);
    let request = SyncRequest {
        cursor: None,
        conversations: [(id, Rev(0))].into(),
    };
    let synced = bed.store.sync(&caller("bob"), request).await.unwrap();
    assert_eq!(synced.changes[0].messages.len(), 1);
    assert_eq!(bed.store.export(id, Seq(0), 10).await.unwrap().len(), 1);
    let whole = bed.store.message(&caller("bob"), sent.id).await;
    assert!(matches!(whole, Err(Error::Corrupt(_))), "{whole:?}");
    bed.close().await;
}
