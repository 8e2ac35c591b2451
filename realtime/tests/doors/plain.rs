//! Front-ends with a plain WebSocket, in their own words: the token is in the address or in the first message, messages
//! come bare, and no conversation is opened.

use std::time::Duration;

use backscroll_shard::ids::{ConversationId, Seq};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::bed::{Bed, PATIENCE, caller, user};
use crate::client::{Client, Door, QUIET};

/// A connection as `new WebSocket(address)` makes it.
async fn open(bed: &Bed, query: &str) -> Client {
    let path = format!("/ws/chat{query}");
    let socket = Client::websocket(bed.address, &path, &[]).await.unwrap();
    Client::native(socket)
}

/// An authenticated client with its conversations open.
async fn enter(bed: &Bed, name: &str) -> Client {
    let mut client = open(bed, &format!("?token={name}")).await;
    assert_eq!(client.event("hello").await["userId"], name);
    assert_eq!(
        ask(&mut client, json!({"type": "ping"})).await,
        Ok(json!({}))
    );
    client
}

/// Sends a message and waits for its answer.
async fn ask(client: &mut Client, mut message: Value) -> Result<Value, Value> {
    client.asked += 1;
    message["ack"] = json!(client.asked);
    client.text(&message.to_string()).await;
    client.reply(client.asked).await
}

