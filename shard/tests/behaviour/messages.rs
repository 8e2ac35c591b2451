//! Sending, paging, repeating.

mod changes;
mod receipts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backscroll_shard::error::Error;
use backscroll_shard::ids::{COUNTER_MAX, ConversationId, MessageId, Rev, Seq, UserKey};
use backscroll_shard::model::{ConversationKind, MessageType, NewMessage, Position, RawJson, Sent};

use crate::bed::{Bed, caller, text, text_as};

crate::on_every_backend!(
    what_is_sent_is_read_back,
    pages_are_ranges_of_seqs,
    a_repeated_send_is_one_message,
    hundreds_of_senders_leave_no_gap_and_no_double,
    one_bad_message_fails_alone,
    messages_sent_together_keep_their_order_and_have_outcomes_of_their_own,
    strangers_see_and_change_nothing,
    text_is_text_whatever_it_says,
    seqs_at_the_limits_are_harmless,
);

async fn what_is_sent_is_read_back(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let first = bed.say("alice", id, "hello").await;
    let rich = NewMessage {
        content: "see this".into(),
        message_type: MessageType::Image,
        client_msg_id: Some("c-1".into()),
        reply_to: Some(first.id),
        attachments: Some(
            RawJson::parse(r#"[{"url":"https://x/1.png","width":3}]"#.into()).unwrap(),
        ),
        metadata: Some(RawJson::parse(r#"{"mood":"good"}"#.into()).unwrap()),
        mentions: Vec::new(),
    };
    let second = bed
        .store
        .send(&caller("bob"), id, rich)
        .await
        .unwrap()
        .message;
    assert_eq!((first.seq, second.seq), (Seq(1), Seq(2)));
    assert!(second.rev > first.rev);
    assert_eq!(second.reply_to, Some(first.id));
    let log = bed.log("bob", id).await;
    assert_eq!(
        log.iter().map(|m| m.content.as_str()).collect::<Vec<_>>(),
        ["hello", "see this"]
    );
    assert_eq!(
        log[1].attachments.get(),
        r#"[{"url":"https://x/1.png","width":3}]"#
    );
    assert_eq!(log[1].metadata.get(), r#"{"mood":"good"}"#);
    assert_eq!(log[1].message_type, MessageType::Image);
    assert_eq!(log[1].client_msg_id.as_deref(), Some("c-1"));
    assert_eq!(
        (log[0].created_at, &log[1].created_at),
        (first.created_at, &second.created_at)
    );
}

async fn pages_are_ranges_of_seqs(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    for n in 1..=45 {
        bed.say("alice", id, &n.to_string()).await;
    }
    let seqs = |position, limit| async move {
        let page = bed.page("bob", id, position, limit).await;
        assert_eq!((page.head_seq, page.archive_unavailable), (Seq(45), None));
        assert_eq!(page.tiers.hot, page.messages.len() as u64);
        let seqs: Vec<u64> = page.messages.iter().map(|m| m.seq.0).collect();
        (seqs, page.has_more_before, page.has_more_after)
    };
    assert_eq!(
        seqs(Position::Latest, 20).await,
        ((26..=45).collect(), true, false)
    );
    assert_eq!(
        seqs(Position::Before(Seq(26)), 20).await,
        ((6..=25).collect(), true, true)
    );
    assert_eq!(
        seqs(Position::Before(Seq(6)), 20).await,
        ((1..=5).collect(), false, true)
    );
    assert_eq!(
        seqs(Position::After(Seq(40)), 20).await,
        ((41..=45).collect(), true, false)
    );
    assert_eq!(
        seqs(Position::Around(Seq(20)), 5).await,
        ((18..=22).collect(), true, true)
    );
    assert_eq!(bed.log("bob", id).await.len(), 45);
}

async fn a_repeated_send_is_one_message(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let send = |name: &'static str, key: &'static str, content: &'static str| async move {
        bed.store
            .send(&caller(name), id, text_as(key, content))
            .await
    };
    let first = send("alice", "k", "once").await.unwrap();
    assert!(first.created);
    let again = send("alice", "k", "once").await.unwrap();
    assert!(!again.created);
    assert_eq!(again.message.id, first.message.id);
    assert!(matches!(
        send("alice", "k", "twice").await,
        Err(Error::IdempotencyConflict(_))
    ));
    assert!(
        send("bob", "k", "mine").await.unwrap().created,
        "the id is the sender's own"
    );
    bed.store
        .edit_message(&caller("alice"), first.message.id, "edited".into())
        .await
        .unwrap();
    let after_edit = send("alice", "k", "once").await.unwrap();
    assert!(
        !after_edit.created,
        "what counts is what was sent, not what became of it"
    );
    assert_eq!(after_edit.message.content, "edited");
    assert_eq!(bed.log("bob", id).await.len(), 2);
}

/// INV-SEQ, INV-REV and INV-IDEM under contention, through two processes at once.
async fn hundreds_of_senders_leave_no_gap_and_no_double(bed: &Bed) {
    const SENDERS: usize = 200;
    const EACH: usize = 5;
    let other = Bed::another(&bed.settings).await;
    let names: Arc<Vec<String>> = Arc::new((0..SENDERS).map(|n| format!("sender{n}")).collect());
    let others: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut conversations = Vec::new();
    for n in 0..3 {
        conversations.push(
            bed.create(&format!("owner{n}"), ConversationKind::Channel, &others)
                .await
                .unwrap(),
        );
    }
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let stores = [bed.store.clone(), other.clone()];
        let (names, conversations) = (names.clone(), conversations.clone());
        tasks.spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0..EACH {
                let id = conversations[(sender + n) % conversations.len()];
                let message = text_as(&format!("{sender}-{n}"), &format!("{sender} says {n}"));
                // Every third message is sent twice at once, through both processes.
                let copies = if n % 3 == 0 { 2 } else { 1 };
                let send = |store: usize| {
                    stores[(sender + store) % 2].send_retrying(&names[sender], id, message.clone())
                };
                let (first, second) = match copies {
                    2 => tokio::join!(send(0), async { Some(send(1).await) }),
                    _ => (send(0).await, None),
                };
                if let Some(second) = second {
                    assert_eq!(first.id, second.id, "two acknowledgements of one message");
                }
                acknowledged.push((first.id, message.client_msg_id.unwrap()));
            }
            acknowledged
        });
    }
    let mut acknowledged: BTreeMap<MessageId, String> = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        for (id, key) in done.unwrap() {
            assert!(
                acknowledged.insert(id, key).is_none(),
                "one place acknowledged to two messages"
            );
        }
    }
    let mut stored: BTreeMap<MessageId, String> = BTreeMap::new();
    for (n, id) in conversations.iter().enumerate() {
        let log = bed.log(&format!("owner{n}"), *id).await;
        assert_eq!(
            log.iter().map(|m| m.seq.0).collect::<Vec<_>>(),
            (1..=log.len() as u64).collect::<Vec<_>>()
        );
        let revs: BTreeSet<Rev> = log.iter().map(|m| m.rev).collect();
        assert_eq!(revs.len(), log.len(), "every message has a rev of its own");
        assert!(log.is_sorted_by_key(|m| m.rev) && log.is_sorted_by_key(|m| m.created_at));
        stored.extend(log.into_iter().map(|m| (m.id, m.client_msg_id.unwrap())));
    }
    assert_eq!(stored, acknowledged);
    assert_eq!(stored.len(), SENDERS * EACH);
    other
        .close(std::time::Instant::now() + crate::bed::PATIENCE)
        .await;
}

