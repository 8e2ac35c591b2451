//! What an ordinary call costs in statements: a figure that nothing may raise unnoticed.

use backscroll_shard::model::Position;
use backscroll_shard::settings::{Span, StoreSettings};

use crate::bed::{Bed, text};

/// No list follows, and nothing runs beside the calls that are counted.
fn quiet(settings: &mut StoreSettings) {
    settings.relay.max_members = 2;
    settings.relay.sweep_interval = Span::secs(3600);
    settings.directory.refresh_interval = Span::secs(3600); // and so long is a database not asked which one it is
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
        let caller = crate::bed::caller("alice");
        let message = text(&n.to_string());
        bed.store.send(&caller, id, message).await.unwrap();
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
