//! Creating, members and roles, lists.

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::{
    ConversationKind, ConversationPatch, NewConversation, NewMembers, Role,
};

use crate::bed::{Bed, caller, user};

crate::on_every_backend!(
    a_pair_has_one_direct_conversation,
    a_repeated_creation_is_one_group,
    roles_say_who_may_what,
    members_come_and_go,
    lists_follow_the_latest_activity,
    large_conversations_are_listed_with_their_heads,
    pins_and_mutes_are_ones_own,
    a_deleted_conversation_is_gone_for_all,
    wrong_input_is_refused,
    notes_are_a_direct_conversation_with_oneself,
);

fn new(kind: ConversationKind, members: &[&str], title: Option<&str>) -> NewConversation {
    NewConversation {
        kind,
        members: members.iter().map(|m| user(m)).collect(),
        title: title.map(str::to_owned),
        metadata: None,
    }
}

async fn ids(bed: &Bed, name: &str) -> Vec<ConversationId> {
    let list = bed
        .store
        .list_conversations(&caller(name), None, 100)
        .await
        .unwrap();
    list.conversations
        .into_iter()
        .map(|entry| entry.id)
        .collect()
}

async fn a_pair_has_one_direct_conversation(bed: &Bed) {
    let both = |n: usize| {
        if n.is_multiple_of(2) {
            ("alice", "bob")
        } else {
            ("bob", "alice")
        }
    };
    let attempts = (0..20).map(|n| async move {
        let (me, other) = both(n);
        bed.store
            .create_conversation(
                &caller(me),
                new(ConversationKind::Direct, &[other], None),
                None,
            )
            .await
            .unwrap()
    });
    let made = futures_util::future::join_all(attempts).await;
    assert_eq!(made.iter().filter(|(_, created)| *created).count(), 1);
    assert!(
        made.iter()
            .all(|(conversation, _)| conversation.id == made[0].0.id
                && conversation.member_count == 2)
    );
    assert_eq!(ids(bed, "alice").await, ids(bed, "bob").await);
    assert_eq!(ids(bed, "alice").await.len(), 1, "and it is listed at once");
    let add = NewMembers {
        members: vec![user("carol")],
        role: Role::Member,
    };
    assert!(matches!(
        bed.store
            .add_members(&caller("alice"), made[0].0.id, add)
            .await,
        Err(Error::Forbidden(_))
    ));
}

async fn a_repeated_creation_is_one_group(bed: &Bed) {
    let create = |name: &'static str, title: &'static str| async move {
        bed.store
            .create_conversation(
                &caller(name),
                new(ConversationKind::Group, &["bob"], Some(title)),
                Some("key-1"),
            )
            .await
    };
    let (first, created) = create("alice", "plans").await.unwrap();
    assert!(created);
    let (again, created) = create("alice", "plans").await.unwrap();
    assert!(!created && again.id == first.id);
    assert!(matches!(
        create("alice", "other plans").await,
        Err(Error::IdempotencyConflict(_))
    ));
    assert_ne!(
        create("carol", "plans").await.unwrap().0.id,
        first.id,
        "the key is the caller's own"
    );
    let without_key = bed.group("alice", &["bob"]).await;
    assert_ne!(without_key, bed.group("alice", &["bob"]).await);
}

