//! Mentions: who is told, how much is unread, and that both are always what the log says.

use std::collections::BTreeMap;

use backscroll_shard::db::Connection;
use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, MessageId, Seq, UserId};
use backscroll_shard::model::{ListEntry, MessageEdit, NewMembers, NewMessage, Role};
use backscroll_shard::settings::StoreSettings;

use crate::bed::{Bed, PATIENCE, caller, text, text_as, user};

crate::on_every_backend!(with small_conversations:
    a_mention_is_unread_until_it_is_read_or_deleted,
    only_members_are_mentioned,
    large_conversations_have_mentions_too,
    any_sequence_of_changes_leaves_the_mentions_that_the_log_has,
    a_mention_costs_rows_of_the_mentioned_only,
    an_edit_may_change_whom_a_message_mentions,
    admins_mention_all_members_with_one_row,
);

fn small_conversations(settings: &mut StoreSettings) {
    settings.relay.max_members = 5;
    settings.limits.mentions = 3;
    settings.limits.mention_all_members = 6;
}

fn mentioning(content: &str, users: &[&str]) -> NewMessage {
    NewMessage {
        mentions: users.iter().map(|name| user(name)).collect(),
        ..text(content)
    }
}

async fn say(bed: &Bed, name: &str, id: ConversationId, users: &[&str]) -> MessageId {
    let message = mentioning("hello", users);
    let sent = bed.store.send(&caller(name), id, message).await;
    sent.unwrap().message.id
}

async fn entry(bed: &Bed, name: &str, id: ConversationId) -> Option<ListEntry> {
    bed.settle().await;
    let list = bed.store.list_conversations(&caller(name), None, 100).await;
    let mut entries = list.unwrap().conversations.into_iter();
    entries.find(|entry| entry.id == id)
}

async fn unread(bed: &Bed, name: &str, id: ConversationId) -> u64 {
    let entry = entry(bed, name, id).await;
    entry.map_or(0, |entry| entry.unread_mentions)
}

async fn total(bed: &Bed, name: &str) -> u64 {
    bed.settle().await;
    bed.store
        .unread_count(&caller(name))
        .await
        .unwrap()
        .mentions
}

async fn a_mention_is_unread_until_it_is_read_or_deleted(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol"]).await;
    let other = bed.group("alice", &["bob"]).await;
    bed.say("alice", id, "nobody in particular").await;
    let first = say(bed, "alice", id, &["bob", "alice", "bob"]).await;
    let second = say(bed, "alice", id, &["bob", "carol"]).await;
    say(bed, "alice", other, &["bob"]).await;
    assert_eq!(unread(bed, "bob", id).await, 2);
    assert_eq!(unread(bed, "carol", id).await, 1);
    assert_eq!(unread(bed, "alice", id).await, 0, "one's own");
    assert_eq!((total(bed, "bob").await, total(bed, "carol").await), (3, 1));
    let shown = bed.store.message(&caller("carol"), first).await.unwrap();
    assert_eq!(shown.mentions, [user("bob"), user("alice")], "each once");
    let edited = bed
        .store
        .edit_message(&caller("alice"), second, "edited".into())
        .await;
    assert_eq!(edited.unwrap().mentions, [user("bob"), user("carol")]);
    assert_eq!(unread(bed, "carol", id).await, 1, "an edit keeps it");
    // Not the newest message: those whom it mentions are told all the same.
    bed.say("carol", id, "later").await;
    bed.store
        .delete_message(&caller("alice"), first)
        .await
        .unwrap();
    assert_eq!(unread(bed, "bob", id).await, 1);
    let shown = bed.store.message(&caller("carol"), first).await.unwrap();
    assert!(shown.mentions.is_empty());
    bed.store
        .mark_read(&caller("bob"), id, Some(second.seq))
        .await
        .unwrap();
    assert_eq!(
        (unread(bed, "bob", id).await, total(bed, "bob").await),
        (0, 1)
    );
    // Whoever answers has read.
    say(bed, "alice", id, &["bob"]).await;
    assert_eq!(unread(bed, "bob", id).await, 1);
    bed.say("bob", id, "I am here").await;
    assert_eq!(unread(bed, "bob", id).await, 0);
}

