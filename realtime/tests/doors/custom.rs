//! Events of the deployment's own back end.

use backscroll_realtime::custom_event::CustomEvent;
use backscroll_shard::model::RawJson;
use serde_json::json;

use crate::bed::{Bed, user};
use crate::client::Door;

super::through_both_doors!(an_event_of_the_back_end_reaches_every_session_of_its_users);

async fn an_event_of_the_back_end_reaches_every_session_of_its_users(door: Door) {
    let bed = Bed::new().await;
    let (mut phone, mut laptop) = (
        bed.connect(door, "bob").await,
        bed.connect(door, "bob").await,
    );
    let mut alice = bed.connect(door, "alice").await;
    for name in ["alice", "bob"] {
        bed.shows(name).await;
    }
    let data = json!({"orderId": 7, "of": ["a \"b\"", null]});
    let event = CustomEvent::new("order.paid".into(), RawJson::of(&data)).unwrap();
    let users = ["bob", "nobody"].map(user);
    let online = bed.gateway.push(&users, event).await.unwrap();
    assert_eq!(online, [user("bob")]);
    for client in [&mut phone, &mut laptop] {
        assert_eq!(client.event("order.paid").await, data);
    }
    alice.receives_no("order.paid").await;
    let presence = bed.gateway.presence_of(&users).await;
    let presence = serde_json::to_value(presence).unwrap();
    assert_eq!(
        presence,
        json!([{"userId": "bob", "status": "online"}, {"userId": "nobody", "status": "offline"}])
    );
    bed.close().await;
}
