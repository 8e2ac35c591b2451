//! A client as the protocol asks it to be: it remembers how far it is, comes back with that when its connection breaks,
//! repeats what was not answered, and ends with exactly the log of each conversation it has open.

mod answers;
mod notes;

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use self::answers::{Change, Cursor, Joined, Page, Resync, Stored, Synced};
pub use self::notes::{Log, Notes, missing};
use crate::drafts::write_id;
use crate::http::{self, Connection, request};
use crate::population::User;
use crate::realtime::client::Seat;
use crate::realtime::door::Incoming;
use crate::realtime::socket::{Socket, Target, answer};

/// The longest wait between attempts, and the first one's: a random time up to it, as the protocol says.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// How many clients load pages at the same time.
const LOADING: usize = 32;
const PAGE: u64 = 200;
/// How much of an error tells it from others.
const REASON_CHARACTERS: usize = 200;

/// What all followers know.
pub struct World {
    /// The nodes and the door.
    target: Target,
    /// The first so many of the nodes will be gone: whoever loses theirs goes to one of the others.
    doomed: usize,
    loading: Semaphore,
    notes: Mutex<Notes>,
}

/// A client that follows.
pub struct Follower {
    world: Arc<World>,
    number: usize,
    seat: Seat,
    socket: Socket,
    logs: Vec<Log>,
    cursor: String,
    /// What was sent and not answered: room, data, and the number of the answer.
    unanswered: VecDeque<(u64, u32, String)>,
    next_ack: u64,
    said: u64,
}

impl World {
    /// A world with these nodes, of which the first `doomed` will be gone.
    #[must_use]
    pub fn new(target: Target, doomed: usize) -> Arc<Self> {
        Arc::new(Self {
            target,
            doomed,
            loading: Semaphore::new(LOADING),
            notes: Mutex::default(),
        })
    }

    /// What has been noted so far.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where client number `number` goes when its node is gone.
    fn refuge(&self, number: usize) -> Result<SocketAddr> {
        let left = self.target.nodes.get(self.doomed..).unwrap_or_default();
        let mut left = left.iter().cycle().skip(number % left.len().max(1));
        left.next().copied().context("there is no node")
    }
}

impl Follower {
    /// Connects, joins its rooms, and asks for the cursor of its list.
    ///
    /// # Errors
    /// When it is not welcome or not let in.
    pub async fn connect(world: &Arc<World>, number: usize, seat: Seat) -> Result<Self> {
        let node = world.target.nodes[world.target.home(number)];
        let token = &seat.user.token;
        let (mut socket, _hello) =
            Socket::connect(&world.target, node, number, token, None).await?;
        let mut next_ack = 0;
        let mut logs = Vec::with_capacity(seat.rooms.len());
        for (room, conversation, _) in &seat.rooms {
            let data = format!("{{\"conversationId\":\"{conversation}\"}}");
            socket.command("join_conversation", &data, next_ack).await?;
            let joined: Joined = serde_json::from_str(&answer(&mut socket, next_ack).await?)?;
            next_ack += 1;
            logs.push(Log {
                room: *room,
                conversation: conversation.clone(),
                rev: joined.rev,
                next: joined.head_seq + 1,
                ahead: BTreeSet::new(),
            });
        }
        let mut request = "{}".to_owned();
        let cursor = loop {
            socket.command("sync", &request, next_ack).await?;
            let page: Synced = serde_json::from_str(&answer(&mut socket, next_ack).await?)?;
            next_ack += 1;
            if !page.has_more {
                break page.cursor;
            }
            request = format!("{{\"cursor\":\"{}\"}}", page.cursor);
        };
        Ok(Self {
            world: Arc::clone(world),
            number,
            seat,
            socket,
            logs,
            cursor,
            unanswered: VecDeque::new(),
            next_ack,
            said: 0,
        })
    }