async fn only_members_are_mentioned(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol"]).await;
    let (alice, eve) = (caller("alice"), caller("eve"));
    for (users, field) in [
        (&["bob", "eve"][..], "mentions: `eve`"),
        (
            &["bob", "carol", "alice", "dave"][..],
            "mentions: at most 3",
        ),
    ] {
        let refused = bed.store.send(&alice, id, mentioning("no", users)).await;
        let told = refused.unwrap_err().to_string();
        assert!(told.contains(field), "{told}");
    }
    let stranger = bed.store.send(&eve, id, mentioning("hi", &["bob"])).await;
    assert!(matches!(stranger, Err(Error::NotMember)), "{stranger:?}");
    bed.store
        .remove_member(&alice, id, &user("carol"))
        .await
        .unwrap();
    let past = bed
        .store
        .send(&alice, id, mentioning("no", &["carol"]))
        .await;
    assert!(matches!(past, Err(Error::Invalid(_))), "{past:?}");
    let once = NewMessage {
        mentions: vec![user("bob")],
        ..text_as("key", "hello")
    };
    let first = bed.store.send(&alice, id, once.clone()).await.unwrap();
    let again = bed.store.send(&alice, id, once.clone()).await.unwrap();
    assert!(first.created && !again.created);
    assert_eq!(unread(bed, "bob", id).await, 1);
    let other = NewMessage {
        mentions: Vec::new(),
        ..once
    };
    let refused = bed.store.send(&alice, id, other).await;
    assert!(
        matches!(refused, Err(Error::IdempotencyConflict(_))),
        "{refused:?}"
    );
}

async fn large_conversations_have_mentions_too(bed: &Bed) {
    let others = ["bob", "carol", "dave", "erin", "frank"];
    let id = bed.group("alice", &others).await;
    let first = say(bed, "alice", id, &["bob", "carol"]).await;
    say(bed, "alice", id, &["bob"]).await;
    assert_eq!(
        (unread(bed, "bob", id).await, total(bed, "bob").await),
        (2, 2)
    );
    assert_eq!(unread(bed, "dave", id).await, 0);
    bed.store
        .delete_message(&caller("alice"), first)
        .await
        .unwrap();
    assert_eq!(
        (unread(bed, "bob", id).await, total(bed, "carol").await),
        (1, 0)
    );
    bed.store.mark_read(&caller("bob"), id, None).await.unwrap();
    assert_eq!(
        (unread(bed, "bob", id).await, total(bed, "bob").await),
        (0, 0)
    );
}

async fn connection(bed: &Bed, id: ConversationId) -> Connection {
    let map = bed.store.map();
    let name = &map.locate(id.owner_key()).shard;
    let shard = bed.store.router().shard(name).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    shard.reader(deadline).await.unwrap()
}

async fn a_mention_costs_rows_of_the_mentioned_only(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol", "dave"]).await;
    bed.say("alice", id, "nobody").await;
    say(bed, "alice", id, &["bob", "carol", "alice"]).await;
    let count = "SELECT COUNT(*) FROM mentions";
    let rows = connection(bed, id).await.fetch_optional(count, &[]).await;
    assert_eq!(rows.unwrap().unwrap().int(0).unwrap(), 2);
    bed.store.mark_read(&caller("bob"), id, None).await.unwrap();
    let rows = connection(bed, id).await.fetch_optional(count, &[]).await;
    assert_eq!(rows.unwrap().unwrap().int(0).unwrap(), 1, "read ones go");
}

