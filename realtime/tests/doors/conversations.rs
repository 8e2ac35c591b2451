//! The events of conversations: which sessions receive them, and in what order.

use std::time::Duration;

use backscroll_shard::ids::ConversationId;
use serde_json::{Value, json};

use crate::bed::{Bed, caller, user};
use crate::client::{Client, Door, PATIENCE};

super::through_both_doors!(
    a_conversation_is_joined_and_left,
    messages_are_delivered_in_order_and_answered,
    sends_back_to_back_are_carried_out_together_and_in_order,
    edits_deletions_and_reactions_are_delivered,
    a_list_is_no_object,
    receipts_name_the_messages,
    changes_of_the_list_are_delivered_without_joining,
    sync_answers_the_missed_changes,
    missed_changes_follow_hello,
    too_many_missed_changes_are_refused_by_name,
    a_former_member_receives_no_more_events,
    a_client_cannot_use_a_foreign_conversation,
    open_conversations_are_bounded,
    a_send_that_is_repeated_is_stored_once,
);

pub(crate) async fn joined(bed: &Bed, door: Door, name: &str, id: ConversationId) -> Client {
    let mut client = bed.connect(door, name).await;
    let data = json!({"conversationId": id});
    client.ask("join_conversation", data).await.unwrap();
    client
}

async fn a_conversation_is_joined_and_left(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    bed.say("alice", id, "before").await;
    let mut bob = bed.connect(door, "bob").await;
    let data = json!({"conversationId": id});
    let head = bob.ask("join_conversation", data.clone()).await.unwrap();
    assert_eq!(head["conversationId"], json!(id));
    assert_eq!(head["headSeq"], 1);
    assert!(head["rev"].as_u64().unwrap() > 0);
    assert_eq!(bob.event("joined_conversation").await, head);
    let message = bed.say("alice", id, "now").await;
    let received = bob.event("new_message").await;
    assert_eq!(received["conversationId"], json!(id));
    assert_eq!(received["message"]["id"], json!(message.id));
    assert_eq!(received["message"]["content"], "now");
    assert_eq!(
        bob.ask("leave_conversation", data).await,
        Ok(json!({})),
        "left"
    );
    bed.say("alice", id, "after").await;
    bob.receives_no("new_message").await;
    bed.close().await;
}

async fn messages_are_delivered_in_order_and_answered(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut alice = joined(&bed, door, "alice", id).await;
    let mut bob = joined(&bed, door, "bob", id).await;
    for n in 0..30_u64 {
        let data = json!({"conversationId": id, "content": format!("ü\"{n}"), "clientMsgId": format!("c{n}"),
            "metadata": {"n": n}});
        let sent = alice.ask("send_message", data).await.unwrap();
        assert_eq!(sent["seq"], n + 1);
        assert_eq!(sent["senderId"], "alice");
        assert_eq!(sent["metadata"], json!({"n": n}));
    }
    for client in [&mut alice, &mut bob] {
        for n in 0..30_u64 {
            let received = client.event("new_message").await;
            assert_eq!(received["message"]["seq"], n + 1);
            assert_eq!(received["message"]["content"], format!("ü\"{n}"));
        }
        client.receives_no("new_message").await;
    }
    bed.close().await;
}

async fn sends_back_to_back_are_carried_out_together_and_in_order(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let other = bed.group("alice", &["carol"]).await;
    let foreign = bed.group("bob", &["carol"]).await;
    let mut alice = joined(&bed, door, "alice", id).await;
    let mut bob = joined(&bed, door, "bob", id).await;
    let send = |to, n: usize| {
        let data =
            json!({"conversationId": to, "content": n.to_string(), "clientMsgId": format!("c{n}")});
        ("send_message", data)
    };
    let mut commands: Vec<(&str, Value)> = (0..40).map(|n| send(id, n)).collect();
    let elsewhere = [(5, other), (11, foreign), (30, other)];
    for (n, to) in elsewhere {
        commands[n] = send(to, n);
    }
    commands[20] = ("send_message", json!({"conversationId": id, "words": "?"}));
    commands[25] = ("mark_read", json!({"conversationId": id}));
    let acks = alice.begin_all(&commands).await;
    let mut received = Vec::new();
    let mut made = Vec::new();
    for (n, ack) in acks.into_iter().enumerate() {
        let answer = alice.reply(ack).await;
        match n {
            11 => assert_eq!(answer.unwrap_err()["code"], "not_a_member"),
            20 => assert_eq!(answer.unwrap_err()["code"], "invalid_request"),
            // What comes behind sends finds them done, and what is behind it is not done yet.
            25 => assert_eq!(answer.unwrap()["readSeq"], received.len()),
            n => {
                let message = answer.unwrap();
                assert_eq!(message["content"], n.to_string());
                made.push(message["createdAt"].clone());
                if n != 5 && n != 30 {
                    received.push(message);
                }
            }
        }
    }
    made.dedup();
    assert!(
        made.len() < 20,
        "{} transactions for 37 messages",
        made.len()
    );
    for (n, message) in received.iter().enumerate() {
        assert_eq!(message["seq"], n + 1);
        for client in [&mut alice, &mut bob] {
            assert_eq!(&client.event("new_message").await["message"], message);
        }
    }
    bob.receives_no("new_message").await;
    bed.close().await;
}

