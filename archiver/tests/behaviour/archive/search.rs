//! Search over both tiers: what is found is what a reader of the whole conversation finds, wherever its messages are.

use backscroll_archiver::object_store::faults::Fault;
use backscroll_archiver::object_store::{ErrorKind, Operation};
use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::{HistoryRecord, NewMessage, SearchPage, SearchRequest, Unsearched};
use backscroll_testkit::warnings;

use super::bed::{Backend, Bed, caller, on_both, record, sent_at, user};
use super::logged;

on_both!(
    what_is_found_is_what_a_reader_finds_after_every_job,
    what_the_archive_does_not_give_is_named,
    damage_does_not_end_a_search,
);

/// Texts in many languages, none of which has marks or letters whose folding is in question.
const TEXTS: [&str; 12] = [
    "The quick brown fox",
    "東京タワーの夜景がきれいです",
    "今天天气很好，我们去公园吧",
    "ภาษาไทยไม่มีช่องว่าง",
    "السلام عليكم ورحمة الله",
    "Über die Brücke",
    "İstanbul'da hava güzel",
    "한국어 메시지를 찾습니다",
    "party 🎉🎉 tonight 👍🏽",
    "see https://example.com/a?b=c",
    "quick reply",
    "",
];

/// What is looked for, and which texts have it.
type Finds = (&'static str, fn(&str) -> bool);
const QUERIES: [Finds; 9] = [
    ("quick", |text| text.contains("quick")),
    ("QUICK fox", |text| {
        text.contains("quick") && text.contains("fox")
    }),
    ("夜景", |text| text.contains("夜景")),
    ("天气", |text| text.contains("天气")),
    ("ช่อง", |text| text.contains("ช่อง")),
    ("عليكم", |text| text.contains("عليكم")),
    ("istanbul guzel", |text| text.contains("İstanbul")),
    ("🎉 new", |text| {
        text.contains("🎉") && text.contains("new")
    }),
    ("absent", |_| false),
];

fn texts(channel: &str, count: u64) -> Vec<HistoryRecord> {
    let text = |n: u64| TEXTS[usize::try_from(n % 12).unwrap()];
    let record = |n| HistoryRecord {
        text: format!("{} {n}", text(n)),
        ..record(channel, n)
    };
    (1..=count).map(record).collect()
}

async fn search(
    bed: &Bed,
    id: ConversationId,
    q: &str,
    cursor: Option<String>,
) -> Result<SearchPage> {
    let request = SearchRequest {
        q: q.into(),
        conversation_id: Some(id),
        limit: Some(7),
        cursor,
        ..SearchRequest::default()
    };
    bed.store.search(&caller("alice"), request).await
}

/// Every query gives the messages that a reader of all of the conversation picks out, newest first.
async fn compare(bed: &Bed, id: ConversationId, when: &str) {
    let log = bed.walk(id).await;
    for (q, has) in QUERIES {
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let page = search(bed, id, q, cursor).await.unwrap();
            assert_eq!(page.unsearched, [], "{when}");
            found.extend(page.hits.into_iter().map(|hit| hit.message));
            cursor = page.cursor;
            if cursor.is_none() {
                assert!(page.complete);
                break;
            }
        }
        let expected = log.iter().rev().filter(|message| has(&message.content));
        let expected: Vec<_> = expected.cloned().collect();
        assert_eq!(found, expected, "{q}, {when}");
    }
}

