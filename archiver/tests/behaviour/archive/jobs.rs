//! What the archive job takes away, what it leaves, and that nobody notices.

use std::sync::{Arc, Mutex};

use backscroll_archiver::jobs::{Progress, Step};
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_shard::ids::{MessageId, Seq};
use backscroll_shard::model::{Position, SyncRequest, Timestamp};
use backscroll_shard::settings::Span;
use backscroll_testkit::warnings;

use super::bed::{Backend, Bed, caller, on_both, order, sent_at, small};
use super::logged;

on_both!(
    pages_are_the_same_from_both_tiers,
    what_is_not_old_enough_stays,
    a_second_run_finds_nothing_to_do,
    archived_messages_can_be_changed,
    changes_are_synced_from_both_tiers,
    a_message_that_changes_meanwhile_stays_hot,
    a_plan_says_what_a_run_does,
    a_held_conversation_stays,
    one_job_at_a_time,
    new_messages_follow_archived_ones,
    a_job_makes_room_for_others,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_alone_makes_no_room() {
    let bed = Bed::open_with(Backend::Embedded, polite()).await;
    bed.import("talk", 300).await;
    let seen = for_whom_it_made_room(&bed).await;
    assert_eq!(seen.last(), Some(&None), "{seen:?}");
    bed.close().await;
}

async fn a_job_makes_room_for_others(backend: Backend) {
    let bed = Bed::open_with(backend, polite()).await;
    bed.import("talk", 300).await;
    let read = bed.import("read", 20).await;
    let reading = async {
        loop {
            bed.page(read, Position::After(Seq(0)), 20).await;
        }
    };
    let seen = tokio::select! {
        seen = for_whom_it_made_room(&bed) => seen,
        () = reading => unreachable!("it goes on for ever"),
    };
    let others = |reason: &Option<String>| {
        let reason = reason.as_deref();
        reason.is_some_and(|reason| reason.contains("archive.busy_share"))
    };
    assert!(seen.iter().any(others), "{seen:?}");
    bed.close().await;
}

fn polite() -> ArchiveSettings {
    ArchiveSettings {
        busy_share: 10,
        ..small()
    }
}

/// Why the job went slowly, after each batch that it deleted of messages before the newest.
async fn for_whom_it_made_room(bed: &Bed) -> Vec<Option<String>> {
    let progress = Progress::default();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (job, steps) = (progress.clone(), Arc::clone(&seen));
    let hook = move |step: Step| {
        if step == Step::Deleted {
            steps.lock().unwrap().push(job.snapshot().waiting);
        }
    };
    let archive = bed.archive_with(Arc::new(hook));
    let outcomes = archive.run(&order(), sent_at(280), &progress).await;
    for outcome in outcomes.unwrap() {
        assert_eq!(outcome.error, None, "{outcome:?}");
    }
    let seen = seen.lock().unwrap();
    seen.clone()
}

async fn pages_are_the_same_from_both_tiers(backend: Backend) {
    let bed = Bed::open(backend).await;
    let mut conversations = Vec::new();
    for (channel, count) in [("long", 4000), ("short", 3), ("other", 120)] {
        conversations.push(bed.import(channel, count).await);
    }
    let mut before = Vec::new();
    for id in &conversations {
        before.push((
            bed.walk(*id).await,
            bed.store.export(*id, Seq(0), 5000).await.unwrap(),
        ));
    }
    let outcomes = bed.run().await;
    let archived: u64 = outcomes
        .iter()
        .map(|outcome| outcome.figures.messages)
        .sum();
    let deleted: u64 = outcomes.iter().map(|outcome| outcome.figures.deleted).sum();
    let segments: u64 = outcomes
        .iter()
        .map(|outcome| outcome.figures.segments)
        .sum();
    assert_eq!((archived, deleted), (4123, 4123));
    assert!(segments > 2, "{outcomes:?}");
    for (id, (pages, export)) in conversations.iter().zip(before) {
        assert_eq!(bed.hot_rows(*id).await, 0);
        assert_eq!(bed.walk(*id).await, pages);
        assert_eq!(bed.store.export(*id, Seq(0), 5000).await.unwrap(), export);
    }
    let page = bed
        .page(conversations[0], Position::Around(Seq(450)), 21)
        .await;
    let seqs: Vec<u64> = page.messages.iter().map(|message| message.seq.0).collect();
    assert_eq!(seqs, (440..=460).collect::<Vec<_>>());
    assert_eq!((page.tiers.hot, page.tiers.archive), (0, 21));
    assert!(page.has_more_before && page.has_more_after);
    let page = bed
        .page(conversations[0], Position::After(Seq(3990)), 50)
        .await;
    assert_eq!(page.messages.len(), 10);
    assert!(!page.has_more_after);
    bed.assert_clean().await;
    bed.close().await;
}

async fn what_is_not_old_enough_stays(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 300).await;
    let before = bed.walk(id).await;
    bed.run_before(sent_at(201)).await;
    assert_eq!(bed.hot_rows(id).await, 100);
    let page = bed.page(id, Position::Around(Seq(200)), 20).await;
    assert_eq!((page.tiers.hot, page.tiers.archive), (10, 10));
    assert_eq!(bed.walk(id).await, before);
    // The next run goes on where this one ended.
    let outcomes = bed.run_before(sent_at(251)).await;
    let archived: u64 = outcomes
        .iter()
        .map(|outcome| outcome.figures.messages)
        .sum();
    assert_eq!(archived, 50);
    assert_eq!(bed.walk(id).await, before);
    bed.assert_clean().await;
    bed.close().await;
}

