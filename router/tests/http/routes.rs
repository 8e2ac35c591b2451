//! Each route does what it says: round trips through the store.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Service, User};

async fn say(user: &User<'_>, conversation: &str, text: &str) -> Value {
    user.post(
        &format!("/chat/conversations/{conversation}/messages"),
        json!({ "content": text }),
    )
    .await
    .expect(201)
}

fn seqs(page: &Value) -> Vec<u64> {
    page["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["seq"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn front_ends_of_other_servers_mark_read_by_post_and_put() {
    let service = Service::start().await;
    let (alice, bob) = (service.user("alice"), service.user("bob"));
    let id = alice.group(json!(["bob"])).await;
    for (seq, method) in [(1, Method::POST), (2, Method::PUT), (3, Method::PATCH)] {
        say(&alice, &id, "hello").await;
        let read = bob.request(method, &format!("/api/chat/conversations/{id}/read"));
        assert_eq!(Answer::of(read).await.expect(200)["readSeq"], seq);
    }
}

#[tokio::test]
async fn a_direct_conversation_is_created_once_for_both() {
    let service = Service::start().await;
    let (alice, bob, eve) = (
        service.user("alice"),
        service.user("bob"),
        service.user("eve"),
    );
    let created = alice
        .post(
            "/chat/conversations",
            json!({ "kind": "direct", "members": ["bob"] }),
        )
        .await
        .expect(201);
    assert_eq!(
        (
            &created["kind"],
            &created["headSeq"],
            &created["memberCount"]
        ),
        (&json!("direct"), &json!(0), &json!(2))
    );
    let again = bob
        .post(
            "/api/chat/conversations",
            json!({ "kind": "direct", "members": ["alice"] }),
        )
        .await
        .expect(200);
    assert_eq!(again["id"], created["id"]);
    let id = created["id"].as_str().unwrap();
    eve.get(&format!("/chat/conversations/{id}"))
        .await
        .problem(403, "not_a_member");
    eve.get(&format!("/chat/conversations/{id}/messages"))
        .await
        .problem(403, "not_a_member");
    alice
        .post(
            "/chat/conversations",
            json!({ "kind": "direct", "members": ["bob", "eve"] }),
        )
        .await
        .problem(400, "invalid_request");
    alice
        .post(
            "/chat/conversations",
            json!({ "kind": "direct", "members": [] }),
        )
        .await
        .problem(400, "invalid_request");
}

#[tokio::test]
async fn a_conversation_can_be_listed_changed_and_deleted() {
    let service = Service::start().await;
    let (alice, bob) = (service.user("alice"), service.user("bob"));
    let id = alice.group(json!(["bob"])).await;
    let path = format!("/chat/conversations/{id}");
    let changed = alice
        .patch(
            &path,
            json!({ "title": "Dinner", "metadata": { "color": "red" }, "pinned": true }),
        )
        .await
        .expect(200);
    assert_eq!(
        (&changed["title"], &changed["metadata"]),
        (&json!("Dinner"), &json!({ "color": "red" }))
    );
    bob.patch(&path, json!({ "title": "Mine" }))
        .await
        .problem(403, "forbidden");
    bob.patch(&path, json!({ "muted": true })).await.expect(200);
    for (user, pinned, muted) in [(&alice, true, false), (&bob, false, true)] {
        let list = user.get("/chat/conversations").await.expect(200);
        let entry = &list["conversations"][0];
        assert_eq!(
            (&entry["pinned"], &entry["muted"]),
            (&json!(pinned), &json!(muted))
        );
    }

    let messages = format!("{path}/messages");
    let mentioning = json!({ "content": "hello", "mentions": ["bob"] });
    let sent = alice.post(&messages, mentioning).await.expect(201);
    assert_eq!(sent["mentions"], json!(["bob"]));
    let mentioning = json!({ "content": "hello", "mentions": ["eve"] });
    alice
        .post(&messages, mentioning)
        .await
        .problem(400, "invalid_request");
    // Lists follow the conversations with a short delay.
    let entry = loop {
        let list = bob.get("/chat/conversations?limit=10").await.expect(200);
        let entry = list["conversations"][0].clone();
        if entry["headSeq"] == 1 {
            break entry;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(
        (
            &entry["id"],
            &entry["unreadCount"],
            &entry["unreadMentions"],
            &entry["lastMessage"]["content"]
        ),
        (&json!(id), &json!(1), &json!(1), &json!("hello"))
    );
    assert_eq!(
        bob.get("/chat/unread-count").await.expect(200),
        json!({ "total": 1, "conversations": 1, "mentions": 1 })
    );

    bob.delete(&path).await.problem(403, "forbidden");
    assert_eq!(alice.delete(&path).await.expect(204), Value::Null);
    alice.get(&path).await.problem(403, "not_a_member");
}

#[tokio::test]
async fn conversations_are_listed_page_by_page() {
    let service = Service::start().await;
    let alice = service.user("alice");
    for _ in 0..5 {
        alice.group(json!([])).await;
    }
    let (mut seen, mut path) = (Vec::new(), "/chat/conversations?limit=2".to_owned());
    loop {
        let page = alice.get(&path).await.expect(200);
        seen.extend(
            page["conversations"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["id"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["nextCursor"].as_str() else {
            break;
        };
        path = format!("/chat/conversations?limit=2&cursor={cursor}");
    }
    assert_eq!(seen.len(), 5);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5);
}

#[tokio::test]
async fn members_come_go_and_change_roles() {
    let service = Service::start().await;
    let (alice, bob, carol) = (
        service.user("alice"),
        service.user("bob"),
        service.user("carol"),
    );
    let id = alice.group(json!(["bob"])).await;
    let path = format!("/chat/conversations/{id}/members");
    bob.post(&path, json!({ "members": ["carol"] }))
        .await
        .problem(403, "forbidden");
    assert_eq!(
        alice
            .post(&path, json!({ "members": ["carol", "bob"] }))
            .await
            .expect(200)["memberCount"],
        3
    );
    let promoted = alice
        .patch(&format!("{path}/bob"), json!({ "role": "admin" }))
        .await
        .expect(200);
    assert_eq!(
        (&promoted["userId"], &promoted["role"]),
        (&json!("bob"), &json!("admin"))
    );
    bob.post(&path, json!({ "members": ["dave ✨/?"] }))
        .await
        .expect(200);
    let first = carol.get(&format!("{path}?limit=3")).await.expect(200);
    assert_eq!(first["members"].as_array().unwrap().len(), 3);
    let second = carol
        .get(&format!(
            "{path}?limit=3&cursor={}",
            first["nextCursor"].as_str().unwrap()
        ))
        .await
        .expect(200);
    assert_eq!(
        (&second["members"][0]["userId"], &second["nextCursor"]),
        (&json!("dave ✨/?"), &Value::Null)
    );
    alice
        .delete(&format!("{path}/dave%20%E2%9C%A8%2F%3F"))
        .await
        .expect(204);
    carol
        .delete(&format!("{path}/bob"))
        .await
        .problem(403, "forbidden");
    carol.delete(&format!("{path}/carol")).await.expect(204);
    carol.get(&path).await.problem(403, "not_a_member");
    alice
        .delete(&format!("{path}/nobody"))
        .await
        .problem(404, "not_found");
    alice
        .patch(&format!("{path}/nobody"), json!({ "role": "admin" }))
        .await
        .problem(404, "not_found");
    alice
        .post(
            &path,
            json!({ "members": (0..200).map(|n| format!("u{n}")).collect::<Vec<_>>() }),
        )
        .await
        .problem(409, "limit_reached");
}

#[tokio::test]
async fn history_is_paged_by_seq() {
    let service = Service::start().await;
    let (alice, bob) = (service.user("alice"), service.user("bob"));
    let id = alice.group(json!(["bob"])).await;
    for n in 1..=30 {
        let sent = say(
            if n % 2 == 0 { &alice } else { &bob },
            &id,
            &format!("message {n}"),
        )
        .await;
        assert_eq!(
            (&sent["seq"], &sent["id"], &sent["conversationId"]),
            (&json!(n), &json!(format!("{id}-{n}")), &json!(id))
        );
    }
    let page = async |query: &str| {
        bob.get(&format!("/chat/conversations/{id}/messages{query}"))
            .await
            .expect(200)
    };
    let latest = page("").await;
    assert_eq!(
        (
            seqs(&latest),
            &latest["headSeq"],
            &latest["hasMoreBefore"],
            &latest["hasMoreAfter"]
        ),
        ((11..=30).collect(), &json!(30), &json!(true), &json!(false))
    );
    assert_eq!(latest["tiers"], json!({ "hot": 20, "archive": 0 }));
    assert_eq!(seqs(&page("?before=11&limit=5").await), [6, 7, 8, 9, 10]);
    assert_eq!(seqs(&page("?after=28").await), [29, 30]);
    assert_eq!(seqs(&page("?before=1").await), [0; 0]);
    let around = seqs(&page("?around=15&limit=5").await);
    assert!(around.contains(&15) && around.len() == 5, "{around:?}");
    assert_eq!(seqs(&page("?limit=200").await).len(), 30);
}

#[tokio::test]
async fn messages_are_edited_deleted_and_reacted_to() {
    let service = Service::start().await;
    let (alice, bob, eve) = (
        service.user("alice"),
        service.user("bob"),
        service.user("eve"),
    );
    let id = alice.group(json!(["bob"])).await;
    let sent = bob
        .post(
            &format!("/chat/conversations/{id}/messages"),
            json!({ "content": "one", "messageType": "image", "clientMsgId": "c1", "attachments": [{ "url": "x" }], "metadata": { "a": 1 } }),
        )
        .await
        .expect(201);
    assert_eq!(
        (
            &sent["messageType"],
            &sent["clientMsgId"],
            &sent["attachments"],
            &sent["metadata"],
            &sent["status"]
        ),
        (
            &json!("image"),
            &json!("c1"),
            &json!([{ "url": "x" }]),
            &json!({ "a": 1 }),
            &json!("sent")
        )
    );
    let reply = alice
        .post(
            &format!("/chat/conversations/{id}/messages"),
            json!({ "content": "re", "replyTo": sent["id"] }),
        )
        .await
        .expect(201);
    assert_eq!(reply["replyTo"], sent["id"]);

    let path = format!("/chat/messages/{id}-1");
    let edited = bob
        .patch(&path, json!({ "content": "two" }))
        .await
        .expect(200);
    assert_eq!(
        (&edited["content"], edited["editedAt"].is_string()),
        (&json!("two"), true)
    );
    alice
        .patch(&path, json!({ "content": "three" }))
        .await
        .problem(403, "forbidden");
    let alone = alice.get(&path).await.expect(200);
    assert_eq!(alone["editHistory"][0]["content"], "one");
    eve.get(&path).await.problem(403, "not_a_member");
    alice
        .get(&format!("/chat/messages/{id}-99"))
        .await
        .problem(404, "not_found");

    let thumb = format!("{path}/reactions/%F0%9F%91%8D");
    for _ in 0..2 {
        assert_eq!(
            alice.put(&thumb).await.expect(200)["reactions"],
            json!({ "👍": ["alice"] })
        );
    }
    assert_eq!(
        bob.put(&thumb).await.expect(200)["reactions"],
        json!({ "👍": ["alice", "bob"] })
    );
    assert_eq!(
        alice.delete(&thumb).await.expect(200)["reactions"],
        json!({ "👍": ["bob"] })
    );
    eve.put(&thumb).await.problem(403, "not_a_member");

    bob.delete(&format!("/chat/messages/{id}-2"))
        .await
        .problem(403, "forbidden");
    let deleted = alice.delete(&path).await.expect(200);
    assert_eq!(
        (
            &deleted["content"],
            deleted["deletedAt"].is_string(),
            &deleted["attachments"]
        ),
        (&json!(""), true, &json!([]))
    );
    assert_eq!(bob.get(&path).await.expect(200)["content"], "");
}

#[tokio::test]
async fn replies_are_counted_and_listed_and_mentions_edited() {
    let service = Service::start().await;
    let (alice, bob, eve) = (
        service.user("alice"),
        service.user("bob"),
        service.user("eve"),
    );
    let id = alice.group(json!(["bob"])).await;
    say(&alice, &id, "a question").await;
    let messages = format!("/chat/conversations/{id}/messages");
    let answer = json!({ "content": "an answer", "replyTo": format!("{id}-1") });
    let reply = bob.post(&messages, answer.clone()).await.expect(201);
    assert_eq!(reply["thread"]["replyCount"], json!(1));
    bob.post(&messages, answer).await.expect(201);
    let root = alice
        .get(&format!("/chat/messages/{id}-1"))
        .await
        .expect(200);
    assert_eq!(root["replyCount"], json!(2));
    assert!(root["lastReplyAt"].is_string(), "{root}");
    let replies = format!("/chat/messages/{id}-1/replies");
    let first = alice.get(&format!("{replies}?limit=1")).await.expect(200);
    assert_eq!(first["messages"][0]["id"], reply["id"]);
    assert_eq!(first["nextCursor"], json!("2"));
    let second = alice.get(&format!("{replies}?cursor=2")).await.expect(200);
    assert_eq!(second["messages"][0]["seq"], json!(3));
    eve.get(&replies).await.problem(403, "not_a_member");
    alice
        .get(&format!("{replies}?cursor=x"))
        .await
        .problem(400, "invalid_request");
    let message = format!("/chat/messages/{id}-1");
    let edit = json!({ "content": "a question", "mentions": ["@all"] });
    let edited = alice.patch(&message, edit).await.expect(200);
    assert_eq!(
        (&edited["mentions"], &edited["replyCount"]),
        (&json!(["@all"]), &json!(2))
    );
    let edit = json!({ "content": "mine", "mentions": ["@all"] });
    bob.patch(&format!("/chat/messages/{id}-2"), edit)
        .await
        .problem(403, "forbidden");
}

#[tokio::test]
async fn messages_are_pinned_by_those_who_may() {
    let service = Service::start().await;
    let (alice, bob, eve) = (
        service.user("alice"),
        service.user("bob"),
        service.user("eve"),
    );
    let id = alice.group(json!(["bob"])).await;
    for text in ["a", "b", "c"] {
        say(&alice, &id, text).await;
    }
    let conversation = format!("/chat/conversations/{id}");
    let pins = format!("{conversation}/pins");
    let pin = |seq: u64| format!("/chat/messages/{id}-{seq}/pin");
    bob.put(&pin(1)).await.problem(403, "forbidden");
    eve.put(&pin(1)).await.problem(403, "not_a_member");
    eve.get(&pins).await.problem(403, "not_a_member");
    let pinned = alice.put(&pin(1)).await.expect(200);
    assert_eq!(
        (&pinned["pinnedBy"], pinned["pinnedAt"].is_string()),
        (&json!("alice"), true)
    );
    bob.patch(&conversation, json!({ "membersMayPin": true }))
        .await
        .problem(403, "forbidden");
    let changed = alice.patch(&conversation, json!({ "membersMayPin": true }));
    assert_eq!(changed.await.expect(200)["membersMayPin"], json!(true));
    bob.put(&pin(3)).await.expect(200);
    let first = bob.get(&format!("{pins}?limit=1")).await.expect(200);
    assert_eq!(first["messages"][0]["content"], "c");
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = bob.get(&format!("{pins}?limit=1&cursor={cursor}")).await;
    let second = second.expect(200);
    assert_eq!(second["messages"], json!([pinned]));
    assert!(second["nextCursor"].is_null(), "{second}");
    bob.get(&format!("{pins}?cursor=x"))
        .await
        .problem(400, "invalid_request");
    let unpinned = bob.delete(&pin(1)).await.expect(200);
    assert!(unpinned["pinnedAt"].is_null(), "{unpinned}");
    alice
        .delete(&format!("/chat/messages/{id}-3"))
        .await
        .expect(200);
    assert_eq!(bob.get(&pins).await.expect(200)["messages"], json!([]));
}

#[tokio::test]
async fn watermarks_only_move_forward() {
    let service = Service::start().await;
    let (alice, bob) = (service.user("alice"), service.user("bob"));
    let id = alice.group(json!(["bob"])).await;
    for text in ["a", "b", "c"] {
        say(&alice, &id, text).await;
    }
    let path = |what: &str| format!("/chat/conversations/{id}/{what}");
    let received = bob
        .patch(&path("delivered"), json!({ "seq": 3 }))
        .await
        .expect(200);
    assert_eq!(
        (&received["deliveredSeq"], &received["readSeq"]),
        (&json!(3), &json!(0))
    );
    let read = bob
        .patch(&path("read"), json!({ "seq": 2 }))
        .await
        .expect(200);
    assert_eq!(
        (
            &read["conversationId"],
            &read["readSeq"],
            &read["unreadCount"]
        ),
        (&json!(id), &json!(2), &json!(1))
    );
    assert_eq!(
        bob.patch(&path("read"), json!({ "seq": 1 }))
            .await
            .expect(200)["readSeq"],
        2
    );
    let head = Answer::of(bob.request(Method::PATCH, &path("read")))
        .await
        .expect(200);
    assert_eq!(
        (&head["readSeq"], &head["unreadCount"]),
        (&json!(3), &json!(0))
    );
    assert_eq!(
        alice.get(&path("messages")).await.expect(200)["messages"][0]["status"],
        "read"
    );
}

#[tokio::test]
async fn sync_tells_what_changed() {
    let service = Service::start().await;
    let (alice, bob) = (service.user("alice"), service.user("bob"));
    let id = alice.group(json!(["bob"])).await;
    say(&alice, &id, "one").await;
    let first = loop {
        let page = bob
            .post("/chat/sync", json!({ "conversations": { &id: 0 } }))
            .await
            .expect(200);
        if page["changes"][0]["conversation"]["headSeq"] == 1 {
            break page;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(first["changes"][0]["messages"][0]["content"], "one");
    let rev = first["changes"][0]["rev"].clone();
    alice
        .patch(
            &format!("/chat/messages/{id}-1"),
            json!({ "content": "uno" }),
        )
        .await
        .expect(200);
    let second = bob
        .post(
            "/chat/sync",
            json!({ "cursor": first["cursor"], "conversations": { &id: rev } }),
        )
        .await
        .expect(200);
    assert_eq!(second["changes"][0]["messages"][0]["content"], "uno");
    bob.post("/chat/sync", json!({ "cursor": "garbage" }))
        .await
        .problem(400, "invalid_request");
    service
        .user("eve")
        .post("/chat/sync", json!({ "conversations": { &id: 0 } }))
        .await;
}
