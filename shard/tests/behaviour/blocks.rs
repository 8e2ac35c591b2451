//! Users who block each other.

use std::time::Instant;

use backscroll_shard::blocks::BLOCKS_MAX;
use backscroll_shard::db::Value;
use backscroll_shard::error::Error;
use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::{ConversationKind, NewMembers, Role};
use backscroll_shard::settings::{Span, StoreSettings};

use crate::bed::{Bed, PATIENCE, caller, text, text_as, user};
use crate::faults::connect;

crate::on_every_backend!(
    a_blocked_direct_conversation_takes_nothing_from_either,
    a_blocked_user_starts_nothing_with_the_blocker,
    blocks_are_listed_in_pages,
    a_block_without_a_conversation_shows_none,
);

macro_rules! refused {
    ($attempt:expr) => {{
        let refused = $attempt;
        assert!(matches!(refused, Err(Error::NotAccepted)), "{refused:?}");
    }};
}

async fn direct(bed: &Bed, one: &str, other: &str) -> ConversationId {
    let direct = bed.create(one, ConversationKind::Direct, &[other]).await;
    direct.unwrap()
}

async fn block(bed: &Bed, name: &str, other: &str) {
    bed.store.block(&caller(name), &user(other)).await.unwrap();
}

async fn unblock(bed: &Bed, name: &str, other: &str) {
    let unblocked = bed.store.unblock(&caller(name), &user(other)).await;
    unblocked.unwrap();
}

async fn listed(bed: &Bed, name: &str) -> Vec<ConversationId> {
    let list = bed.store.list_conversations(&caller(name), None, 100).await;
    let entries = list.unwrap().conversations.into_iter();
    entries.map(|entry| entry.id).collect()
}

async fn blocked(bed: &Bed, name: &str) -> Vec<String> {
    let blocked = bed.store.blocked_users(&caller(name), None, 100).await;
    let users = blocked.unwrap().users.into_iter();
    users.map(|user| user.as_str().to_owned()).collect()
}

async fn a_blocked_direct_conversation_takes_nothing_from_either(bed: &Bed) {
    let (store, alice, mallory) = (&bed.store, caller("alice"), caller("mallory"));
    let id = direct(bed, "mallory", "alice").await;
    let theirs = bed.say("mallory", id, "hello").await;
    let mine = bed.say("alice", id, "go away").await;
    let before = store.conversation(&alice, id).await.unwrap().rev;
    block(bed, "alice", "mallory").await;
    block(bed, "alice", "mallory").await;
    let after = store.conversation(&alice, id).await.unwrap().rev;
    assert_eq!(
        after.0,
        before.0 + 1,
        "a change takes one rev, the same again none"
    );
    for caller in [&alice, &mallory] {
        refused!(store.send(caller, id, text("again")).await);
        refused!(store.react(caller, theirs.id, "👍").await);
        refused!(store.unreact(caller, theirs.id, "👍").await);
        let sent = store.send_all(caller, id, vec![text("one"), text("two")]);
        sent.await.into_iter().for_each(|sent| refused!(sent));
    }
    refused!(store.edit_message(&alice, mine.id, "stay".into()).await);
    refused!(store.edit_message(&mallory, theirs.id, "hi".into()).await);
    // What was said can be read, and taken back.
    assert_eq!(bed.log("mallory", id).await.len(), 2);
    store.delete_message(&mallory, theirs.id).await.unwrap();
    store.mark_read(&alice, id, None).await.unwrap();

    block(bed, "mallory", "alice").await;
    unblock(bed, "alice", "mallory").await;
    refused!(
        store
            .send(&alice, id, text("each decides for themselves"))
            .await
    );
    unblock(bed, "mallory", "alice").await;
    unblock(bed, "mallory", "alice").await;
    bed.say("alice", id, "peace").await;
    bed.say("mallory", id, "peace").await;
    let other = direct(bed, "alice", "bob").await;
    block(bed, "alice", "mallory").await;
    bed.say("bob", other, "others are not concerned").await;
    // A repeat of what was stored before is refused as well, and stores nothing.
    refused!(store.send(&mallory, id, text_as("k", "late")).await);
    assert_eq!(bed.log("alice", id).await.len(), 4);
}