async fn a_second_run_finds_nothing_to_do(backend: Backend) {
    let bed = Bed::open(backend).await;
    bed.import("talk", 200).await;
    bed.run().await;
    let objects = bed.keys().await;
    for outcome in bed.run().await {
        assert_eq!((outcome.figures.messages, outcome.figures.resumed), (0, 0));
    }
    assert_eq!(bed.keys().await, objects);
    bed.close().await;
}

async fn archived_messages_can_be_changed(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 120).await;
    bed.run().await;
    let message = |seq| MessageId {
        conversation: id,
        seq: Seq(seq),
    };
    let (alice, bob) = (caller("alice"), caller("bob"));
    let edited = bed
        .store
        .edit_message(&alice, message(10), "anew".into())
        .await
        .unwrap();
    assert_eq!(edited.content, "anew");
    bed.store.react(&bob, message(10), "👍").await.unwrap();
    bed.store.react(&bob, message(11), "👍").await.unwrap();
    bed.store.delete_message(&bob, message(13)).await.unwrap();
    let refused = bed
        .store
        .edit_message(&bob, message(20), "not mine".into())
        .await;
    assert!(refused.is_err());
    let unchanged = bed.store.unreact(&bob, message(21), "👍").await.unwrap();
    assert_eq!(unchanged.seq, Seq(21));
    assert_eq!(bed.hot_rows(id).await, 3);
    let changed = bed.walk(id).await;
    assert_eq!(changed.len(), 120);
    assert_eq!(changed[9].content, "anew");
    assert!(
        changed[9].reactions.get().contains("bob") && changed[10].reactions.get().contains("bob")
    );
    assert!(changed[12].deleted_at.is_some() && changed[12].content.is_empty());
    let whole = bed.store.message(&alice, message(10)).await.unwrap();
    assert!(
        whole
            .edit_history
            .unwrap()
            .get()
            .contains("talk message 10")
    );
    // They are archived anew, and the newer copies count.
    bed.run().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    assert_eq!(bed.walk(id).await, changed);
    bed.store.unreact(&bob, message(11), "👍").await.unwrap();
    bed.run().await;
    assert_eq!(bed.walk(id).await[10].reactions.get(), "{}");
    bed.assert_clean().await;
    bed.close().await;
}

