//! The violations that the ledger must find, and the answers that it must accept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::context::RunContext;
use super::conversation::{Certainty, Conversation};
use super::follower::Follower;
use super::ledger::Ledger;
use super::observed::{Observed, Text};
use super::operation::{Action, Operation, Refusal};
use super::page::{Page, Position};
use crate::realtime::door::Door;

const ID: &str = "c";

/// A conversation of user0 and user1 with one message of user0, and its text.
struct Fixture {
    ledger: Ledger,
    first: Text,
}

fn operation(user: usize, action: Action) -> Operation {
    Operation {
        conversation: 0,
        id: ID.into(),
        user,
        action,
    }
}

fn shown(seq: u64, rev: u64, text: &str) -> Value {
    json!({
        "conversationId": ID, "seq": seq, "rev": rev, "senderId": "user0", "content": text,
        "messageType": "text", "clientMsgId": format!("m{seq}"), "attachments": [], "reactions": {}, "metadata": {},
        "createdAt": "2026-01-01T00:00:00.000Z",
    })
}

fn deleted(seq: u64, rev: u64) -> Value {
    let mut shown = shown(seq, rev, "");
    shown["deletedAt"] = json!("2026-01-02T00:00:00.000Z");
    shown
}

fn observed(shown: &Value) -> Observed {
    serde_json::from_value(shown.clone()).unwrap()
}

impl Fixture {
    fn new() -> Self {
        let mut ledger = Ledger::new(1);
        ledger.add(Conversation::new(ID.into(), 0, vec![0, 1], 0));
        let first = ledger.text(10);
        let mut fixture = Self { ledger, first };
        let found = fixture.send(1, first, 201, &shown(1, 1, &first.render()));
        assert_eq!(found, None);
        fixture
    }

    /// An operation that is answered at the first attempt; returns the violation.
    fn perform(&mut self, operation: &Operation, status: u16, shown: &Value) -> Option<String> {
        self.ledger.begin(operation);
        self.answered(operation, (status, shown), true)
    }

    fn answered(
        &mut self,
        operation: &Operation,
        (status, shown): (u16, &Value),
        at_first_attempt: bool,
    ) -> Option<String> {
        let body = shown.to_string();
        let how = (Instant::now(), at_first_attempt);
        let found = self
            .ledger
            .acknowledge(operation, (status, body.as_bytes()), how);
        found.err().map(|(_, problem)| problem)
    }

    fn send(&mut self, seq: u64, text: Text, status: u16, shown: &Value) -> Option<String> {
        let client_id = format!("m{seq}");
        self.perform(
            &operation(0, Action::Send { client_id, text }),
            status,
            shown,
        )
    }

    fn edit(&mut self, rev: u64) -> Text {
        let text = self.ledger.text(5);
        let edit = operation(0, Action::Edit { seq: 1, text });
        assert_eq!(
            self.perform(&edit, 200, &shown(1, rev, &text.render())),
            None
        );
        text
    }

    /// The violation if this is read now.
    fn read(&mut self, shown: &Value) -> Option<String> {
        let found = self.ledger.observe(&observed(shown), Some(Instant::now()));
        found.err().map(|(_, problem)| problem)
    }

    fn page(&mut self, messages: &[Value], head: u64, unavailable: Value) -> Vec<String> {
        let mut page = json!({
            "messages": messages, "headSeq": head, "rev": 9, "hasMoreBefore": false, "hasMoreAfter": false,
            "tiers": {"hot": messages.len(), "archive": 0},
        });
        if !unavailable.is_null() {
            page["archiveUnavailable"] = unavailable;
        }
        let page: Page = serde_json::from_value(page).unwrap();
        let asked = (Position::Latest, 20);
        let conversation = &mut self.ledger.conversations[0];
        let findings = conversation.observe_page(asked, &page, Instant::now(), Certainty::Read);
        findings.into_iter().map(|(_, problem)| problem).collect()
    }
}

#[track_caller]
fn assert_finds(found: Option<String>, words: &str) {
    let found = found.unwrap_or_default();
    assert!(found.contains(words), "`{found}` instead of `{words}`");
}

