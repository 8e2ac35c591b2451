//! Which users are a user's contacts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use backscroll_shard::contacts::CONVERSATIONS_MAX;
use backscroll_shard::ids::UserId;
use backscroll_shard::model::ConversationKind;
use backscroll_shard::settings::{Span, StoreSettings};

use crate::bed::{Bed, PATIENCE, caller, user};

crate::on_every_backend!(with small:
    who_shares_a_conversation_is_a_contact,
    a_question_costs_the_same_however_many_conversations_there_are,
);

/// Three members are a large conversation, and nothing runs beside the statements that are counted.
fn small(settings: &mut StoreSettings) {
    settings.relay.max_members = 3;
    settings.relay.sweep_interval = Span::secs(3600);
    settings.directory.refresh_interval = Span::secs(3600);
}

async fn among(bed: &Bed, name: &str, others: &[&str]) -> BTreeSet<String> {
    let others: Vec<UserId> = others.iter().map(|name| user(name)).collect();
    let deadline = Instant::now() + PATIENCE;
    let name = user(name);
    let contacts = bed.store.contacts_among(&name, &others, deadline).await;
    let contacts = contacts.into_iter();
    contacts.map(|user| user.as_str().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn who_shares_a_conversation_is_a_contact(bed: &Bed) {
    let everybody = ["bob", "carol", "dave", "erin", "mallory", "nobody"];
    assert_eq!(among(bed, "alice", &everybody).await, set(&[]));

    let direct = bed.create("bob", ConversationKind::Direct, &["alice"]);
    direct.await.unwrap();
    let group = bed.group("carol", &["alice", "dave"]).await;
    bed.group("carol", &["dave", "mallory"]).await;
    bed.group("alice", &["erin", "one", "two"]).await; // too large
    assert_eq!(
        among(bed, "alice", &everybody).await,
        set(&["bob", "carol", "dave"])
    );
    for contact in ["bob", "carol", "dave"] {
        assert_eq!(among(bed, contact, &["alice"]).await, set(&["alice"]));
    }
    for stranger in ["erin", "mallory", "nobody"] {
        assert_eq!(among(bed, stranger, &["alice"]).await, set(&[]));
    }

    let (carol, dave) = (caller("carol"), user("dave"));
    let removed = bed.store.remove_member(&carol, group, &dave).await;
    removed.unwrap();
    assert_eq!(
        among(bed, "alice", &everybody).await,
        set(&["bob", "carol"])
    );
    assert_eq!(
        among(bed, "dave", &["alice", "carol"]).await,
        set(&["carol"])
    );
    let deleted = bed.store.delete_conversation(&carol, group).await;
    deleted.unwrap();
    assert_eq!(among(bed, "alice", &everybody).await, set(&["bob"]));
}

async fn a_question_costs_the_same_however_many_conversations_there_are(bed: &Bed) {
    let most = usize::try_from(CONVERSATIONS_MAX).unwrap();
    let direct = bed.create("alice", ConversationKind::Direct, &["dora"]);
    direct.await.unwrap();
    bed.group("alice", &["oldest"]).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    for n in 0..most {
        bed.group("alice", &[&format!("friend{n}")]).await;
    }
    bed.settle().await;
    let others: Vec<String> = (0..200).map(|n| format!("friend{n}")).collect();
    let others: Vec<&str> = others
        .iter()
        .map(String::as_str)
        .chain(["dora", "oldest"])
        .collect();
    let statements = || -> u64 {
        let shards = bed.store.router().shards();
        shards.map(|shard| shard.statements().all).sum()
    };
    let before = statements();
    let found = among(bed, "alice", &others).await;
    let asked = statements() - before;
    assert!(found.contains("dora") && !found.contains("oldest"));
    assert_eq!(found.len(), most + 1);
    let ranges = bed.store.map().assignments().len() as u64;
    // Each question is a statement for the fence, and its own.
    assert!(
        asked <= 2 * (2 * ranges + 1),
        "{asked} statements, {ranges} ranges"
    );
}
