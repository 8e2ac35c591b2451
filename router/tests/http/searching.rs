//! `/search`.

use serde_json::{Value, json};

use crate::harness::{Service, User};

async fn say(user: &User<'_>, conversation: &str, text: &str) {
    let path = format!("/chat/conversations/{conversation}/messages");
    user.post(&path, json!({ "content": text }))
        .await
        .expect(201);
}

#[tokio::test]
async fn messages_are_found_by_their_words_at_both_mounts() {
    let service = Service::start().await;
    let (alice, eve) = (service.user("alice"), service.user("eve"));
    let id = alice.group(json!(["bob"])).await;
    for text in ["Grüße aus Köln", "hay", "𝄞 KÖLN, köln"] {
        say(&alice, &id, text).await;
    }
    for mount in ["/chat", "/api/chat"] {
        let path = format!("{mount}/search?q=koln&conversationId={id}&limit=1");
        let first = alice.get(&path).await.expect(200);
        assert_eq!(first["hits"][0]["message"]["id"], format!("{id}-3"));
        assert_eq!(first["hits"][0]["ranges"], json!([[3, 7], [9, 13]]));
        assert_eq!(first["complete"], false);
        let cursor = first["cursor"].as_str().unwrap();
        let path = format!("{path}&cursor={cursor}");
        let second = alice.get(&path).await.expect(200);
        assert_eq!(second["hits"][0]["message"]["id"], format!("{id}-1"));
        let to = json!({ "conversationId": id, "seq": 1, "createdAt": second["hits"][0]["message"]["createdAt"] });
        assert_eq!(second["searchedTo"], to);
    }
    let all = format!("/chat/search?q=from%3Aalice+has%3Alink+in%3A{id}");
    let none = alice.get(&all).await.expect(200);
    let expected = json!({
        "hits": [], "searchedTo": none["searchedTo"], "complete": true,
        "scanned": { "messages": 3, "bytes": 37, "ruledOut": 0 }, "encryptedSkipped": 0,
    });
    assert_eq!(none, expected);
    let path = format!("/chat/search?q=koln&conversationId={id}");
    eve.get(&path).await.problem(403, "not_a_member");
    let nothing: Value = eve.get("/chat/search?q=koln").await.expect(200);
    assert_eq!(
        (&nothing["hits"], &nothing["complete"]),
        (&json!([]), &json!(true))
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_a_problem() {
    let service = Service::start().await;
    let alice = service.user("alice");
    for query in [
        "",
        "?q=",
        "?q=x&limit=0",
        "?q=x&limit=101",
        "?q=x&cursor=next",
        "?q=x&before=lunch",
        "?q=x&has=cake",
        "?q=x&conversationId=general",
        "?q=x&sort=best",
    ] {
        let path = format!("/chat/search{query}");
        alice.get(&path).await.problem(400, "invalid_request");
    }
}