    /// Follows, and says something in each room it is told, until nobody tells any more; gives its logs.
    ///
    /// # Errors
    /// When what comes is not the protocol.
    pub async fn run(mut self, mut orders: mpsc::Receiver<u32>) -> Result<Vec<Log>> {
        loop {
            let done = tokio::select! {
                order = orders.recv() => match order {
                    Some(room) => self.say(room).await,
                    None => break,
                },
                frame = self.socket.receive() => match frame {
                    Ok(frame) => self.hear(&frame).await,
                    Err(error) => Err(Broken::Connection(error)),
                }
            };
            match done {
                Ok(()) => {}
                Err(Broken::Connection(error)) => self.come_back(&error).await?,
                Err(Broken::Protocol(error)) => return Err(error),
            }
        }
        // The server may be gone already.
        let _ = self.socket.close().await;
        Ok(self.logs)
    }

    async fn say(&mut self, room: u32) -> Result<(), Broken> {
        let log = self.logs.iter().find(|log| log.room == room);
        let log = log.context("not in the room").map_err(Broken::Protocol)?;
        let id = (self.number as u128) << 64 | u128::from(self.said) << 32 | u128::from(room);
        self.said += 1;
        let mut data = format!(
            "{{\"conversationId\":\"{}\",\"clientMsgId\":\"",
            log.conversation
        );
        write_id(id, &mut data);
        // Writing to a string cannot fail.
        let _ = write!(
            data,
            "\",\"content\":\"message {} of client {}\"}}",
            self.said, self.number
        );
        self.send(room, data).await
    }

    async fn send(&mut self, room: u32, data: String) -> Result<(), Broken> {
        let ack = self.next_ack;
        self.next_ack += 1;
        let sent = self.socket.command("send_message", &data, ack).await;
        self.unanswered.push_back((ack, room, data));
        sent.map_err(Broken::Connection)
    }

    async fn hear(&mut self, frame: &str) -> Result<(), Broken> {
        let incoming = self.socket.door().read(frame).map_err(Broken::Protocol)?;
        if let Incoming::Refused(reason) = incoming {
            return Err(Broken::Connection(anyhow::anyhow!("{reason}")));
        }
        self.note(incoming).await.map_err(Broken::Protocol)
    }