async fn say(client: &mut Client, message: Value) {
    client.text(&message.to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_client_receives_bare_messages_without_joining() {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    bed.say("alice", id, "before").await;
    let mut bob = enter(&bed, "bob").await;
    assert_eq!(bob.event("new_message").await["content"], "before");
    let message = bed.say("alice", id, "now").await;
    let received = bob.event("new_message").await;
    assert_eq!(received["id"], json!(message.id));
    assert_eq!(received["conversationId"], json!(id));
    assert_eq!(received["content"], "now");
    assert_eq!(received["senderId"], "alice");
    // What the user sends, wherever, comes to all their devices.
    let message = bed.say("bob", id, "mine").await;
    assert_eq!(bob.event("new_message").await["id"], json!(message.id));
    bob.receives_no("new_message").await;
    // The messages of a new conversation arrive too, from the first on.
    let new = bed.group("carol", &["bob"]).await;
    bed.say("carol", new, "first").await;
    let received = bob.event("new_message").await;
    assert_eq!(
        (&received["conversationId"], &received["content"]),
        (&json!(new), &json!("first"))
    );
    bed.close().await;
}

/// Waits until `name` counts as having received the messages of a conversation up to `seq`.
async fn is_told(bed: &Bed, name: &str, id: ConversationId, seq: Seq) {
    let told = async {
        loop {
            let conversation = bed.store.conversation(&caller(name), id).await.unwrap();
            if conversation.delivered_seq >= seq {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, told).await;
    waited.expect("the watermark does not move");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_client_that_comes_back_receives_what_it_missed() {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut bob = enter(&bed, "bob").await;
    let seen = bed.say("alice", id, "seen").await;
    assert_eq!(bob.event("new_message").await["content"], "seen");
    bob.leave().await;
    is_told(&bed, "bob", id, seen.seq).await;
    // One that was edited meanwhile is new for this client, one that was deleted is not.
    let missed = bed.say("alice", id, "misssed").await;
    let gone = bed.say("alice", id, "gone").await;
    bed.say("alice", id, "too").await;
    let me = caller("alice");
    let edit = bed.store.edit_message(&me, missed.id, "missed".to_owned());
    edit.await.unwrap();
    bed.store.delete_message(&me, gone.id).await.unwrap();
    let mut bob = enter(&bed, "bob").await;
    for expected in ["missed", "too"] {
        assert_eq!(bob.event("new_message").await["content"], expected);
    }
    let last = bed.say("alice", id, "now").await;
    assert_eq!(bob.event("new_message").await["content"], "now");
    bob.receives_no("new_message").await;
    bob.leave().await;
    is_told(&bed, "bob", id, last.seq).await;
    // Of very many the newest hundred.
    for n in 0..120 {
        bed.say("alice", id, &n.to_string()).await;
    }
    let mut bob = enter(&bed, "bob").await;
    for n in 20..120 {
        assert_eq!(bob.event("new_message").await["content"], n.to_string());
    }
    bob.receives_no("new_message").await;
    bed.close().await;
}

/// Waits for the messages of a conversation with the seqs from 1 to `last`.
async fn receives_all(client: &mut Client, id: ConversationId, last: u64) {
    for seq in 1..=last {
        let received = client.event("new_message").await;
        let place = (&received["conversationId"], &received["seq"]);
        assert_eq!(place, (&json!(id), &json!(seq)));
    }
    client.receives_no("new_message").await;
}

/// Whatever is sent while a session opens a conversation is told once, and in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_client_receives_each_message_once_however_it_comes() {
    const SENT: u64 = 40;
    let bed = Bed::with(|settings| settings.sessions_per_user = 64).await;
    let say_all = async |id| {
        for n in 1..=SENT {
            bed.say("alice", id, &n.to_string()).await;
        }
    };
    let id = bed.group("alice", &["bob"]).await;
    // One session after the other opens while the messages are being sent.
    let come = async {
        let mut all = Vec::new();
        for _ in 0..8 {
            all.push(open(&bed, "?token=bob").await);
        }
        all
    };
    let (mut all, ()) = tokio::join!(come, say_all(id));
    join_all(all.iter_mut().map(|bob| receives_all(bob, id, SENT))).await;
    // A conversation that begins while they are there.
    let new = bed.group("alice", &["bob"]).await;
    say_all(new).await;
    join_all(all.iter_mut().map(|bob| receives_all(bob, new, SENT))).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_client_sends_and_receives_typing() {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut alice = enter(&bed, "alice").await;
    let mut bob = enter(&bed, "bob").await;
    say(&mut alice, json!({"type": "typing", "conversationId": id})).await;
    assert_eq!(
        bob.event("typing").await,
        json!({"conversationId": id, "userId": "alice", "isTyping": true})
    );
    let ends = json!({"type": "typing", "data": {"conversationId": id, "isTyping": false}});
    say(&mut alice, ends).await;
    assert_eq!(bob.event("typing").await["isTyping"], false);
    alice.receives_no("typing").await;
    // The same session does what the API's words say.
    let message = json!({"type": "send_message", "conversationId": id, "content": "hi"});
    let sent = ask(&mut alice, message).await.unwrap();
    assert_eq!(bob.event("new_message").await["id"], sent["id"]);
    // A conversation that was not opened, as it is none of the first, is opened for it.
    let data = json!({"type": "leave_conversation", "conversationId": id});
    ask(&mut alice, data).await.unwrap();
    say(&mut alice, json!({"type": "typing", "conversationId": id})).await;
    assert_eq!(bob.event("typing").await["isTyping"], true);
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_may_authenticate() {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    for first in [
        json!({"type": "auth", "token": "bob"}),
        json!({"type": "authenticate", "data": {"token": "bob"}}),
    ] {
        let mut bob = open(&bed, "").await;
        say(&mut bob, first).await;
        assert_eq!(bob.event("hello").await["userId"], "bob");
        ask(&mut bob, json!({"type": "ping"})).await.unwrap();
        bed.say("alice", id, "now").await;
        assert_eq!(bob.event("new_message").await["content"], "now");
    }
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_in_the_address_is_refused_with_the_reason() {
    let bed = Bed::new().await;
    for (query, reason) in [
        ("?token=expired", "token_expired"),
        ("?token=invalid", "token_invalid"),
        ("?token=unknown", "internal"),
    ] {
        let mut client = open(&bed, query).await;
        assert!(client.event("error").await["message"].is_string());
        assert_eq!(client.end().await, reason, "{query}");
    }
    for first in [
        r#"{"type":"auth"}"#,
        r#"{"type":"auth","token":7}"#,
        r#"{"type":"typing","token":"alice"}"#,
        r#"{"type":"auth","data":"alice"}"#,
    ] {
        let mut client = open(&bed, "?other=alice").await;
        client.text(first).await;
        assert_eq!(client.end().await, "invalid_frame", "{first}");
    }
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_or_a_subprotocol_counts_before_the_address() {
    let bed = Bed::new().await;
    for headers in [
        [("authorization", "Bearer alice")],
        [("sec-websocket-protocol", "bearer, alice")],
    ] {
        let path = "/ws/chat?token=mallory";
        let socket = Client::websocket(bed.address, path, &headers).await;
        let mut alice = Client::native(socket.unwrap());
        assert_eq!(alice.event("hello").await["userId"], "alice");
        // It speaks the API's words.
        say(&mut alice, json!({"type": "ping"})).await;
        assert_eq!(alice.end().await, "invalid_frame");
    }
    let path = "/ws/chat?token=alice";
    let headers = [("authorization", "Bearer expired")];
    let refused = Client::websocket(bed.address, path, &headers).await;
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 401));
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_frame_closes_the_connection() {
    let bed = Bed::new().await;
    let deep = format!(
        r#"{{"type":"ping","a":{}1{}}}"#,
        "[".repeat(1000),
        "]".repeat(1000)
    );
    let long = format!(r#"{{"type":"ping","a":"{}"}}"#, "x".repeat(70_000));
    for (text, reason) in [
        ("typing", "invalid_frame"),
        ("[]", "invalid_frame"),
        ("{}", "invalid_frame"),
        (r#"{"type":["typing"]}"#, "invalid_frame"),
        (r#"{"type":"typing","data":"x"}"#, "invalid_frame"),
        (r#"{"type":"ping","ack":"1"}"#, "invalid_frame"),
        (&deep, "invalid_frame"),
        (&long, "frame_too_large"),
    ] {
        let mut alice = enter(&bed, "alice").await;
        alice.text(text).await;
        assert_eq!(alice.end().await, reason, "{text:.40}");
        assert!(alice.is_final());
    }
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_client_cannot_use_a_foreign_conversation() {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut alice = enter(&bed, "alice").await;
    let mut mallory = enter(&bed, "mallory").await;
    for message in [
        json!({"type": "typing", "conversationId": id}),
        json!({"type": "join_conversation", "conversationId": id}),
        json!({"type": "send_message", "conversationId": id, "content": "x"}),
    ] {
        let failure = ask(&mut mallory, message.clone()).await.unwrap_err();
        assert_eq!(failure["code"], "not_a_member", "{message}");
    }
    // Without a number the failure comes as an event.
    say(
        &mut mallory,
        json!({"type": "typing", "conversationId": "x"}),
    )
    .await;
    assert_eq!(mallory.event("error").await["code"], "invalid_request");
    say(&mut mallory, json!({"type": "typing"})).await;
    assert_eq!(mallory.event("error").await["code"], "invalid_request");
    bed.say("alice", id, "secret").await;
    mallory.receives_no("new_message").await;
    alice.receives_no("typing").await;
    // A member who was removed receives no more events.
    let mut bob = enter(&bed, "bob").await;
    assert_eq!(bob.event("new_message").await["content"], "secret");
    let (owner, member) = (caller("alice"), user("bob"));
    let removed = bed.store.remove_member(&owner, id, &member).await;
    removed.unwrap();
    bob.event("left_conversation").await;
    tokio::time::sleep(QUIET).await;
    bed.say("alice", id, "secret").await;
    bob.receives_no("new_message").await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_a_plain_client_is_closed() {
    let bed = Bed::with(|settings| {
        settings.commands_per_second = 1;
        settings.command_burst = 5;
    })
    .await;
    let id = bed.group("alice", &["bob"]).await;
    let mut alice = open(&bed, "?token=alice").await;
    for _ in 0..300 {
        say(&mut alice, json!({"type": "typing", "conversationId": id})).await;
    }
    assert_eq!(alice.end().await, "rate_limited");
    let _bob = bed.connect(Door::Native, "bob").await;
    bed.holds(1).await;
    bed.close().await;
}
