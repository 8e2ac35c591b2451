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
        // An order that is taken is noted on the board before anybody else runs.
        let waits = |orders: &mpsc::Sender<Order>| orders.capacity() < orders.max_capacity();
        while self.orders.iter().any(waits) {
            sleep(LOOK).await;
            self.check()?;
        }
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use futures_util::{SinkExt, StreamExt};
    use serde_json::{Value, json};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::accept_async;
    use tokio_tungstenite::tungstenite::Message;

    use super::*;
    use crate::population::User;
    use crate::realtime::door::Door;

    type Rooms = Arc<Mutex<HashMap<String, Vec<mpsc::Sender<String>>>>>;

    /// What the server of the tests does wrong.
    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        /// Every fifth message is told nobody.
        Forgets,
        /// Every fifth send is refused.
        Refuses,
    }

    /// A server of the native protocol, as far as the fleet uses it, for as long as the set lives.
    async fn serve(tasks: &mut JoinSet<()>, fault: Fault) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rooms = Rooms::default();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(converse(stream, Arc::clone(&rooms), fault));
            }
        });
        address
    }

    async fn converse(stream: TcpStream, rooms: Rooms, fault: Fault) {
        stream.set_nodelay(true).unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        let (pushes, mut pushed) = mpsc::channel::<String>(1000);
        let mut count = 0;
        loop {
            let frame = tokio::select! {
                push = pushed.recv() => {
                    socket.send(Message::text(push.unwrap())).await.unwrap();
                    continue;
                }
                frame = socket.next() => frame,
            };
            let Some(Ok(Message::Text(frame))) = frame else {
                return;
            };
            let command: Value = serde_json::from_str(&frame).unwrap();
            let (data, ack) = (&command["data"], &command["ack"]);
            let room = data["conversationId"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let answer = match command["event"].as_str().unwrap() {
                "authenticate" => {
                    assert_eq!(data["token"], "token");
                    json!({ "event": "hello", "data": { "recovered": false } })
                }
                "join_conversation" => {
                    let mut rooms = rooms.lock().unwrap();
                    rooms.entry(room).or_default().push(pushes.clone());
                    json!({ "ack": ack, "data": { "headSeq": 0, "rev": 0 } })
                }
                "send_message" => {
                    count += 1;
                    if count % 5 == 0 && fault == Fault::Refuses {
                        json!({ "ack": ack, "error": { "code": "overloaded" } })
                    } else {
                        let push = json!({ "event": "new_message", "data": { "message": data } });
                        let listeners = rooms.lock().unwrap()[&room].clone();
                        let forgotten = count % 5 == 0 && fault == Fault::Forgets;
                        for listener in listeners.iter().filter(|_| !forgotten) {
                            listener.try_send(push.to_string()).unwrap();
                        }
                        json!({ "ack": ack, "data": data })
                    }
                }
                other => panic!("{other}"),
            };
            socket
                .send(Message::text(answer.to_string()))
                .await
                .unwrap();
        }
    }

    /// Two rooms of two.
    fn seats() -> Vec<Seat> {
        let seat = |n: usize| Seat {
            user: User {
                id: n.to_string(),
                token: "token".to_owned(),
            },
            rooms: vec![(
                (n / 2) as u32,
                format!("room{}", n / 2),
                n.is_multiple_of(2),
            )],
        };
        (0..4).map(seat).collect()
    }

    async fn open(tasks: &mut JoinSet<()>, fault: Fault) -> Fleet {
        let target = Target {
            nodes: vec![serve(tasks, fault).await],
            door: Door::Native,
            greets: true,
        };
        let board = Board::new([2, 2]).unwrap();
        Fleet::open(&target, &board, &seats()).await.unwrap()
    }

    #[tokio::test]
    async fn everything_said_is_heard_once_and_in_order() {
        let mut tasks = JoinSet::new();
        let mut fleet = open(&mut tasks, Fault::None).await;
        let duration = Duration::from_millis(100);
        for tally in [
            fleet.talk(2, duration).await.unwrap(),
            fleet.spread(3, duration).await.unwrap(),
        ] {
            assert!(
                tally.sent > 3 && tally.faults().none(),
                "{:?}",
                tally.faults()
            );
            assert_eq!(tally.deliveries, 2 * tally.sent);
            assert_eq!(tally.to_receiver.len(), tally.sent);
        }
        let tally = fleet.recite(100.0, duration).await.unwrap();
        assert_eq!((tally.sent, tally.deliveries), (10, 20));
        fleet.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_refused_is_counted_and_not_lost() {
        let mut tasks = JoinSet::new();
        let mut fleet = open(&mut tasks, Fault::Refuses).await;
        let tally = fleet.talk(1, Duration::from_millis(100)).await.unwrap();
        let faults = tally.faults();
        assert!(faults.refused > 0 && faults.lost == 0, "{faults:?}");
    }

    #[tokio::test]
    async fn what_is_forgotten_is_lost() {
        let mut tasks = JoinSet::new();
        let mut fleet = open(&mut tasks, Fault::Forgets).await;
        let board = Arc::clone(&fleet.board);
        board.begin(Duration::from_secs(60), None).unwrap();
        for _ in 0..5 {
            let order = Order::Say(0, Instant::now());
            fleet.orders[0].send(order).await.unwrap();
        }
        while board.progress() != (1, 4 * 2 + 5) {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(board.end().unwrap().faults().lost, 2);
        fleet.check().unwrap();
    }
}
