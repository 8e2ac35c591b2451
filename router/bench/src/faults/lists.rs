//! What lists show at the end of a run: conversations with their heads, watermarks and unread mentions, pins, and replies, each
//! held against the ledger's messages.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::time::sleep;

use crate::faults::conversation::{Conversation, Finding};
use crate::faults::final_checks::{FinalChecks, PATIENCE};
use crate::faults::ledger::user_name;
use crate::faults::message::Message;
use crate::faults::observed::Observed;
use crate::faults::operation::{Answer, parse};
use crate::faults::transport::HttpClient;

/// Most unread mentions that an entry counts.
const COUNTED: u64 = 100;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    conversations: Vec<Entry>,
    next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    id: String,
    head_seq: u64,
    read_seq: u64,
    unread_mentions: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    messages: Vec<Observed>,
    #[serde(default)]
    archive_unavailable: Vec<String>,
    next_cursor: Option<String>,
}

impl FinalChecks {
    /// Reads a user's list until it is correct.
    pub(super) async fn compare_list(&self, user: usize) {
        let mut client = HttpClient::default();
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let wrong = match self.read_list(&mut client, user).await {
                Ok(entries) => self.wrong_entries(user, &entries),
                Err(problem) => vec![(String::new(), problem)],
            };
            if wrong.is_empty() {
                return;
            }
            if Instant::now() > give_up_at {
                for (id, problem) in wrong {
                    self.context().report(&id, &(0, problem), "list");
                }
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn read_list(
        &self,
        client: &mut HttpClient,
        user: usize,
    ) -> Result<BTreeMap<String, Entry>, String> {
        let mut entries = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/chat/conversations?limit=100{cursor}");
            let list: List = self.get(client, user, &path).await?;
            let listed = list.conversations.into_iter();
            entries.extend(listed.map(|entry| (entry.id.clone(), entry)));
            match list.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(entries),
            }
        }
    }

    async fn get<T: for<'a> Deserialize<'a>>(
        &self,
        client: &mut HttpClient,
        user: usize,
        path: &str,
    ) -> Result<T, String> {
        let context = self.context();
        let request = ("GET", path, None);
        let reply = client
            .ask(context, user % 2, &context.users[user], request)
            .await;
        match reply.answer {
            Answer::Done { body, .. } => parse(&body),
            other => Err(format!("{path} is answered with {other:?}")),
        }
    }

    fn wrong_entries(
        &self,
        user: usize,
        entries: &BTreeMap<String, Entry>,
    ) -> Vec<(String, String)> {
        let ledger = self.context().ledger();
        let mut wrong = Vec::new();
        let mine = ledger
            .conversations
            .iter()
            .filter(|it| it.members.contains(&user));
        for known in mine {
            let head = known.head.now();
            let read = known
                .reads
                .get(&user)
                .map_or(0, |floor| floor.acknowledged());
            let entry = entries.get(&known.id);
            let is_right = entry.is_some_and(|entry| {
                let (least, most) = unread_mentions(known, user, entry.read_seq);
                let has_mentions = (least..=most).contains(&entry.unread_mentions);
                entry.head_seq == head && entry.read_seq >= read && has_mentions
            });
            if !is_right {
                let read_seq = entry.map_or(0, |entry| entry.read_seq);
                let mentions = unread_mentions(known, user, read_seq);
                let expected = format!("head {head}, read {read}, unread mentions {mentions:?}");
                wrong.push((
                    known.id.clone(),
                    format!("expected {expected}, listed {entry:?}"),
                ));
            }
        }
        wrong
    }

