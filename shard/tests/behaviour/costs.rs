//! What an ordinary call costs in statements: a figure that nothing may raise unnoticed.

use std::collections::BTreeSet;
use std::time::Instant;

use backscroll_shard::commit_event::NoListener;
use backscroll_shard::db::Value;
use backscroll_shard::ids::ConversationId;
use backscroll_shard::list::FOLLOWED_MAX;
use backscroll_shard::model::Position;
use backscroll_shard::relay::{self, WithinRequest};
use backscroll_shard::settings::{Span, StoreSettings};

use crate::bed::{Bed, PATIENCE, caller, text, user};
use crate::faults::connect;

/// No list follows, and nothing runs beside the calls that are counted.
fn quiet(settings: &mut StoreSettings) {
    settings.relay.max_members = 2;
    settings.relay.sweep_interval = Span::secs(3600);
    settings.directory.refresh_interval = Span::secs(3600); // and so long is a database not asked which one it is
}

/// Lists follow what the relay is told of.
fn quiet_sweep(settings: &mut StoreSettings) {
    settings.relay.sweep_interval = Span::secs(3600);
}

fn statements(bed: &Bed) -> u64 {
    let shards = bed.store.router().shards();
    shards.map(|shard| shard.statements().all).sum()
}

/// Statements of 100 sends one after the other, and of 100 pages.
async fn counted(bed: Bed) -> (u64, u64) {
    let id = bed.group("alice", &["bob", "carol"]).await;
    bed.settle().await;
    bed.say("alice", id, "the membership is known from now on")
        .await;
    let before = statements(&bed);
    for n in 0..100 {
        let message = text(&n.to_string());
        let sent = bed.store.send(&caller("alice"), id, message).await;
        sent.unwrap();
    }
    let sent = statements(&bed);
    for _ in 0..100 {
        bed.page("alice", id, Position::Latest, 50).await;
    }
    let paged = statements(&bed);
    bed.close().await;
    (sent - before, paged - sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_and_a_page_cost_so_many_statements_on_sqlite() {
    assert_eq!(counted(Bed::sqlite_with(quiet).await).await, (500, 300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_and_a_page_cost_so_many_statements_on_server() {
    assert_eq!(counted(Bed::server_with(quiet).await).await, (400, 300));
}

/// A change of a conversation with many members writes no list but the caller's within the request; the others are the
/// relay's.
async fn only_few_lists_follow_within_a_request(bed: Bed) {
    let others: Vec<String> = (0..60).map(|n| format!("member{n}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let many = bed.group("alice", &others).await;
    let few = bed.group("alice", &["bob"]).await;
    bed.settle().await;
    let router = bed.store.router();
    let alice = user("alice");
    let deadline = Instant::now() + PATIENCE;
    let shard = router.map().locate(many.owner_key()).shard.clone();
    let mut connection = connect(&bed, &shard).await;
    // As a change leaves it, but without a word to the relay, which looks for marks every hour.
    let change =
        "UPDATE conversations SET title = 'renamed', rev = rev + 1, marked = 1 WHERE id = ?";
    for id in [many, few] {
        connection
            .execute(change, &[Value::from(&id)])
            .await
            .unwrap();
    }
    let shard = router.shard(&shard).unwrap();
    let within =
        |id| relay::apply_within_request(router, shard, &NoListener, (id, &alice), deadline);
    assert!(matches!(within(few).await, WithinRequest::All));
    assert!(matches!(within(many).await, WithinRequest::Own));
    let renamed = || Some("renamed".to_owned());
    let mine = titles(&bed, "alice").await;
    assert!(mine.len() == 2 && mine.iter().all(|(_, title)| *title == renamed()));
    assert_eq!(titles(&bed, "bob").await, [(few, renamed())]);
    assert_eq!(titles(&bed, "member59").await, [(many, None)]);
    let applied = relay::apply(router, shard, &NoListener, &[many], deadline).await;
    assert!(applied.failure.is_none());
    assert_eq!(titles(&bed, "member59").await, [(many, renamed())]);
    bed.close().await;
}

async fn titles(bed: &Bed, name: &str) -> Vec<(ConversationId, Option<String>)> {
    let list = bed.store.list_conversations(&caller(name), None, 100).await;
    let entries = list.unwrap().conversations.into_iter();
    entries.map(|entry| (entry.id, entry.title)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_few_lists_follow_within_a_request_on_sqlite() {
    only_few_lists_follow_within_a_request(Bed::sqlite_with(quiet_sweep).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_few_lists_follow_within_a_request_on_server() {
    only_few_lists_follow_within_a_request(Bed::server_with(quiet_sweep).await).await;
}

async fn more_large_conversations_than_are_followed_are_all_listed(bed: Bed) {
    let (bob, carol) = (caller("bob"), caller("carol"));
    let store = &bed.store;
    let mut large = Vec::new();
    for _ in 0..FOLLOWED_MAX + 3 {
        large.push(bed.group("mallory", &["bob", "carol"]).await);
    }
    bed.settle().await;
    let oldest = large[0];
    store.send(&carol, oldest, text("unseen")).await.unwrap();
    let small = bed.group("bob", &["carol"]).await;

    let mut listed = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = store.list_conversations(&bob, cursor.as_deref(), 40);
        let page = page.await.unwrap();
        listed.extend(page.conversations);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let ids: BTreeSet<ConversationId> = listed.iter().map(|entry| entry.id).collect();
    assert_eq!(ids.len(), listed.len(), "none is listed twice");
    assert_eq!(ids.len(), large.len() + 1);
    assert_eq!(listed[0].id, small);
    let last = listed.last().unwrap();
    assert_eq!(
        (last.id, last.unread_count),
        (oldest, 1),
        "it is shown as it is now"
    );
    let unread = store.unread_count(&bob).await.unwrap();
    assert_eq!((unread.total, unread.partial), (0, true));
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_large_conversations_than_are_followed_are_all_listed_on_sqlite() {
    let bed = Bed::sqlite_with(quiet).await;
    more_large_conversations_than_are_followed_are_all_listed(bed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_large_conversations_than_are_followed_are_all_listed_on_server() {
    let bed = Bed::server_with(quiet).await;
    more_large_conversations_than_are_followed_are_all_listed(bed).await;
}