async fn edit(bed: &Bed, name: &str, id: MessageId, users: &[&str]) -> Result<(), Error> {
    let edit = MessageEdit {
        content: "edited".into(),
        mentions: Some(users.iter().map(|name| user(name)).collect()),
    };
    let edited = bed.store.edit(&caller(name), id, edit).await?;
    let expected: Vec<UserId> = users.iter().map(|name| user(name)).collect();
    assert_eq!(edited.mentions, expected);
    Ok(())
}

async fn an_edit_may_change_whom_a_message_mentions(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol", "dave"]).await;
    let message = say(bed, "alice", id, &["bob", "carol"]).await;
    bed.say("alice", id, "later").await;
    let rev = |message: &backscroll_shard::model::Message| message.rev;
    let before = bed.store.message(&caller("bob"), message).await.unwrap();
    bed.store
        .mark_read(&caller("dave"), id, Some(message.seq))
        .await
        .unwrap();
    edit(bed, "alice", message, &["carol", "dave"])
        .await
        .unwrap();
    let names = ["alice", "bob", "carol", "dave"];
    let mut counts = [0; 4];
    for (count, name) in counts.iter_mut().zip(names) {
        *count = unread(bed, name, id).await;
    }
    assert_eq!(counts, [0, 0, 1, 0], "bob is not mentioned, dave has read");
    // Only the mentions change: that is a change as well, and no earlier text.
    edit(bed, "alice", message, &["bob"]).await.unwrap();
    assert_eq!(
        (unread(bed, "bob", id).await, unread(bed, "carol", id).await),
        (1, 0)
    );
    let after = bed.store.message(&caller("bob"), message).await.unwrap();
    assert!(rev(&after) > rev(&before));
    let edits: Vec<serde_json::Value> =
        serde_json::from_str(after.edit_history.as_ref().unwrap().get()).unwrap();
    assert_eq!(edits.len(), 1);
    edit(bed, "alice", message, &["bob"]).await.unwrap();
    let same = bed.store.message(&caller("bob"), message).await.unwrap();
    assert_eq!(rev(&same), rev(&after), "nothing has changed");
    for (name, users, problem) in [
        ("alice", &["eve"][..], "mentions: `eve`"),
        (
            "alice",
            &["alice", "bob", "carol", "dave"],
            "mentions: at most 3",
        ),
        ("bob", &["bob"], "only the author"),
    ] {
        let refused = edit(bed, name, message, users).await;
        let told = refused.unwrap_err().to_string();
        assert!(told.contains(problem), "{told}");
    }
    assert_eq!(unread(bed, "bob", id).await, 1, "a refusal changes nothing");
}

async fn admins_mention_all_members_with_one_row(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol", "dave"]).await;
    let first = say(bed, "alice", id, &["@all", "bob"]).await;
    let mut counts = [0; 4];
    for (count, name) in counts.iter_mut().zip(["alice", "bob", "carol", "dave"]) {
        *count = unread(bed, name, id).await;
    }
    assert_eq!(counts, [0, 1, 1, 1], "once, and not one's own");
    let count = "SELECT COUNT(*) FROM mentions";
    let rows = connection(bed, id).await.fetch_optional(count, &[]).await;
    assert_eq!(rows.unwrap().unwrap().int(0).unwrap(), 2);
    let refused = bed
        .store
        .send(&caller("bob"), id, mentioning("hi", &["@all"]))
        .await;
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    let own = bed.say("bob", id, "mine").await;
    let refused = edit(bed, "bob", own.id, &["@all"]).await;
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    bed.store
        .mark_read(&caller("carol"), id, None)
        .await
        .unwrap();
    assert_eq!(
        (unread(bed, "carol", id).await, total(bed, "dave").await),
        (0, 1)
    );
    bed.store
        .delete_message(&caller("alice"), first)
        .await
        .unwrap();
    assert_eq!((total(bed, "bob").await, total(bed, "dave").await), (0, 0));
    // The newest hundred are kept.
    for _ in 0..105 {
        say(bed, "alice", id, &["@all"]).await;
    }
    assert_eq!(unread(bed, "dave", id).await, 100);
    let rows = connection(bed, id).await.fetch_optional(count, &[]).await;
    assert_eq!(rows.unwrap().unwrap().int(0).unwrap(), 100);
    let large = bed
        .group("alice", &["bob", "carol", "dave", "erin", "frank"])
        .await;
    say(bed, "alice", large, &["@all"]).await;
    assert_eq!(
        (
            unread(bed, "frank", large).await,
            unread(bed, "alice", large).await
        ),
        (1, 0)
    );
    let larger = ["bob", "carol", "dave", "erin", "frank", "gus"];
    let larger = bed.group("alice", &larger).await;
    let refused = bed
        .store
        .send(&caller("alice"), larger, mentioning("hi", &["@all"]))
        .await;
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("at most 6 members"), "{told}");
}

