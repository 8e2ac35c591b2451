//! Readers: users who read pages back and forth over both tiers, single messages, and changes since a rev.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use crate::faults::context::{Phase, RunContext};
use crate::faults::observed::Observed;
use crate::faults::operation::{Answer, message, parse};
use crate::faults::page::{Page, Position};
use crate::faults::transport::HttpClient;

/// The longest page.
const PAGE: u64 = 200;
/// The greatest number of pages of one walk.
const PAGES: u32 = 12;
/// The number of conversations that a reader syncs at once, and of its requests.
const SYNCED: usize = 12;
const ROUNDS: u32 = 25;

/// A reader.
pub struct Reader {
    context: Arc<RunContext>,
    client: HttpClient,
    random: SmallRng,
    pause: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Synced {
    cursor: String,
    changes: Vec<Changes>,
    #[serde(default)]
    resync: Vec<Head>,
}

/// The cursor and the revs of a client that syncs.
#[derive(Debug, Default)]
pub struct Progress {
    cursor: Option<String>,
    /// The rev of each conversation.
    pub revs: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Changes {
    conversation_id: String,
    messages: Vec<Observed>,
    rev: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    conversation_id: String,
    rev: u64,
}

impl Reader {
    /// A reader with pauses of `pause` between requests, on average.
    #[must_use]
    pub fn new(context: Arc<RunContext>, seed: u64, pause: Duration) -> Self {
        Self {
            context,
            client: HttpClient::default(),
            random: SmallRng::seed_from_u64(seed),
            pause,
        }
    }

    /// Reads until the run ends.
    pub async fn read(mut self) {
        while self.context.phase() == Phase::Run {
            match self.random.random_range(0..10) {
                0..4 => self.walk().await,
                4..7 => self.one().await,
                _ => self.follow().await,
            }
        }
    }

    async fn pause(&mut self) {
        let pause = self.pause.mul_f64(self.random.random_range(0.0..2.0));
        sleep(pause).await;
    }

    /// A random conversation and one of its members.
    fn random_place(&mut self) -> (usize, usize) {
        let ledger = self.context.ledger();
        let position = ledger.random_conversation(&mut self.random);
        let members = &ledger.conversations[position].members;
        (
            position,
            members[self.random.random_range(0..members.len())],
        )
    }

    fn id(&self, position: usize) -> String {
        self.context.ledger().conversations[position].id.clone()
    }

    async fn get(&mut self, user: usize, path: &str) -> (usize, Instant, Answer) {
        let node = self.random.random_range(0..self.context.fronts.len());
        let context = Arc::clone(&self.context);
        let request = ("GET", path, None);
        let reply = self
            .client
            .ask(&context, node, &context.users[user], request)
            .await;
        (node, reply.asked, reply.answer)
    }

    /// Reads pages from a random position, in one direction.
    async fn walk(&mut self) {
        let (conversation, user) = self.random_place();
        let head = self.context.ledger().conversations[conversation].head.now();
        let from = self.random.random_range(0..=head + 1);
        let limit = match self.random.random_range(0..3) {
            0 => self.random.random_range(1..=20),
            1 => 50,
            _ => self.random.random_range(20..=PAGE),
        };
        let mut position = match self.random.random_range(0..5) {
            0 => Position::Around(from),
            1 | 2 => Position::After(from),
            3 => Position::Before(from),
            _ => Position::Latest,
        };
        for _ in 0..PAGES {
            self.pause().await;
            let Some(page) = self.page(conversation, user, (position, limit)).await else {
                return;
            };
            let ends = (page.messages.first(), page.messages.last());
            let (Some(first), Some(last)) = ends else {
                return;
            };
            position = match position {
                Position::After(_) if last.seq < page.head_seq => Position::After(last.seq),
                Position::Latest | Position::Before(_) if first.seq > 1 => {
                    Position::Before(first.seq)
                }
                _ => return,
            };
        }
    }

    /// Reads and checks a page; `None` if there was no page in the answer.
    pub async fn page(
        &mut self,
        conversation: usize,
        user: usize,
        (position, limit): (Position, u64),
    ) -> Option<Page> {
        let id = self.id(conversation);
        let query = position.query(limit);
        let path = format!("/chat/conversations/{id}/messages?{query}");
        let (node, asked, answer) = self.get(user, &path).await;
        let observer = format!("page {query} at node{}", node + 1);
        let body = self.body(answer, (&id, 0), (node, asked), &observer)?;
        let page = match parse::<Page>(&body) {
            Ok(page) => page,
            Err(problem) => {
                self.context.report(&id, &(0, problem), &observer);
                return None;
            }
        };
        if page.archive_unavailable.is_some() {
            self.context.count("archiveUnavailable");
            self.check_undisturbed(&id, (node, asked), "archiveUnavailable", &observer);
        }
        let findings = {
            let mut ledger = self.context.ledger();
            ledger.counts.checked += page.messages.len() as u64;
            ledger.counts.archived += page.tiers.archive;
            let certainty = ledger.certainty(conversation, Some(asked));
            let known = &mut ledger.conversations[conversation];
            known.observe_page((position, limit), &page, asked, certainty)
        };
        findings
            .iter()
            .for_each(|finding| self.context.report(&id, finding, &observer));
        Some(page)
    }

