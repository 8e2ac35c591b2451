//! The traffic: senders and readers on two routers, and followers of all conversations of some users.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::time::sleep;

use super::readers::PageReader;
use crate::harness::router::Router;
use crate::harness::usage::Watched;
use crate::ledger::Ledger;
use crate::load::{Measured, closed_loop, open_loop};
use crate::out;
use crate::realtime::client::Seat;
use crate::realtime::crowd::{Kind, Plan};
use crate::realtime::door::Door;
use crate::realtime::follower::missing;
use crate::realtime::socket::Target;
use crate::realtime::swarm::Swarm;
use crate::report::{Latency, thousands};
use crate::sender::{Sender, World};

/// The traffic goes on in phases of this length, without a pause between two.
const PHASE: Duration = Duration::from_secs(10);
/// The length of a phase in which conversations are filled.
const FILLING: Duration = Duration::from_secs(2);
/// Connections that read pages.
const READERS: usize = 16;
/// How long after the last message it is settled what followers have.
const SETTLES: Duration = Duration::from_secs(5);

/// Everything that makes requests.
pub(super) struct Traffic {
    senders: Vec<Sender>,
    readers: Vec<PageReader>,
    rates: (f64, f64),
    ledger: Ledger,
}

/// What was measured of both in some time.
#[derive(Debug)]
pub(super) struct Seen {
    /// Of messages that were sent.
    pub(super) sends: Measured,
    /// Of pages that were read.
    pub(super) pages: Measured,
}

/// The same, for a report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    /// How many seconds it took.
    pub(super) seconds: f64,
    /// Of messages that were sent.
    pub(super) sends: Latency,
    /// Of pages that were read.
    pub(super) pages: Latency,
    /// Sends and pages that were refused.
    pub(super) refused: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) -> Result<()> {
        for (mine, more) in [
            (&mut self.sends, &other.sends),
            (&mut self.pages, &other.pages),
        ] {
            mine.add(more)?;
            mine.duration += more.duration;
        }
        Ok(())
    }

    /// The figures.
    #[must_use]
    pub(super) fn summary(&self) -> Summary {
        Summary {
            seconds: self.sends.duration.as_secs_f64(),
            sends: Latency::of(&self.sends.latency),
            pages: Latency::of(&self.pages.latency),
            refused: self.sends.refused() + self.pages.refused(),
        }
    }
}

impl Traffic {
    /// Opens `connections` for sends, and some for pages, evenly to all `routers`. The rates are of sends and of pages, a second.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub(super) async fn open(
        world: &Arc<World>,
        routers: &[Router],
        connections: usize,
        rates: (f64, f64),
    ) -> Result<Self> {
        let (mut senders, mut readers) = (Vec::new(), Vec::new());
        for router in routers {
            let (address, all) = (router.address, world.conversations());
            let each = connections.div_ceil(routers.len());
            senders.extend(Sender::open_many_at(address, world, each, &all).await?);
            for _ in 0..READERS.div_ceil(routers.len()) {
                readers.push(PageReader::open(world, address).await?);
            }
        }
        Ok(Self {
            senders,
            readers,
            rates,
            ledger: Ledger::default(),
        })
    }

    /// Sends as fast as it goes until there are so many messages.
    ///
    /// # Errors
    /// When a request fails.
    pub(super) async fn fill(&mut self, messages: usize) -> Result<()> {
        while self.ledger.acknowledged.len() < messages {
            closed_loop(&mut self.senders, FILLING, Duration::ZERO).await?;
            self.collect();
        }
        out::progress(format_args!(
            "{} messages are there",
            thousands(self.ledger.acknowledged.len() as f64)
        ));
        Ok(())
    }

    fn collect(&mut self) {
        for sender in &mut self.senders {
            self.ledger.append(sender.take_ledger());
        }
    }

    async fn phase(&mut self) -> Result<Seen> {
        let (rate, pages) = self.rates;
        let (sends, pages) = tokio::try_join!(
            open_loop(&mut self.senders, rate, PHASE),
            open_loop(&mut self.readers, pages, PHASE)
        )?;
        Ok(Seen { sends, pages })
    }

    /// Goes on until `work` is done, and to the end of that phase.
    ///
    /// # Errors
    /// When a request fails, or `work`.
    pub(super) async fn beside<T>(
        &mut self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Seen)> {
        let mut work = pin!(work);
        let (mut done, mut seen) = (None, None::<Seen>);
        loop {
            let mut phase = pin!(self.phase());
            let more = loop {
                tokio::select! {
                    outcome = &mut work, if done.is_none() => done = Some(outcome?),
                    more = &mut phase => break more?,
                }
            };
            let all = match seen.take() {
                None => more,
                Some(mut all) => {
                    all.add(&more)?;
                    all
                }
            };
            match done {
                Some(done) => return Ok((done, all)),
                None => seen = Some(all),
            }
        }
    }

    /// Ends it: everything that was sent, and the pages that were wrong.
    #[must_use]
    pub(super) fn end(mut self) -> (Ledger, Vec<String>) {
        self.collect();
        let wrong = self.readers.into_iter().flat_map(|reader| reader.wrong);
        (self.ledger, wrong.collect())
    }
}