async fn what_is_found_is_what_a_reader_finds_after_every_job(backend: Backend) {
    let bed = Bed::open(backend).await;
    let (id, _) = bed
        .store
        .import_begin("talk", &user("alice"))
        .await
        .unwrap();
    let records = texts("talk", 300);
    bed.store.import_append(id, 0, &records).await.unwrap();
    compare(&bed, id, "hot").await;
    bed.run().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    compare(&bed, id, "archived").await;
    for seq in [10, 96, 200] {
        bed.edit(id, seq, "a new 🎉 quick text").await;
    }
    for seq in [12, 13, 97] {
        bed.delete(id, seq).await;
    }
    bed.react(id, 100).await;
    for n in 0..20 {
        let new = NewMessage {
            content: format!("{} new {n}", TEXTS[n % 12]),
            ..NewMessage::default()
        };
        bed.store.send(&caller("alice"), id, new).await.unwrap();
    }
    compare(&bed, id, "with changes").await;
    bed.run().await;
    bed.edit(id, 200, "no longer").await;
    compare(&bed, id, "archived again").await;
    bed.all_jobs().await;
    compare(&bed, id, "erased").await;
    bed.rebuild().await;
    compare(&bed, id, "with a new index").await;
    assert!(bed.restore(id).await > 0);
    compare(&bed, id, "restored").await;
    bed.assert_clean().await;
    bed.close().await;
}

/// How often the word of all imported messages is found, and what was left out.
async fn count(bed: &Bed, id: ConversationId) -> (u64, Vec<Unsearched>) {
    let (mut found, mut left_out, mut cursor) = (0, Vec::new(), None);
    loop {
        let page = search(bed, id, "message", cursor).await.unwrap();
        found += page.hits.len() as u64;
        assert!(page.cursor.is_none() || !page.complete);
        left_out.extend(page.unsearched);
        cursor = page.cursor;
        if cursor.is_none() {
            assert_eq!(page.complete, left_out.is_empty());
            return (found, left_out);
        }
    }
}

async fn what_the_archive_does_not_give_is_named(backend: Backend) {
    warnings::expect(logged::ARCHIVE_AWAY);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 100).await;
    let old = bed.import("old", 10).await;
    bed.run().await;
    let new = NewMessage {
        content: "a new message".into(),
        ..NewMessage::default()
    };
    let alice = caller("alice");
    for _ in 0..3 {
        bed.store.send(&alice, id, new.clone()).await.unwrap();
    }
    let away = Fault::Before(ErrorKind::Unavailable);
    bed.faults.plan(Operation::GetRange, 10_000, away);
    let archived = Unsearched {
        conversation_id: id,
        from_seq: Seq(1),
        to_seq: Some(Seq(100)),
    };
    assert_eq!(count(&bed, id).await, (3, vec![archived]));
    let refused = search(&bed, old, "message", None).await;
    assert!(
        matches!(refused, Err(Error::ArchiveUnavailable)),
        "{refused:?}"
    );
    bed.faults.clear();
    assert_eq!(count(&bed, id).await, (103, vec![]));
    assert_eq!(count(&bed, old).await, (10, vec![]));
    bed.close().await;
}

async fn damage_does_not_end_a_search(backend: Backend) {
    warnings::expect(logged::DAMAGED_FRAME);
    warnings::expect(logged::DAMAGED_PAGE);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 900).await;
    for part in [sent_at(300), sent_at(600)] {
        bed.run_before(part).await;
    }
    bed.run().await;
    let keys = bed.keys().await;
    assert_eq!(keys.len(), 3);
    bed.objects.delete(&keys[1]).await.unwrap();
    let (found, left_out) = count(&bed, id).await;
    let length = |it: &Unsearched| it.to_seq.unwrap().0 + 1 - it.from_seq.0;
    let lost: u64 = left_out.iter().map(length).sum();
    assert!(lost > 0 && found > 0);
    assert_eq!(found + lost, 900);
    for key in &keys {
        bed.objects.delete(key).await.unwrap();
    }
    let other = bed.import("other", 5).await;
    bed.run().await;
    let keys = bed.keys().await;
    bed.objects.delete(&keys[0]).await.unwrap();
    let refused = search(&bed, other, "message", None).await;
    assert!(
        matches!(refused, Err(Error::ArchiveDamaged(_))),
        "{refused:?}"
    );
    bed.close().await;
}