async fn a_blocked_user_starts_nothing_with_the_blocker(bed: &Bed) {
    let (store, mallory) = (&bed.store, caller("mallory"));
    let shared = bed.group("bob", &["alice", "mallory"]).await;
    let own = bed.group("mallory", &["bob"]).await;
    let key = Some("the first request");
    let group = |members: &[&str]| backscroll_shard::model::NewConversation {
        kind: ConversationKind::Group,
        members: members.iter().map(|name| user(name)).collect(),
        title: None,
        metadata: None,
    };
    let made = store.create_conversation(&mallory, group(&["alice"]), key);
    let (before, _) = made.await.unwrap();
    block(bed, "alice", "mallory").await;
    for kind in [
        ConversationKind::Direct,
        ConversationKind::Group,
        ConversationKind::Channel,
    ] {
        refused!(bed.create("mallory", kind, &["alice"]).await);
    }
    refused!(
        bed.create("mallory", ConversationKind::Group, &["bob", "alice"])
            .await
    );
    let repeated = store.create_conversation(&mallory, group(&["alice"]), key);
    assert_eq!(repeated.await.unwrap().0.id, before.id, "a repeat is found");
    let add = |names: &[&str]| NewMembers {
        members: names.iter().map(|name| user(name)).collect(),
        role: Role::Member,
    };
    refused!(
        store
            .add_members(&mallory, own, add(&["carol", "alice"]))
            .await
    );
    assert_eq!(
        store
            .members(&mallory, own, None, 10)
            .await
            .unwrap()
            .members
            .len(),
        2
    );
    store
        .add_members(&mallory, own, add(&["carol", "bob"]))
        .await
        .unwrap();
    // Who is a member already is not added, and what both are in stays.
    let again = store.add_members(&mallory, before.id, add(&["alice", "bob"]));
    again.await.unwrap();
    bed.say("mallory", shared, "hello all").await;
    bed.say("alice", shared, "hello").await;
    // Others add both, and the blocker decides for themselves.
    store
        .add_members(&caller("bob"), shared, add(&["dave"]))
        .await
        .unwrap();
    let both = bed.create("bob", ConversationKind::Group, &["alice", "mallory"]);
    both.await.unwrap();
    let mine = bed.create("alice", ConversationKind::Group, &["mallory"]);
    mine.await.unwrap();
    let all = ["alice", "bob", "mallory"].map(user);
    let contacts = async |name: &str| {
        let deadline = Instant::now() + PATIENCE;
        store.contacts_among(&user(name), &all, deadline).await
    };
    assert!(!contacts("mallory").await.contains(&user("alice")));
    assert!(!contacts("alice").await.contains(&user("mallory")));
    assert!(contacts("mallory").await.contains(&user("bob")));
    unblock(bed, "alice", "mallory").await;
    assert!(contacts("mallory").await.contains(&user("alice")));
    // In a large conversation nobody is anybody's contact.
    let crowd: Vec<String> = (0..100).map(|n| format!("erin{n}")).collect();
    let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
    for (size, are_contacts) in [(99, true), (100, false)] {
        let channel = bed.create("bob", ConversationKind::Channel, &crowd[100 - size..]);
        channel.await.unwrap();
        bed.settle().await;
        let name = format!("erin{}", 100 - size);
        assert_eq!(contacts(&name).await.contains(&user("bob")), are_contacts);
    }
    bed.create("mallory", ConversationKind::Group, &["alice"])
        .await
        .unwrap();
    direct(bed, "mallory", "alice").await;
}

