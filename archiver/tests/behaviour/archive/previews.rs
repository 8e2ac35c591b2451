//! What is shown of a conversation's newest message, whatever tier it is in.

use std::time::Instant;

use backscroll_shard::ids::ConversationId;

use super::bed::{Backend, Bed, PATIENCE, caller, on_both};

on_both!(a_deleted_last_message_is_marked_in_both_tiers);

async fn assert_marked(bed: &Bed, id: ConversationId) {
    let deadline = Instant::now() + PATIENCE;
    bed.store.relay_idle(deadline).await.unwrap();
    let shown = bed.store.conversation(&caller("alice"), id).await.unwrap();
    let list = bed
        .store
        .list_conversations(&caller("alice"), None, 10)
        .await;
    let listed = list.unwrap().conversations.remove(0);
    for last in [shown.last_message, listed.last_message] {
        let last = last.unwrap();
        assert!(last.deleted && last.content.is_empty(), "{last:?}");
    }
}

async fn a_deleted_last_message_is_marked_in_both_tiers(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 40).await;
    bed.run().await;
    bed.delete(id, 40).await;
    assert_marked(&bed, id).await;
    bed.all_jobs().await;
    assert_marked(&bed, id).await;
    assert!(bed.restore(id).await > 0);
    assert_marked(&bed, id).await;
    bed.run().await;
    let lost = bed.databases_lost(backend).await;
    lost.rebuild().await;
    let shown = lost.store.conversation(&caller("alice"), id).await.unwrap();
    assert!(shown.last_message.unwrap().deleted, "after a rebuild");
    lost.close().await;
    bed.close().await;
}
