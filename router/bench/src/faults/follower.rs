//! Followers: clients with a socket that they open again when it breaks, and resume as the protocol demands. In the end each
//! must have received what is stored (INV-PUSH).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::faults::context::{Phase, RunContext};
use crate::faults::observed::Observed;
use crate::faults::page::Position;
use crate::faults::reader::Reader;
use crate::faults::transport::connect;
use crate::realtime::door::{Door, Incoming};
use crate::realtime::socket::Socket;

/// The greatest number of conversations that a follower joins.
const OPEN: usize = 40;
/// The time without a frame after which a connection counts as dead; the server's heartbeat is shorter.
const SILENCE: Duration = Duration::from_secs(25);
/// The number of join commands; other commands have others.
const JOIN: u64 = 0;
const PAGE: u64 = 200;

/// A received message: its rev and the digest of its state.
type Received = (u64, u64);

/// A follower.
pub struct Follower {
    context: Arc<RunContext>,
    user: usize,
    door: Door,
    random: SmallRng,
    reader: Reader,
    cursor: Option<String>,
    /// The received messages of each conversation.
    pub logs: BTreeMap<String, BTreeMap<u64, Received>>,
    /// The rev up to which everything of a loaded conversation was received.
    revs: BTreeMap<String, u64>,
    /// The conversations that have to be loaded, and the rev after which their changes are pushed.
    to_load: BTreeMap<String, u64>,
    /// The latest rev of each conversation that was pushed on this connection.
    order: BTreeMap<String, u64>,
    /// The number of its connections.
    pub connected: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    message: Observed,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    conversation_id: String,
    rev: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resync {
    #[serde(default)]
    conversations: Vec<Head>,
}

impl Follower {
    /// A follower as the user at this position.
    #[must_use]
    pub fn new(context: Arc<RunContext>, user: usize, door: Door, seed: u64) -> Self {
        let pause = Duration::from_millis(20);
        Self {
            reader: Reader::new(Arc::clone(&context), seed, pause),
            context,
            user,
            door,
            random: SmallRng::seed_from_u64(seed),
            cursor: None,
            logs: BTreeMap::new(),
            revs: BTreeMap::new(),
            to_load: BTreeMap::new(),
            order: BTreeMap::new(),
            connected: 0,
        }
    }

    /// Follows until it has received everything that is stored after the run, or `Phase::Over`.
    pub async fn follow(mut self) -> Self {
        loop {
            if let Ok(mut socket) = self.connect().await
                && let Ok(()) = self.listen(&mut socket).await
            {
                return self;
            }
            if self.context.phase() == Phase::Over {
                return self;
            }
            sleep(Duration::from_millis(self.random.random_range(20..800))).await;
        }
    }

    async fn connect(&mut self) -> Result<Socket> {
        let context = Arc::clone(&self.context);
        let node = self.random.random_range(0..context.fronts.len());
        let resume = self
            .cursor
            .as_ref()
            .map(|cursor| json!({"cursor": cursor, "conversations": self.revs}).to_string());
        let user = &context.users[self.user];
        let (mut socket, hello) =
            connect(&context, self.door, node, user, resume.as_deref()).await?;
        self.connected += 1;
        self.order.clear();
        let hello: Value = serde_json::from_str(&hello).context("a hello")?;
        if self.cursor.is_none() {
            self.cursor = hello["cursor"].as_str().map(ToOwned::to_owned);
        }
        // Without a list's cursor nothing can be resumed: all conversations are loaded again.
        if resume.is_none() {
            self.revs.clear();
        }
        self.join(&mut socket).await?;
        Ok(socket)
    }

    /// Joins conversations, up to [`OPEN`].
    async fn join(&mut self, socket: &mut Socket) -> Result<()> {
        let new: Vec<String> = {
            let ledger = self.context.ledger();
            let mine = ledger.conversations.iter();
            let mine = mine.filter(|it| it.members.contains(&self.user)).take(OPEN);
            let new = mine.filter(|it| !self.revs.contains_key(&it.id));
            new.map(|it| it.id.clone()).collect()
        };
        for id in new {
            self.logs.entry(id.clone()).or_default();
            let data = json!({"conversationId": id}).to_string();
            socket.command("join_conversation", &data, JOIN).await?;
        }
        Ok(())
    }

    /// Receives events, until everything was received.
    async fn listen(&mut self, socket: &mut Socket) -> Result<()> {
        let mut latest = Instant::now();
        loop {
            match timeout(Duration::from_millis(500), socket.receive()).await {
                Ok(frame) => {
                    latest = Instant::now();
                    self.receive(socket.door(), &frame?)?;
                }
                Err(_) if latest.elapsed() > SILENCE => bail!("silence"),
                Err(_) => socket.command("ping", "{}", 1).await?,
            }
            self.load().await;
            match self.context.phase() {
                Phase::Run | Phase::Finish => {}
                Phase::Settle if !self.has_everything() => {}
                Phase::Settle | Phase::Over => return Ok(()),
            }
        }
    }