/// Followers of all conversations of the first users, each on a socket.
pub(super) struct Followers {
    swarm: Swarm,
    sockets: usize,
}

/// What followers noticed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Noticed {
    /// Sockets.
    pub(super) sockets: usize,
    /// Conversations that were followed, one by several sockets counted as often.
    pub(super) followed: usize,
    /// Messages that were heard.
    pub(super) heard: u64,
    /// Those that were heard before.
    pub(super) heard_again: u64,
    /// Messages that were acknowledged and not heard.
    pub(super) missed: u64,
    /// Sockets that were lost, with the reasons.
    pub(super) lost: BTreeMap<String, u64>,
    /// Conversations and lists that had to be loaded.
    pub(super) loaded: usize,
}

impl Followers {
    /// Connects so many.
    ///
    /// # Errors
    /// When one cannot connect.
    pub(super) async fn open(world: &World, routers: &[Router], count: usize) -> Result<Self> {
        let target = Target {
            nodes: routers.iter().map(|router| router.address).collect(),
            door: Door::Native,
            greets: true,
        };
        let users = world.population.users.iter().take(count);
        let mut seats: Vec<Seat> = users
            .map(|user| Seat {
                user: user.clone(),
                rooms: Vec::new(),
            })
            .collect();
        for (room, conversation) in (0..).zip(&world.population.conversations) {
            for member in &conversation.members {
                if let Some(seat) = seats.get_mut(*member) {
                    seat.rooms.push((room, conversation.id.clone(), false));
                }
            }
        }
        let plan = Plan {
            users: seats.len(),
            kind: Kind::Group,
            rooms: Vec::new(),
        };
        Ok(Self {
            sockets: seats.len(),
            swarm: Swarm::open(&target, 0, &plan, seats).await?,
        })
    }

    /// Their processes.
    #[must_use]
    pub(super) fn processes(&self) -> Vec<Watched> {
        self.swarm.processes()
    }

    /// Waits until they have what was sent last, and compares what they heard with the ledger.
    ///
    /// # Errors
    /// When one did not come to its end.
    pub(super) async fn close(self, ledger: &Ledger) -> Result<Noticed> {
        sleep(SETTLES).await;
        let (logs, notes) = self.swarm.close().await?;
        let mut heads = BTreeMap::new();
        for sent in &ledger.acknowledged {
            let head = heads.entry(sent.draft.conversation).or_default();
            *head = sent.seq.max(*head);
        }
        let (missed, _) = missing(&logs, &heads);
        Ok(Noticed {
            sockets: self.sockets,
            followed: logs.len(),
            heard: notes.heard,
            heard_again: notes.heard_again,
            missed,
            lost: notes.lost,
            loaded: notes.resynced + notes.lists,
        })
    }
}
