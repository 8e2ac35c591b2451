//! Rate limits: how often users may do things.

use std::time::{Duration, Instant};

use backscroll_shard::error::{Error, Result};
use backscroll_shard::guard::{GuardSettings, Mode, Rate, Rule};
use backscroll_shard::model::{ConversationKind, NewConversation, NewMembers, NewMessage, Role};
use backscroll_shard::settings::{Span, StoreSettings};

use crate::bed::{Bed, caller, text, user};

crate::on_every_backend!(
    with few:
    a_refused_message_is_not_stored,
    repetitions_are_neither_charged_nor_refused,
    sends_together_and_one_by_one_have_one_budget,
    conversations_have_budgets,
    additions_have_budgets,
);

fn few(settings: &mut StoreSettings) {
    let few = |count| Rate::new(count, Span::secs(86_400), count);
    settings.guard = GuardSettings {
        mode: Mode::Enforce,
        messages: few(3),
        conversations: few(2),
        channels: few(1),
        additions: few(2),
        ..GuardSettings::default()
    };
}

#[track_caller]
fn refused<T>(outcome: Result<T>, rule: Rule) {
    match outcome {
        Err(Error::RateLimited(refusal)) => {
            assert_eq!(refusal.rule, rule);
            assert!(refusal.retry_after > Duration::ZERO);
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was done"),
    }
}

fn named(name: &str) -> NewMessage {
    NewMessage {
        client_msg_id: Some(name.to_owned()),
        ..text(name)
    }
}

async fn a_refused_message_is_not_stored(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    for content in ["one", "two", "three"] {
        bed.say("alice", id, content).await;
    }
    let fourth = bed.store.send(&caller("alice"), id, text("four")).await;
    refused(fourth, Rule::Messages);
    bed.say("bob", id, "mine is another budget").await;
    let log = bed.log("bob", id).await;
    assert_eq!(log.len(), 4);
    // What cannot be sent at all costs nothing.
    let too_long = text(&"x".repeat(10_000));
    for _ in 0..3 {
        let sent = bed.store.send(&caller("bob"), id, too_long.clone()).await;
        assert!(matches!(sent, Err(Error::Invalid(_))));
    }
    bed.say("bob", id, "still").await;
}

async fn repetitions_are_neither_charged_nor_refused(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let (store, alice) = (&bed.store, caller("alice"));
    let send_a = async || store.send(&alice, id, named("a")).await;
    let first = send_a().await.unwrap();
    for _ in 0..5 {
        assert_eq!(send_a().await.unwrap().message.id, first.message.id);
    }
    let again = vec![named("a"), named("b"), named("a")];
    for sent in store.send_all(&alice, id, again).await {
        sent.unwrap();
    }
    bed.say("alice", id, "c").await;
    // Nothing is left of the budget.
    refused(store.send(&alice, id, named("d")).await, Rule::Messages);
    let repeated = send_a().await.unwrap();
    assert_eq!(repeated.message.id, first.message.id);
    assert!(!repeated.created);
    let other_body = NewMessage {
        client_msg_id: Some("a".to_owned()),
        ..text("other")
    };
    let conflict = store.send(&alice, id, other_body).await;
    assert!(matches!(conflict, Err(Error::IdempotencyConflict(_))));
    let mixed = vec![named("b"), named("d"), text("e"), named("a")];
    let mixed = store.send_all(&alice, id, mixed).await;
    let [b, d, e, a] = <[_; 4]>::try_from(mixed).unwrap();
    assert_eq!(b.unwrap().message.content, "b");
    refused(d, Rule::Messages);
    refused(e, Rule::Messages);
    assert_eq!(a.unwrap().message.id, first.message.id);
    // A stranger learns nothing.
    let stranger = caller("mallory");
    for _ in 0..4 {
        let sent = store.send(&stranger, id, named("a")).await;
        assert!(matches!(sent, Err(Error::NotMember)));
    }
    assert_eq!(bed.log("bob", id).await.len(), 3);
}

async fn sends_together_and_one_by_one_have_one_budget(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    bed.say("alice", id, "one").await;
    let three = ["two", "three", "four"].map(text).into();
    let sent = bed.store.send_all(&caller("alice"), id, three).await;
    let [second, third, fourth] = <[_; 3]>::try_from(sent).unwrap();
    assert_eq!(second.unwrap().message.content, "two");
    assert_eq!(third.unwrap().message.content, "three");
    refused(fourth, Rule::Messages);
    assert_eq!(bed.log("bob", id).await.len(), 3);
}

async fn conversations_have_budgets(bed: &Bed) {
    let (store, alice) = (&bed.store, caller("alice"));
    let direct = async |with: &str| bed.create("alice", ConversationKind::Direct, &[with]).await;
    let titled = async |title: &str, key: Option<&str>| {
        let new = NewConversation {
            kind: ConversationKind::Group,
            members: vec![user("bob")],
            title: Some(title.to_owned()),
            metadata: None,
        };
        store.create_conversation(&alice, new, key).await
    };
    let first = titled("lunch", Some("key")).await.unwrap().0.id;
    for _ in 0..3 {
        direct("bob").await.unwrap();
        assert_eq!(titled("lunch", Some("key")).await.unwrap().0.id, first);
    }
    refused(direct("carol").await, Rule::Conversations);
    refused(titled("dinner", None).await, Rule::Conversations);
    refused(titled("dinner", Some("other")).await, Rule::Conversations);
    let conflict = titled("dinner", Some("key")).await;
    assert!(matches!(conflict, Err(Error::IdempotencyConflict(_))));
    let found = bed
        .create("carol", ConversationKind::Direct, &["alice"])
        .await;
    found.unwrap();
    direct("carol").await.unwrap();
    let channel = async || bed.create("alice", ConversationKind::Channel, &[]).await;
    channel().await.unwrap();
    refused(channel().await, Rule::Channels);
}

async fn additions_have_budgets(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let add = async |name: &str| {
        let new = NewMembers {
            members: vec![user(name)],
            role: Role::Member,
        };
        bed.store.add_members(&caller("alice"), id, new).await
    };
    for name in ["bob", "carol", "bob", "carol", "dave", "bob"] {
        add(name).await.unwrap();
    }
    refused(add("erin").await, Rule::Additions);
    add("dave").await.unwrap();
}

/// The budget allows one message at once, and another each 10 ms. Which database there is makes no difference.
#[tokio::test]
async fn an_early_message_waits_for_its_time() {
    let quick = |settings: &mut StoreSettings| {
        settings.guard = GuardSettings {
            mode: Mode::Enforce,
            messages: Rate::new(100, Span::secs(1), 1),
            ..GuardSettings::default()
        };
    };
    let bed = Bed::sqlite_with(quick).await;
    let id = bed.group("alice", &["bob"]).await;
    let started = Instant::now();
    for n in 0..5 {
        bed.say("alice", id, &n.to_string()).await;
    }
    let together: Vec<NewMessage> = (5..10).map(|n| text(&n.to_string())).collect();
    for sent in bed.store.send_all(&caller("alice"), id, together).await {
        sent.unwrap();
    }
    assert!(started.elapsed() >= Duration::from_millis(90));
    bed.close().await;
}
