//! Creating conversations under an Idempotency-Key.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Service, User};

async fn create(user: &User<'_>, key: &str, new: &Value) -> Answer {
    let request = user
        .request(Method::POST, "/chat/conversations")
        .header("idempotency-key", key);
    Answer::of(request.json(new)).await
}

#[tokio::test]
async fn the_same_request_is_repeated_safely_and_another_is_refused() {
    let service = Service::start().await;
    let alice = service.user("alice");
    let lunch = |members: &[&str]| json!({ "kind": "group", "members": members, "title": "Lunch" });
    let first = create(&alice, "k1", &lunch(&["m1", "m2"])).await;
    let id = first.expect(201)["id"].clone();

    let detail = create(&alice, "k1", &lunch(&["x1", "x2", "x3"]))
        .await
        .problem(409, "conflict_idempotency");
    assert!(detail.contains("another request"), "{detail}");
    let again = create(&alice, "k1", &lunch(&["m2", "m1"]))
        .await
        .expect(200);
    assert_eq!(again["id"], id);

    let path = format!("/chat/conversations/{}", id.as_str().unwrap());
    let rename = json!({ "title": "Lunch on Friday", "metadata": { "color": "red" } });
    alice.patch(&path, rename).await.expect(200);
    let add = json!({ "members": ["m3"] });
    alice
        .post(&format!("{path}/members"), add)
        .await
        .expect(200);
    let again = create(&alice, "\"k1\"", &lunch(&["m1", "m2"])).await;
    let again = again.expect(200);
    assert_eq!(
        (&again["id"], &again["title"], &again["memberCount"]),
        (&id, &json!("Lunch on Friday"), &json!(4))
    );
    create(
        &alice,
        "k1",
        &json!({ "kind": "group", "members": ["m1", "m2"] }),
    )
    .await
    .problem(409, "conflict_idempotency");
    let bobs = create(&service.user("bob"), "k1", &lunch(&["m1", "m2"])).await;
    assert_ne!(bobs.expect(201)["id"], id, "keys are their caller's own");

    alice.delete(&path).await.expect(204);
    let detail = create(&alice, "k1", &lunch(&["m1", "m2"]))
        .await
        .problem(409, "conflict_idempotency");
    assert!(detail.contains("deleted"), "{detail}");
}

#[tokio::test]
async fn a_creator_who_left_is_told_so() {
    let service = Service::start().await;
    let (alice, bob) = (service.user("alice"), service.user("bob"));
    let new = json!({ "kind": "group", "members": ["bob"] });
    let created = create(&alice, "k1", &new).await.expect(201);
    let path = format!(
        "/chat/conversations/{}/members",
        created["id"].as_str().unwrap()
    );
    let owner = json!({ "role": "owner" });
    let pushed = alice.patch(&format!("{path}/bob"), owner.clone()).await;
    pushed.problem(409, "conflict");
    let messages = path.replace("members", "messages");
    let said = json!({ "content": "I take it over" });
    bob.post(&messages, said).await.expect(201);
    alice.patch(&format!("{path}/bob"), owner).await.expect(200);
    bob.delete(&format!("{path}/alice")).await.expect(204);
    create(&alice, "k1", &new)
        .await
        .problem(403, "not_a_member");
}
