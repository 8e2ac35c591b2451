//! Search over both tiers: what is found is what a reader of the whole conversation finds, wherever its messages are.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use backscroll_archiver::object_store::faults::Fault;
use backscroll_archiver::object_store::{ErrorKind, Operation};
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_archiver::terms::terms_key;
use backscroll_archiver::terms::writer::TermsWriter;
use backscroll_archiver::tier::Tier;
use backscroll_shard::archive::SegmentId;
use backscroll_shard::cold_tier::{ColdPart, ColdTier};
use backscroll_shard::commit_event::NoListener;
use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::model::{
    HistoryRecord, NewMessage, SearchHit, SearchPage, SearchRequest, Unsearched,
};
use backscroll_shard::node::Shard;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use backscroll_testkit::warnings;
use bytes::Bytes;

use super::bed::{Backend, Bed, PATIENCE, caller, on_both, record, sent_at, small, user};
use super::logged;

on_both!(
    what_is_found_is_what_a_reader_finds_after_every_job,
    random_queries_find_the_same_without_terms,
    segments_without_terms_are_read,
    terms_of_a_segment_that_is_gone_are_collected,
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

/// Segments of many frames: the terms of those with one are not looked up.
fn many_frames() -> ArchiveSettings {
    ArchiveSettings {
        segment_bytes: 1 << 20,
        ..small()
    }
}

/// How many messages a search for a word passes over.
async fn ruled_out(bed: &Bed, id: ConversationId, q: &str) -> u64 {
    let (mut ruled_out, mut cursor) = (0, None);
    loop {
        let page = search(bed, id, q, cursor).await.unwrap();
        ruled_out += page.scanned.ruled_out;
        cursor = page.cursor;
        if cursor.is_none() {
            return ruled_out;
        }
    }
}

async fn what_is_found_is_what_a_reader_finds_after_every_job(backend: Backend) {
    let bed = Bed::open_with(backend, many_frames()).await;
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
    assert!(ruled_out(&bed, id, "absent").await > 0);
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

/// A cold tier that knows of no terms.
struct WithoutTerms(Tier);

#[async_trait]
impl ColdTier for WithoutTerms {
    async fn read(
        &self,
        conversation: ConversationId,
        parts: &[ColdPart],
        deadline: Instant,
    ) -> Vec<Result<Vec<StoredMessage>>> {
        self.0.read(conversation, parts, deadline).await
    }

    fn read_ahead(&self, _shard: &Arc<Shard>, _conversation: ConversationId, _before: Seq) {}
}

/// The same numbers in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }

    /// Some words out of texts, and words that few messages have.
    fn text(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..=self.below(4) {
            let known = TEXTS[self.below(TEXTS.len())];
            let words: Vec<&str> = known.split(' ').collect();
            let word = words[self.below(words.len())];
            let rare = self.below(500);
            text.push_str(&format!("{word} w{rare}ü "));
        }
        text
    }

    /// Parts of a text: one, two, or a phrase.
    fn query(&mut self, text: &str) -> String {
        let characters: Vec<char> = text.chars().filter(|c| *c != '"').collect();
        let part = |dice: &mut Self| {
            let from = dice.below(characters.len().max(1));
            let length = 1 + dice.below(7);
            let part: String = characters.iter().skip(from).take(length).collect();
            part.trim().to_owned()
        };
        let (one, other) = (part(self), part(self));
        match self.below(3) {
            0 => format!("{one} {other}"),
            1 => format!("\"{one}\""),
            _ => format!("w{} {one}", self.below(500)),
        }
    }
}

/// What a search finds in all.
async fn hits(store: &Store, id: ConversationId, q: &str) -> (Vec<SearchHit>, u64) {
    let (mut found, mut ruled_out, mut cursor) = (Vec::new(), 0, None);
    loop {
        let request = SearchRequest {
            q: q.into(),
            conversation_id: Some(id),
            limit: Some(5),
            cursor,
            ..SearchRequest::default()
        };
        let page = store.search(&caller("alice"), request).await.unwrap();
        assert_eq!(page.unsearched, []);
        found.extend(page.hits);
        ruled_out += page.scanned.ruled_out;
        cursor = page.cursor;
        if cursor.is_none() {
            assert!(page.complete);
            return (found, ruled_out);
        }
    }
}

async fn random_queries_find_the_same_without_terms(backend: Backend) {
    let bed = Bed::open_with(backend, many_frames()).await;
    let tier = Tier::new(bed.objects.clone(), &bed.archive_settings);
    let (tier, listener) = (Arc::new(WithoutTerms(tier)), Arc::new(NoListener));
    let supervisor = Supervisor::default();
    let opened = Store::open(&bed.settings, tier, listener, &supervisor).await;
    let without = opened.unwrap();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let alice = user("alice");
    let (id, _) = bed.store.import_begin("talk", &alice).await.unwrap();
    let records: Vec<HistoryRecord> = (1..=700)
        .map(|n| HistoryRecord {
            text: dice.text(),
            ..record("talk", n)
        })
        .collect();
    for (chunk, position) in records.chunks(350).zip([0, 350]) {
        bed.store.import_append(id, position, chunk).await.unwrap();
    }
    let mut all_ruled_out = 0;
    for phase in [
        "hot",
        "half",
        "archived",
        "changed",
        "again",
        "erased",
        "rebuilt",
        "moved",
        "restored",
        "moved back",
        "third",
    ] {
        match phase {
            "half" => drop(bed.run_before(sent_at(400)).await),
            "archived" | "third" => drop(bed.run().await),
            "changed" => {
                for n in 0..24_u64 {
                    // Those with even numbers are alice's.
                    let seq = 2 * (1 + dice.below(300) as u64);
                    match n % 4 {
                        0 => bed.delete(id, seq + 1).await,
                        1 => drop(bed.react(id, seq).await),
                        _ => drop(bed.edit(id, seq, &dice.text()).await),
                    }
                }
            }
            "again" => {
                bed.run().await;
                let text = dice.text();
                bed.edit(id, 602, &text).await;
            }
            "erased" => bed.all_jobs().await,
            "rebuilt" => bed.rebuild().await,
            "moved" | "moved back" => drop(super::moves::move_away(&bed, id).await),
            "restored" => assert!(bed.restore(id).await > 0),
            _ => {}
        }
        let log = bed.walk(id).await;
        for _ in 0..12 {
            let text = &log[dice.below(log.len())].content;
            let q = dice.query(text);
            if q.trim_matches(['"', ' ']).is_empty() {
                continue;
            }
            let (found, ruled_out) = hits(&bed.store, id, &q).await;
            let (expected, none) = hits(&without, id, &q).await;
            assert_eq!(none, 0);
            assert_eq!(found, expected, "{q:?}, {phase}");
            all_ruled_out += ruled_out;
        }
    }
    assert!(all_ruled_out > 1000, "{all_ruled_out}");
    without.close(Instant::now() + PATIENCE).await;
    bed.close().await;
}

async fn segments_without_terms_are_read(backend: Backend) {
    warnings::expect(logged::UNUSABLE_TERMS);
    let bed = Bed::open_with(backend, many_frames()).await;
    let id = bed.import("talk", 400).await;
    bed.run().await;
    assert!(ruled_out(&bed, id, "absent").await > 0);
    let keys = bed.terms_keys().await;
    assert_eq!(keys.len(), 1);
    bed.objects.delete(&keys[0]).await.unwrap();
    let find = async || {
        let tier = Tier::new(bed.objects.clone(), &bed.archive_settings);
        let supervisor = Supervisor::default();
        let opened = Store::open(
            &bed.settings,
            Arc::new(tier),
            Arc::new(NoListener),
            &supervisor,
        )
        .await;
        let store = opened.unwrap();
        let (found, ruled_out) = hits(&store, id, "message").await;
        store.close(Instant::now() + PATIENCE).await;
        (found.len(), ruled_out)
    };
    assert_eq!(find().await, (400, 0), "missing");
    let foreign = Bytes::from(vec![0x5a; 2048]);
    bed.objects.put(&keys[0], foreign).await.unwrap();
    assert_eq!(find().await, (400, 0), "damaged");
    bed.close().await;
}

async fn terms_of_a_segment_that_is_gone_are_collected(backend: Backend) {
    let bed = Bed::open(backend).await;
    bed.import("talk", 60).await;
    bed.run().await;
    let kept = bed.terms_keys().await;
    let terms = TermsWriter::new(SegmentId::random()).unwrap().finish();
    let late = terms_key(SegmentId::random());
    bed.objects.put(&late, terms.unwrap()).await.unwrap();
    assert_eq!(bed.verify().await.orphans, 1);
    let collected = bed.collect().await;
    assert_eq!((collected.orphans, collected.deleted), (1, 1));
    assert_eq!(bed.terms_keys().await, kept);
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
