//! Readers: they open a conversation at its newest page and scroll back, and check each page.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;

use crate::http::{self, Connection, request};
use crate::load::{Operation, Outcome};
use crate::sender::World;

/// Messages on a page.
const PAGE: u64 = 50;
/// The most pages that are read of one conversation before another one is opened.
const DEPTH: u64 = 4;

/// A reader on a connection of its own.
pub(super) struct PageReader {
    world: Arc<World>,
    connection: Connection,
    rng: SmallRng,
    /// The greatest head that was seen of each conversation.
    heads: Vec<u64>,
    /// The conversation that is open, the first seq of the page that was read last, and how many pages follow.
    open: (usize, u64, u64),
    /// Pages with a gap, another order, or a head before one that was seen; the first of them.
    pub(super) wrong: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    messages: Vec<Numbered>,
    head_seq: u64,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

impl PageReader {
    /// Connects to the router at `address`.
    ///
    /// # Errors
    /// When nothing listens there.
    pub(super) async fn open(world: &Arc<World>, address: SocketAddr) -> Result<Self> {
        Ok(Self {
            world: Arc::clone(world),
            connection: Connection::open(address).await?,
            rng: SmallRng::seed_from_u64(rand::random()),
            heads: vec![0; world.population.conversations.len()],
            open: (0, 0, 0),
            wrong: Vec::new(),
        })
    }

    fn check(&mut self, conversation: usize, before: Option<u64>, page: &Page) {
        let seen = &mut self.heads[conversation];
        let last = before.map_or(page.head_seq, |before| before - 1);
        let first = last.saturating_sub(PAGE) + 1;
        let numbers = page.messages.iter().map(|it| it.seq);
        let is_whole = numbers.eq(first..=last) || (before.is_none() && last == 0);
        if page.head_seq < *seen || !is_whole {
            self.wrong.push(format!(
                "conversation {conversation}: head {} after {seen}, {} messages for {first} to {last}",
                page.head_seq,
                page.messages.len()
            ));
        }
        *seen = page.head_seq.max(*seen);
        let rest = if before.is_none() { DEPTH } else { self.open.2 };
        self.open = (conversation, first, rest.saturating_sub(1));
    }
}

impl Operation for PageReader {
    async fn perform(&mut self) -> Result<Outcome> {
        let (open, first, rest) = self.open;
        let (conversation, before) = if rest > 0 && first > 1 {
            (open, Some(first))
        } else {
            (self.rng.random_range(0..self.heads.len()), None)
        };
        let known = &self.world.population.conversations[conversation];
        let before_parameter = before.map_or(String::new(), |it| format!("before={it}&"));
        let path = format!(
            "/chat/conversations/{}/messages?{before_parameter}limit={PAGE}",
            known.id
        );
        let token = &self.world.population.users[known.members[0]].token;
        let answer = self
            .connection
            .exchange(&request("GET", &path, token, None))
            .await?;
        if answer.status == 408 || answer.status >= 429 {
            self.open = (0, 0, 0);
            return Ok(Outcome::Refused(answer.status));
        }
        ensure!(
            answer.status == 200,
            "a page was answered with {}: {}",
            answer.status,
            http::text(answer.body)
        );
        let page: Page = serde_json::from_slice(answer.body)?;
        self.check(conversation, before, &page);
        Ok(Outcome::Done)
    }
}
