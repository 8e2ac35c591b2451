//! What only the Socket.IO door does: long polling, several namespaces, odd packets, and the words of older front-ends.

use std::collections::VecDeque;
use std::time::Duration;

use backscroll_shard::model::{NewNotification, RawJson};
use backscroll_shard::settings::Span;
use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::bed::{Bed, PATIENCE, caller, user};
use crate::client::{Client, Door};

const WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";

/// One HTTP request; gives the status and the body.
async fn http(bed: &Bed, method: &str, query: &str, body: &str) -> (u16, String) {
    let mut tcp = TcpStream::connect(bed.address).await.unwrap();
    let request = format!(
        "{method} /socket.io/?EIO=4&transport=polling{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    tcp.read_to_string(&mut response).await.unwrap();
    let status = response.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}

/// A client with long polling.
struct Poller {
    sid: String,
    waiting: VecDeque<String>,
}

impl Poller {
    /// Polls until a packet comes that begins with `start`; gives the JSON after it.
    async fn next(&mut self, bed: &Bed, start: &str) -> Value {
        loop {
            while let Some(packet) = self.waiting.pop_front() {
                if let Some(data) = packet.strip_prefix(start) {
                    return serde_json::from_str(data).unwrap_or_default();
                }
            }
            let (status, body) = self.get(bed).await;
            assert_eq!(status, 200, "{body}");
            self.waiting.extend(body.split('\x1e').map(str::to_owned));
        }
    }

    async fn get(&self, bed: &Bed) -> (u16, String) {
        http(bed, "GET", &format!("&sid={}", self.sid), "").await
    }

    async fn post(&self, bed: &Bed, body: &str) -> u16 {
        let query = format!("&sid={}", self.sid);
        http(bed, "POST", &query, body).await.0
    }
}

async fn open_polling(bed: &Bed) -> Poller {
    let (status, body) = http(bed, "GET", "", "").await;
    assert_eq!(status, 200);
    let open: Value = serde_json::from_str(body.strip_prefix('0').unwrap()).unwrap();
    assert_eq!(open["upgrades"], json!(["websocket"]));
    assert_eq!(open["pingInterval"], 25_000);
    assert_eq!(open["pingTimeout"], 20_000);
    assert_eq!(open["maxPayload"], 100_000);
    Poller {
        sid: open["sid"].as_str().unwrap().to_owned(),
        waiting: VecDeque::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polling_client_has_the_same_commands_and_events() {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut client = open_polling(&bed).await;
    assert_eq!(client.post(&bed, r#"40/chat,{"token":"bob"}"#).await, 200);
    let entered = client.next(&bed, "40/chat,").await;
    assert_ne!(
        entered["sid"],
        client.sid.as_str(),
        "the transport's is a secret"
    );
    let hello = client.next(&bed, "42/chat,").await;
    assert_eq!(hello[0], "hello");
    let join = json!(["join_conversation", {"conversationId": id}]);
    let two = format!("42/chat,7{join}\x1e42/chat,8[\"ping\"]");
    assert_eq!(client.post(&bed, &two).await, 200);
    let head = client.next(&bed, "43/chat,7").await;
    assert_eq!(head[0]["conversationId"], json!(id));
    bed.say("alice", id, "hello").await;
    let received = client.next(&bed, r#"42/chat,["new_message","#).await;
    assert_eq!(received, Value::Null, "read as far as its name");
    assert_eq!(bed.gateway.count(), 1);
    assert_eq!(client.post(&bed, "1").await, 200);
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polling_client_receives_the_reason_of_its_end() {
    let bed = Bed::new().await;
    let mut client = open_polling(&bed).await;
    client.post(&bed, r#"40/chat,{"token":"bob"}"#).await;
    client.next(&bed, "40/chat,").await;
    bed.gateway.drain().await;
    client.next(&bed, r#"42/chat,["reconnect","#).await;
    let error = client.next(&bed, r#"42/chat,["error","#);
    error.await;
    while client.get(&bed).await.0 == 200 {}
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_polling_can_be_turned_off() {
    let bed = Bed::with(|settings| settings.long_polling = false).await;
    let (status, _) = http(&bed, "GET", "", "").await;
    assert_eq!(status, 400);
    let _alice = bed.connect(Door::SocketIo, "alice").await;
    assert_eq!(bed.gateway.count(), 1, "nothing is kept for the refused");
    bed.close().await;
}

async fn text(socket: &mut WebSocketStream<TcpStream>) -> Option<String> {
    loop {
        let next = tokio::time::timeout(PATIENCE, socket.next()).await;
        match next.expect("nothing comes")? {
            Ok(Message::Text(text)) if text.as_str() == "2" => say(socket, "3").await,
            Ok(Message::Text(text)) => return Some(text.as_str().to_owned()),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

async fn open(bed: &Bed) -> WebSocketStream<TcpStream> {
    let mut socket = Client::websocket(bed.address, WEBSOCKET, &[])
        .await
        .unwrap();
    let open = text(&mut socket).await.unwrap();
    assert!(open.starts_with("0{"), "{open}");
    socket
}

async fn say(socket: &mut WebSocketStream<TcpStream>, packet: &str) {
    let _ = socket.send(Message::text(packet)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_message_and_data() {
    let bed = Bed::new().await;
    let mut socket = open(&bed).await;
    say(&mut socket, r#"40/chat,{"token":"unknown"}"#).await;
    assert_eq!(
        text(&mut socket).await.unwrap(),
        r#"44/chat,{"message":"the token `unknown` is no good","data":{"code":"auth_unavailable","retryAfterMs":2000}}"#
    );
    say(&mut socket, "40/chat,").await;
    let refused = text(&mut socket).await.unwrap();
    assert!(
        refused.contains(r#""data":{"code":"unauthenticated"}"#),
        "{refused}"
    );
    say(&mut socket, "40/nowhere,").await;
    assert_eq!(
        text(&mut socket).await.unwrap(),
        r#"44/nowhere,{"message":"Invalid namespace"}"#
    );
    // On the same connection with a better token.
    say(&mut socket, r#"40/chat,{"token":"alice"}"#).await;
    assert!(text(&mut socket).await.unwrap().starts_with("40/chat,"));
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_packets_end_the_connection() {
    let bed = Bed::new().await;
    let long = format!(r#"42/chat,["send_message","{}"]"#, "x".repeat(70_000));
    for (packet, code) in [
        ("4abc", "invalid_frame"),
        ("42/chat,{}", "invalid_frame"),
        ("44/chat,{}", "invalid_frame"),
        (r#"451-/chat,["a"]|42/chat,["ping"]"#, "invalid_frame"),
        (long.as_str(), "frame_too_large"),
    ] {
        let mut alice = bed.connect(Door::SocketIo, "alice").await;
        for packet in packet.split('|') {
            alice.text(packet).await;
        }
        assert_eq!(alice.end().await, code, "{packet:.40}");
        assert!(alice.is_final());
        // No client is in a namespace that could receive the reason.
        let mut socket = open(&bed).await;
        for packet in packet.split('|') {
            say(&mut socket, packet).await;
        }
        while text(&mut socket).await.is_some() {}
    }
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_data_is_refused_and_the_connection_goes_on() {
    let bed = Bed::new().await;
    let mut alice = bed.connect(Door::SocketIo, "alice").await;
    alice
        .text(r#"451-/chat,["ping",{"_placeholder":true,"num":0}]"#)
        .await;
    let bytes = Message::binary(vec![1, 2, 3]);
    alice.socket.send(bytes).await.unwrap();
    assert_eq!(alice.event("error").await["code"], "invalid_request");
    assert_eq!(alice.ask("ping", json!({})).await, Ok(json!({})));
    // What no event announced is no part of the protocol.
    let bytes = Message::binary(vec![1, 2, 3]);
    alice.socket.send(bytes).await.unwrap();
    assert_eq!(alice.end().await, "invalid_frame");
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_events_do_no_harm() {
    let bed = Bed::new().await;
    let mut alice = bed.connect(Door::SocketIo, "alice").await;
    let deep = format!(
        r#"42/chat,["ping",{}1{}]"#,
        "[".repeat(1000),
        "]".repeat(1000)
    );
    for packet in [
        r#"42/chat,["disconnect"]"#,
        r#"42/chat,["ü\u0000"]"#,
        r#"42/chat,["join_conversation",1,2,3]"#,
        r#"42/messaging,["NEW_MESSAGE",{}]"#,
        r#"43/chat,99[1]"#,
        r#"40/chat,{"token":"bob"}"#,
        "41/messaging,",
        &deep,
    ] {
        alice.text(packet).await;
    }
    assert_eq!(alice.ask("ping", json!({})).await, Ok(json!({})));
    alice.receives_no("hello").await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_of_one_connection_are_sessions_of_their_own() {
    let bed = Bed::new().await;
    let mut socket = open(&bed).await;
    say(&mut socket, r#"40/chat,{"token":"alice"}"#).await;
    say(&mut socket, r#"40/notifications,{"token":"alice"}"#).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(text(&mut socket).await.unwrap());
    }
    assert_eq!(bed.gateway.count(), 1, "one connection");
    say(&mut socket, "41/chat,").await;
    say(
        &mut socket,
        r#"42/notifications,5["notification:get_unread_count",{}]"#,
    )
    .await;
    let answer = text(&mut socket).await.unwrap();
    assert!(answer.starts_with("43/notifications,5[{"), "{answer}");
    drop(socket);
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_enters_too_often_is_closed() {
    let bed = Bed::new().await;
    let mut socket = open(&bed).await;
    for _ in 0..20 {
        let _ = socket
            .send(Message::text(r#"40/chat,{"token":"alice"}"#))
            .await;
        let _ = socket.send(Message::text("41/chat,")).await;
    }
    while text(&mut socket).await.is_some() {}
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_namespace_is_closed() {
    let bed = Bed::new().await;
    let mut idle = open(&bed).await;
    let mut refused = open(&bed).await;
    say(&mut refused, r#"40/chat,{"token":"invalid"}"#).await;
    // An upgrade that is never finished.
    let sid = open_polling(&bed).await.sid;
    let path = format!("{WEBSOCKET}&sid={sid}");
    let upgrade = Client::websocket(bed.address, &path, &[]).await.unwrap();
    assert_eq!(bed.gateway.count(), 3);
    drop(upgrade);
    while tokio::time::timeout(Duration::from_secs(15), idle.next())
        .await
        .expect("it is kept")
        .is_some_and(|message| message.is_ok())
    {}
    while text(&mut refused).await.is_some() {}
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_no_ping_is_closed() {
    let bed = Bed::with(|settings| settings.heartbeat = Span::secs(1)).await;
    let mut socket = open(&bed).await;
    say(&mut socket, r#"40/chat,{"token":"alice"}"#).await;
    let mut pinged = false;
    while let Some(packet) = tokio::time::timeout(Duration::from_secs(30), socket.next())
        .await
        .expect("it is kept")
    {
        pinged |= matches!(packet, Ok(Message::Text(text)) if text.as_str() == "2");
    }
    assert!(pinged);
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_front_end_names_a_person() {
    let bed = Bed::new().await;
    let enter = |name: &'static str, namespace| {
        Client::dial_namespace(bed.address, namespace, json!({"token": name}))
    };
    let mut alice = enter("alice", "/messaging").await.unwrap();
    let mut bob = enter("bob", "/messaging").await.unwrap();
    let mut tablet = enter("bob", "/realtime").await.unwrap();
    // The first message makes the conversation.
    let message = json!({"content": "hello", "receiverId": "bob"});
    alice.emit("NEW_MESSAGE", message).await;
    let sent = alice.event("MESSAGE_SENT").await;
    for (client, event) in [(&mut bob, "NEW_MESSAGE"), (&mut tablet, "message:new")] {
        let received = client.event(event).await;
        assert_eq!(received["content"], "hello");
        assert_eq!(received["senderId"], "alice");
        assert_eq!(received["receiverId"], "bob");
        assert_eq!(received["id"], sent["messageId"]);
        assert!(received["createdAt"].is_string());
    }
    alice.receives_no("NEW_MESSAGE").await;
    let read = json!({"receiverId": "alice"});
    bob.ask("MESSAGE_READ_UPDATE", read).await.unwrap();
    let received = alice.event("MESSAGE_READ_UPDATE").await;
    assert_eq!(received["readBy"], "bob");
    assert_eq!(received["messageIds"], json!([sent["messageId"]]));
    // A reply, with a callback and with what they also send.
    let reply = json!({"content": "hi", "receiverId": "alice", "senderId": "bob"});
    let stored = bob.ask("NEW_MESSAGE", reply).await.unwrap();
    assert_eq!(alice.event("NEW_MESSAGE").await["id"], stored["id"]);
    assert_eq!(
        tablet.event("message:sent").await["messageId"],
        stored["id"]
    );
    let typing = json!({"receiverId": "bob"});
    alice.emit("TYPING_START", typing.clone()).await;
    let received = bob.event("USER_TYPING").await;
    assert_eq!(
        (&received["userId"], &received["isTyping"]),
        (&json!("alice"), &json!(true))
    );
    alice.emit("TYPING_STOP", typing).await;
    assert_eq!(bob.event("USER_TYPING").await["isTyping"], false);
    // Failures.
    let nobody = json!({"content": "x", "receiverId": ""});
    assert_eq!(alice.fails("NEW_MESSAGE", nobody).await, "invalid_request");
    alice.emit("NEW_MESSAGE", json!("x")).await;
    assert_eq!(alice.event("error").await["code"], "invalid_request");
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_front_end_receives_earlier_conversations() {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob", "carol"]).await;
    bed.say("alice", id, "before").await;
    let auth = json!({"token": "bob"});
    let mut bob = Client::dial_namespace(bed.address, "/messaging", auth)
        .await
        .unwrap();
    assert_eq!(bob.event("NEW_MESSAGE").await["content"], "before");
    let message = bed.say("alice", id, "now").await;
    let received = bob.event("NEW_MESSAGE").await;
    assert_eq!(received["id"], json!(message.id));
    assert_eq!(received["receiverId"], json!(user("bob")));
    bob.receives_no("NEW_MESSAGE").await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_front_end_sees_presence() {
    let bed = Bed::new().await;
    let enter = |name: &'static str, namespace| {
        Client::dial_namespace(bed.address, namespace, json!({"token": name}))
    };
    let mut bob = enter("bob", "/messaging").await.unwrap();
    bed.group("alice", &["bob"]).await;
    let mut tablet = enter("bob", "/realtime").await.unwrap();
    for (namespace, command, status) in [
        ("/realtime", "presence:update", "away"),
        ("/messaging", "PRESENCE_UPDATE", "busy"),
    ] {
        let mut alice = enter("alice", namespace).await.unwrap();
        let online = match namespace {
            "/realtime" => alice.event("user:online").await,
            _ => alice.event("USER_ONLINE").await,
        };
        assert_eq!(online["userId"], "bob");
        let update = json!({"status": status});
        alice.ask(command, update).await.unwrap();
        for (client, event) in [(&mut bob, "USER_ONLINE"), (&mut tablet, "user:online")] {
            while client.event(event).await != json!({"userId": "alice", "status": status}) {}
        }
    }
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_front_end_hears_of_connections_between_people() {
    let bed = Bed::new().await;
    let enter = |name: &'static str| {
        Client::dial_namespace(bed.address, "/realtime", json!({"token": name}))
    };
    let mut both = [enter("alice").await.unwrap(), enter("bob").await.unwrap()];
    for kind in ["connection:request", "connection:accepted", "offer"] {
        let connection = json!({"connection": {"id": 5, "senderId": "alice", "receiverId": "bob"}});
        let new = NewNotification {
            user_ids: vec![user("alice"), user("bob")],
            kind: kind.to_owned(),
            title: "A connection".to_owned(),
            metadata: Some(RawJson::of(&connection)),
            ..NewNotification::default()
        };
        bed.store.notify(&caller("admin"), new).await.unwrap();
        for client in &mut both {
            match kind {
                "offer" => client.receives_no(kind).await,
                _ => assert_eq!(client.event(kind).await, connection),
            }
        }
    }
    bed.close().await;
}

/// A client that knows of its session receives every message from then on, however busy the machine is.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_front_end_receives_messages_as_soon_as_it_is_connected() {
    let bed = Bed::with(|settings| settings.sessions_per_user = 64).await;
    let id = bed.group("alice", &["bob"]).await;
    let connect = async || {
        let auth = json!({"token": "bob"});
        let bob = Client::dial_namespace(bed.address, "/messaging", auth);
        let mut bob = bob.await.unwrap();
        let message = bed.say("alice", id, "now").await;
        while bob.event("NEW_MESSAGE").await["id"] != json!(message.id) {}
    };
    join_all((0..48).map(|_| connect())).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_front_end_receives_notifications_and_marks_them() {
    let bed = Bed::new().await;
    bed.notify("bob", "before").await;
    let auth = json!({"token": "bob"});
    let mut bob = Client::dial_namespace(bed.address, "/notifications", auth)
        .await
        .unwrap();
    bob.emit("notification:get_unread_count", json!({})).await;
    assert_eq!(bob.event("notification:unread_count").await["total"], 1);
    let sent = bed.notify("bob", "now").await;
    let received = bob.event("notification:new").await;
    assert_eq!(received["id"], json!(sent.id));
    assert_eq!(received["title"], "now");
    assert_eq!(received["message"], "about now");
    assert_eq!(received["read"], false);
    let mark = json!({"notificationId": sent.id});
    bob.emit("notification:mark_read", mark).await;
    let count = json!({});
    let count = bob.ask("notification:get_unread_count", count).await;
    assert_eq!(count.unwrap()["total"], 1);
    let mark = json!({"notificationId": "7"});
    assert_eq!(bob.fails("notification:mark_read", mark).await, "not_found");
    bob.receives_no("notification:new").await;
    bed.close().await;
}