async fn roles_say_who_may_what(bed: &Bed) {
    let id = bed.group("owner", &["admin", "member"]).await;
    let store = &bed.store;
    let by_member = store
        .change_role(&caller("member"), id, &user("member"), Role::Admin)
        .await;
    assert!(matches!(by_member, Err(Error::Forbidden(_))));
    store
        .change_role(&caller("owner"), id, &user("admin"), Role::Admin)
        .await
        .unwrap();
    let rename = ConversationPatch {
        title: Some("named".into()),
        ..ConversationPatch::default()
    };
    assert!(matches!(
        store
            .update_conversation(&caller("member"), id, rename.clone())
            .await,
        Err(Error::Forbidden(_))
    ));
    let renamed = store
        .update_conversation(&caller("admin"), id, rename)
        .await
        .unwrap();
    assert_eq!(renamed.title.as_deref(), Some("named"));
    assert!(matches!(
        store
            .remove_member(&caller("admin"), id, &user("owner"))
            .await,
        Err(Error::Forbidden(_))
    ));
    assert!(matches!(
        store.delete_conversation(&caller("admin"), id).await,
        Err(Error::Forbidden(_))
    ));
    assert!(
        matches!(
            store
                .remove_member(&caller("owner"), id, &user("owner"))
                .await,
            Err(Error::Conflict(_))
        ),
        "the last owner"
    );
    let demote = store
        .change_role(&caller("owner"), id, &user("owner"), Role::Member)
        .await;
    assert!(matches!(demote, Err(Error::Conflict(_))));
    let pushed = store
        .change_role(&caller("owner"), id, &user("admin"), Role::Owner)
        .await;
    assert!(
        matches!(pushed, Err(Error::Conflict(_))),
        "has written nothing"
    );
    bed.say("admin", id, "I take it over").await;
    store
        .change_role(&caller("owner"), id, &user("admin"), Role::Owner)
        .await
        .unwrap();
    store
        .remove_member(&caller("owner"), id, &user("owner"))
        .await
        .unwrap();
    let left = store.conversation(&caller("member"), id).await.unwrap();
    assert_eq!(left.member_count, 2);
    assert_eq!(
        store
            .change_role(&caller("admin"), id, &user("nobody"), Role::Admin)
            .await
            .unwrap_err()
            .to_string(),
        "no such member"
    );
}

