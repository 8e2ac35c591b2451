//! Every operation on a message in every place where a message may be: each cell of one table.
//!
//! Every cell has a conversation of its own, and another in which the message is sent again under its client message id before
//! the question comes (INV-IDEM). Afterwards the message has to read the same as a page, by itself, by sync
//! and exported; and once more after everything was archived again, and after the index was made anew.

use std::collections::BTreeMap;

use backscroll_archiver::jobs::{ArchiveError, Progress};
use backscroll_shard::db::Value;
use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, MessageId, Rev, Seq};
use backscroll_shard::model::{
    ConversationKind, HistoryRecord, Message, NewConversation, NewMessage, Position, SyncRequest,
};
use futures_util::future::join_all;

use super::bed::{Backend, Bed, begin, caller, on_both, order, small, user};

on_both!(every_question_has_its_answer_wherever_the_message_stands);

/// A column for each place in which a message may stand, a row for each question, and the answers: `same` message or a `new`
/// one; `done`, or done `already`; `refused`, as nothing is archived; `conflict` (409), `not found` (404); what is read: the
/// content, `deleted`, or `absent`.
const TABLE: &str = "
                 | hot      | archived | thawed   | archived twice | restored | erased   | erased, archived | held     | archived, held | dropped
 send again      | same     | new      | new      | new            | new      | new      | new              | same     | new            | new
 send another    | conflict | new      | new      | new            | new      | new      | new              | conflict | new            | new
 edit            | done     | done     | done     | done           | done     | conflict | conflict         | done     | done           | not found
 react           | done     | done     | done     | done           | done     | conflict | conflict         | done     | done           | not found
 react again     | already  | already  | already  | already        | already  | conflict | conflict         | already  | already        | not found
 unreact         | done     | done     | done     | done           | done     | conflict | conflict         | done     | done           | not found
 delete          | done     | done     | done     | done           | done     | already  | already          | conflict | conflict       | not found
 restore         | refused  | done     | done     | done           | refused  | done     | done             | refused  | done           | refused
 export          | original | original | edited   | edited         | original | deleted  | deleted          | original | original       | absent
 sync            | original | original | edited   | edited         | original | deleted  | deleted          | original | original       | absent
 page            | original | original | edited   | edited         | original | deleted  | deleted          | original | original       | absent
 message         | original | original | edited   | edited         | original | deleted  | deleted          | original | original       | not found
";

/// Which of a conversation's messages is asked about, and how many there are.
const SEQ: Seq = Seq(3);
const MESSAGES: u64 = 5;
/// Long enough ago for the retention of these deployments.
const AGED: i64 = 400 * 86_400_000;
const RETAIN: &str = "300 days";

/// The questions and the places in their order, and for each pair the answer.
struct Table {
    questions: Vec<&'static str>,
    places: Vec<&'static str>,
    answers: BTreeMap<(&'static str, &'static str), &'static str>,
}

impl Table {
    fn read() -> Self {
        let mut lines = TABLE.lines().filter(|line| !line.trim().is_empty());
        let split = |line: &'static str| line.split('|').map(str::trim).collect::<Vec<_>>();
        let places = split(lines.next().unwrap())[1..].to_vec();
        let mut table = Self {
            questions: Vec::new(),
            places,
            answers: BTreeMap::new(),
        };
        for line in lines {
            let cells = split(line);
            assert_eq!(cells.len(), table.places.len() + 1, "{line}");
            table.questions.push(cells[0]);
            let answers = table.places.iter().zip(&cells[1..]);
            table
                .answers
                .extend(answers.map(|(place, answer)| ((cells[0], *place), *answer)));
        }
        table
    }
}

/// One conversation, the message in it, and what was and is to be.
struct Cell {
    question: &'static str,
    place: &'static str,
    /// The message is sent again before the question.
    repeated: bool,
    id: ConversationId,
    /// What the message is; none once it was dropped.
    expected: Option<Expected>,
    /// How many messages the conversation has.
    count: u64,
}

/// What every way to read the message shows.
#[derive(Clone, Debug, PartialEq)]
struct Expected {
    content: String,
    deleted: bool,
    /// Who reacted with a thumb.
    thumbs: Vec<String>,
}

impl Expected {
    fn sent() -> Self {
        Self {
            content: "original".into(),
            deleted: false,
            thumbs: vec!["alice".into()],
        }
    }

    fn deleted() -> Self {
        Self {
            content: String::new(),
            deleted: true,
            thumbs: Vec::new(),
        }
    }

