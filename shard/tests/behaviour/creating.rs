//! Creating conversations under an idempotency key (INV-IDEM).

use std::time::Instant;

use backscroll_shard::db::{Connection, Database, Value};
use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::{
    Conversation, ConversationKind, ConversationPatch, NewConversation, NewMembers, RawJson, Role,
};
use backscroll_shard::store::Store;

use crate::bed::{Bed, PATIENCE, caller, user};

crate::on_every_backend!(
    the_same_request_finds_its_conversation_whatever_became_of_it,
    another_request_under_the_key_is_refused_and_told_why,
    repeats_on_two_routers_at_once_make_one_conversation,
    without_a_digest_the_conversation_itself_is_compared,
    the_key_of_a_deleted_conversation_stays_used,
);

fn lunch() -> NewConversation {
    NewConversation {
        kind: ConversationKind::Group,
        members: vec![user("bob"), user("carol")],
        title: Some("Lunch".into()),
        metadata: json(r#"{"color":"red","tables":[1,2]}"#),
    }
}

fn json(text: &str) -> Option<RawJson> {
    Some(RawJson::parse(text.into()).unwrap())
}

async fn create(store: &Store, key: &str, new: NewConversation) -> Result<(Conversation, bool)> {
    let alice = caller("alice");
    store.create_conversation(&alice, new, Some(key)).await
}

/// Why it is refused.
fn refusal(outcome: Result<(Conversation, bool)>) -> String {
    match outcome {
        Err(error @ Error::IdempotencyConflict(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Others instead of bob and carol, another title, other metadata, another kind; `lunch` but for that.
fn other_requests() -> [NewConversation; 7] {
    let members = |names: &[&str]| names.iter().map(|name| user(name)).collect();
    [
        NewConversation {
            members: members(&["bob", "eve"]),
            ..lunch()
        },
        NewConversation {
            members: members(&["bob"]),
            ..lunch()
        },
        NewConversation {
            members: members(&["bob", "carol", "dave"]),
            ..lunch()
        },
        NewConversation {
            title: None,
            ..lunch()
        },
        NewConversation {
            title: Some("Lunch on Friday".into()),
            ..lunch()
        },
        NewConversation {
            metadata: json(r#"{"color":"red","tables":[2,1]}"#),
            ..lunch()
        },
        NewConversation {
            kind: ConversationKind::Channel,
            ..lunch()
        },
    ]
}

/// Renames it, gives it other metadata, and dave instead of bob.
async fn change(bed: &Bed, id: ConversationId) {
    let alice = caller("alice");
    let patch = ConversationPatch {
        title: Some("Lunch on Friday".into()),
        metadata: json("{}"),
        ..ConversationPatch::default()
    };
    let store = &bed.store;
    store.update_conversation(&alice, id, patch).await.unwrap();
    let add = NewMembers {
        members: vec![user("dave")],
        role: Role::Member,
    };
    store.add_members(&alice, id, add).await.unwrap();
    store.remove_member(&alice, id, &user("bob")).await.unwrap();
}

async fn the_same_request_finds_its_conversation_whatever_became_of_it(bed: &Bed) {
    let (first, created) = create(&bed.store, "key", lunch()).await.unwrap();
    assert!(created && first.member_count == 3);
    let spelt_otherwise = NewConversation {
        members: ["carol", "alice", "bob", "carol"].map(user).to_vec(),
        title: Some(" Lunch ".into()),
        metadata: json(r#"{ "tables": [1, 2], "color": "red" }"#),
        ..lunch()
    };
    for request in [lunch(), spelt_otherwise.clone()] {
        let (again, created) = create(&bed.store, "key", request).await.unwrap();
        assert!(!created);
        assert_eq!(again.id, first.id);
    }
    change(bed, first.id).await;
    for request in [lunch(), spelt_otherwise] {
        let (again, created) = create(&bed.store, "key", request).await.unwrap();
        assert!(!created && again.id == first.id);
        assert_eq!(again.title.as_deref(), Some("Lunch on Friday"), "as it is");
        let members = again.members.iter().map(|member| member.user_id.as_str());
        assert_eq!(members.collect::<Vec<_>>(), ["alice", "carol", "dave"]);
    }
    // A past member is told so.
    bed.say("dave", first.id, "I take it over").await;
    bed.store
        .change_role(&caller("alice"), first.id, &user("dave"), Role::Owner)
        .await
        .unwrap();
    bed.store
        .remove_member(&caller("alice"), first.id, &user("alice"))
        .await
        .unwrap();
    let left = create(&bed.store, "key", lunch()).await;
    assert!(matches!(left, Err(Error::NotMember)), "{left:?}");
}

async fn another_request_under_the_key_is_refused_and_told_why(bed: &Bed) {
    let (first, _) = create(&bed.store, "key", lunch()).await.unwrap();
    for changed in [false, true] {
        if changed {
            change(bed, first.id).await;
        }
        for other in other_requests() {
            let told = refusal(create(&bed.store, "key", other).await);
            assert!(told.contains("with another request"), "{told}");
        }
    }
    // A request for its present state is another request, too.
    let became = NewConversation {
        members: vec![user("carol"), user("dave")],
        title: Some("Lunch on Friday".into()),
        metadata: None,
        ..lunch()
    };
    refusal(create(&bed.store, "key", became).await);
    let (other, created) = create(&bed.store, "another key", lunch()).await.unwrap();
    assert!(created && other.id != first.id);
    // A direct conversation is the pair's, whatever the key.
    let direct = NewConversation {
        kind: ConversationKind::Direct,
        members: vec![user("bob")],
        title: None,
        metadata: None,
    };
    let (direct_first, created) = create(&bed.store, "key", direct.clone()).await.unwrap();
    assert!(created);
    let (again, created) = create(&bed.store, "any", direct).await.unwrap();
    assert!(!created && again.id == direct_first.id);
}

async fn repeats_on_two_routers_at_once_make_one_conversation(bed: &Bed) {
    let second = Bed::another(&bed.settings).await;
    let stores = [&bed.store, &second];
    for round in 0..5 {
        let key = format!("key-{round}");
        let dinner = NewConversation {
            title: Some("Dinner".into()),
            members: vec![user("eve")],
            ..lunch()
        };
        // Sixteen of each request, eight on each router, all at once.
        let attempts = (0..32).map(|n: usize| {
            let (store, key) = (stores[n % 2], &key);
            let is_lunch = n % 4 < 2;
            let request = if is_lunch { lunch() } else { dinner.clone() };
            async move { (is_lunch, create(store, key, request).await) }
        });
        let mut made = Vec::new();
        let mut refused = Vec::new();
        for (is_lunch, outcome) in futures_util::future::join_all(attempts).await {
            match outcome {
                Ok((conversation, created)) => made.push((is_lunch, created, conversation)),
                Err(Error::IdempotencyConflict(_)) => refused.push(is_lunch),
                Err(error) => panic!("{error:?}"),
            }
        }
        let [(winner, _, first), ..] = &made[..] else {
            panic!("nobody made it")
        };
        assert_eq!(made.iter().filter(|(_, created, _)| *created).count(), 1);
        assert_eq!((made.len(), refused.len()), (16, 16));
        assert!(refused.iter().all(|is_lunch| is_lunch != winner));
        for (is_lunch, _, conversation) in &made {
            assert_eq!((is_lunch, conversation.id), (winner, first.id));
            assert_eq!(conversation.member_count, if *winner { 3 } else { 2 });
        }
    }
    second.close(Instant::now() + PATIENCE).await;
}

/// As it is with conversations that were made before digests were kept, and with those that were made again from the
/// archive.
async fn without_a_digest_the_conversation_itself_is_compared(bed: &Bed) {
    let (first, _) = create(&bed.store, "key", lunch()).await.unwrap();
    let mut connection = connect(bed, first.id).await;
    let forget = "UPDATE conversations SET request_digest = NULL WHERE id = ?";
    let id = first.id;
    let forgotten = connection.execute(forget, &[Value::from(&id)]).await;
    assert_eq!(forgotten.unwrap(), 1);
    drop(connection);
    let (again, created) = create(&bed.store, "key", lunch()).await.unwrap();
    assert!(!created && again.id == first.id);
    for other in other_requests() {
        let told = refusal(create(&bed.store, "key", other).await);
        assert!(told.contains("not known any more"), "{told}");
    }
    change(bed, first.id).await;
    let told = refusal(create(&bed.store, "key", lunch()).await);
    assert!(told.contains("not known any more"), "{told}");
}

/// A connection past the store to the conversation's shard.
async fn connect(bed: &Bed, id: ConversationId) -> Connection {
    let map = bed.store.map();
    let name = &map.locate(id.owner_key()).shard;
    let mut shards = bed.settings.shards.iter();
    let shard = shards.find(|shard| shard.name == *name).unwrap();
    let database = Database::open_any(&shard.primary, &bed.settings.pool).unwrap();
    database.writer(Instant::now() + PATIENCE).await.unwrap()
}

async fn the_key_of_a_deleted_conversation_stays_used(bed: &Bed) {
    let alice = caller("alice");
    let (first, _) = create(&bed.store, "key", lunch()).await.unwrap();
    let store = &bed.store;
    store.delete_conversation(&alice, first.id).await.unwrap();
    let [other, ..] = other_requests();
    for request in [lunch(), other] {
        let told = refusal(create(store, "key", request).await);
        assert!(told.contains("is deleted; use a new key"), "{told}");
    }
    let (second, created) = create(store, "new key", lunch()).await.unwrap();
    assert!(created && second.id != first.id);
}