async fn edits_deletions_and_reactions_are_delivered(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let message = json!(bed.say("alice", id, "first").await.id);
    let mut alice = joined(&bed, door, "alice", id).await;
    let mut bob = joined(&bed, door, "bob", id).await;
    let edit = json!({"messageId": message, "content": "second"});
    let edited = alice.ask("edit_message", edit.clone()).await.unwrap();
    assert_eq!(edited["content"], "second");
    let received = bob.event("message_updated").await;
    assert_eq!(received["message"]["content"], "second");
    assert_eq!(received["conversationId"], json!(id));
    assert_eq!(bob.fails("edit_message", edit).await, "forbidden");
    let react = json!({"messageId": message, "emoji": "👍"});
    let reacted = bob.ask("react", react).await.unwrap();
    assert_eq!(reacted["reactions"], json!({"👍": ["bob"]}));
    alice.event("message_updated").await; // its own edit
    let received = alice.event("message_updated").await;
    assert_eq!(received["message"]["reactions"], json!({"👍": ["bob"]}));
    let take_back = json!({"messageId": message, "emoji": "👍", "remove": true});
    let reacted = bob.ask("react", take_back).await.unwrap();
    assert_eq!(reacted["reactions"], json!({}));
    let delete = json!({"messageId": message});
    let deleted = alice.ask("delete_message", delete).await.unwrap();
    assert_eq!(deleted["content"], "");
    let received = bob.event("message_deleted").await;
    assert_eq!(received["message"]["content"], "");
    assert!(received["message"]["deletedAt"].is_string());
    bed.close().await;
}