async fn blocks_are_listed_in_pages(bed: &Bed) {
    let names: Vec<String> = (0..7).map(|n| format!("m{n}")).collect();
    for name in names.iter().rev() {
        block(bed, "alice", name).await;
    }
    assert_eq!(blocked(bed, "alice").await, names);
    assert!(blocked(bed, "m1").await.is_empty());
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let me = caller("alice");
        let page = bed.store.blocked_users(&me, cursor.as_deref(), 3).await;
        let page = page.unwrap();
        assert!(page.users.len() <= 3);
        found.extend(page.users.into_iter().map(|user| user.as_str().to_owned()));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, names);
    unblock(bed, "alice", "m3").await;
    assert!(!blocked(bed, "alice").await.contains(&"m3".to_owned()));
    let myself = bed.store.block(&caller("alice"), &user("alice")).await;
    assert!(matches!(myself, Err(Error::Invalid(_))), "{myself:?}");

    // As many as there may be.
    let me = user("alice");
    let key = bed.store.router().key(&me).unwrap();
    let shard = bed.store.map().locate(key).shard.clone();
    let key = key.to_bytes();
    let mut connection = connect(bed, &shard).await;
    for n in 6..BLOCKS_MAX {
        let other = user(&format!("x{n}"));
        let row = "INSERT INTO blocks (user_key, user_id, blocked_id) VALUES (?, ?, ?)";
        let args = [Value::from(&key), Value::from(&me), Value::from(&other)];
        connection.execute(row, &args).await.unwrap();
    }
    drop(connection);
    let beyond = bed.store.block(&caller("alice"), &user("m9")).await;
    assert!(
        matches!(beyond, Err(Error::LimitReached { .. })),
        "{beyond:?}"
    );
    block(bed, "alice", "m1").await; // is one of them
    unblock(bed, "alice", "m1").await;
    block(bed, "alice", "m9").await;
}

async fn a_block_without_a_conversation_shows_none(bed: &Bed) {
    block(bed, "alice", "mallory").await;
    bed.settle().await;
    assert!(listed(bed, "alice").await.is_empty() && listed(bed, "mallory").await.is_empty());
    assert_eq!(blocked(bed, "alice").await, ["mallory"]);
    refused!(
        bed.create("mallory", ConversationKind::Direct, &["alice"])
            .await
    );
    refused!(
        bed.create("alice", ConversationKind::Direct, &["mallory"])
            .await
    );
    unblock(bed, "alice", "mallory").await;
    bed.settle().await;
    assert!(blocked(bed, "alice").await.is_empty() && listed(bed, "mallory").await.is_empty());
    let id = direct(bed, "mallory", "alice").await;
    assert_eq!(listed(bed, "mallory").await, [id]);
    bed.say("mallory", id, "hello").await;
    bed.settle().await;
    assert_eq!(listed(bed, "alice").await, [id]);
    block(bed, "alice", "mallory").await;
    bed.settle().await;
    assert_eq!(listed(bed, "alice").await, [id], "what was said is kept");
}

/// Nothing is relayed but by the sweep.
fn swept(settings: &mut StoreSettings) {
    settings.relay.sweep_interval = Span::millis(300);
}

/// A process that dies between a block and its listing leaves a mark.
async fn a_block_is_listed_after_a_crash(bed: Bed) {
    let id = direct(&bed, "alice", "mallory").await;
    bed.settle().await;
    let shard = bed.store.map().locate(id.owner_key()).shard.clone();
    let mut connection = connect(&bed, &shard).await;
    let block = "UPDATE conversations SET blocked_by = '[\"alice\"]', rev = rev + 1 WHERE id = ?";
    let mark = "INSERT INTO list_marks (conversation_id, user_id, token) VALUES (?, ?, 1)";
    connection
        .execute(block, &[Value::from(&id)])
        .await
        .unwrap();
    let alice = user("alice");
    let args = [Value::from(&id), Value::from(&alice)];
    connection.execute(mark, &args).await.unwrap();
    drop(connection);
    refused!(bed.store.send(&caller("mallory"), id, text("hi")).await);
    bed.settle().await;
    assert_eq!(blocked(&bed, "alice").await, ["mallory"]);
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_is_listed_after_a_crash_on_sqlite() {
    a_block_is_listed_after_a_crash(Bed::sqlite_with(swept).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_is_listed_after_a_crash_on_server() {
    a_block_is_listed_after_a_crash(Bed::server_with(swept).await).await;
}