    /// The body of a successful answer. A forbidden answer is reported.
    fn body(
        &self,
        answer: Answer,
        (id, seq): (&str, u64),
        (node, asked): (usize, Instant),
        observer: &str,
    ) -> Option<Vec<u8>> {
        match answer {
            Answer::Done { body, .. } => Some(body),
            Answer::Unknown(_) => None,
            Answer::Refused(refusal) => {
                if refusal.code == "archive_unavailable" {
                    self.check_undisturbed(id, (node, asked), &refusal.code, observer);
                } else if !refusal.is_retryable() && !refusal.is_failure() {
                    let problem = format!("refused: {}", refusal.brief());
                    self.context.report(id, &(seq, problem), observer);
                }
                None
            }
        }
    }

    fn check_undisturbed(&self, id: &str, at: (usize, Instant), what: &str, observer: &str) {
        let (node, asked) = at;
        if self.context.was_undisturbed(node, asked) {
            let problem = format!("{what} while the node could reach the object store");
            self.context.report(id, &(0, problem), observer);
        }
    }

    /// Reads a random message.
    async fn one(&mut self) {
        self.pause().await;
        let (conversation, user) = self.random_place();
        let head = self.context.ledger().conversations[conversation].head.now();
        if head == 0 {
            return;
        }
        let seq = self.random.random_range(1..=head);
        self.message(conversation, user, seq).await;
    }

    /// Reads and checks a message. Returns whether it was answered.
    pub async fn message(&mut self, conversation: usize, user: usize, seq: u64) -> bool {
        let id = self.id(conversation);
        let path = format!("/chat/messages/{id}-{seq}");
        let (node, asked, answer) = self.get(user, &path).await;
        let observer = format!("message at node{}", node + 1);
        // A message that was only read may be rolled back if its database server was killed meanwhile.
        let is_gone = match &answer {
            Answer::Refused(refusal) if refusal.code == "not_found" => {
                seq > self.context.ledger().conversations[conversation]
                    .head
                    .at(asked)
            }
            _ => false,
        };
        if is_gone {
            return true;
        }
        let Some(body) = self.body(answer, (&id, seq), (node, asked), &observer) else {
            return false;
        };
        let outcome = match message(&body) {
            Ok(observed) if observed.seq == seq => {
                self.context.ledger().observe(&observed, Some(asked))
            }
            Ok(observed) => Err((seq, format!("instead of it came {}", observed.seq))),
            Err(problem) => Err((seq, problem)),
        };
        outcome
            .err()
            .iter()
            .for_each(|finding| self.context.report(&id, finding, &observer));
        true
    }

    /// Syncs some conversations for a while.
    async fn follow(&mut self) {
        let (_, user) = self.random_place();
        let mut progress = Progress::default();
        {
            let ledger = self.context.ledger();
            let mine = ledger
                .conversations
                .iter()
                .filter(|it| it.members.contains(&user));
            let mut mine: Vec<&str> = mine.map(|it| it.id.as_str()).collect();
            while progress.revs.len() < SYNCED && !mine.is_empty() {
                let id = mine.swap_remove(self.random.random_range(0..mine.len()));
                progress.revs.insert(id.to_owned(), 0);
            }
        }
        for _ in 0..ROUNDS {
            self.pause().await;
            if self.context.phase() != Phase::Run {
                return;
            }
            self.sync(user, &mut progress).await;
        }
    }

    /// Reads and checks the changes since the last request. Returns whether it was answered.
    pub async fn sync(&mut self, user: usize, progress: &mut Progress) -> bool {
        let mut question = json!({"conversations": progress.revs});
        if let Some(cursor) = &progress.cursor {
            question["cursor"] = json!(cursor);
        }
        let body = question.to_string();
        let node = self.random.random_range(0..self.context.fronts.len());
        let context = Arc::clone(&self.context);
        let request = ("POST", "/chat/sync", Some(body.as_str()));
        let reply = self
            .client
            .ask(&context, node, &context.users[user], request)
            .await;
        let observer = format!("sync at node{}", node + 1);
        let Some(body) = self.body(reply.answer, ("", 0), (node, reply.asked), &observer) else {
            return false;
        };
        let synced = match parse::<Synced>(&body) {
            Ok(synced) => synced,
            Err(problem) => {
                context.report_general(&problem, &observer);
                return false;
            }
        };
        progress.cursor = Some(synced.cursor);
        for changes in synced.changes {
            self.take(&changes, &mut progress.revs, reply.asked, &observer);
        }
        for head in synced.resync {
            // Other readers read the skipped changes as pages.
            progress.revs.insert(head.conversation_id, head.rev);
        }
        true
    }

    fn take(
        &self,
        changes: &Changes,
        revs: &mut BTreeMap<String, u64>,
        asked: Instant,
        observer: &str,
    ) {
        let id = &changes.conversation_id;
        let Some(rev) = revs.get_mut(id) else {
            return; // an entry of the list only
        };
        let from = std::mem::replace(rev, changes.rev);
        let mut ledger = self.context.ledger();
        let Some(position) = ledger.position(id) else {
            return;
        };
        let mut findings = Vec::new();
        for observed in &changes.messages {
            findings.extend(ledger.observe(observed, Some(asked)).err());
        }
        let range = (from, changes.rev);
        for seq in ledger.conversations[position].changed(range, asked) {
            if !changes.messages.iter().any(|observed| observed.seq == seq) {
                findings.push((seq, format!("left out of the changes in {range:?}")));
            }
        }
        drop(ledger);
        findings
            .iter()
            .for_each(|finding| self.context.report(id, finding, observer));
    }
}
