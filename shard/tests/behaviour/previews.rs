//! What lists show of a conversation's newest message.

use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::MessagePreview;
use backscroll_shard::settings::StoreSettings;

use crate::bed::{Bed, caller};

crate::on_every_backend!(with small_conversations:
    a_deleted_message_is_marked_in_lists,
    a_deleted_message_is_marked_in_large_conversations,
);

fn small_conversations(settings: &mut StoreSettings) {
    settings.relay.max_members = 3;
}

async fn listed(bed: &Bed, name: &str, id: ConversationId) -> MessagePreview {
    let list = bed.store.list_conversations(&caller(name), None, 10).await;
    let mut entries = list.unwrap().conversations.into_iter();
    let entry = entries.find(|entry| entry.id == id).unwrap();
    entry.last_message.unwrap()
}

async fn shown(bed: &Bed, name: &str, id: ConversationId) -> MessagePreview {
    let conversation = bed.store.conversation(&caller(name), id).await.unwrap();
    conversation.last_message.unwrap()
}

async fn a_deleted_message_is_marked_in_lists(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let first = bed.say("alice", id, "first").await;
    let last = bed.say("alice", id, "secret").await;
    bed.store
        .delete_message(&caller("alice"), first.id)
        .await
        .unwrap();
    bed.settle().await;
    let before = listed(bed, "bob", id).await;
    assert_eq!(
        (before.content.as_str(), before.deleted),
        ("secret", false),
        "an earlier one"
    );
    bed.store
        .delete_message(&caller("alice"), last.id)
        .await
        .unwrap();
    bed.settle().await;
    let marked = MessagePreview {
        content: String::new(),
        deleted: true,
        ..before
    };
    for name in ["alice", "bob"] {
        assert_eq!(listed(bed, name, id).await, marked, "in the list of {name}");
        assert_eq!(shown(bed, name, id).await, marked);
    }
    bed.store.mark_read(&caller("bob"), id, None).await.unwrap();
    bed.settle().await;
    assert_eq!(listed(bed, "bob", id).await, marked, "after another change");
    bed.say("bob", id, "third").await;
    bed.settle().await;
    let after = listed(bed, "alice", id).await;
    assert_eq!((after.content.as_str(), after.deleted), ("third", false));
}

async fn a_deleted_message_is_marked_in_large_conversations(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol", "dave"]).await;
    let last = bed.say("alice", id, "secret").await;
    bed.store
        .delete_message(&caller("alice"), last.id)
        .await
        .unwrap();
    let preview = listed(bed, "dave", id).await;
    assert!(preview.deleted && preview.content.is_empty(), "{preview:?}");
}