    /// The word of the table for it.
    fn word(&self) -> String {
        if self.deleted {
            "deleted".into()
        } else {
            self.content.clone()
        }
    }

    fn of(message: &Message) -> Self {
        Self {
            content: message.content.clone(),
            deleted: message.deleted_at.is_some(),
            thumbs: thumbs(message.reactions.get()),
        }
    }

    fn of_record(record: &HistoryRecord) -> Self {
        Self {
            content: record.text.clone(),
            deleted: record.deleted_at.is_some(),
            thumbs: record
                .reactions
                .as_ref()
                .map_or_else(Vec::new, |json| thumbs(json.get())),
        }
    }
}

fn thumbs(json: &str) -> Vec<String> {
    let mut reactions: BTreeMap<String, Vec<String>> = serde_json::from_str(json).unwrap();
    reactions.remove("👍").unwrap_or_default()
}

impl Cell {
    fn message(&self) -> MessageId {
        MessageId {
            conversation: self.id,
            seq: SEQ,
        }
    }

    fn name(&self) -> String {
        let repeated = if self.repeated {
            ", sent again before"
        } else {
            ""
        };
        format!("{} × {}{repeated}", self.question, self.place)
    }
}

async fn every_question_has_its_answer_wherever_the_message_stands(backend: Backend) {
    let table = Table::read();
    let mut settings = small();
    settings.retain = Some(RETAIN.parse().unwrap());
    let bed = Bed::open_with(backend, settings).await;
    let mut cells = put_everything_in_its_place(&bed, &table).await;
    let mut wrong = Vec::new();
    for cell in &mut cells {
        if let Err(told) = look(&bed, cell).await {
            wrong.push(format!("{}: before: {told}", cell.name()));
        }
        if cell.repeated {
            let expected = table.answers[&("send again", cell.place)];
            let answer = ask(&bed, cell, "send again").await;
            check(&mut wrong, cell, "sent again", expected, &answer);
        }
        let expected = table.answers[&(cell.question, cell.place)];
        let answer = ask(&bed, cell, cell.question).await;
        check(&mut wrong, cell, cell.question, expected, &answer);
    }
    compare(&bed, &cells, "afterwards", &mut wrong).await;
    bed.run().await;
    compare(&bed, &cells, "archived again", &mut wrong).await;
    let rebuilt = bed.archive.rebuild(&order(), &Progress::default()).await;
    assert_eq!(rebuilt.unwrap().error, None);
    compare(&bed, &cells, "rebuilt", &mut wrong).await;
    assert!(
        wrong.is_empty(),
        "{} cells:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    bed.assert_clean().await;
    bed.close().await;
}

fn check(wrong: &mut Vec<String>, cell: &Cell, asked: &str, expected: &str, answer: &str) {
    if answer != expected {
        wrong.push(format!(
            "{}: {asked}: {answer}, not {expected}",
            cell.name()
        ));
    }
}

/// Reads the message of every cell in every way.
async fn compare(bed: &Bed, cells: &[Cell], when: &str, wrong: &mut Vec<String>) {
    for cells in cells.chunks(4) {
        let looks = cells.iter().map(|cell| look(bed, cell));
        for (cell, told) in cells.iter().zip(join_all(looks).await) {
            if let Err(told) = told {
                wrong.push(format!("{}: {when}: {told}", cell.name()));
            }
        }
    }
}

async fn put_everything_in_its_place(bed: &Bed, table: &Table) -> Vec<Cell> {
    let mut cells = Vec::new();
    for place in &table.places {
        for question in &table.questions {
            let sends = question.starts_with("send");
            for repeated in [false, true].into_iter().filter(|it| !(sends && *it)) {
                cells.push(Cell {
                    question,
                    place,
                    repeated,
                    id: conversation(bed, &format!("{question} × {place}")).await,
                    expected: Some(Expected::sent()),
                    count: MESSAGES,
                });
            }
        }
    }
    let hot = ["hot", "held"];
    for cell in &cells {
        if !hot.contains(&cell.place) {
            say(bed, cell.id).await;
        }
        if cell.place == "dropped" {
            age(bed, cell.id).await;
        }
    }
    bed.run().await;
    for cell in &mut cells {
        match cell.place {
            "archived twice" => edit(bed, cell).await,
            "erased, archived" => delete(bed, cell).await,
            _ => {}
        }
    }
    bed.run().await;
    for cell in &mut cells {
        match cell.place {
            "thawed" => edit(bed, cell).await,
            "erased" => delete(bed, cell).await,
            "restored" => assert_eq!(ask(bed, cell, "restore").await, "done"),
            "dropped" => cell.expected = None,
            "hot" | "held" => say(bed, cell.id).await,
            _ => {}
        }
        if ["held", "archived, held"].contains(&cell.place) {
            bed.archive.place_hold(&order(), cell.id).await.unwrap();
        }
    }
    let erased = bed.archive.erase(&order(), &Progress::default()).await;
    for outcome in erased.unwrap() {
        assert_eq!(outcome.error, None, "{outcome:?}");
    }
    bed.collect().await;
    bed.collect().await; // gives the receipts for what the first has deleted
    for cell in cells.iter().filter(|cell| cell.place.starts_with("erased")) {
        let receipts = bed.archive.erasures(cell.id).await.unwrap();
        assert!(
            receipts[0].erased_at.is_some(),
            "{}: {receipts:?}",
            cell.name()
        );
    }
    cells
}

async fn conversation(bed: &Bed, title: &str) -> ConversationId {
    let new = NewConversation {
        kind: ConversationKind::Group,
        members: vec![user("bob")],
        title: Some(title.into()),
        metadata: None,
    };
    let store = &bed.store;
    let created = store.create_conversation(&caller("alice"), new, None).await;
    created.unwrap().0.id
}

fn draft(n: u64, content: &str) -> NewMessage {
    NewMessage {
        content: content.into(),
        client_msg_id: Some(format!("message {n}")),
        ..NewMessage::default()
    }
}

async fn say(bed: &Bed, id: ConversationId) {
    let messages = (1..=MESSAGES).map(|n| draft(n, "original")).collect();
    for sent in bed.store.send_all(&caller("bob"), id, messages).await {
        assert!(sent.unwrap().created);
    }
    let message = MessageId {
        conversation: id,
        seq: SEQ,
    };
    bed.store
        .react(&caller("alice"), message, "👍")
        .await
        .unwrap();
}

async fn edit(bed: &Bed, cell: &mut Cell) {
    let bob = caller("bob");
    let edited = bed
        .store
        .edit_message(&bob, cell.message(), "edited".into());
    edited.await.unwrap();
    cell.expected.as_mut().unwrap().content = "edited".into();
}

async fn delete(bed: &Bed, cell: &mut Cell) {
    let bob = caller("bob");
    let deleted = bed.store.delete_message(&bob, cell.message());
    deleted.await.unwrap();
    cell.expected = Some(Expected::deleted());
}

/// As if its messages had been sent long ago.
async fn age(bed: &Bed, id: ConversationId) {
    let map = bed.store.map();
    let shard = bed.store.router().shard(&map.locate(id.owner_key()).shard);
    let mut connection = begin(shard.unwrap()).await;
    for older in [
        "UPDATE messages SET created_at = created_at - ? WHERE conversation_id = ?",
        "UPDATE conversations SET oldest_hot_at = oldest_hot_at - ? WHERE id = ?",
    ] {
        let args = [Value::from(AGED), Value::from(&id)];
        connection.execute(older, &args).await.unwrap();
    }
    connection.commit().await.unwrap();
}

/// What came of a change, in the words of the table.
fn told<T>(outcome: Result<T, Error>, done: impl FnOnce(T) -> &'static str) -> String {
    match outcome {
        Ok(value) => done(value).into(),
        Err(Error::Conflict(_) | Error::IdempotencyConflict(_)) => "conflict".into(),
        Err(Error::NotFound(_)) => "not found".into(),
        Err(other) => format!("{other:?}"),
    }
}

/// Asks, and notes what the message and its conversation should be afterwards.
async fn ask(bed: &Bed, cell: &mut Cell, question: &str) -> String {
    let (store, message) = (&bed.store, cell.message());
    let (alice, bob) = (caller("alice"), caller("bob"));
    let before = head(bed, cell.id).await;
    let changed = |message: Message| {
        if message.rev > before {
            "done"
        } else {
            "already"
        }
    };
    let answer = match question {
        "send again" | "send another" => {
            let content = if question == "send again" {
                "original"
            } else {
                "another"
            };
            let sent = store.send(&bob, cell.id, draft(SEQ.0, content)).await;
            told(sent, |sent| match (sent.created, sent.message.seq) {
                (true, Seq(seq)) if seq > MESSAGES => "new",
                (false, SEQ) => "same",
                _ => "another message",
            })
        }
        "edit" => told(
            store
                .edit_message(&bob, message, "edited here".into())
                .await,
            changed,
        ),
        "react" => told(store.react(&bob, message, "👍").await, changed),
        "react again" => told(store.react(&alice, message, "👍").await, changed),
        "unreact" => told(store.unreact(&alice, message, "👍").await, changed),
        "delete" => told(store.delete_message(&bob, message).await, changed),
        "restore" => {
            let progress = Progress::default();
            let restored = bed.archive.restore(&order(), cell.id, &progress).await;
            match restored {
                Ok(outcome) if outcome.error.is_some() => outcome.error.unwrap(),
                Ok(outcome) if outcome.figures.messages > 0 => "done".into(),
                Ok(_) => "already".into(),
                Err(ArchiveError::NothingArchived(_)) => "refused".into(),
                Err(error) => format!("{error:?}"),
            }
        }
        read => {
            return self::read(bed, cell, read).await.map_or_else(
                |told| told,
                |shown| match shown {
                    Some(shown) => shown.word(),
                    None if read == "message" => "not found".into(),
                    None => "absent".into(),
                },
            );
        }
    };
    cell.count = head_seq(bed, cell.id).await.0;
    if let Some(expected) = cell.expected.as_mut().filter(|_| answer == "done") {
        match question {
            "edit" => expected.content = "edited here".into(),
            "react" => expected.thumbs.push("bob".into()),
            "unreact" => expected.thumbs.clear(),
            "delete" => *expected = Expected::deleted(),
            _ => {}
        }
    }
    answer
}

async fn head(bed: &Bed, id: ConversationId) -> Rev {
    let alice = caller("alice");
    bed.store.conversation(&alice, id).await.unwrap().rev
}

async fn head_seq(bed: &Bed, id: ConversationId) -> Seq {
    let alice = caller("alice");
    bed.store.conversation(&alice, id).await.unwrap().head_seq
}

/// Whether every way to read the message shows it as it should be.
async fn look(bed: &Bed, cell: &Cell) -> Result<(), String> {
    for way in ["page", "message", "sync", "export"] {
        let shown = read(bed, cell, way)
            .await
            .map_err(|told| format!("{way}: {told}"))?;
        if shown != cell.expected {
            return Err(format!("{way}: {shown:?}, not {:?}", cell.expected));
        }
    }
    Ok(())
}

/// The message as it is read; all others of the conversation have to be there, too, each once.
async fn read(bed: &Bed, cell: &Cell, way: &str) -> Result<Option<Expected>, String> {
    let alice = caller("alice");
    let wrong = |error: Error| format!("{error:?}");
    let shown: BTreeMap<Seq, Expected> = match way {
        "page" => {
            let page = bed
                .store
                .history(&alice, cell.id, Position::Latest, 50)
                .await;
            let page = page.map_err(wrong)?;
            if page.archive_unavailable.is_some() {
                return Err("not whole".into());
            }
            page.messages
                .iter()
                .map(|it| (it.seq, Expected::of(it)))
                .collect()
        }
        "sync" => {
            let request = SyncRequest {
                cursor: Some(bed.cursor().await), // nothing of the list
                conversations: [(cell.id, Rev(0))].into(),
            };
            let page = bed.store.sync(&alice, request).await.map_err(wrong)?;
            if page.has_more || !page.resync.is_empty() {
                return Err("not whole".into());
            }
            let mut changes = page.changes.into_iter();
            let changes = changes.find(|changes| changes.conversation_id == cell.id);
            let messages = changes.map_or_else(Vec::new, |changes| changes.messages);
            messages
                .iter()
                .map(|it| (it.seq, Expected::of(it)))
                .collect()
        }
        "export" => {
            let records = bed.store.export(cell.id, Seq(0), 50).await.map_err(wrong)?;
            records
                .iter()
                .map(|(seq, it)| (*seq, Expected::of_record(it)))
                .collect()
        }
        "message" => {
            return match bed.store.message(&alice, cell.message()).await {
                Ok(message) => Ok(Some(Expected::of(&message))),
                Err(Error::NotFound(_)) => Ok(None),
                Err(error) => Err(wrong(error)),
            };
        }
        other => panic!("{other}"),
    };
    let first = if cell.place == "dropped" {
        MESSAGES + 1
    } else {
        1
    };
    let seqs: Vec<u64> = shown.keys().map(|seq| seq.0).collect();
    if seqs != (first..=cell.count).collect::<Vec<_>>() {
        return Err(format!("messages {seqs:?}, not {first} to {}", cell.count));
    }
    Ok(shown.get(&SEQ).cloned())
}
