//! Reads pages of one long conversation: over HTTP, and with the bare statement the store runs.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use backscroll_shard::message::PAGE;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use sqlx::mysql::{MySqlConnection, MySqlRow};

use crate::http::{self, Connection, request};
use crate::load::{Operation, Outcome};
use crate::population::{Conversation, User};

/// The conversation that is read.
#[derive(Clone, Debug)]
pub struct Log {
    /// Where the router is.
    pub address: SocketAddr,
    /// The conversation.
    pub conversation: Conversation,
    /// A member.
    pub reader: User,
    /// How many messages it has.
    pub head: u64,
    /// How many messages a page has.
    pub limit: u64,
}

/// Which page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The newest messages.
    First,
    /// Those before a random one.
    Deep,
}

impl Log {
    /// The first and the last seq of a page.
    fn pick(&self, depth: Depth, rng: &mut SmallRng) -> (u64, u64) {
        let last = match depth {
            Depth::First => self.head,
            Depth::Deep => rng.random_range(self.limit..self.head),
        };
        (last - self.limit + 1, last)
    }

    fn request(&self, depth: Depth, last: u64) -> Vec<u8> {
        let before = match depth {
            Depth::First => String::new(),
            Depth::Deep => format!("before={}&", last + 1),
        };
        let path = format!(
            "/chat/conversations/{}/messages?{before}limit={}",
            self.conversation.id, self.limit
        );
        request("GET", &path, &self.reader.token, None)
    }
}

/// The part of a page that is checked.
#[derive(Deserialize)]
struct Page {
    messages: Vec<Numbered>,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

/// A connection that reads pages over HTTP.
pub struct HttpReader {
    log: Arc<Log>,
    depth: Depth,
    connection: Connection,
    rng: SmallRng,
    wanted: (u64, u64),
    body: Vec<u8>,
}

impl HttpReader {
    /// Connects to the router.
    ///
    /// # Errors
    /// When it does not listen.
    pub async fn open(log: &Arc<Log>, depth: Depth) -> Result<Self> {
        let connection = Connection::open(log.address).await?;
        let rng = SmallRng::seed_from_u64(rand::random());
        Ok(Self {
            log: Arc::clone(log),
            depth,
            connection,
            rng,
            wanted: (0, 0),
            body: Vec::new(),
        })
    }

    /// Checks that the page read last is the one that was asked for, whole and in order.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self) -> Result<()> {
        let page: Page = serde_json::from_slice(&self.body).context("an answer is not a page")?;
        let (first, last) = self.wanted;
        let numbers = page.messages.iter().map(|message| message.seq);
        ensure!(numbers.eq(first..=last), "a page is not {first} to {last}");
        Ok(())
    }
}

impl Operation for HttpReader {
    async fn perform(&mut self) -> Result<Outcome> {
        self.wanted = self.log.pick(self.depth, &mut self.rng);
        let request = self.log.request(self.depth, self.wanted.1);
        let answer = self.connection.exchange(&request).await?;
        if answer.status == 408 || answer.status >= 429 {
            return Ok(Outcome::Refused(answer.status));
        }
        ensure!(
            answer.status == 200,
            "a page was answered with {}: {}",
            answer.status,
            http::text(answer.body)
        );
        self.body.clear();
        self.body.extend_from_slice(answer.body);
        Ok(Outcome::Done)
    }
}

/// A connection that runs the bare statement.
pub struct SqlReader {
    log: Arc<Log>,
    depth: Depth,
    connection: MySqlConnection,
    rng: SmallRng,
    id: [u8; 16],
}

impl SqlReader {
    /// Takes a connection to the shard that has the conversation.
    ///
    /// # Errors
    /// When the conversation's id cannot be read.
    pub fn new(log: &Arc<Log>, depth: Depth, connection: MySqlConnection) -> Result<Self> {
        let rng = SmallRng::seed_from_u64(rand::random());
        Ok(Self {
            log: Arc::clone(log),
            depth,
            connection,
            rng,
            id: log.conversation.id_bytes()?,
        })
    }
}

impl Operation for SqlReader {
    async fn perform(&mut self) -> Result<Outcome> {
        let (first, last) = self.log.pick(self.depth, &mut self.rng);
        let rows: Vec<MySqlRow> = sqlx::query(PAGE)
            .bind(&self.id[..])
            .bind(first.cast_signed())
            .bind(last.cast_signed())
            .fetch_all(&mut self.connection)
            .await?;
        ensure!(
            rows.len() as u64 == self.log.limit,
            "the bare statement gave {} rows",
            rows.len()
        );
        Ok(Outcome::Done)
    }
}