    async fn note(&mut self, incoming: Incoming<'_>) -> Result<()> {
        match incoming {
            Incoming::Event {
                name: "new_message",
                data,
            } => {
                let change: Change = serde_json::from_str(data).context("a new_message")?;
                self.has(&change);
            }
            Incoming::Event {
                name: "conversation_updated",
                data,
            } => {
                self.cursor = serde_json::from_str::<Cursor>(data)
                    .context("a conversation_updated")?
                    .cursor;
            }
            Incoming::Event {
                name: "resync",
                data,
            } => {
                let resync: Resync = serde_json::from_str(data).context("a resync")?;
                self.load(&resync).await?;
            }
            Incoming::Answer { ack, data } => {
                if let Some(room) = self.answered(ack) {
                    let stored: Stored = serde_json::from_str(data).context("an answer")?;
                    let mut notes = self.world.notes();
                    notes.acknowledged += 1;
                    let head = notes.heads.entry(room).or_default();
                    *head = stored.seq.max(*head);
                }
            }
            Incoming::Failed { ack, error } if self.answered(ack).is_some() => {
                let mut notes = self.world.notes();
                *notes.failed.entry(error.to_owned()).or_default() += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn answered(&mut self, ack: u64) -> Option<u32> {
        let position = self.unanswered.iter().position(|(n, ..)| *n == ack)?;
        Some(self.unanswered.remove(position)?.1)
    }

    fn has(&mut self, change: &Change) {
        let mut logs = self.logs.iter_mut();
        if let Some(log) = logs.find(|log| log.conversation == change.conversation_id) {
            let new = log.has(&change.message);
            let mut notes = self.world.notes();
            notes.heard += 1;
            notes.heard_again += u64::from(!new);
        }
    }

    /// Connects again, at once and then with growing pauses, to a node that is left; goes on from where it was.
    async fn come_back(&mut self, why: &anyhow::Error) -> Result<()> {
        let world = Arc::clone(&self.world);
        *world.notes().lost.entry(start_of(why)).or_default() += 1;
        let resume = self.resume();
        let mut attempt = 0;
        let (socket, hello) = loop {
            let token = &self.seat.user.token;
            let node = world.refuge(self.number)?;
            match Socket::connect(&world.target, node, self.number, token, Some(&resume)).await {
                Ok(connected) => break connected,
                Err(error) => {
                    let mut notes = world.notes();
                    notes.refused_attempts += 1;
                    *notes.refusals.entry(start_of(&error)).or_default() += 1;
                }
            }
            let longest = LONGEST_WAIT.min(FIRST_WAIT * 2_u32.pow(attempt.min(10)));
            sleep(longest.mul_f64(rand::random())).await;
            attempt += 1;
        };
        self.socket = socket;
        let hello: Value = serde_json::from_str(&hello).context("a hello")?;
        if hello["recovered"] == Value::Bool(true) {
            world.notes().recovered += 1;
        } else {
            self.until_resync().await?;
        }
        for (_, room, data) in std::mem::take(&mut self.unanswered) {
            match self.send(room, data).await {
                Ok(()) | Err(Broken::Connection(_)) => {}
                Err(Broken::Protocol(error)) => return Err(error),
            }
        }
        world.notes().back.push(SystemTime::now());
        Ok(())
    }

    /// A resume that was refused in part says so in a `resync`; until that is done, the client is not back.
    async fn until_resync(&mut self) -> Result<()> {
        loop {
            let Ok(frame) = self.socket.receive().await else {
                // The next attempt to use it finds that it is broken.
                return Ok(());
            };
            let incoming = self.socket.door().read(&frame)?;
            let is_resync = matches!(incoming, Incoming::Event { name: "resync", .. });
            self.note(incoming).await?;
            if is_resync {
                return Ok(());
            }
        }
    }

    fn resume(&self) -> String {
        let mut resume = format!("{{\"cursor\":\"{}\",\"conversations\":{{", self.cursor);
        for (n, log) in self.logs.iter().enumerate() {
            let separator = if n == 0 { "" } else { "," };
            // Writing to a string cannot fail.
            let _ = write!(resume, "{separator}\"{}\":{}", log.conversation, log.rev);
        }
        resume.push_str("}}");
        resume
    }

    /// Loads what lies before the positions that a `resync` names.
    async fn load(&mut self, resync: &Resync) -> Result<()> {
        let world = Arc::clone(&self.world);
        let _permit = world.loading.acquire().await?;
        let mut connection = Connection::open(world.refuge(self.number)?).await?;
        if resync.list {
            world.notes().lists += 1;
            let body = get(&mut connection, "/chat/conversations", &self.seat.user).await?;
            serde_json::from_slice::<Value>(&body).context("a list")?;
        }
        for head in &resync.conversations {
            let mut logs = self.logs.iter_mut();
            let Some(log) = logs.find(|log| log.conversation == head.conversation_id) else {
                continue;
            };
            world.notes().resynced += 1;
            while log.missing(head.head_seq) > 0 {
                let after = log.next - 1;
                let path = format!(
                    "/chat/conversations/{}/messages?after={after}&limit={PAGE}",
                    log.conversation
                );
                let body = get(&mut connection, &path, &self.seat.user).await?;
                let page: Page = serde_json::from_slice(&body).context("a page")?;
                for stored in &page.messages {
                    log.has(stored);
                }
                if !page.has_more_after {
                    break;
                }
            }
            log.rev = log.rev.max(head.rev);
        }
        Ok(())
    }
}

fn start_of(error: &anyhow::Error) -> String {
    format!("{error:#}")
        .chars()
        .take(REASON_CHARACTERS)
        .collect()
}

/// What stops a follower: a broken connection, from which it comes back, or what is not the protocol.
enum Broken {
    Connection(anyhow::Error),
    Protocol(anyhow::Error),
}

async fn get(connection: &mut Connection, path: &str, user: &User) -> Result<Vec<u8>> {
    let request = request("GET", path, &user.token, None);
    let answer = connection.exchange(&request).await?;
    ensure!(
        answer.status == 200,
        "GET {path} was answered with {}: {}",
        answer.status,
        http::text(answer.body)
    );
    if answer.body.is_empty() {
        bail!("GET {path} was answered with nothing");
    }
    Ok(answer.body.to_vec())
}

#[cfg(test)]
mod tests;