/// A store that is told to slow down does so.
trait SendRetrying {
    async fn send_retrying(
        &self,
        name: &str,
        id: ConversationId,
        message: NewMessage,
    ) -> backscroll_shard::model::Message;
}

impl SendRetrying for backscroll_shard::store::Store {
    async fn send_retrying(
        &self,
        name: &str,
        id: ConversationId,
        message: NewMessage,
    ) -> backscroll_shard::model::Message {
        for _ in 0..100 {
            match self.send(&caller(name), id, message.clone()).await {
                Ok(sent) => return sent.message,
                Err(error) if error.is_retryable() => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("never accepted")
    }
}

async fn one_bad_message_fails_alone(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let first = bed.say("alice", id, "first").await;
    let beyond = NewMessage {
        reply_to: Some(MessageId {
            conversation: id,
            seq: Seq(99),
        }),
        ..text("bad")
    };
    let sends = (0..40).map(|n| {
        let (name, message) = match n {
            7 => ("alice", beyond.clone()),
            13 => ("mallory", text("not a member")),
            _ => (
                "bob",
                NewMessage {
                    reply_to: Some(first.id),
                    ..text(&n.to_string())
                },
            ),
        };
        async move { bed.store.send(&caller(name), id, message).await }
    });
    let outcomes = futures_util::future::join_all(sends).await;
    assert!(matches!(outcomes[7], Err(Error::Invalid(_))));
    assert!(matches!(outcomes[13], Err(Error::NotMember)));
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        38
    );
    assert_eq!(bed.log("bob", id).await.len(), 39);
}

async fn messages_sent_together_keep_their_order_and_have_outcomes_of_their_own(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let send = |name, messages| async move {
        let store = &bed.store;
        store.send_all(&caller(name), id, messages).await
    };
    let numbered = |n: usize| text_as(&format!("c{n}"), &n.to_string());
    // More than share a transaction, from two at the same time.
    let (ours, theirs) = futures_util::join!(
        send("alice", (0..40).map(numbered).collect()),
        send("bob", (0..40).map(numbered).collect())
    );
    for sent in [&ours, &theirs] {
        let sent: Vec<&Sent> = sent.iter().map(|sent| sent.as_ref().unwrap()).collect();
        assert_eq!(sent.len(), 40);
        for (n, sent) in sent.iter().enumerate() {
            assert_eq!(sent.message.content, n.to_string());
        }
        assert!(sent.is_sorted_by(|one, next| one.message.seq < next.message.seq));
        let (first, last) = (&sent[0].message, &sent[15].message);
        assert_eq!(first.created_at, last.created_at, "one transaction");
        assert_eq!(last.seq.0 - first.seq.0, 15);
    }
    let log = bed.log("bob", id).await;
    assert_eq!(log.len(), 80);
    assert!(log.is_sorted_by(|one, next| one.rev < next.rev));

    let nothing = text("");
    let other_text = text_as("c1", "changed");
    let beyond = NewMessage {
        reply_to: Some(MessageId {
            conversation: id,
            seq: Seq(99),
        }),
        ..text("bad")
    };
    let messages = vec![
        text("new"),
        numbered(1),
        nothing,
        other_text,
        beyond,
        text("last"),
    ];
    let sent = send("alice", [messages, vec![text_as("d", "d"); 2]].concat()).await;
    let [
        Ok(new),
        Ok(repeated),
        Err(empty),
        Err(other),
        Err(beyond),
        Ok(last),
        Ok(once),
        Ok(twice),
    ] = &sent[..]
    else {
        panic!("{sent:?}");
    };
    assert!(new.created && !repeated.created && last.created && once.created && !twice.created);
    assert_eq!((new.message.seq, last.message.seq), (Seq(81), Seq(82)));
    assert_eq!(repeated.message.id, ours[1].as_ref().unwrap().message.id);
    assert_eq!(once.message.id, twice.message.id);
    assert!(matches!(empty, Error::Invalid(_)) && matches!(beyond, Error::Invalid(_)));
    assert!(matches!(other, Error::IdempotencyConflict(_)));

    let refused = send("mallory", vec![text("x"), text(""), text("x")]).await;
    assert!(
        matches!(
            refused[..],
            [
                Err(Error::NotMember),
                Err(Error::Invalid(_)),
                Err(Error::NotMember)
            ]
        ),
        "{refused:?}"
    );
    assert!(send("alice", Vec::new()).await.is_empty());
    assert_eq!(bed.log("bob", id).await.len(), 83);
}

/// INV-MEMBER: the same answer whether the conversation exists or not.
async fn strangers_see_and_change_nothing(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let sent = bed.say("alice", id, "private").await;
    let nowhere = ConversationId::new(UserKey(7), 7);
    for conversation in [id, nowhere] {
        let message = MessageId {
            conversation,
            seq: sent.seq,
        };
        let (store, mallory) = (&bed.store, caller("mallory"));
        let refused = |outcome: Result<(), Error>| {
            assert!(matches!(outcome, Err(Error::NotMember)), "{outcome:?}")
        };
        refused(
            store
                .history(&mallory, conversation, Position::Latest, 20)
                .await
                .map(drop),
        );
        refused(
            store
                .send(&mallory, conversation, text("x"))
                .await
                .map(drop),
        );
        refused(store.message(&mallory, message).await.map(drop));
        refused(
            store
                .edit_message(&mallory, message, "x".into())
                .await
                .map(drop),
        );
        refused(store.delete_message(&mallory, message).await.map(drop));
        refused(store.react(&mallory, message, "🎉").await.map(drop));
        refused(
            store
                .mark_read(&mallory, conversation, None)
                .await
                .map(drop),
        );
        refused(store.conversation(&mallory, conversation).await.map(drop));
        refused(
            store
                .members(&mallory, conversation, None, 10)
                .await
                .map(drop),
        );
        refused(store.delete_conversation(&mallory, conversation).await);
        refused(
            store
                .remove_member(&mallory, conversation, &crate::bed::user("mallory"))
                .await,
        );
    }
    bed.store
        .remove_member(&caller("bob"), id, &crate::bed::user("bob"))
        .await
        .unwrap();
    assert!(
        matches!(
            bed.store.send(&caller("bob"), id, text("x")).await,
            Err(Error::NotMember)
        ),
        "who left is a stranger"
    );
    assert_eq!(bed.log("alice", id).await.len(), 1);
}

async fn text_is_text_whatever_it_says(bed: &Bed) {
    let hostile = [
        "'; DROP TABLE messages; --",
        "\" OR 1=1 --",
        "😀👨‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "{for_update} {on_duplicate x} ? ?? {",
        "\\' \\\\ \u{1a} \u{8} %_",
        "trailing space ",
        "\u{202e}right to left\u{feff}",
    ];
    let odd_user = "o'brien ☃ \\";
    let id = bed.group(odd_user, &["bob", "bob ", "BOB"]).await;
    for (n, content) in hostile.into_iter().enumerate() {
        bed.say(odd_user, id, content).await;
        bed.store
            .send(
                &caller("bob "),
                id,
                text_as(&format!("' OR {n}=1 😀"), content),
            )
            .await
            .unwrap();
    }
    let log = bed.log("BOB", id).await;
    let expected: Vec<&str> = hostile
        .iter()
        .flat_map(|content| [*content, *content])
        .collect();
    assert_eq!(
        log.iter().map(|m| m.content.as_str()).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(log[0].sender_id.as_str(), odd_user);
    assert_eq!(
        log[1].sender_id.as_str(),
        "bob ",
        "ids are compared byte for byte"
    );
    for refused in [
        text(" \n"),
        text("\u{200B}\u{3164}"),
        text("a\0b"),
        text(&"x".repeat(5001)),
        text_as("k\0", "x"),
    ] {
        assert!(matches!(
            bed.store.send(&caller("bob"), id, refused).await,
            Err(Error::Invalid(_))
        ));
    }
    assert_eq!(bed.log("bob", id).await.len(), expected.len());
}

async fn seqs_at_the_limits_are_harmless(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    bed.say("alice", id, "only").await;
    for (position, expected) in [
        (Position::Before(Seq(COUNTER_MAX)), 1),
        (Position::Before(Seq(0)), 0),
        (Position::After(Seq(COUNTER_MAX)), 0),
        (Position::Around(Seq(COUNTER_MAX)), 1),
        (Position::Around(Seq(0)), 1),
    ] {
        assert_eq!(
            bed.page("bob", id, position, 200).await.messages.len(),
            expected,
            "{position:?}"
        );
    }
    let far = MessageId {
        conversation: id,
        seq: Seq(COUNTER_MAX),
    };
    assert!(matches!(
        bed.store.message(&caller("bob"), far).await,
        Err(Error::NotFound(_))
    ));
    assert!(matches!(
        bed.store
            .edit_message(&caller("bob"), far, "x".into())
            .await,
        Err(Error::NotFound(_))
    ));
    let read = bed
        .store
        .mark_read(&caller("bob"), id, Some(Seq(COUNTER_MAX)))
        .await;
    assert!(matches!(read, Err(Error::Invalid(_))));
}