async fn changes_are_synced_from_both_tiers(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 120).await;
    let synced = bed.page(id, Position::Latest, 1).await.rev;
    let message = |seq| MessageId {
        conversation: id,
        seq: Seq(seq),
    };
    let alice = caller("alice");
    bed.run().await;
    for (seq, content) in [(10, "first"), (20, "second"), (30, "third")] {
        bed.store
            .edit_message(&alice, message(seq), content.into())
            .await
            .unwrap();
    }
    bed.run().await; // the edited ones are archived again
    bed.store
        .edit_message(&alice, message(20), "second again".into())
        .await
        .unwrap();
    let request = SyncRequest {
        cursor: None,
        conversations: [(id, synced)].into(),
    };
    let page = bed.store.sync(&alice, request).await.unwrap();
    assert_eq!(page.resync, []);
    let changes = page
        .changes
        .iter()
        .find(|change| change.conversation_id == id)
        .unwrap();
    let told: Vec<(u64, &str)> = changes
        .messages
        .iter()
        .map(|message| (message.seq.0, message.content.as_str()))
        .collect();
    assert_eq!(told, [(10, "first"), (30, "third"), (20, "second again")]);
    bed.close().await;
}

async fn a_message_that_changes_meanwhile_stays_hot(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    let store = bed.store.clone();
    let hook = move |step: Step| {
        if step != Step::ReadBack {
            return;
        }
        let change = async {
            let message = |seq| MessageId {
                conversation: id,
                seq: Seq(seq),
            };
            store
                .edit_message(&caller("alice"), message(10), "changed".into())
                .await
                .unwrap();
            store
                .delete_message(&caller("alice"), message(12))
                .await
                .unwrap();
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(change));
    };
    let archive = bed.archive_with(Arc::new(hook));
    let progress = Progress::default();
    let cutoff = sent_at(1000);
    let outcomes = archive.run(&order(), cutoff, &progress).await.unwrap();
    assert!(
        outcomes.iter().all(|outcome| outcome.error.is_none()),
        "{outcomes:?}"
    );
    assert_eq!(bed.hot_rows(id).await, 2);
    let log = bed.walk(id).await;
    assert_eq!(log.len(), 60);
    assert_eq!(log[9].content, "changed");
    assert!(log[11].deleted_at.is_some());
    // The copy of the deleted one is put down for erasure.
    let erasures = bed.archive.erasures(id).await.unwrap();
    assert_eq!(
        erasures
            .iter()
            .map(|erasure| erasure.seq)
            .collect::<Vec<_>>(),
        [Seq(12)]
    );
    bed.assert_clean().await;
    bed.close().await;
}

async fn a_plan_says_what_a_run_does(backend: Backend) {
    let bed = Bed::open(backend).await;
    bed.import("talk", 300).await;
    bed.import("old", 10).await;
    let plans = bed.archive.plan(&order(), sent_at(101)).await.unwrap();
    let messages: u64 = plans.iter().map(|plan| plan.messages).sum();
    let conversations: u64 = plans.iter().map(|plan| plan.conversations).sum();
    assert_eq!((conversations, messages), (2, 110));
    assert_eq!((bed.keys().await, bed.terms_keys().await), (vec![], vec![]));
    let outcomes = bed.run_before(sent_at(101)).await;
    let archived: u64 = outcomes
        .iter()
        .map(|outcome| outcome.figures.messages)
        .sum();
    assert_eq!(archived, 110);
    let status = bed.archive.status(&order()).await.unwrap();
    let stored: u64 = status.iter().map(|shard| shard.archived.messages).sum();
    assert_eq!(stored, 110);
    let jobs: Vec<_> = status.iter().flat_map(|shard| &shard.jobs).collect();
    assert!(
        jobs.iter()
            .all(|job| job.actor == "tester" && job.outcome.as_deref() == Some("done"))
    );
    bed.close().await;
}

