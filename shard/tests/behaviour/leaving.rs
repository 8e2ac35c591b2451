//! Leaving is final, and a direct conversation can be put away.

use backscroll_shard::error::Error;
use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::{ConversationKind, NewMembers, Role, SyncRequest};

use crate::bed::{Bed, caller, user};

crate::on_every_backend!(
    who_left_comes_back_by_themselves_only,
    who_was_removed_is_added_like_anybody,
    a_direct_conversation_is_put_away_until_something_is_said,
);

fn add(names: &[&str]) -> NewMembers {
    NewMembers {
        members: names.iter().map(|name| user(name)).collect(),
        role: Role::Member,
    }
}

async fn members(bed: &Bed, id: ConversationId) -> Vec<String> {
    let list = bed.store.members(&caller("alice"), id, None, 100).await;
    let members = list.unwrap().members.into_iter();
    members
        .map(|member| member.user_id.as_str().to_owned())
        .collect()
}

async fn listed(bed: &Bed, name: &str) -> Vec<ConversationId> {
    let list = bed.store.list_conversations(&caller(name), None, 100).await;
    let entries = list.unwrap().conversations.into_iter();
    entries.map(|entry| entry.id).collect()
}

async fn who_left_comes_back_by_themselves_only(bed: &Bed) {
    let (store, alice, bob) = (&bed.store, caller("alice"), caller("bob"));
    let id = bed.group("alice", &["bob", "carol"]).await;
    let back = |outcome: Result<_, Error>| {
        let refused = matches!(outcome, Err(Error::NotMember));
        assert!(refused, "nobody asked them back");
    };
    store.remove_member(&bob, id, &bob.user).await.unwrap();
    back(store.add_members(&bob, id, add(&["bob"])).await);
    for _ in 0..3 {
        let (conversation, asked) = store.add_members(&alice, id, add(&["bob"])).await.unwrap();
        assert_eq!((conversation.member_count, asked), (2, true));
    }
    assert_eq!(members(bed, id).await, ["alice", "carol"]);
    bed.settle().await;
    assert!(listed(bed, "bob").await.is_empty());
    let read = store.conversation(&bob, id).await;
    assert!(matches!(read, Err(Error::NotMember)));
    // Others are added beside them.
    let (_, asked) = store
        .add_members(&alice, id, add(&["bob", "dave"]))
        .await
        .unwrap();
    assert!(asked);
    assert_eq!(members(bed, id).await, ["alice", "carol", "dave"]);

    let (conversation, asked) = store.add_members(&bob, id, add(&["bob"])).await.unwrap();
    assert_eq!(
        (conversation.member_count, conversation.role, asked),
        (4, Role::Member, false)
    );
    assert_eq!(conversation.unread_count, 0);
    bed.say("bob", id, "I am back").await;
    assert_eq!(listed(bed, "bob").await, [id]);
    store.add_members(&bob, id, add(&["bob"])).await.unwrap(); // is a member
    store.remove_member(&bob, id, &bob.user).await.unwrap();
    back(store.add_members(&bob, id, add(&["bob"])).await);
    // A stranger cannot add themselves, nor learns whether there is a conversation.
    let mallory = caller("mallory");
    back(store.add_members(&mallory, id, add(&["mallory"])).await);
    let nothing: ConversationId = "00000000000000070000000000000009".parse().unwrap();
    back(
        store
            .add_members(&mallory, nothing, add(&["mallory"]))
            .await,
    );
}

async fn who_was_removed_is_added_like_anybody(bed: &Bed) {
    let (store, alice, bob) = (&bed.store, caller("alice"), caller("bob"));
    let id = bed.group("alice", &["bob"]).await;
    // Left, asked back, returned, and removed then: the last counts.
    store.remove_member(&bob, id, &bob.user).await.unwrap();
    store.add_members(&alice, id, add(&["bob"])).await.unwrap();
    store.add_members(&bob, id, add(&["bob"])).await.unwrap();
    store.remove_member(&alice, id, &bob.user).await.unwrap();
    let refused = store.add_members(&bob, id, add(&["bob"])).await;
    assert!(matches!(refused, Err(Error::NotMember)));
    let (conversation, asked) = store.add_members(&alice, id, add(&["bob"])).await.unwrap();
    assert_eq!((conversation.member_count, asked), (2, false));
    assert_eq!(members(bed, id).await, ["alice", "bob"]);
}

async fn a_direct_conversation_is_put_away_until_something_is_said(bed: &Bed) {
    let (store, alice, bob) = (&bed.store, caller("alice"), caller("bob"));
    let direct = bed.create("alice", ConversationKind::Direct, &["bob"]);
    let id = direct.await.unwrap();
    bed.say("alice", id, "hello").await;
    bed.settle().await;
    let cursor = store
        .sync(&bob, SyncRequest::default())
        .await
        .unwrap()
        .cursor;
    for _ in 0..2 {
        store.remove_member(&bob, id, &bob.user).await.unwrap();
        assert!(listed(bed, "bob").await.is_empty());
    }
    assert_eq!(store.unread_count(&bob).await.unwrap().total, 0);
    let since = SyncRequest {
        cursor: Some(cursor),
        ..SyncRequest::default()
    };
    let changes = store.sync(&bob, since).await.unwrap().changes;
    let entry = changes[0].conversation.as_ref().unwrap();
    assert!(changes.len() == 1 && entry.id == id && entry.removed);
    // Reading it does not bring it back; and it is still his.
    store.mark_read(&bob, id, None).await.unwrap();
    bed.settle().await;
    assert!(listed(bed, "bob").await.is_empty());
    assert_eq!(
        (listed(bed, "alice").await, bed.log("bob", id).await.len()),
        (vec![id], 1)
    );
    let other = store.remove_member(&alice, id, &bob.user).await;
    assert!(matches!(other, Err(Error::Forbidden(_))));

    bed.say("alice", id, "are you there?").await;
    bed.settle().await;
    assert_eq!(listed(bed, "bob").await, [id]);
    assert_eq!(store.unread_count(&bob).await.unwrap().total, 1);
    store.remove_member(&bob, id, &bob.user).await.unwrap();
    let again = bed.create("bob", ConversationKind::Direct, &["alice"]);
    assert_eq!(again.await.unwrap(), id);
    assert_eq!(
        listed(bed, "bob").await,
        [id],
        "who opens it finds it in the list"
    );
}
