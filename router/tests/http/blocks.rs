//! What users can do to each other, and what a block ends.

use serde_json::json;

use crate::harness::Service;

#[tokio::test]
async fn a_block_ends_what_two_users_can_do_in_private() {
    let service = Service::start().await;
    let (victim, mallory) = (service.user("victim"), service.user("mallory"));
    let direct = json!({ "kind": "direct", "members": ["victim"] });
    let started = mallory.post("/chat/conversations", direct.clone()).await;
    let id = started.expect(201)["id"].as_str().unwrap().to_owned();
    let messages = format!("/chat/conversations/{id}/messages");
    let spam = json!({ "content": "BUY NOW" });
    let sent = mallory.post(&messages, spam.clone()).await.expect(201);
    let message = format!("/chat/messages/{}", sent["id"].as_str().unwrap());

    victim.put("/chat/blocks/mallory").await.expect(204);
    victim.put("/chat/blocks/mallory").await.expect(204);
    let blocks = victim.get("/chat/blocks").await.expect(200);
    assert_eq!(blocks, json!({ "users": ["mallory"] }));
    let none = mallory.get("/chat/blocks").await.expect(200);
    assert_eq!(none, json!({ "users": [] }));

    let said = mallory.post(&messages, spam.clone()).await;
    let said = said.problem(403, "not_accepted");
    let edited = mallory
        .patch(&message, json!({ "content": "BUY LATER" }))
        .await;
    edited.problem(403, "not_accepted");
    let reacted = mallory
        .put(&format!("{message}/reactions/%F0%9F%91%8D"))
        .await;
    reacted.problem(403, "not_accepted");
    let group = json!({ "kind": "group", "members": ["bob", "victim"] });
    for new in [&direct, &group] {
        let started = mallory.post("/chat/conversations", new.clone()).await;
        started.problem(403, "not_accepted");
    }
    let own = mallory.group(json!(["bob"])).await;
    let members = format!("/chat/conversations/{own}/members");
    let added = mallory
        .post(&members, json!({ "members": ["victim"] }))
        .await;
    added.problem(403, "not_accepted");
    // The blocker is told the same: it is not said who blocks whom.
    let mine = victim.post(&messages, spam.clone()).await;
    assert_eq!(mine.problem(403, "not_accepted"), said);
    victim.get(&messages).await.expect(200);

    victim.delete("/chat/blocks/mallory").await.expect(204);
    victim.delete("/chat/blocks/mallory").await.expect(204);
    mallory.post(&messages, spam).await.expect(201);
    let myself = victim.put("/chat/blocks/victim").await;
    myself.problem(400, "invalid_request");
    let foreign = victim.get("/chat/blocks?cursor=%00").await;
    foreign.problem(400, "invalid_request");
}

#[tokio::test]
async fn who_leaves_is_not_put_back() {
    let service = Service::start().await;
    let (victim, mallory) = (service.user("victim"), service.user("mallory"));
    let group = mallory.group(json!(["victim"])).await;
    let members = format!("/chat/conversations/{group}/members");
    let (me, add) = (
        format!("{members}/victim"),
        json!({ "members": ["victim"] }),
    );
    victim.delete(&me).await.expect(204);
    for _ in 0..3 {
        mallory.post(&members, add.clone()).await.expect(202);
        let left = victim.get(&members).await;
        left.problem(403, "not_a_member");
        let list = victim.get("/chat/conversations").await.expect(200);
        assert_eq!(list["conversations"], json!([]));
    }
    let back = victim.post(&members, add.clone()).await.expect(200);
    assert_eq!(back["memberCount"], 2);
    let pushed = mallory.patch(&me, json!({ "role": "owner" })).await;
    pushed.problem(409, "conflict");

    let direct = json!({ "kind": "direct", "members": ["victim"] });
    let started = mallory
        .post("/chat/conversations", direct)
        .await
        .expect(201);
    let id = started["id"].as_str().unwrap();
    let own = format!("/chat/conversations/{id}/members/victim");
    victim.delete(&own).await.expect(204);
    let list = victim.get("/chat/conversations").await.expect(200);
    assert_eq!(list["conversations"][0]["id"], json!(group));
    assert_eq!(list["conversations"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_block_of_a_stranger_is_seen_by_nobody() {
    let service = Service::start().await;
    let (victim, mallory) = (service.user("victim"), service.user("mallory"));
    victim.put("/chat/blocks/mallory").await.expect(204);
    for user in [&victim, &mallory] {
        let list = user.get("/chat/conversations").await.expect(200);
        assert_eq!(list["conversations"], json!([]));
    }
    let sync = mallory.post("/chat/sync", json!({})).await.expect(200);
    assert_eq!(sync["changes"], json!([]));
}