async fn a_held_conversation_stays(backend: Backend) {
    let bed = Bed::open(backend).await;
    let (held, free) = (bed.import("held", 50).await, bed.import("free", 50).await);
    bed.archive.place_hold(&order(), held).await.unwrap();
    bed.run().await;
    assert_eq!(
        (bed.hot_rows(held).await, bed.hot_rows(free).await),
        (50, 0)
    );
    let alice = caller("alice");
    let first = MessageId {
        conversation: held,
        seq: Seq(2),
    };
    let refused = bed.store.delete_message(&alice, first).await.unwrap_err();
    assert!(refused.to_string().contains("legal hold"), "{refused}");
    let refused = bed
        .store
        .delete_conversation(&alice, held)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("legal hold"), "{refused}");
    assert_eq!(bed.archive.holds().await.unwrap().len(), 1);
    assert!(bed.archive.lift_hold(&order(), held).await.unwrap());
    bed.store.delete_message(&alice, first).await.unwrap();
    bed.run().await;
    assert_eq!(bed.hot_rows(held).await, 0);

    // Placed while the job is at it: copied, and not taken away.
    let late = bed.import("late", 50).await;
    let placing = bed.archive.clone();
    let hook = move |step: Step| {
        if step == Step::ReadBack {
            let order = order();
            let place = placing.place_hold(&order, late);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(place))
                .unwrap();
        }
    };
    let archive = bed.archive_with(Arc::new(hook));
    let progress = Progress::default();
    let outcomes = archive
        .run(&order(), sent_at(1000), &progress)
        .await
        .unwrap();
    assert!(
        outcomes.iter().all(|outcome| outcome.error.is_none()),
        "{outcomes:?}"
    );
    assert_eq!(bed.hot_rows(late).await, 50);
    bed.archive.lift_hold(&order(), late).await.unwrap();
    bed.run().await;
    assert_eq!(bed.hot_rows(late).await, 0);
    bed.assert_clean().await;
    bed.close().await;
}

async fn one_job_at_a_time(backend: Backend) {
    warnings::expect(logged::JOB_ENDS_EARLY);
    let settings = ArchiveSettings {
        lease: Span::secs(30), // longer than the second job takes, however busy the machine is
        ..small()
    };
    let bed = Bed::open_with(backend, settings).await;
    bed.import("talk", 60).await;
    let (archive, second) = (bed.archive.clone(), std::sync::Mutex::new(None));
    let second = Arc::new(second);
    let told = second.clone();
    let hook = move |step: Step| {
        if step == Step::ReadBack {
            let progress = Progress::default();
            let cutoff = Timestamp::now();
            let order = order();
            let other = Box::pin(archive.run(&order, cutoff, &progress));
            let outcomes =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(other));
            *told.lock().unwrap() = Some(outcomes.unwrap());
        }
    };
    let first = bed.archive_with(Arc::new(hook));
    let progress = Progress::default();
    let outcomes = first
        .run(&order(), Timestamp::now(), &progress)
        .await
        .unwrap();
    assert!(
        outcomes.iter().all(|outcome| outcome.error.is_none()),
        "{outcomes:?}"
    );
    let second = second.lock().unwrap().take().unwrap();
    let refused = second.iter().filter_map(|outcome| outcome.error.as_deref());
    let refused: Vec<&str> = refused.collect();
    assert!(
        refused
            .iter()
            .any(|error| error.contains("being worked on")),
        "{second:?}"
    );
    bed.assert_clean().await;
    bed.close().await;
}

async fn new_messages_follow_archived_ones(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 40).await;
    bed.run().await;
    let new = backscroll_shard::model::NewMessage {
        content: "and on".into(),
        client_msg_id: Some("1".into()),
        reply_to: Some(MessageId {
            conversation: id,
            seq: Seq(3),
        }),
        ..Default::default()
    };
    let sent = bed
        .store
        .send(&caller("bob"), id, new.clone())
        .await
        .unwrap();
    assert_eq!(sent.message.seq, Seq(41));
    assert!(
        !bed.store
            .send(&caller("bob"), id, new)
            .await
            .unwrap()
            .created
    );
    let page = bed.page(id, Position::Latest, 5).await;
    assert_eq!((page.tiers.hot, page.tiers.archive), (1, 4));
    let marked = bed
        .store
        .mark_read(&caller("alice"), id, Some(Seq(5)))
        .await
        .unwrap();
    assert_eq!(marked.unread_count, 36);
    bed.close().await;
}
