//! The presence and the typing of conversations' members: which sessions are told, and until when.

use std::time::Duration;

use backscroll_shard::model::{NewMembers, Role};
use backscroll_shard::settings::Span;
use serde_json::json;

use crate::bed::{Bed, caller, user};
use crate::client::{Door, QUIET};
use crate::conversations::joined;

super::through_both_doors!(
    typing_is_delivered_to_the_other_members,
    typing_ends_with_the_connection,
    a_block_ends_typing_and_presence_between_two,
    the_presence_of_an_open_conversation_s_members_is_delivered,
    a_session_that_names_users_receives_no_other_presence,
    a_former_member_receives_no_presence,
    the_presence_of_a_large_conversation_s_members_is_not_delivered,
);

/// After how long a change of presence has certainly been delivered.
const TOLD: Duration = Duration::from_millis(1500);

async fn typing_is_delivered_to_the_other_members(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut alice = joined(&bed, door, "alice", id).await;
    let mut bob = joined(&bed, door, "bob", id).await;
    let data = json!({"conversationId": id});
    let typing =
        |is_typing: bool| json!({"conversationId": id, "userId": "alice", "isTyping": is_typing});
    for _ in 0..3 {
        alice.ask("typing_start", data.clone()).await.unwrap();
    }
    assert_eq!(bob.event("user_typing").await, typing(true));
    alice.ask("typing_stop", data.clone()).await.unwrap();
    assert_eq!(bob.event("user_typing").await, typing(false));
    // Whoever begins again at once is shown again, also after a message.
    alice.ask("typing_start", data.clone()).await.unwrap();
    assert_eq!(bob.event("user_typing").await, typing(true));
    let message = json!({"conversationId": id, "content": "hi"});
    alice.ask("send_message", message).await.unwrap();
    alice.ask("typing_start", data.clone()).await.unwrap();
    assert_eq!(bob.event("user_typing").await, typing(true));
    alice.ask("typing_stop", data.clone()).await.unwrap();
    assert_eq!(bob.event("user_typing").await, typing(false));
    bob.receives_no("user_typing").await;
    alice.receives_no("user_typing").await;
    let mut carol = bed.connect(door, "bob").await;
    let code = carol.fails("typing_start", data).await;
    assert_eq!(code, "invalid_request", "not joined");
    bed.close().await;
}

async fn typing_ends_with_the_connection(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut alice = joined(&bed, door, "alice", id).await;
    let mut bob = joined(&bed, door, "bob", id).await;
    let data = json!({"conversationId": id});
    alice.ask("typing_start", data).await.unwrap();
    assert_eq!(bob.event("user_typing").await["isTyping"], true);
    drop(alice);
    let received = bob.event("user_typing").await;
    assert_eq!(
        received,
        json!({"conversationId": id, "userId": "alice", "isTyping": false})
    );
    bed.close().await;
}

async fn the_presence_of_an_open_conversation_s_members_is_delivered(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob", "carol"]).await;
    let mut bob = bed.connect(door, "bob").await;
    bed.shows("bob").await;
    // The members who are online, and those who come online.
    let mut alice = joined(&bed, door, "alice", id).await;
    let online = alice.event("user_online").await;
    assert_eq!(online, json!({"userId": "bob", "status": "online"}));
    let mut carol = bed.connect(door, "carol").await;
    assert_eq!(alice.event("user_online").await["userId"], "carol");
    let hide = json!({"status": "offline"});
    carol.ask("presence_update", hide.clone()).await.unwrap();
    let offline = alice.event("user_offline").await;
    assert_eq!(offline["userId"], "carol");
    assert!(offline["lastSeen"].is_string());
    // No presence of users who are no members, and none of the user.
    let _mallory = bed.connect(door, "mallory").await;
    alice.receives_no("user_online").await;
    bob.receives_no("user_online").await;
    // The presence of a new member.
    let added = NewMembers {
        members: vec![user("dave")],
        role: Role::Member,
    };
    let added = bed.store.add_members(&caller("alice"), id, added).await;
    added.unwrap();
    tokio::time::sleep(QUIET).await;
    let _dave = bed.connect(door, "dave").await;
    assert_eq!(alice.event("user_online").await["userId"], "dave");
    // And nobody once it is closed.
    let data = json!({"conversationId": id});
    alice.ask("leave_conversation", data).await.unwrap();
    bob.ask("presence_update", hide).await.unwrap();
    tokio::time::sleep(TOLD).await;
    alice.receives_no("user_offline").await;
    bed.close().await;
}