async fn members_come_and_go(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    bed.say("alice", id, "before carol").await;
    let add = |names: &[&str]| NewMembers {
        members: names.iter().map(|n| user(n)).collect(),
        role: Role::Member,
    };
    let with_carol = bed
        .store
        .add_members(&caller("alice"), id, add(&["carol", "bob"]))
        .await
        .unwrap();
    assert_eq!(with_carol.0.member_count, 3);
    let carol = bed.store.conversation(&caller("carol"), id).await.unwrap();
    assert_eq!(carol.unread_count, 0, "nothing is unread for who joins");
    assert_eq!(ids(bed, "carol").await, [id]);
    bed.store
        .remove_member(&caller("alice"), id, &user("carol"))
        .await
        .unwrap();
    assert!(ids(bed, "carol").await.is_empty());
    bed.store
        .add_members(&caller("alice"), id, add(&["carol"]))
        .await
        .unwrap();
    assert_eq!(ids(bed, "carol").await, [id]);
    let many: Vec<String> = (0..98).map(|n| format!("m{n:03}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let too_many = bed
        .store
        .add_members(&caller("alice"), id, add(&many))
        .await;
    assert!(matches!(
        too_many,
        Err(Error::LimitReached { max: 100, .. })
    ));
    bed.store
        .add_members(&caller("alice"), id, add(&many[..97]))
        .await
        .unwrap();
    let mut names = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = bed
            .store
            .members(&caller("bob"), id, cursor.as_deref(), 33)
            .await
            .unwrap();
        names.extend(
            page.members
                .into_iter()
                .map(|member| member.user_id.to_string()),
        );
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(names.len(), 100);
    assert!(names.is_sorted());
}

async fn lists_follow_the_latest_activity(bed: &Bed) {
    let mut conversations = Vec::new();
    for n in 0..7 {
        conversations.push(bed.group("alice", &[&format!("friend{n}")]).await);
    }
    for n in [3, 1, 5] {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        bed.say(&format!("friend{n}"), conversations[n], "hey")
            .await;
    }
    bed.settle().await;
    let list = bed
        .store
        .list_conversations(&caller("alice"), None, 100)
        .await
        .unwrap();
    let order: Vec<ConversationId> = list.conversations.iter().map(|entry| entry.id).collect();
    assert_eq!(
        order[..3],
        [conversations[5], conversations[1], conversations[3]]
    );
    let top = &list.conversations[0];
    assert_eq!(
        (
            top.unread_count,
            top.last_message.as_ref().unwrap().content.as_str()
        ),
        (1, "hey")
    );
    assert_eq!(top.members.len(), 2);
    let unread = bed.store.unread_count(&caller("alice")).await.unwrap();
    assert_eq!((unread.total, unread.conversations), (3, 3));
    let mut paged = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = bed
            .store
            .list_conversations(&caller("alice"), cursor.as_deref(), 2)
            .await
            .unwrap();
        paged.extend(page.conversations.into_iter().map(|entry| entry.id));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, order);
    bed.store
        .mark_read(&caller("alice"), conversations[5], None)
        .await
        .unwrap();
    bed.settle().await;
    assert_eq!(
        bed.store
            .unread_count(&caller("alice"))
            .await
            .unwrap()
            .total,
        2
    );
}

async fn large_conversations_are_listed_with_their_heads(bed: &Bed) {
    let mut settings = bed.settings.clone();
    settings.relay.max_members = 3;
    let store = Bed::another(&settings).await;
    let create = |members: &'static [&'static str]| {
        let store = store.clone();
        async move {
            store
                .create_conversation(
                    &caller("alice"),
                    new(ConversationKind::Channel, members, None),
                    None,
                )
                .await
                .unwrap()
                .0
                .id
        }
    };
    let small = create(&["bob"]).await;
    let large = create(&["bob", "carol", "dave", "erin"]).await;
    let send = |id| {
        let store = store.clone();
        async move {
            store
                .send(&caller("bob"), id, crate::bed::text("to all"))
                .await
                .unwrap()
        }
    };
    send(large).await;
    let top = || async {
        store
            .list_conversations(&caller("carol"), None, 10)
            .await
            .unwrap()
            .conversations[0]
            .clone()
    };
    assert_eq!(
        (top().await.head_seq.0, top().await.unread_count),
        (1, 1),
        "at once: nothing is relayed"
    );
    assert_eq!(store.unread_count(&caller("carol")).await.unwrap().total, 1);
    let writer = store.unread_count(&caller("bob")).await.unwrap();
    assert_eq!(writer.total, 0, "who writes has read");
    store
        .mark_read(&caller("carol"), large, None)
        .await
        .unwrap();
    assert_eq!(top().await.unread_count, 0);
    // A small one that grows beyond the limit, and shrinks again.
    let add = NewMembers {
        members: vec![user("carol"), user("dave")],
        role: Role::Member,
    };
    store
        .add_members(&caller("alice"), small, add)
        .await
        .unwrap();
    send(small).await;
    assert_eq!(top().await.id, small);
    store
        .remove_member(&caller("alice"), small, &user("dave"))
        .await
        .unwrap();
    assert!(
        !store
            .list_conversations(&caller("dave"), None, 10)
            .await
            .unwrap()
            .conversations
            .iter()
            .any(|c| c.id == small)
    );
    send(small).await;
    store
        .relay_idle(std::time::Instant::now() + crate::bed::PATIENCE)
        .await
        .unwrap();
    assert_eq!((top().await.id, top().await.head_seq.0), (small, 2));
    let alice = store
        .list_conversations(&caller("alice"), None, 1)
        .await
        .unwrap();
    let next = store
        .list_conversations(&caller("alice"), alice.next_cursor.as_deref(), 1)
        .await
        .unwrap();
    assert_eq!(
        [alice.conversations[0].id, next.conversations[0].id],
        [small, large]
    );
    store
        .close(std::time::Instant::now() + crate::bed::PATIENCE)
        .await;
}