/// What a recount of the log gives.
async fn recount(bed: &Bed, name: &str, id: ConversationId) -> u64 {
    let me: UserId = user(name);
    let Ok(conversation) = bed.store.conversation(&caller(name), id).await else {
        return 0;
    };
    let log = bed.log(name, id).await.into_iter();
    let unread = log.filter(|message| {
        message.seq > conversation.read_seq
            && message.sender_id != me
            && (message.mentions.contains(&me) || message.mentions.contains(&user("@all")))
    });
    unread.count() as u64
}

/// Sends, deletions, edits, reads, leaves and joins in an order of chance; after each of them the lists have what the log has.
async fn any_sequence_of_changes_leaves_the_mentions_that_the_log_has(bed: &Bed) {
    let names = ["alice", "bob", "carol", "dave"];
    let id = bed.group("alice", &names[1..]).await;
    let mut random = 42_u64;
    let mut below = |bound: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut head = 0;
    let mut told: BTreeMap<&str, u64> = BTreeMap::new();
    for _ in 0..100 {
        let who = usize::try_from(below(4)).unwrap();
        let me = caller(names[who]);
        let target = MessageId {
            conversation: id,
            seq: Seq(1 + below(head.max(1))),
        };
        match below(12) {
            0..=5 => {
                let everybody = Some("@all").filter(|_| below(4) == 0);
                let named = everybody.into_iter().chain(names);
                let users: Vec<&str> = named.filter(|_| below(3) == 0).collect();
                let users = &users[..users.len().min(3)];
                let sent = bed.store.send(&me, id, mentioning("hello", users)).await;
                head = sent.map_or(head, |sent| sent.message.seq.0);
            }
            6 => drop(bed.store.delete_message(&me, target).await),
            7 => {
                let named = ["@all", "bob", "carol", "dave"].into_iter();
                let users = named.filter(|_| below(3) == 0).take(3).map(user);
                let mentions = Some(users.collect()).filter(|_| below(4) > 0);
                let content = format!("{head}");
                drop(
                    bed.store
                        .edit(&me, target, MessageEdit { content, mentions })
                        .await,
                );
            }
            8..=9 => drop(bed.store.mark_read(&me, id, Some(target.seq)).await),
            10 if who > 0 => drop(bed.store.remove_member(&me, id, &user(names[who])).await),
            _ => {
                let join = async |by: &str, members: &[&str]| {
                    let new = NewMembers {
                        members: members.iter().map(|name| user(name)).collect(),
                        role: Role::Member,
                    };
                    bed.store.add_members(&caller(by), id, new).await.unwrap();
                };
                join("alice", &names).await;
                // Whoever has left is asked back only, and comes by themselves.
                for name in names {
                    join(name, &[name]).await;
                }
            }
        }
        for name in names {
            let counted = recount(bed, name, id).await;
            assert_eq!(unread(bed, name, id).await, counted, "{name}");
            assert_eq!(total(bed, name).await, counted, "{name}");
            *told.entry(name).or_default() += counted;
        }
    }
    assert!(told.values().all(|count| *count > 0), "{told:?}");
}
