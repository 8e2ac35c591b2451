//! Followers in processes of their own, since a process may have only so many files open, and one thread serves only so
//! many.
//!
//! [`Swarm`] starts the processes and tells them what to do; [`follow`] is what each of them does. They talk in lines of
//! JSON: a process reads its [`Muster`] and then the numbers of rooms in which to say something, and writes [`Word`]s. It
//! ends when it is told nothing more, or when it was killed with the program that started it.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::harness::usage::Watched;
use crate::out;
use crate::pace::Schedule;
use crate::realtime::client::Seat;
use crate::realtime::crowd::Plan;
use crate::realtime::follower::{Follower, Log, Notes, World};
use crate::realtime::socket::Target;

/// The subcommand that is [`follow`].
pub const FOLLOW: &str = "follow";
/// How many clients a process has at most. One that comes back holds the file of the connection that broke for a while.
const EACH: usize = 12_000;
/// How many clients connect at the same time in the beginning, in all processes together.
const CONNECTING: usize = 64;
/// How long all of them may take for that.
const PATIENCE: Duration = Duration::from_secs(360);
/// Orders that wait for a client.
const ORDERS: usize = 256;
/// How often a process tells how many of its clients are back.
const LOOK: Duration = Duration::from_millis(50);

/// The clients of a process.
#[derive(Debug, Serialize, Deserialize)]
struct Muster {
    target: Target,
    doomed: usize,
    connecting: usize,
    /// The number of the first.
    first: usize,
    seats: Vec<Seat>,
}

/// What a process says.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// All of its clients are connected.
    Connected,
    /// So many of them lost their connection and are back.
    Back(usize),
    /// All of them have gone.
    Gone(Vec<Log>, Box<Notes>),
}

/// Followers, in several processes.
pub struct Swarm {
    children: Vec<Child>,
    orders: Vec<ChildStdin>,
    /// For each room, the process of who speaks there.
    speakers: Vec<usize>,
    back: Arc<[AtomicUsize]>,
    ears: JoinSet<Result<(Vec<Log>, Notes)>>,
}

impl Swarm {
    /// Starts as many processes as it takes and connects a client for each seat. Of the target's nodes the first `doomed`
    /// will be killed.
    ///
    /// # Errors
    /// When a client cannot connect.
    pub async fn open(
        target: &Target,
        doomed: usize,
        plan: &Plan,
        mut seats: Vec<Seat>,
    ) -> Result<Self> {
        let begin = Instant::now();
        let count = seats.len();
        let processes = count.div_ceil(EACH);
        let each = count.div_ceil(processes);
        let speaker = |room: &Vec<u32>| room[0] as usize / each;
        let mut swarm = Self {
            children: Vec::new(),
            orders: Vec::new(),
            speakers: plan.rooms.iter().map(speaker).collect(),
            back: (0..processes).map(|_| AtomicUsize::new(0)).collect(),
            ears: JoinSet::new(),
        };
        let connected = Arc::new(Semaphore::new(0));
        for n in 0..processes {
            let rest = seats.split_off(each.min(seats.len()));
            let muster = Muster {
                target: target.clone(),
                doomed,
                connecting: CONNECTING.div_ceil(processes),
                first: n * each,
                seats: std::mem::replace(&mut seats, rest),
            };
            swarm.start(n, &muster, &connected).await?;
        }
        tokio::select! {
            all = timeout(PATIENCE, connected.acquire_many(u32::try_from(processes)?)) => {
                all.context("connecting all clients took too long")??.forget();
            }
            Some(ended) = swarm.ears.join_next() => {
                ended.context("nobody listens to a process")??;
                bail!("a process ended early");
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        out::progress(format_args!(
            "{count} clients of {processes} processes connected in {seconds:.1} s"
        ));
        Ok(swarm)
    }

    async fn start(&mut self, n: usize, muster: &Muster, connected: &Arc<Semaphore>) -> Result<()> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(FOLLOW)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start another process")?;
        let mut orders = child.stdin.take().context("no standard input")?;
        let words = child.stdout.take().context("no standard output")?;
        self.ears.spawn(hear(
            words,
            n,
            Arc::clone(&self.back),
            Arc::clone(connected),
        ));
        let mut line = serde_json::to_vec(muster)?;
        line.push(b'\n');
        orders.write_all(&line).await?;
        self.children.push(child);
        self.orders.push(orders);
        Ok(())
    }

    /// The processes.
    #[must_use]
    pub fn processes(&self) -> Vec<Watched> {
        let ids = self.children.iter().filter_map(Child::id);
        let watched = |id: u32| Watched {
            name: "generator",
            pid: id.cast_signed(),
        };
        ids.map(watched).collect()
    }

    /// Counts those who lost their connection and are back.
    pub fn counter(&self) -> impl Fn() -> usize + use<> {
        let back = Arc::clone(&self.back);
        move || back.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// Has something said in each room in turns, whenever the schedule says so.
    ///
    /// # Errors
    /// When a process has ended.
    pub async fn talk(&mut self, schedule: &Schedule) -> Result<()> {
        let mut rooms = (0..self.speakers.len()).cycle();
        while let (Some(_), Some(room)) = (schedule.next().await, rooms.next()) {
            let line = format!("{room}\n");
            self.orders[self.speakers[room]]
                .write_all(line.as_bytes())
                .await
                .context("a process ended early")?;
        }
        Ok(())
    }

    /// Ends it; gives all logs, and what was noted.
    ///
    /// # Errors
    /// When a client did not come to its end.
    pub async fn close(mut self) -> Result<(Vec<Log>, Notes)> {
        drop(self.orders);
        let (mut logs, mut notes) = (Vec::new(), Notes::default());
        while let Some(heard) = self.ears.join_next().await {
            let (theirs, noted) = heard.context("nobody listens to a process")??;
            logs.extend(theirs);
            notes.add(noted);
        }
        for mut child in self.children {
            let status = child.wait().await?;
            ensure!(status.success(), "a process ended with {status}");
        }
        Ok((logs, notes))
    }
}

/// Listens to what process `n` says, to its end.
async fn hear(
    words: ChildStdout,
    n: usize,
    back: Arc<[AtomicUsize]>,
    connected: Arc<Semaphore>,
) -> Result<(Vec<Log>, Notes)> {
    let mut lines = BufReader::new(words).lines();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line).context("what a process said")? {
            Word::Connected => connected.add_permits(1),
            Word::Back(count) => back[n].store(count, Ordering::Relaxed),
            Word::Gone(logs, notes) => return Ok((logs, *notes)),
        }
    }
    bail!("a process ended early")
}