#[test]
fn an_acknowledged_edit_must_not_be_undone() {
    let mut fixture = Fixture::new();
    let first = fixture.first.render();
    let before = shown(1, 1, &first);
    assert_eq!(fixture.read(&before), None);
    let edited = fixture.edit(2);
    assert_eq!(fixture.read(&shown(1, 2, &edited.render())), None);
    assert_finds(fixture.read(&before), "expected rev 2 or later");
    // Nor under a new rev.
    assert_finds(fixture.read(&shown(1, 7, &first)), "or a later one");
    // A push may be older.
    assert_eq!(fixture.ledger.observe(&observed(&before), None), Ok(()));
}

#[test]
fn a_deleted_text_must_not_come_back() {
    let mut fixture = Fixture::new();
    let first = fixture.first.render();
    let delete = operation(0, Action::Delete { seq: 1 });
    assert_eq!(fixture.perform(&delete, 200, &deleted(1, 2)), None);
    assert_eq!(fixture.read(&deleted(1, 2)), None);
    assert_finds(
        fixture.read(&shown(1, 3, &first)),
        "deleted before, and shown again",
    );
    let mut leaking = deleted(1, 4);
    leaking["content"] = json!(first);
    assert_finds(fixture.read(&leaking), "not empty");
    assert!(
        fixture
            .ledger
            .deleted_tokens()
            .contains(&fixture.first.token)
    );
}

#[test]
fn one_rev_is_one_state() {
    let mut fixture = Fixture::new();
    let mut other = shown(1, 1, &fixture.first.render());
    other["createdAt"] = json!("2026-01-01T00:00:00.001Z");
    assert_finds(fixture.read(&other), "another state");
}

#[test]
fn a_change_without_an_answer_may_be_in_effect_or_not_but_is_not_undone() {
    let mut fixture = Fixture::new();
    let first = fixture.first.render();
    let text = fixture.ledger.text(5);
    fixture
        .ledger
        .begin(&operation(0, Action::Edit { seq: 1, text }));
    assert_eq!(fixture.read(&shown(1, 1, &first)), None);
    assert_eq!(fixture.read(&shown(1, 2, &text.render())), None);
    assert_finds(
        fixture.read(&shown(1, 1, &first)),
        "expected rev 2 or later",
    );
}

#[test]
fn a_change_that_was_only_read_may_be_rolled_back_when_its_database_is_killed() {
    let mut fixture = Fixture::new();
    let first = fixture.first.render();
    let text = fixture.ledger.text(5);
    fixture
        .ledger
        .begin(&operation(0, Action::Edit { seq: 1, text }));
    assert_eq!(fixture.read(&shown(1, 2, &text.render())), None);
    fixture.ledger.database_killed(0);
    assert_eq!(fixture.read(&shown(1, 1, &first)), None);
    // An acknowledged edit is durable.
    let edit = operation(0, Action::Edit { seq: 1, text });
    assert_eq!(
        fixture.answered(&edit, (200, &shown(1, 2, &text.render())), false),
        None
    );
    fixture.ledger.database_killed(0);
    assert_finds(
        fixture.read(&shown(1, 1, &first)),
        "expected rev 2 or later",
    );
}

#[test]
fn reactions_are_as_they_were_acknowledged() {
    let mut fixture = Fixture::new();
    let react = |add| {
        let emoji = "e1".to_owned();
        operation(1, Action::React { seq: 1, emoji, add })
    };
    let mut reacted = shown(1, 2, &fixture.first.render());
    reacted["reactions"] = json!({"e1": ["user1"]});
    assert_eq!(fixture.perform(&react(true), 200, &reacted), None);
    assert_finds(
        fixture.read(&shown(1, 3, &fixture.first.render())),
        "expected e1 of user1",
    );
    let mut more = reacted.clone();
    more["rev"] = json!(4);
    more["reactions"] = json!({"e1": ["user1"], "e2": ["user0"]});
    assert_finds(fixture.read(&more), "a reaction that was never requested");
    let taken_back = shown(1, 5, &fixture.first.render());
    assert_eq!(fixture.perform(&react(false), 200, &taken_back), None);
    reacted["rev"] = json!(6);
    assert_finds(fixture.read(&reacted), "expected e1 of user1");
}

