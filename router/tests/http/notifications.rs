//! Notifications: sent by administrators, listed and read by who they are for.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Service};

fn offer(users: &[&str]) -> Value {
    json!({ "userIds": users, "type": "offer", "title": "A new offer", "body": "Until Friday", "actionUrl": "/offers/7" })
}

#[tokio::test]
async fn a_notification_goes_from_an_administrator_to_its_reader() {
    let service = Service::start().await;
    let (admin, bob) = (service.admin("root"), service.user("bob"));
    let outcome = admin
        .post("/admin/notifications", offer(&["bob", "carol"]))
        .await
        .expect(200);
    let sent = outcome["sent"].as_array().unwrap();
    for name in ["bob", "carol"] {
        assert!(sent.contains(&json!({ "userId": name, "notificationId": "1" })));
    }
    assert_eq!((sent.len(), &outcome["failed"]), (2, &json!([])));
    let urgent = json!({ "userIds": ["bob"], "type": "alert", "priority": "urgent", "title": "Now", "metadata": { "a": 1 } });
    admin.post("/admin/notifications", urgent).await.expect(200);

    let list = bob.get("/chat/notifications").await.expect(200);
    let first = &list["notifications"][1];
    for (field, value) in [
        ("id", json!("1")),
        ("type", json!("offer")),
        ("priority", json!("normal")),
        ("title", json!("A new offer")),
        ("body", json!("Until Friday")),
        ("actionUrl", json!("/offers/7")),
        ("metadata", json!({})),
        ("readAt", json!(null)),
    ] {
        assert_eq!(first[field], value, "{field}");
    }
    assert_eq!(list["notifications"][0]["priority"], "urgent");
    assert_eq!(list["notifications"][0]["metadata"], json!({ "a": 1 }));
    let page = bob.get("/api/chat/notifications?limit=1").await.expect(200);
    assert_eq!(page["notifications"][0]["id"], "2");
    let next = format!(
        "/chat/notifications?limit=1&cursor={}",
        page["nextCursor"].as_str().unwrap()
    );
    let page = bob.get(&next).await.expect(200);
    assert_eq!(page["notifications"], json!([first]));
    assert_eq!(page["nextCursor"], json!(null));

    let alerts = bob.get("/chat/notifications?type=alert").await.expect(200);
    assert_eq!(alerts["notifications"], json!([list["notifications"][0]]));
    bob.get("/chat/notifications?type=a%20b")
        .await
        .problem(400, "invalid_request");

    let count = "/chat/notifications/unread-count";
    assert_eq!(bob.get(count).await.expect(200), json!({ "total": 2 }));
    let read = bob
        .patch("/chat/notifications/1/read", json!({}))
        .await
        .expect(200);
    assert!(read["readAt"].is_string());
    for method in [Method::POST, Method::PUT] {
        let again = bob.request(method, "/chat/notifications/1/read");
        assert_eq!(Answer::of(again).await.expect(200), read);
    }
    let unread = bob.get("/chat/notifications?unread=true").await.expect(200);
    assert_eq!(unread["notifications"].as_array().unwrap().len(), 1);
    let all = bob.request(Method::POST, "/chat/notifications/read-all");
    assert_eq!(all.send().await.unwrap().status(), 204);
    assert_eq!(bob.get(count).await.expect(200), json!({ "total": 0 }));
    bob.patch("/chat/notifications/3/read", json!({}))
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn only_administrators_send_and_only_what_keeps_to_the_rules() {
    let service = Service::start().await;
    let (admin, bob) = (service.admin("root"), service.user("bob"));
    let path = "/admin/notifications";
    bob.post(path, offer(&["bob"]))
        .await
        .problem(403, "forbidden");
    Answer::of(service.request(Method::POST, path).json(&offer(&["bob"])))
        .await
        .problem(401, "unauthenticated");
    for (field, value) in [
        ("userIds", json!([])),
        ("userIds", json!(["a\u{1}"])),
        ("userIds", json!("bob")),
        ("type", json!("a b")),
        ("priority", json!("highest")),
        ("title", json!("")),
        ("body", json!("x".repeat(2001))),
        ("actionUrl", json!("javascript:alert(1)")),
        ("actionUrl", json!("//evil.example")),
        ("metadata", json!([])),
        ("unknown", json!(1)),
    ] {
        let mut wrong = offer(&["bob"]);
        wrong[field] = value;
        let answer = admin.post(path, wrong.clone()).await;
        answer.problem(400, "invalid_request");
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains(field), "{wrong}: {detail}");
    }
    for path in [
        "/chat/notifications?cursor=x",
        "/chat/notifications?cursor=-1",
        "/chat/notifications?limit=0",
        "/chat/notifications?unread=maybe",
    ] {
        bob.get(path).await.problem(400, "invalid_request");
    }
    bob.patch("/chat/notifications/0/read", json!({}))
        .await
        .problem(400, "invalid_request");
    let count = bob.get("/chat/notifications/unread-count").await;
    assert_eq!(count.expect(200), json!({ "total": 0 }));
}
