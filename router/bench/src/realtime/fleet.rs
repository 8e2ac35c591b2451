//! Many clients at once: opened together, told together what to do in a phase, closed together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::seq::SliceRandom;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::out;
use crate::pace::Schedule;
use crate::realtime::board::{Board, Tally};
use crate::realtime::client::{Client, Order, Seat};
use crate::realtime::socket::Target;

/// How many clients connect at the same time.
const CONNECTING: usize = 64;
/// How many orders wait for a client.
const ORDERS: usize = 64;
/// How long nothing may come before what is missing is lost.
const SILENCE: Duration = Duration::from_secs(10);
/// How long all of them may take to connect: this, and as much again for each thousand.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);
/// How often a phase looks whether everything has come.
const LOOK: Duration = Duration::from_millis(5);

/// Connected clients.
pub struct Fleet {
    board: Arc<Board>,
    orders: Vec<mpsc::Sender<Order>>,
    /// For each room, the client who speaks there.
    speakers: Vec<usize>,
    clients: JoinSet<Result<()>>,
}

impl Fleet {
    /// Connects a client for each of `seats` and waits until all have joined their rooms.
    ///
    /// # Errors
    /// When one cannot.
    pub async fn open(target: &Target, board: &Arc<Board>, seats: &[Seat]) -> Result<Self> {
        let begin = Instant::now();
        let mut speakers = Vec::new();
        for (n, seat) in seats.iter().enumerate() {
            for (room, _, _) in seat.rooms.iter().filter(|(_, _, speaks)| *speaks) {
                let room = *room as usize;
                speakers.resize(speakers.len().max(room + 1), usize::MAX);
                speakers[room] = n;
            }
        }
        let mut fleet = Self {
            board: Arc::clone(board),
            orders: Vec::with_capacity(seats.len()),
            speakers,
            clients: JoinSet::new(),
        };
        let (may_connect, connected) = (
            Arc::new(Semaphore::new(CONNECTING)),
            Arc::new(Semaphore::new(0)),
        );
        for (n, seat) in seats.iter().enumerate() {
            let (orders, ordered) = mpsc::channel(ORDERS);
            fleet.orders.push(orders);
            let (target, board, seat) = (target.clone(), Arc::clone(board), seat.clone());
            let (may_connect, connected) = (Arc::clone(&may_connect), Arc::clone(&connected));
            fleet.clients.spawn(async move {
                let permit = may_connect.acquire_owned().await?;
                let client = Client::connect(&target, n, seat, board).await;
                let client = client.with_context(|| format!("client {n}"))?;
                drop(permit);
                connected.add_permits(1);
                client
                    .run(ordered)
                    .await
                    .with_context(|| format!("client {n}"))
            });
        }
        let patience = OPEN_PATIENCE * (1 + seats.len() as u32 / 1000);
        tokio::select! {
            all = timeout(patience, connected.acquire_many(u32::try_from(seats.len())?)) => {
                all.context("connecting all clients took too long")??.forget();
            }
            Some(ended) = fleet.clients.join_next() => return fleet.failed(ended),
        }
        let (count, seconds) = (seats.len(), begin.elapsed().as_secs_f64());
        out::progress(format_args!("{count} clients connected in {seconds:.1} s"));
        Ok(fleet)
    }

    fn failed<T>(&self, ended: Result<Result<()>, tokio::task::JoinError>) -> Result<T> {
        ended.context("a client panicked")??;
        bail!("a client ended early")
    }

    /// In each room its speaker keeps `window` messages without acknowledgement for `duration`.
    ///
    /// # Errors
    /// When a connection breaks.
    pub async fn talk(&mut self, window: usize, duration: Duration) -> Result<Tally> {
        self.board.begin(duration, None)?;
        for (room, speaker) in self.speakers.iter().enumerate() {
            self.orders[*speaker]
                .send(Order::Talk(room as u32, window))
                .await?;
        }
        sleep(duration).await;
        self.finish().await
    }

    /// Keeps `in_flight` messages on their way, over all rooms in turns, each until all of its listeners have it, for
    /// `duration`.
    ///
    /// # Errors
    /// When a connection breaks.
    pub async fn spread(&mut self, in_flight: usize, duration: Duration) -> Result<Tally> {
        let permits = Arc::new(Semaphore::new(in_flight));
        let rooms = self.rooms_in_turns();
        self.board.begin(duration, Some(Arc::clone(&permits)))?;
        let speak = async {
            for room in rooms.iter().cycle() {
                permits.acquire().await?.forget();
                let speaker = self.speakers[*room as usize];
                self.orders[speaker]
                    .send(Order::Say(*room, Instant::now()))
                    .await?;
            }
            anyhow::Ok(())
        };
        if let Ok(ended) = timeout(duration, speak).await {
            ended?;
        }
        self.finish().await
    }

    /// Says `rate` things a second, over all rooms in turns, whether or not they arrive, for `duration`.
    ///
    /// # Errors
    /// When a connection breaks.
    pub async fn recite(&mut self, rate: f64, duration: Duration) -> Result<Tally> {
        let schedule = Schedule::new();
        let rooms = self.rooms_in_turns();
        self.board.begin(duration, None)?;
        let speak = async {
            let mut rooms = rooms.iter().cycle();
            while let (Some(intended), Some(room)) = (schedule.next().await, rooms.next()) {
                let speaker = self.speakers[*room as usize];
                self.orders[speaker]
                    .send(Order::Say(*room, intended))
                    .await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(speak, schedule.clone().run(rate, duration, 1))?;
        self.finish().await
    }

    fn rooms_in_turns(&self) -> Vec<u32> {
        let mut rooms: Vec<u32> = (0..self.speakers.len() as u32).collect();
        rooms.shuffle(&mut rand::rng());
        rooms
    }

    /// Waits until everything has arrived, or nothing arrives any more.
    async fn finish(&mut self) -> Result<Tally> {
        let (mut last, mut since) = (self.board.progress(), Instant::now());
        while last.0 > 0 && since.elapsed() < SILENCE {
            sleep(LOOK).await;
            self.check()?;
            let progress = self.board.progress();
            if progress != last {
                (last, since) = (progress, Instant::now());
            }
        }
        self.check()?;
        self.board.end()
    }

    /// Finds out whether all clients are still there.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&mut self) -> Result<()> {
        match self.clients.try_join_next() {
            Some(ended) => self.failed(ended),
            None => Ok(()),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// All say goodbye.
    ///
    /// # Errors
    /// When one could not.
    pub async fn close(mut self) -> Result<()> {
        self.orders.clear();
        let count = self.clients.len();
        let mut ended = 0;
        while let Some(client) = self.clients.join_next().await {
            client.context("a client panicked")??;
            ended += 1;
        }
        ensure!(ended == count, "clients ended early");
        Ok(())
    }
}
