//! Sends and reads of other conversations, which go on while a job runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::Args;
use crate::harness::router::Router;
use crate::imports::{Generated, History, OWNER};
use crate::load::{Measured, open_loop};
use crate::pages::{Depth, HttpReader, Log};
use crate::population::{Conversation, Size, User};
use crate::sender::{Sender, World};

/// Who sends and reads meanwhile, over how many connections each.
const FOREGROUND: Size = Size {
    users: 200,
    conversations: 50,
    members: 10,
};
const CONNECTIONS: usize = 16;
/// What is read: messages of the last days.
const RECENT_MESSAGES: u64 = 16_000;
const RECENT_MS: i64 = 10 * 86_400_000;
const PAGE: u64 = 50;
/// How long sends and reads go on before they are measured.
const LEAD_IN: Duration = Duration::from_secs(1);

/// Those who send and read.
pub(super) struct Load {
    pub(super) world: Arc<World>,
    pub(super) senders: Vec<Sender>,
    readers: Vec<HttpReader>,
}

impl Load {
    pub(super) async fn create(router: &Router) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        let recent = Generated {
            messages: RECENT_MESSAGES,
            channels: CONNECTIONS as u64,
            name: "recent",
            begin: now - RECENT_MS,
            gap: RECENT_MS / 2 / RECENT_MESSAGES as i64,
        };
        let recent = History::of(None, recent)?.import(router, OWNER).await?;
        let world = World::create(router, FOREGROUND, rand::random()).await?;
        let senders = Sender::open_many(&world, CONNECTIONS, &world.conversations()).await?;
        let mut readers = Vec::with_capacity(CONNECTIONS);
        for conversation in &recent.conversations {
            let log = Log {
                address: router.address,
                conversation: Conversation {
                    id: conversation.id.clone(),
                    members: Vec::new(),
                },
                reader: User::new(OWNER.to_owned(), &router.secret)?,
                head: conversation.messages,
                limit: PAGE,
            };
            readers.push(HttpReader::open(&Arc::new(log), Depth::Deep).await?);
        }
        Ok(Self {
            world,
            senders,
            readers,
        })
    }

    /// Sends and reads for as long as a round takes; returns what each measured.
    pub(super) async fn run(&mut self, args: &Args) -> Result<(Measured, Measured)> {
        self.run_for(args, Duration::from_secs_f64(args.round_seconds))
            .await
    }

    /// Sends and reads until the job has noticed.
    pub(super) async fn lead_in(&mut self, args: &Args) -> Result<()> {
        self.run_for(args, LEAD_IN).await.map(drop)
    }

    async fn run_for(&mut self, args: &Args, duration: Duration) -> Result<(Measured, Measured)> {
        let measured = tokio::try_join!(
            open_loop(&mut self.senders, args.rate, duration),
            open_loop(&mut self.readers, args.rate, duration)
        )?;
        self.readers.iter().try_for_each(HttpReader::check)?;
        Ok(measured)
    }
}
