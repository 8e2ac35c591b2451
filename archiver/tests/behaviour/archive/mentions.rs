//! Mentions of archived messages: the messages keep them, and what is unread is what the log says.

use std::time::Instant;

use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::model::{ConversationKind, NewConversation, NewMessage};

use super::bed::{Backend, Bed, PATIENCE, caller, message, on_both, user};

on_both!(mentions_are_those_of_the_log_in_both_tiers);

async fn unread(bed: &Bed, id: ConversationId) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    bed.store.relay_idle(deadline).await.unwrap();
    let list = bed.store.list_conversations(&caller("bob"), None, 10).await;
    let mut entries = list.unwrap().conversations.into_iter();
    entries
        .find(|entry| entry.id == id)
        .unwrap()
        .unread_mentions
}

async fn mentioned(bed: &Bed, id: ConversationId) -> Vec<Vec<UserId>> {
    let log = bed.walk(id).await.into_iter();
    log.map(|message| message.mentions).collect()
}

async fn mentions_are_those_of_the_log_in_both_tiers(backend: Backend) {
    let bed = Bed::open(backend).await;
    let new = NewConversation {
        kind: ConversationKind::Group,
        members: vec![user("bob")],
        title: None,
        metadata: None,
    };
    let alice = caller("alice");
    let made = bed.store.create_conversation(&alice, new, None).await;
    let id = made.unwrap().0.id;
    for n in 0..9 {
        let sent = NewMessage {
            content: format!("message {n}"),
            mentions: (n % 3 == 0).then(|| user("bob")).into_iter().collect(),
            ..NewMessage::default()
        };
        bed.store.send(&alice, id, sent).await.unwrap();
    }
    let before = mentioned(&bed, id).await;
    assert_eq!(before.concat().len(), 3);
    assert_eq!(unread(&bed, id).await, 3);
    bed.run().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    assert!(bed.stored_text().await.contains(r#""mentions":["bob"]"#));
    assert_eq!(mentioned(&bed, id).await, before);
    assert_eq!(unread(&bed, id).await, 3);
    // An archived message is deleted.
    bed.delete(id, 4).await;
    assert_eq!(unread(&bed, id).await, 2);
    bed.all_jobs().await;
    assert_eq!(unread(&bed, id).await, 2);
    assert!(bed.restore(id).await > 0);
    assert_eq!(unread(&bed, id).await, 2);
    assert_eq!(mentioned(&bed, id).await.concat().len(), 2);
    let read = Some(message(id, 6).seq);
    let marked = bed.store.mark_read(&caller("bob"), id, read).await;
    marked.unwrap();
    assert_eq!(unread(&bed, id).await, 1);
    bed.close().await;
}
