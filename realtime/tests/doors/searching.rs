//! The command `search`.

use serde_json::json;

use crate::bed::Bed;
use crate::client::Door;

super::through_both_doors!(messages_are_searched_on_a_session);

async fn messages_are_searched_on_a_session(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    bed.say("alice", id, "Crème brûlée").await;
    let mut bob = bed.connect(door, "bob").await;
    let data = json!({"q": "brulee", "conversationId": id, "limit": 5});
    let page = bob.ask("search", data.clone()).await.unwrap();
    assert_eq!(page["hits"][0]["message"]["content"], "Crème brûlée");
    assert_eq!(page["hits"][0]["ranges"], json!([[6, 12]]));
    assert_eq!(page["complete"], true);
    let empty = bob.ask("search", json!({"q": ""})).await.unwrap_err();
    assert_eq!(empty["code"], "invalid_request");
    let mut carol = bed.connect(door, "carol").await;
    let refused = carol.ask("search", data).await.unwrap_err();
    assert_eq!(refused["code"], "not_a_member");
    bed.close().await;
}