async fn a_session_that_names_users_receives_no_other_presence(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob", "carol"]).await;
    let mut alice = bed.connect(door, "alice").await;
    let watched = json!({"userIds": ["carol"]});
    alice.ask("presence_subscribe", watched).await.unwrap();
    let data = json!({"conversationId": id});
    alice.ask("join_conversation", data).await.unwrap();
    let _bob = bed.connect(door, "bob").await;
    bed.shows("bob").await;
    let _carol = bed.connect(door, "carol").await;
    assert_eq!(alice.event("user_online").await["userId"], "carol");
    alice.receives_no("user_online").await;
    bed.close().await;
}

async fn a_former_member_receives_no_presence(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob", "carol"]).await;
    let mut bob = joined(&bed, door, "bob", id).await;
    let mut alice = joined(&bed, door, "alice", id).await;
    assert_eq!(alice.event("user_online").await["userId"], "bob");
    assert_eq!(bob.event("user_online").await["userId"], "alice");
    let (owner, member) = (caller("alice"), user("bob"));
    let removed = bed.store.remove_member(&owner, id, &member).await;
    removed.unwrap();
    bob.event("left_conversation").await;
    tokio::time::sleep(QUIET).await;
    let _carol = bed.connect(door, "carol").await;
    assert_eq!(alice.event("user_online").await["userId"], "carol");
    bob.receives_no("user_online").await;
    // Nor is he seen any more.
    let hide = json!({"status": "offline"});
    bob.ask("presence_update", hide).await.unwrap();
    tokio::time::sleep(TOLD).await;
    alice.receives_no("user_offline").await;
    bed.close().await;
}

async fn the_presence_of_a_large_conversation_s_members_is_not_delivered(door: Door) {
    let bed = Bed::new().await;
    let others: Vec<String> = (0..50).map(|n| format!("u{n}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let id = bed.group("alice", &others).await;
    let _other = bed.connect(door, "u1").await;
    bed.shows("u1").await;
    let mut alice = joined(&bed, door, "alice", id).await;
    alice.receives_no("user_online").await;
    bed.close().await;
}

async fn a_block_ends_typing_and_presence_between_two(door: Door) {
    let bed = Bed::with(|settings| settings.presence_check = Span::secs(1)).await;
    let id = bed.direct("alice", "bob").await;
    let data = json!({"conversationId": id});
    let mut alice = joined(&bed, door, "alice", id).await;
    let mut bob = joined(&bed, door, "bob", id).await;
    let mut watcher = bed.connect(door, "bob").await;
    let watched = json!({"userIds": ["alice"]});
    bed.shows("alice").await;
    let shown = watcher.ask("presence_subscribe", watched).await.unwrap();
    assert_eq!(shown["users"][0]["status"], "online");
    bob.ask("typing_start", data.clone()).await.unwrap();
    assert_eq!(alice.event("user_typing").await["isTyping"], true);
    bob.ask("typing_stop", data.clone()).await.unwrap();
    assert_eq!(alice.event("user_typing").await["isTyping"], false);

    let (me, other) = (caller("alice"), user("bob"));
    bed.store.block(&me, &other).await.unwrap();
    tokio::time::sleep(QUIET).await;
    for client in [&mut alice, &mut bob] {
        client.ask("typing_start", data.clone()).await.unwrap();
        let message = json!({"conversationId": id, "content": "hi"});
        let code = client.fails("send_message", message).await;
        assert_eq!(code, "not_accepted");
    }
    alice.receives_no("user_typing").await;
    bob.receives_no("user_typing").await;
    let gone = watcher.event("user_offline").await;
    assert_eq!(gone, json!({"userId": "alice", "status": "offline"}));
    let mut late = joined(&bed, door, "bob", id).await;
    alice.ask("typing_start", data.clone()).await.unwrap();
    late.receives_no("user_typing").await;

    bed.store.unblock(&me, &other).await.unwrap();
    tokio::time::sleep(QUIET).await;
    alice.ask("typing_start", data).await.unwrap();
    assert_eq!(late.event("user_typing").await["userId"], "alice");
    assert_eq!(watcher.event("user_online").await["userId"], "alice");
    bed.close().await;
}