    fn receive(&mut self, door: Door, frame: &str) -> Result<()> {
        match door.read(frame)? {
            Incoming::Refused(reason) => bail!("the server refuses: {reason}"),
            Incoming::Answer { ack: JOIN, data } => {
                let head: Head = serde_json::from_str(data).context("an answer to a join")?;
                self.to_load.insert(head.conversation_id, head.rev);
            }
            // It is tried again with the next connection.
            Incoming::Failed { ack: JOIN, error } => bail!("cannot join: {error}"),
            Incoming::Event { name, data } => self.event(name, data)?,
            _ => {}
        }
        Ok(())
    }

    fn event(&mut self, name: &str, data: &str) -> Result<()> {
        match name {
            "new_message" | "message_updated" | "message_deleted" => {
                let changed: Changed = serde_json::from_str(data).context("a message")?;
                self.pushed(&changed.message);
            }
            "conversation_updated" => {
                let data: Value = serde_json::from_str(data).context("a list entry")?;
                if let Some(cursor) = data["cursor"].as_str() {
                    self.cursor = Some(cursor.to_owned());
                }
            }
            "resync" => {
                let resync: Resync = serde_json::from_str(data).context("a resync")?;
                for head in resync.conversations {
                    self.order.remove(&head.conversation_id);
                    self.to_load.insert(head.conversation_id, head.rev);
                }
            }
            "left_conversation" => {
                self.context
                    .report_general(&format!("left_conversation: {data}"), "follower");
            }
            "error" => {
                let error: Value = serde_json::from_str(data).context("an error")?;
                if error["code"] == "internal" {
                    self.context
                        .report_general(&format!("failed: event {data}"), "follower");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds a pushed change: on one connection changes come in the order of their revs.
    fn pushed(&mut self, observed: &Observed) {
        let id = &observed.conversation_id;
        let outcome = self.context.ledger().observe(observed, None);
        let last = self.order.entry(id.clone()).or_default();
        let is_in_order = observed.rev > *last;
        let late = (
            observed.seq,
            format!("pushed after rev {last}: {}", observed.brief()),
        );
        *last = observed.rev.max(*last);
        let late = (!is_in_order).then_some(late);
        for finding in outcome.err().iter().chain(&late) {
            self.context.report(id, finding, "follower");
        }
        if let Some(rev) = self.revs.get_mut(id) {
            *rev = observed.rev.max(*rev);
        }
        self.note(observed);
    }

    fn note(&mut self, observed: &Observed) {
        let log = self
            .logs
            .entry(observed.conversation_id.clone())
            .or_default();
        let received = log.entry(observed.seq).or_default();
        if observed.rev > received.0 {
            *received = (observed.rev, observed.digest());
        }
    }

    /// Loads one of the conversations that have to be loaded.
    async fn load(&mut self) {
        let Some((id, rev)) = self.to_load.first_key_value() else {
            return;
        };
        let (id, rev) = (id.clone(), *rev);
        let Some(position) = self.context.ledger().position(&id) else {
            return;
        };
        let mut after = 0;
        loop {
            let query = (Position::After(after), PAGE);
            let Some(page) = self.reader.page(position, self.user, query).await else {
                return;
            };
            if page.archive_unavailable.is_some() {
                return;
            }
            page.messages
                .iter()
                .for_each(|observed| self.note(observed));
            after = page.messages.last().map_or(after, |observed| observed.seq);
            if after >= page.head_seq {
                break;
            }
        }
        self.to_load.remove(&id);
        let known = self.revs.entry(id).or_default();
        *known = rev.max(*known);
    }

    fn has_everything(&self) -> bool {
        self.to_load.is_empty() && self.missing().is_empty()
    }

    /// Its name in reports.
    #[must_use]
    pub fn name(&self) -> String {
        format!("follower {} ({:?})", self.user, self.door)
    }

    /// The messages that it has not received as they are stored.
    #[must_use]
    pub fn missing(&self) -> Vec<(String, u64, String)> {
        let ledger = self.context.ledger();
        let mut missing = Vec::new();
        for (id, log) in &self.logs {
            let Some(position) = ledger.position(id) else {
                continue;
            };
            for (seq, message) in &ledger.conversations[position].messages {
                let (stored, received) = (message.latest(), log.get(seq));
                if stored.is_some() && received != stored.as_ref() {
                    missing.push((
                        id.clone(),
                        *seq,
                        format!("stored {stored:?}, received {received:?}"),
                    ));
                }
            }
        }
        missing
    }
}
