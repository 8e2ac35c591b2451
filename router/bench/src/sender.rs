//! Sends messages over HTTP, one after the other on a connection, and keeps a ledger of what was acknowledged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Deserialize;

use crate::drafts::{Conversations, Draft, Drafts, Texts, write_id};
use crate::harness::router::Router;
use crate::http::{self, Connection};
use crate::ledger::{Acknowledged, Ledger};
use crate::load::{Operation, Outcome};
use crate::population::{Population, Size};

/// What all senders of a run share: who there is, what is said, and the heads of all requests, ready to be sent.
pub struct World {
    /// Where the router is.
    pub address: SocketAddr,
    /// Who talks where.
    pub population: Population,
    /// What is said.
    pub texts: Texts,
    /// How many members each conversation has.
    pub members: usize,
    /// For each conversation and each of its members: the head of a send.
    heads: Vec<Vec<u8>>,
    /// What times in the ledger count from.
    origin: Instant,
}

impl World {
    /// Creates the population with `router`, and what it will say.
    ///
    /// # Errors
    /// When the router does not create a conversation.
    pub async fn create(router: &Router, size: Size, seed: u64) -> Result<Arc<Self>> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let population = Population::create(router.address, &router.secret, size, &mut rng).await?;
        let head = |conversation: &crate::population::Conversation, member: usize| {
            let path = format!("/chat/conversations/{}/messages", conversation.id);
            http::head(
                "POST",
                &path,
                &population.users[conversation.members[member]].token,
                true,
            )
        };
        let conversations = population.conversations.iter();
        let heads = conversations
            .flat_map(|c| (0..size.members).map(move |member| head(c, member)))
            .collect();
        let texts = Texts::new(seed)?;
        Ok(Arc::new(Self {
            address: router.address,
            population,
            texts,
            members: size.members,
            heads,
            origin: Instant::now(),
        }))
    }

    /// The positions of all conversations.
    #[must_use]
    pub fn conversations(&self) -> Conversations {
        (0..self.population.conversations.len() as u32).collect()
    }

    /// Writes the request that sends `draft`; `body` is scratch space.
    fn write_request(&self, draft: &Draft, body: &mut String, request: &mut Vec<u8>) {
        body.clear();
        body.push_str("{\"clientMsgId\":\"");
        write_id(draft.id, body);
        body.push_str("\",\"content\":");
        body.push_str(self.texts.json(draft));
        body.push('}');
        request.clear();
        request.extend_from_slice(
            &self.heads[draft.conversation as usize * self.members + usize::from(draft.member)],
        );
        http::finish_with_body(request, body.as_bytes());
    }

    /// The user id of the draft's sender.
    #[must_use]
    pub fn sender_id(&self, draft: &Draft) -> &str {
        let conversation = &self.population.conversations[draft.conversation as usize];
        &self.population.users[conversation.members[usize::from(draft.member)]].id
    }

    fn nanos(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
}

/// A connection that sends.
pub struct Sender {
    world: Arc<World>,
    connection: Connection,
    drafts: Drafts,
    body: String,
    request: Vec<u8>,
    ledger: Ledger,
}

/// The part of a stored message that an acknowledgement is checked by.
#[derive(Deserialize)]
struct Stored {
    seq: u64,
}

impl Sender {
    /// Opens a connection to `address` that sends `drafts`.
    ///
    /// # Errors
    /// When nothing listens there.
    pub async fn open(address: SocketAddr, world: &Arc<World>, drafts: Drafts) -> Result<Self> {
        let connection = Connection::open(address).await?;
        Ok(Self {
            world: Arc::clone(world),
            connection,
            drafts,
            body: String::new(),
            request: Vec::new(),
            ledger: Ledger::default(),
        })
    }

    /// `count` connections, each with drafts of its own to `conversations`.
    ///
    /// # Errors
    /// As for [`Sender::open`].
    pub async fn open_many(
        world: &Arc<World>,
        count: usize,
        conversations: &Conversations,
    ) -> Result<Vec<Self>> {
        Self::open_many_at(world.address, world, count, conversations).await
    }

    /// The same, to another server.
    ///
    /// # Errors
    /// As for [`Sender::open`].
    pub async fn open_many_at(
        address: SocketAddr,
        world: &Arc<World>,
        count: usize,
        conversations: &Conversations,
    ) -> Result<Vec<Self>> {
        let mut senders = Vec::with_capacity(count);
        for _ in 0..count {
            let drafts = Drafts::new(rand::random(), Arc::clone(conversations), world.members)?;
            senders.push(Self::open(address, world, drafts).await?);
        }
        Ok(senders)
    }

    /// What it has sent so far; the sender starts a new ledger.
    pub fn take_ledger(&mut self) -> Ledger {
        std::mem::take(&mut self.ledger)
    }

    /// Sends something again that was acknowledged before, and says whether the answer was the same message.
    ///
    /// # Errors
    /// When the connection or the answer is broken.
    pub async fn repeat(&mut self, acknowledged: &Acknowledged) -> Result<bool> {
        self.world
            .write_request(&acknowledged.draft, &mut self.body, &mut self.request);
        let answer = self.connection.exchange(&self.request).await?;
        Ok(answer.status == 200
            && serde_json::from_slice::<Stored>(answer.body)?.seq == acknowledged.seq)
    }
}

impl Operation for Sender {
    async fn perform(&mut self) -> Result<Outcome> {
        let draft = self.drafts.draw();
        self.world
            .write_request(&draft, &mut self.body, &mut self.request);
        let sent = self.world.nanos();
        // Until it is acknowledged, it may be stored or not.
        self.ledger.unknown.push(draft);
        let answer = self.connection.exchange(&self.request).await?;
        if answer.status == 408 || answer.status >= 429 {
            return Ok(Outcome::Refused(answer.status));
        }
        ensure!(
            answer.status == 201,
            "a send was answered with {}: {}",
            answer.status,
            http::text(answer.body)
        );
        let stored: Stored =
            serde_json::from_slice(answer.body).context("the answer to a send is not a message")?;
        self.ledger.unknown.pop();
        self.ledger.acknowledged.push(Acknowledged {
            draft,
            seq: stored.seq,
            sent,
            acknowledged: self.world.nanos(),
        });
        Ok(Outcome::Done)
    }
}
