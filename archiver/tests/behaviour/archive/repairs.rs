//! Losses: of objects, of index rows, of whole databases.

use backscroll_archiver::jobs::Progress;
use backscroll_shard::ids::Seq;
use backscroll_shard::model::{ConversationKind, NewConversation, NewMessage, Timestamp};
use backscroll_testkit::warnings;

use super::bed::{Backend, Bed, caller, on_both, order, user};
use super::logged;

on_both!(
    a_lost_object_is_noticed,
    a_message_that_is_nowhere_is_noticed,
    objects_that_nobody_knows_are_collected,
    the_index_is_rebuilt_from_the_bucket,
);

async fn a_lost_object_is_noticed(backend: Backend) {
    warnings::expect(logged::VERIFY_FINDS);
    let bed = Bed::open(backend).await;
    bed.import("talk", 60).await;
    bed.run().await;
    let key = bed.keys().await.remove(0);
    bed.objects.delete(&key).await.unwrap();
    let report = bed.verify().await;
    assert_eq!(report.problem_count, 1, "{report:#?}");
    assert_eq!(report.problems[0].segment.as_deref(), Some(key.as_str()));
    assert!(report.problems[0].problem.contains("missing"));
    bed.close().await;
}

async fn a_message_that_is_nowhere_is_noticed(backend: Backend) {
    warnings::expect(logged::VERIFY_FINDS);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    let map = bed.store.map();
    let shard = bed
        .store
        .router()
        .shard(&map.locate(id.owner_key()).shard)
        .unwrap();
    let deadline = std::time::Instant::now() + super::bed::PATIENCE;
    let delete = |mut transaction: backscroll_shard::transaction::Transaction| async move {
        let range = (Seq(7), Seq(9));
        let last_rev = backscroll_shard::ids::Rev(1000);
        let now = Timestamp::now();
        backscroll_shard::archive::delete_run(&mut transaction, id, range, last_rev, now).await
    };
    shard.transaction(deadline, delete).await.unwrap();
    let report = bed.verify().await;
    assert_eq!(report.problem_count, 1, "{report:#?}");
    assert_eq!(report.problems[0].conversation_id, Some(id));
    assert!(
        report.problems[0].problem.starts_with("3 of"),
        "{report:#?}"
    );
    bed.close().await;
}

async fn objects_that_nobody_knows_are_collected(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    let log = bed.walk(id).await;
    let strangers = [
        "archive/ab/ab000000000000000000000000000000.jsonl.zst",
        "archive/notes.txt",
        "media/picture",
    ];
    for key in strangers {
        let key = backscroll_archiver::object_store::ObjectKey::new(key).unwrap();
        bed.objects.put(&key, "stranger".into()).await.unwrap();
    }
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await; // some stores tell times in seconds
    let planned = bed.archive.collect(&order(), true).await.unwrap();
    assert_eq!(
        planned
            .iter()
            .map(|outcome| outcome.figures.orphans)
            .sum::<u64>(),
        1
    );
    let keys = bed.keys().await;
    let figures = bed.collect().await;
    assert_eq!((figures.orphans, figures.deleted), (1, 1));
    let left = bed.keys().await;
    assert_eq!(left.len(), keys.len() - 1);
    assert!(left.iter().any(|key| key.as_str() == strangers[1]));
    assert!(left.iter().any(|key| key.as_str() == strangers[2]));
    assert_eq!(bed.walk(id).await, log);
    bed.close().await;
}

async fn the_index_is_rebuilt_from_the_bucket(backend: Backend) {
    let bed = Bed::open(backend).await;
    let talk = bed.import("talk", 300).await;
    let new = NewConversation {
        kind: ConversationKind::Group,
        members: vec![user("bob"), user("carol")],
        title: Some("the group".into()),
        metadata: None,
    };
    let alice = caller("alice");
    let group = bed
        .store
        .create_conversation(&alice, new, None)
        .await
        .unwrap()
        .0
        .id;
    for n in 0..30 {
        let new = NewMessage {
            content: format!("in the group {n}"),
            ..Default::default()
        };
        bed.store.send(&alice, group, new).await.unwrap();
    }
    bed.run().await;
    let (talk_log, group_log) = (bed.walk(talk).await, bed.walk(group).await);

    let lost = bed.databases_lost(backend).await;
    assert_eq!(lost.verify().await.segments, 0);
    let progress = Progress::default();
    for _ in 0..2 {
        let outcome = lost.archive.rebuild(&order(), &progress).await.unwrap();
        assert_eq!(outcome.error, None);
        assert_eq!(outcome.figures.messages, 330, "{outcome:?}");
        assert_eq!(outcome.figures.problems, Vec::<String>::new());
    }
    assert_eq!(contents(&lost.walk(talk).await), contents(&talk_log));
    assert_eq!(contents(&lost.walk(group).await), contents(&group_log));
    let made = lost.store.conversation(&alice, group).await.unwrap();
    assert_eq!(
        (made.kind, made.title.as_deref()),
        (ConversationKind::Group, Some("the group"))
    );
    let carol = caller("carol");
    let latest = backscroll_shard::model::Position::Latest;
    let page = lost.store.history(&carol, group, latest, 1).await.unwrap();
    assert_eq!(page.messages.len(), 1, "who only read is a member again");
    lost.assert_clean().await;
    let figures = lost.collect().await;
    assert_eq!(figures.deleted, 0);
    // And it goes on.
    let new = NewMessage {
        content: "on".into(),
        ..Default::default()
    };
    assert_eq!(
        lost.store
            .send(&alice, group, new)
            .await
            .unwrap()
            .message
            .seq,
        Seq(31)
    );
    lost.close().await;
    bed.close().await;
}

/// Everything of messages but how far others have read.
fn contents(log: &[backscroll_shard::model::Message]) -> Vec<(u64, u64, String, String, i64)> {
    let content = |message: &backscroll_shard::model::Message| {
        let sender = message.sender_id.to_string();
        (
            message.seq.0,
            message.rev.0,
            sender,
            message.content.clone(),
            message.created_at.0,
        )
    };
    log.iter().map(content).collect()
}