async fn pins_and_mutes_are_ones_own(bed: &Bed) {
    let old = bed.group("alice", &["bob"]).await;
    let new = bed.group("alice", &["bob"]).await;
    bed.say("bob", new, "newer").await;
    let patch = ConversationPatch {
        pinned: Some(true),
        muted: Some(true),
        ..ConversationPatch::default()
    };
    bed.store
        .update_conversation(&caller("alice"), old, patch)
        .await
        .unwrap();
    let entry = || async {
        bed.store
            .list_conversations(&caller("alice"), None, 10)
            .await
            .unwrap()
            .conversations[0]
            .clone()
    };
    assert!(entry().await.pinned && entry().await.muted);
    bed.settle().await;
    assert_eq!(ids(bed, "alice").await, [old, new]);
    assert_eq!(ids(bed, "bob").await, [new, old]);
    bed.say("bob", old, "and on").await;
    bed.settle().await;
    assert_eq!(
        (entry().await.id, entry().await.pinned),
        (old, true),
        "the relay leaves it alone"
    );
}

async fn a_deleted_conversation_is_gone_for_all(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    bed.say("bob", id, "hello").await;
    bed.store
        .delete_conversation(&caller("alice"), id)
        .await
        .unwrap();
    assert!(ids(bed, "alice").await.is_empty() && ids(bed, "bob").await.is_empty());
    let read = bed
        .store
        .history(
            &caller("bob"),
            id,
            backscroll_shard::model::Position::Latest,
            10,
        )
        .await;
    assert!(matches!(read, Err(Error::NotMember)));
    assert_eq!(
        bed.store
            .unread_count(&caller("alice"))
            .await
            .unwrap()
            .total,
        0
    );
}

async fn wrong_input_is_refused(bed: &Bed) {
    let long = "x".repeat(256);
    let many: Vec<String> = (0..100).map(|n| format!("m{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for wrong in [
        new(ConversationKind::Direct, &[], None),
        new(ConversationKind::Direct, &["bob", "carol"], None),
        new(ConversationKind::Direct, &["bob"], Some("title")),
        new(ConversationKind::Group, &["bob"], Some(&long)),
        new(ConversationKind::Group, &["bob"], Some(" ")),
        new(ConversationKind::Group, &["bob"], Some("a\0")),
        new(ConversationKind::Group, &many, None),
    ] {
        let outcome = bed
            .store
            .create_conversation(&caller("alice"), wrong, None)
            .await;
        assert!(
            matches!(outcome, Err(Error::Invalid(_) | Error::LimitReached { .. })),
            "{outcome:?}"
        );
    }
    assert!(ids(bed, "alice").await.is_empty());
    for dots in [".", ".."] {
        let wrong = new(ConversationKind::Group, &[dots], None);
        let me = caller("alice");
        let refused = bed.store.create_conversation(&me, wrong, None);
        assert!(matches!(refused.await, Err(Error::Invalid(_))), "{dots}");
    }
    let list = bed
        .store
        .list_conversations(&caller("alice"), Some("' OR 1=1"), 10)
        .await;
    assert!(matches!(list, Err(Error::Invalid(_))));
}

async fn notes_are_a_direct_conversation_with_oneself(bed: &Bed) {
    let me = caller("alice");
    let notes = new(ConversationKind::Direct, &["alice"], None);
    let (made, is_new) = bed
        .store
        .create_conversation(&me, notes.clone(), None)
        .await
        .unwrap();
    assert!(is_new && made.member_count == 1);
    let (again, is_new) = bed
        .store
        .create_conversation(&me, notes, None)
        .await
        .unwrap();
    assert!(!is_new && again.id == made.id);
    let with_bob = bed
        .create("alice", ConversationKind::Direct, &["bob"])
        .await
        .unwrap();
    assert_ne!(with_bob, made.id);
    let note = bed.say("alice", made.id, "milk").await;
    assert_eq!(bed.log("alice", made.id).await.len(), 1);
    assert_eq!(note.seq, Seq(1));
    let stranger = bed.store.conversation(&caller("bob"), made.id).await;
    assert!(matches!(stranger, Err(Error::NotMember)));
}