/// Has the clients that standard input names follow their conversations, until it ends.
///
/// # Errors
/// When one cannot connect, or is told what is not the protocol.
pub async fn follow() -> Result<()> {
    let orders = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut orders = BufReader::new(Receiver::from_owned_fd(orders)?).lines();
    let muster = orders.next_line().await?.context("nothing to do")?;
    let muster: Muster = serde_json::from_str(&muster).context("who is to follow what")?;
    let count = u32::try_from(muster.seats.len())?;
    let (may_connect, connected) = (
        Arc::new(Semaphore::new(muster.connecting)),
        Arc::new(Semaphore::new(0)),
    );
    let world = World::new(muster.target, muster.doomed);
    let (mut orders_of, mut speakers) = (Vec::new(), HashMap::new());
    let mut followers = JoinSet::new();
    for (number, seat) in (muster.first..).zip(muster.seats) {
        let (order, ordered) = mpsc::channel(ORDERS);
        for (room, ..) in seat.rooms.iter().filter(|(_, _, speaks)| *speaks) {
            speakers.insert(*room, orders_of.len());
        }
        orders_of.push(order);
        let (world, may_connect, connected) = (
            Arc::clone(&world),
            Arc::clone(&may_connect),
            Arc::clone(&connected),
        );
        followers.spawn(async move {
            let permit = may_connect.acquire_owned().await?;
            let follower = Follower::connect(&world, number, seat).await;
            let follower = follower.with_context(|| format!("client {number}"))?;
            drop(permit);
            connected.add_permits(1);
            follower
                .run(ordered)
                .await
                .with_context(|| format!("client {number}"))
        });
    }
    tokio::select! {
        all = connected.acquire_many(count) => all?.forget(),
        Some(ended) = followers.join_next() => {
            ended.context("a client panicked")??;
            bail!("a client ended early");
        }
    }
    say(&Word::Connected)?;
    let (mut looks, mut told) = (interval(LOOK), 0);
    loop {
        tokio::select! {
            room = orders.next_line() => match room? {
                Some(room) => {
                    let room = room.parse()?;
                    let speaker: usize = *speakers.get(&room).context("nobody speaks there")?;
                    orders_of[speaker].send(room).await?;
                }
                None => break,
            },
            _ = looks.tick() => {
                let back = world.notes().back.len();
                if back != told {
                    say(&Word::Back(back))?;
                    told = back;
                }
            }
            Some(ended) = followers.join_next() => {
                ended.context("a client panicked")??;
                bail!("a client ended early");
            }
        }
    }
    drop(orders_of);
    let mut logs = Vec::new();
    while let Some(ended) = followers.join_next().await {
        logs.extend(ended.context("a client panicked")??);
    }
    let notes = Box::new(world.notes().clone());
    say(&Word::Gone(logs, notes))
}

fn say(word: &Word) -> Result<()> {
    out::line(serde_json::to_string(word)?);
    Ok(())
}