async fn receipts_name_the_messages(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut messages: Vec<Value> = Vec::new();
    for n in 0..3 {
        messages.push(json!(bed.say("alice", id, &format!("{n}")).await.id));
    }
    let mut alice = joined(&bed, door, "alice", id).await;
    let mut bob = bed.connect(door, "bob").await;
    let mut phone = bed.connect(door, "bob").await;
    let delivered = json!({"conversationId": id, "seq": 1});
    let marks = bob.ask("mark_delivered", delivered).await.unwrap();
    assert_eq!(marks["deliveredSeq"], 1);
    assert_eq!(
        alice.event("messages_delivered").await,
        json!({"conversationId": id, "seq": 1, "messageIds": messages[..1], "readBy": "bob"})
    );
    let read = json!({"conversationId": id, "messageIds": [messages[1], messages[0]]});
    let marks = bob.ask("mark_read", read).await.unwrap();
    assert_eq!(marks["readSeq"], 2);
    let expected =
        json!({"conversationId": id, "seq": 2, "messageIds": messages[..2], "readBy": "bob"});
    assert_eq!(alice.event("messages_read").await, expected);
    // The reader's other devices receive it without joining.
    assert_eq!(phone.event("messages_read").await, expected);
    let rest = json!({"conversationId": id});
    let marks = bob.ask("mark_read", rest).await.unwrap();
    assert_eq!(marks["readSeq"], 3);
    assert_eq!(
        alice.event("messages_read").await["messageIds"],
        json!(messages[2..])
    );
    // The list follows.
    let begun = tokio::time::Instant::now();
    while bob.ask("unread_count", json!({})).await.unwrap()["total"] != 0 {
        assert!(begun.elapsed() < PATIENCE, "still unread");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bed.close().await;
}

async fn changes_of_the_list_are_delivered_without_joining(door: Door) {
    let bed = Bed::new().await;
    let mut bob = bed.connect(door, "bob").await;
    let id = bed.group("alice", &["bob"]).await;
    let received = bob.event("conversation_updated").await;
    assert_eq!(received["conversation"]["id"], json!(id));
    assert!(received["cursor"].is_string());
    let message = bed.say("alice", id, "hello").await;
    let received = bob.event("conversation_updated").await;
    assert_eq!(received["conversation"]["unreadCount"], 1);
    assert_eq!(received["conversation"]["lastMessage"]["content"], "hello");
    bob.receives_no("new_message").await;
    // Read on one device, nothing is unread on the other.
    let mut phone = bed.connect(door, "bob").await;
    let data = json!({"conversationId": id});
    phone.ask("mark_read", data).await.unwrap();
    for device in [&mut bob, &mut phone] {
        let received = device.event("conversation_updated").await;
        assert_eq!(received["conversation"]["unreadCount"], 0, "{received}");
    }
    bed.store
        .delete_message(&caller("alice"), message.id)
        .await
        .unwrap();
    let received = bob.event("conversation_updated").await;
    let last = &received["conversation"]["lastMessage"];
    assert_eq!(
        (&last["deleted"], &last["content"]),
        (&json!(true), &json!(""))
    );
    bed.close().await;
}

async fn sync_answers_the_missed_changes(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut bob = joined(&bed, door, "bob", id).await;
    let rev = bob.event("joined_conversation").await["rev"].clone();
    bed.say("alice", id, "hello").await;
    let data = json!({"conversations": {id.to_string(): rev}});
    let page = bob.ask("sync", data).await.unwrap();
    let text = page.to_string();
    assert!(text.contains("hello"), "{text}");
    bed.close().await;
}

async fn missed_changes_follow_hello(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut bob = bed.dial(door, json!({"token": "bob"})).await.unwrap();
    let cursor = bob.event("hello").await["cursor"].clone();
    assert!(cursor.is_string(), "{cursor}");
    let data = json!({"conversationId": id});
    let rev = bob.ask("join_conversation", data).await.unwrap()["rev"].clone();
    drop(bob);
    for n in 0..20 {
        bed.say("alice", id, &format!("{n}")).await;
    }
    let resume = json!({"cursor": cursor, "conversations": {id.to_string(): rev}});
    let auth = json!({"token": "bob", "resume": resume});
    let mut bob = bed.dial(door, auth).await.unwrap();
    let hello = bob.event("hello").await;
    assert_eq!(hello["recovered"], true);
    for n in 0..20 {
        let received = bob.event("new_message").await;
        assert_eq!(received["message"]["content"], format!("{n}"));
    }
    // The list may follow in several steps.
    while bob.event("conversation_updated").await["conversation"]["unreadCount"] != 20 {}
    // And it is open again.
    bed.say("alice", id, "live").await;
    let received = bob.event("new_message").await;
    assert_eq!(received["message"]["content"], "live");
    bob.receives_no("resync").await;
    bed.close().await;
}

async fn too_many_missed_changes_are_refused_by_name(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let foreign = bed.group("alice", &["carol"]).await;
    bed.say("alice", id, "one").await;
    let resume = json!({"cursor": "nonsense", "conversations": {id.to_string(): 1_000_000, foreign.to_string(): 1}});
    let auth = json!({"token": "bob", "resume": resume});
    let mut bob = bed.dial(door, auth).await.unwrap();
    let hello = bob.event("hello").await;
    assert_eq!(hello["recovered"], false);
    let resync = bob.event("resync").await;
    assert_eq!(resync["list"], true);
    assert_eq!(resync["conversations"][0]["conversationId"], json!(id));
    assert_eq!(resync["conversations"][0]["headSeq"], 1);
    let left = bob.event("left_conversation").await;
    assert_eq!(left, json!({"conversationId": foreign}));
    bed.say("alice", id, "live").await;
    let received = bob.event("new_message").await;
    assert_eq!(received["message"]["content"], "live");
    bed.close().await;
}

async fn a_former_member_receives_no_more_events(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob", "carol"]).await;
    let mut bob = joined(&bed, door, "bob", id).await;
    let (alice, member) = (caller("alice"), user("bob"));
    let removed = bed.store.remove_member(&alice, id, &member).await;
    removed.unwrap();
    let left = bob.event("left_conversation").await;
    assert_eq!(left, json!({"conversationId": id}));
    bed.say("alice", id, "secret").await;
    bob.receives_no("new_message").await;
    let data = json!({"conversationId": id});
    assert_eq!(bob.fails("join_conversation", data).await, "not_a_member");
    bed.close().await;
}

async fn a_client_cannot_use_a_foreign_conversation(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let message = bed.say("alice", id, "secret").await.id;
    let mut mallory = bed.connect(door, "mallory").await;
    let cases = [
        ("join_conversation", json!({"conversationId": id})),
        (
            "send_message",
            json!({"conversationId": id, "content": "x"}),
        ),
        ("mark_read", json!({"conversationId": id})),
        ("mark_delivered", json!({"conversationId": id})),
        (
            "edit_message",
            json!({"messageId": message, "content": "x"}),
        ),
        ("delete_message", json!({"messageId": message})),
        ("react", json!({"messageId": message, "emoji": "👍"})),
    ];
    for (name, data) in cases {
        assert_eq!(mallory.fails(name, data).await, "not_a_member", "{name}");
    }
    mallory
        .emit("join_conversation", json!({"conversationId": id}))
        .await;
    assert_eq!(mallory.event("error").await["code"], "not_a_member");
    bed.say("alice", id, "secret").await;
    mallory.receives_no("new_message").await;
    bed.close().await;
}

async fn open_conversations_are_bounded(door: Door) {
    let bed = Bed::with(|settings| settings.joined_conversations = 2).await;
    let mut alice = bed.connect(door, "alice").await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(json!({"conversationId": bed.group("alice", &["bob"]).await}));
    }
    alice
        .ask("join_conversation", ids[0].clone())
        .await
        .unwrap();
    alice
        .ask("join_conversation", ids[1].clone())
        .await
        .unwrap();
    alice
        .ask("join_conversation", ids[1].clone())
        .await
        .unwrap();
    let code = alice.fails("join_conversation", ids[2].clone()).await;
    assert_eq!(code, "limit_reached");
    // Those that come together are done together, as if one after the other.
    let foreign = json!({"conversationId": bed.group("bob", &["carol"]).await});
    let mut phone = bed.connect(door, "alice").await;
    let asked = [&foreign, &ids[0], &ids[1], &ids[0], &json!({}), &ids[2]];
    let joins = asked.map(|data| ("join_conversation", data.clone()));
    let mut answers = Vec::new();
    for ack in phone.begin_all(&joins).await {
        let answer = phone.reply(ack).await;
        answers.push(answer.map_or_else(
            |error| error["code"].clone(),
            |joined| joined["conversationId"].clone(),
        ));
    }
    let id = |n: usize| ids[n]["conversationId"].clone();
    let expected = [json!("not_a_member"), id(0), id(1), id(0)];
    assert_eq!(answers[..4], expected);
    assert_eq!(
        answers[4..],
        [json!("invalid_request"), json!("limit_reached")]
    );
    alice
        .ask("leave_conversation", ids[0].clone())
        .await
        .unwrap();
    alice
        .ask("join_conversation", ids[2].clone())
        .await
        .unwrap();
    bed.close().await;
}

async fn a_send_that_is_repeated_is_stored_once(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut bob = joined(&bed, door, "bob", id).await;
    let mut alice = bed.connect(door, "alice").await;
    let data = json!({"conversationId": id, "content": "once", "clientMsgId": "c1"});
    let first = alice.ask("send_message", data.clone()).await.unwrap();
    let again = alice.ask("send_message", data).await.unwrap();
    assert_eq!(first["id"], again["id"]);
    let other = json!({"conversationId": id, "content": "another", "clientMsgId": "c1"});
    assert_eq!(
        alice.fails("send_message", other).await,
        "conflict_idempotency"
    );
    bob.event("new_message").await;
    bob.receives_no("new_message").await;
    bed.close().await;
}

async fn a_list_is_no_object(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut alice = bed.connect(door, "alice").await;
    for (name, data) in [
        ("send_message", json!([id, "hi"])),
        ("join_conversation", json!([id])),
        ("mark_read", json!([id, 1])),
        ("send_message", json!("hi")),
    ] {
        assert_eq!(alice.fails(name, data).await, "invalid_request");
    }
    let data = json!({"conversationId": id});
    let head = alice.ask("join_conversation", data).await.unwrap();
    assert_eq!(head["headSeq"], 0);
    bed.close().await;
}