#[test]
fn pins_are_as_they_were_acknowledged() {
    let mut fixture = Fixture::new();
    let pin = |add| operation(0, Action::Pin { seq: 1, add });
    let with_pin = |rev, fixture: &Fixture| {
        let mut pinned = shown(1, rev, &fixture.first.render());
        pinned["pinnedAt"] = json!("2026-01-02T00:00:00.000Z");
        pinned["pinnedBy"] = json!("user0");
        pinned
    };
    let found = fixture.read(&with_pin(2, &fixture));
    assert_finds(found, "expected pinned None");
    let pinned = with_pin(3, &fixture);
    let refused = shown(1, 2, &fixture.first.render());
    assert_finds(
        fixture.perform(&pin(true), 200, &refused),
        "acknowledged with",
    );
    assert_eq!(fixture.perform(&pin(true), 200, &pinned), None);
    let message = &fixture.ledger.conversations[0].messages[&1];
    assert_eq!(message.is_pinned(Instant::now()), Some(true));
    let found = fixture.read(&shown(1, 4, &fixture.first.render()));
    assert_finds(found, "expected pinned Some(true)");
    fixture.ledger.begin(&pin(false));
    let message = &fixture.ledger.conversations[0].messages[&1];
    assert_eq!(message.is_pinned(Instant::now()), None);
    assert_eq!(fixture.read(&with_pin(5, &fixture)), None);
}

#[test]
fn mentions_are_those_of_the_send_until_the_message_is_deleted() {
    let mut fixture = Fixture::new();
    let text = Text {
        mentions: Some(1),
        ..fixture.ledger.text(4)
    };
    let mut second = shown(2, 2, &text.render());
    second["mentions"] = json!(["user1"]);
    assert_eq!(fixture.send(2, text, 201, &second), None);
    let found = fixture.read(&shown(2, 3, &text.render()));
    assert_finds(found, "expected mentions of [\"user1\"]");
    let mut leaking = deleted(2, 4);
    leaking["mentions"] = json!(["user1"]);
    fixture
        .ledger
        .begin(&operation(0, Action::Delete { seq: 2 }));
    assert_finds(fixture.read(&leaking), "not empty");
    assert_eq!(fixture.read(&deleted(2, 4)), None);
}

#[test]
fn a_reply_answers_what_it_was_sent_for() {
    let mut fixture = Fixture::new();
    let text = Text {
        answers: Some(1),
        ..fixture.ledger.text(4)
    };
    let mut second = shown(2, 2, &text.render());
    let found = fixture.send(2, text, 201, &second);
    assert_finds(found, "expected a reply to Some(\"c-1\")");
    second["replyTo"] = json!("c-1");
    assert_eq!(fixture.send(2, text, 201, &second), None);
    assert_eq!(
        fixture.ledger.conversations[0].messages[&2].answers(),
        Some(1)
    );
}

#[test]
fn a_message_is_there_once() {
    let mut fixture = Fixture::new();
    let mut again = shown(2, 3, &fixture.first.render());
    again["clientMsgId"] = json!("m1");
    assert_finds(fixture.read(&again), "the same message as seq 1");
    assert_finds(
        fixture.read(&shown(2, 3, "tk0000000000000000 ")),
        "a message that was never sent",
    );
    let text = fixture.ledger.text(0);
    let answer = shown(2, 3, &text.render());
    assert_finds(
        fixture.send(2, text, 200, &answer),
        "answered as a repetition",
    );
    let (client_id, text) = ("m1".to_owned(), fixture.first);
    let again = operation(
        0,
        Action::Repeat {
            client_id,
            text,
            seq: 1,
        },
    );
    let answer = shown(1, 1, &text.render());
    assert_eq!(fixture.perform(&again, 200, &answer), None);
    assert_finds(
        fixture.perform(&again, 201, &answer),
        "answered as a new message",
    );
}

#[test]
fn another_text_under_a_used_id_is_a_conflict() {
    let mut fixture = Fixture::new();
    let (client_id, text) = ("m1".to_owned(), fixture.ledger.text(3));
    let clash = operation(0, Action::Clash { client_id, text });
    let conflict = |code: &str| serde_json::from_value::<Refusal>(json!({"code": code})).unwrap();
    assert_eq!(
        fixture
            .ledger
            .refuse(&clash, &conflict("conflict_idempotency")),
        Ok(())
    );
    let found = fixture.ledger.refuse(&clash, &conflict("not_found"));
    assert_finds(found.err().map(|(_, problem)| problem), "refused");
    let answer = shown(1, 1, &fixture.first.render());
    assert_finds(fixture.perform(&clash, 200, &answer), "another text");
}

