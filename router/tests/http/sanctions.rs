//! Muting, suspending and banning users over HTTP.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Service, User};

const OF_MALLORY: &str = "/admin/users/mallory/sanctions";

async fn impose(admin: &User<'_>, sanction: serde_json::Value) {
    admin.post(OF_MALLORY, sanction).await.expect(201);
}

#[tokio::test]
async fn a_banned_user_is_answered_nothing_until_the_ban_is_lifted() {
    let service = Service::start().await;
    let (admin, mallory) = (service.admin("root"), service.user("mallory"));
    let id = mallory.group(json!(["bob"])).await;
    impose(&admin, json!({"kind": "ban", "reason": "Advertising"})).await;
    for path in [
        "/chat/conversations",
        "/api/chat/notifications",
        &format!("/chat/conversations/{id}"),
    ] {
        let answer = mallory.get(path).await;
        assert_eq!(answer.problem(403, "banned"), "you are banned: Advertising");
    }
    let body = json!({"content": "x"});
    let send = format!("/chat/conversations/{id}/messages");
    mallory
        .post(&send, body.clone())
        .await
        .problem(403, "banned");
    let upgrade = mallory.request(Method::GET, "/ws/chat");
    let upgrade = upgrade
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let refused = upgrade.send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    service
        .user("bob")
        .post(&send, body.clone())
        .await
        .expect(201);

    // An administrator that is banned is none.
    service
        .admin("mallory")
        .get(OF_MALLORY)
        .await
        .problem(403, "banned");

    let lifted = admin
        .delete(&format!("{OF_MALLORY}?kind=ban"))
        .await
        .expect(200);
    assert_eq!(lifted["sanctions"][0]["liftedBy"], "root");
    mallory.post(&send, body).await.expect(201);
    admin.delete(OF_MALLORY).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_muted_user_reads() {
    let service = Service::start().await;
    let (admin, mallory) = (service.admin("root"), service.user("mallory"));
    let id = mallory.group(json!(["bob"])).await;
    let until = "2999-01-01T00:00:00.000Z";
    impose(
        &admin,
        json!({"kind": "mute", "until": until, "reason": "Advertising"}),
    )
    .await;
    let messages = format!("/chat/conversations/{id}/messages");
    let refused = mallory.post(&messages, json!({"content": "x"})).await;
    let detail = refused.problem(403, "muted");
    assert_eq!(detail, format!("you are muted until {until}: Advertising"));
    mallory.get(&messages).await.expect(200);
    let list = admin.get(OF_MALLORY).await.expect(200);
    let only = &list["sanctions"][0];
    for (field, value) in [
        ("userId", json!("mallory")),
        ("kind", json!("mute")),
        ("until", json!(until)),
        ("reason", json!("Advertising")),
        ("imposedBy", json!("root")),
        ("liftedAt", json!(null)),
    ] {
        assert_eq!(only[field], value, "{field}");
    }
}

#[tokio::test]
async fn only_administrators_impose_and_only_what_is_a_sanction() {
    let service = Service::start().await;
    let (admin, bob) = (service.admin("root"), service.user("bob"));
    let ban = json!({"kind": "ban", "reason": "x"});
    bob.post(OF_MALLORY, ban).await.problem(403, "forbidden");
    bob.get(OF_MALLORY).await.problem(403, "forbidden");
    bob.delete(OF_MALLORY).await.problem(403, "forbidden");
    for body in [
        json!({"kind": "ban"}),
        json!({"kind": "ban", "reason": ""}),
        json!({"kind": "ban", "reason": "x", "until": "2999-01-01T00:00:00.000Z"}),
        json!({"kind": "suspend", "reason": "x"}),
        json!({"kind": "mute", "reason": "x", "until": "2001-01-01T00:00:00.000Z"}),
        json!({"kind": "exile", "reason": "x"}),
        json!({"kind": "mute", "reason": "x", "conversationId": "y"}),
    ] {
        admin
            .post(OF_MALLORY, body)
            .await
            .problem(400, "invalid_request");
    }
    let own = "/admin/users/root/sanctions";
    let body = json!({"kind": "mute", "reason": "x"});
    admin.post(own, body).await.problem(400, "invalid_request");
    admin
        .delete(&format!("{OF_MALLORY}?kind=exile"))
        .await
        .problem(400, "invalid_request");
    let none = admin.get(OF_MALLORY).await.expect(200);
    assert_eq!(none["sanctions"], json!([]));
}

#[tokio::test]
async fn revoked_tokens_are_refused_and_later_ones_are_not() {
    let service = Service::start().await;
    let (admin, old) = (service.admin("root"), service.user("mallory"));
    old.get("/chat/conversations").await.expect(200);
    let stolen = json!({"reason": "The phone was stolen"});
    for _ in 0..2 {
        let revoke = "/admin/users/mallory/revoke";
        let revoked = admin.post(revoke, stolen.clone()).await.expect(201);
        assert_eq!(revoked["kind"], "revoke");
    }
    let detail = old
        .get("/chat/conversations")
        .await
        .problem(401, "token_invalid");
    assert_eq!(
        detail,
        "the token was revoked, get a new one: The phone was stolen"
    );
    let begun = Instant::now();
    // Tokens tell their time in seconds.
    while service
        .user("mallory")
        .get("/chat/conversations")
        .await
        .status
        != 200
    {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "a new token is refused"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    old.get("/chat/conversations")
        .await
        .problem(401, "token_invalid");
    let all = admin.get(OF_MALLORY).await.expect(200);
    assert_eq!(all["sanctions"][0]["liftedAt"], json!(null));
    assert_eq!(
        all["sanctions"][1]["liftedBy"], "root",
        "the newest says all"
    );
}