    /// Reads a conversation's pins until they are correct.
    pub(super) async fn compare_pins(&self, position: usize) {
        let (id, user) = {
            let known = &self.context().ledger().conversations[position];
            (known.id.clone(), known.members[0])
        };
        let mut client = HttpClient::default();
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let compared = self.read_pins(&mut client, (position, &id), user).await;
            let Err((seq, problem)) = compared else {
                return;
            };
            if Instant::now() > give_up_at {
                self.context().report(&id, &(seq, problem), "pins");
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Reads the replies of a conversation's messages until they are correct.
    pub(super) async fn compare_threads(&self, position: usize) {
        let (id, user, roots) = {
            let known = &self.context().ledger().conversations[position];
            let roots = known.messages.values().filter_map(Message::answers);
            let roots: BTreeSet<u64> = roots.collect();
            (known.id.clone(), known.members[0], roots)
        };
        let mut client = HttpClient::default();
        let give_up_at = Instant::now() + PATIENCE;
        for root in roots {
            loop {
                let place = (position, id.as_str());
                let Err((seq, problem)) = self.read_thread(&mut client, place, (user, root)).await
                else {
                    break;
                };
                if Instant::now() > give_up_at {
                    self.context().report(&id, &(seq, problem), "threads");
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn read_thread(
        &self,
        client: &mut HttpClient,
        (position, id): (usize, &str),
        (user, root): (usize, u64),
    ) -> Result<(), Finding> {
        let asked = Instant::now();
        let path = format!("/chat/messages/{id}-{root}");
        let shown: Observed = self
            .get(client, user, &path)
            .await
            .map_err(|problem| (root, problem))?;
        let listed = self
            .read_pages(client, user, &format!("{path}/replies"))
            .await?;
        if shown.reply_count != listed.len() as u64 {
            let (shown, listed) = (shown.reply_count, listed.len());
            return Err((root, format!("{shown} replies counted, {listed} listed")));
        }
        let mut ledger = self.context().ledger();
        for observed in listed.values() {
            ledger.observe(observed, Some(asked))?;
            if observed.deleted_at.is_some() || observed.reply_to != Some(format!("{id}-{root}")) {
                let problem = format!("listed and no reply: {}", observed.brief());
                return Err((observed.seq, problem));
            }
        }
        for (seq, message) in &ledger.conversations[position].messages {
            let is_alive = message.answers() == Some(root) && message.deletion.is_none();
            if is_alive && !listed.contains_key(seq) {
                return Err((*seq, format!("a reply to {root} that is not listed")));
            }
        }
        Ok(())
    }

    /// All messages of a list that has a cursor.
    async fn read_pages(
        &self,
        client: &mut HttpClient,
        user: usize,
        path: &str,
    ) -> Result<BTreeMap<u64, Observed>, Finding> {
        let mut listed = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let path = format!("{path}?limit=100{cursor}");
            let page: Listed = self
                .get(client, user, &path)
                .await
                .map_err(|problem| (0, problem))?;
            if !page.archive_unavailable.is_empty() {
                return Err((0, format!("{path} without {:?}", page.archive_unavailable)));
            }
            listed.extend(page.messages.into_iter().map(|it| (it.seq, it)));
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(listed),
            }
        }
    }

    async fn read_pins(
        &self,
        client: &mut HttpClient,
        (position, id): (usize, &str),
        user: usize,
    ) -> Result<(), Finding> {
        let asked = Instant::now();
        let path = format!("/chat/conversations/{id}/pins");
        let listed = self.read_pages(client, user, &path).await?;
        let mut ledger = self.context().ledger();
        for observed in listed.values() {
            ledger.observe(observed, Some(asked))?;
            if observed.pinned_at.is_none() {
                let problem = format!("listed and not pinned: {}", observed.brief());
                return Err((observed.seq, problem));
            }
        }
        for (seq, message) in &ledger.conversations[position].messages {
            if message.is_pinned(asked) == Some(true) && !listed.contains_key(seq) {
                return Err((*seq, "pinned and not listed".to_owned()));
            }
        }
        Ok(())
    }
}

/// The least and the greatest number of unread mentions of a user that has read up to `read`.
fn unread_mentions(known: &Conversation, user: usize, read: u64) -> (u64, u64) {
    let name = user_name(user);
    let unread = known.messages.range(read + 1..);
    let (mut least, mut most) = (0, 0);
    for (_, message) in unread {
        if message.sender == name || !message.mentioned().contains(&name) {
            continue;
        }
        let deletion = message.deletion.as_ref();
        least += u64::from(deletion.is_none());
        most += u64::from(!deletion.is_some_and(|it| it.is_acknowledged()));
    }
    (least.min(COUNTED), most.min(COUNTED))
}