#[test]
fn a_page_has_no_hole_and_no_old_head() {
    let mut fixture = Fixture::new();
    let first = shown(1, 1, &fixture.first.render());
    assert_eq!(
        fixture.page(std::slice::from_ref(&first), 1, Value::Null),
        Vec::<String>::new()
    );
    let text = fixture.ledger.text(3);
    let second = shown(2, 2, &text.render());
    assert_eq!(fixture.send(2, text, 201, &second), None);
    let found = fixture.page(std::slice::from_ref(&second), 2, Value::Null);
    assert_finds(found.into_iter().next(), "expected messages 1 to 2");
    let found = fixture.page(std::slice::from_ref(&first), 1, Value::Null);
    assert_finds(found.into_iter().next(), "expected a head of 2");
    let unread = json!({"fromSeq": 1, "toSeq": 1});
    let found = fixture.page(std::slice::from_ref(&second), 2, unread.clone());
    assert_eq!(found, Vec::<String>::new());
    let found = fixture.page(std::slice::from_ref(&first), 2, unread);
    assert_finds(found.into_iter().next(), "expected messages 1 to 2");
}

#[test]
fn sync_must_have_the_acknowledged_changes() {
    let mut fixture = Fixture::new();
    fixture.edit(2);
    let conversation = &fixture.ledger.conversations[0];
    let later = Instant::now() + Duration::from_millis(1);
    assert_eq!(conversation.changed((1, 2), later), [1]);
    assert!(conversation.changed((2, 5), later).is_empty());
    let text = fixture.ledger.text(3);
    fixture
        .ledger
        .begin(&operation(0, Action::Edit { seq: 1, text }));
    let conversation = &fixture.ledger.conversations[0];
    assert!(
        conversation.changed((1, 2), later).is_empty(),
        "it may have a later rev"
    );
}

#[test]
fn the_order_of_seqs_is_that_of_acknowledgements() {
    let mut fixture = Fixture::new();
    let third = fixture.ledger.text(3);
    assert_eq!(
        fixture.send(3, third, 201, &shown(3, 3, &third.render())),
        None
    );
    assert!(fixture.ledger.conversations[0].out_of_order().is_empty());
    let second = fixture.ledger.text(3);
    assert_eq!(
        fixture.send(2, second, 201, &shown(2, 2, &second.render())),
        None
    );
    let found = fixture.ledger.conversations[0].out_of_order();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, 3);
}

#[test]
fn a_follower_that_has_not_received_everything_is_found() {
    let fixture = Fixture::new();
    let folder = tempfile::tempdir().unwrap();
    let context = RunContext::new(Vec::new(), Vec::new(), fixture.ledger, folder.path()).unwrap();
    let stored = context.ledger().conversations[0].messages[&1].latest();
    let mut follower = Follower::new(Arc::new(context), 0, Door::Native, 1);
    assert!(follower.missing().is_empty(), "it has nothing open");
    let log = follower.logs.entry(ID.into()).or_default();
    log.insert(1, (0, 7));
    assert_eq!(follower.missing().len(), 1);
    let log = follower.logs.entry(ID.into()).or_default();
    log.insert(1, stored.unwrap());
    assert!(follower.missing().is_empty());
}

#[test]
fn the_object_store_may_be_unavailable_only_during_its_faults() {
    let folder = tempfile::tempdir().unwrap();
    let context = RunContext::new(Vec::new(), Vec::new(), Ledger::new(1), folder.path()).unwrap();
    let asked = Instant::now();
    assert!(context.was_undisturbed(0, asked));
    let ongoing = context.disturb("pause", "objects", &[0]);
    assert!(!context.was_undisturbed(0, asked) && context.was_undisturbed(1, asked));
    ongoing.end(&context);
    assert!(
        !context.was_undisturbed(0, Instant::now()),
        "its effects last"
    );
    assert!(context.was_undisturbed(0, Instant::now() + Duration::from_secs(60)));
}
