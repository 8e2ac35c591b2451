//! What the deployment's own back end does: it pushes events, asks who is online, and speaks for users.

use serde_json::json;

use crate::harness::Service;

#[tokio::test]
async fn a_back_end_speaks_for_members_only() {
    let service = Service::start().await;
    let (admin, bob) = (service.admin("root"), service.user("bob"));
    let alice = service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let message = |sender: &str| json!({"senderId": sender, "conversationId": id, "content": "Paid", "clientMsgId": "order-7"});
    for times in 0..2 {
        let status = if times == 0 { 201 } else { 200 };
        let sent = admin.post("/admin/messages", message("bob")).await;
        let sent = sent.expect(status);
        assert_eq!(
            (&sent["senderId"], &sent["seq"]),
            (&json!("bob"), &json!(1))
        );
    }
    let page = format!("/chat/conversations/{id}/messages");
    let page = alice.get(&page).await.expect(200);
    assert_eq!(page["messages"][0]["content"], "Paid");

    let stranger = admin.post("/admin/messages", message("carol")).await;
    stranger.problem(403, "not_a_member");
    let mute = json!({"kind": "mute", "reason": "Advertising"});
    admin
        .post("/admin/users/bob/sanctions", mute)
        .await
        .expect(201);
    let new = json!({"senderId": "bob", "conversationId": id, "content": "more"});
    let muted = admin.post("/admin/messages", new.clone()).await;
    muted.problem(403, "muted");
    bob.post("/admin/messages", new)
        .await
        .problem(403, "forbidden");
    for wrong in [
        json!({"senderId": "bob", "content": "x"}),
        json!({"senderId": "", "conversationId": id, "content": "x"}),
        json!({"senderId": "bob", "conversationId": id, "content": "x", "subject": "x"}),
    ] {
        let refused = admin.post("/admin/messages", wrong).await;
        refused.problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn events_and_presence_are_for_administrators() {
    let service = Service::start().await;
    let (admin, bob) = (service.admin("root"), service.user("bob"));
    let event =
        |name: &str| json!({"userIds": ["bob", "bob"], "event": name, "data": {"orderId": 7}});
    let reached = admin.post("/admin/events", event("order.paid")).await;
    assert_eq!(reached.expect(200), json!({"online": []}));
    let presence = admin.get("/admin/presence?userIds=bob,alice,bob").await;
    let offline = |name: &str| json!({"userId": name, "status": "offline"});
    let users = json!({"users": [offline("alice"), offline("bob")]});
    assert_eq!(presence.expect(200), users);

    for name in ["new_message", "a b", ""] {
        let refused = admin.post("/admin/events", event(name)).await;
        refused.problem(400, "invalid_request");
    }
    let many: Vec<String> = (0..101).map(|n| format!("u{n}")).collect();
    let many = admin
        .get(&format!("/admin/presence?userIds={}", many.join(",")))
        .await;
    assert_eq!(
        many.problem(400, "invalid_request"),
        "userIds: 1 to 100 users"
    );
    bob.post("/admin/events", event("order.paid"))
        .await
        .problem(403, "forbidden");
    bob.get("/admin/presence?userIds=alice")
        .await
        .problem(403, "forbidden");
}
