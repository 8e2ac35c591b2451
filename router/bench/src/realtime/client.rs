//! A client: joins its rooms, says what it is told to, and notes what it hears.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::population::User;
use crate::realtime::board::{Board, Listening, Said};
use crate::realtime::door::Incoming;
use crate::realtime::socket::{Socket, Target};

/// What a client is told to do.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Say something in this room, which was meant to be said at that time.
    Say(u32, Instant),
    /// Keep so many messages without acknowledgement in this room, as long as the clock of the phase runs.
    Talk(u32, usize),
}

/// Who a client is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seat {
    /// The user.
    pub user: User,
    /// The rooms to join: number, conversation, and whether this is the one who speaks there.
    pub rooms: Vec<(u32, String, bool)>,
}

/// A connected client.
pub struct Client {
    socket: Socket,
    board: Arc<Board>,
    seat: Seat,
    /// In the order of the seat's rooms.
    listening: Vec<Listening>,
    /// What was sent and not answered, in order, with the number that the answer will have.
    unanswered: VecDeque<(u64, Said)>,
    /// What was told with [`Order::Talk`].
    talks_in: Option<u32>,
    next_ack: u64,
    scratch: String,
}

impl Client {
    /// Connects client number `number` and joins its rooms.
    ///
    /// # Errors
    /// When it is not welcome, or is not let into a room.
    pub async fn connect(
        target: &Target,
        number: usize,
        seat: Seat,
        board: Arc<Board>,
    ) -> Result<Self> {
        let node = target.nodes[target.home(number)];
        let (mut socket, _hello) =
            Socket::connect(target, node, number, &seat.user.token, None).await?;
        let listening = seat.rooms.iter();
        let listening = listening.map(|(room, _, own)| board.listen(*room, *own));
        let listening = listening.collect();
        let mut joined = 0;
        for (ack, (_, conversation, _)) in seat.rooms.iter().enumerate() {
            let data = format!("{{\"conversationId\":\"{conversation}\"}}");
            socket
                .command("join_conversation", &data, ack as u64)
                .await?;
        }
        while joined < seat.rooms.len() {
            let frame = socket.receive().await?;
            match socket.door().read(&frame)? {
                Incoming::Answer { .. } => joined += 1,
                Incoming::Failed { error, .. } => bail!("cannot join: {error}"),
                Incoming::Refused(reason) => bail!("the server says {reason}"),
                Incoming::Event { name, .. } => board.event(name),
                _ => {}
            }
        }
        Ok(Self {
            next_ack: joined as u64,
            socket,
            board,
            seat,
            listening,
            unanswered: VecDeque::new(),
            talks_in: None,
            scratch: String::new(),
        })
    }

    /// Does what it is told until nobody tells any more; then it says goodbye.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<()> {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Say(room, intended)) => {
                        self.talks_in = None;
                        self.say(room, self.board.nanos(intended)).await?;
                    }
                    Some(Order::Talk(room, window)) => {
                        self.talks_in = Some(room);
                        for _ in 0..window {
                            self.say(room, self.board.now()).await?;
                        }
                    }
                    None => break,
                },
                frame = self.socket.receive() => {
                    let mut next = Some(frame);
                    while let Some(frame) = next {
                        if let Some(room) = self.hear(&frame?)? {
                            self.say(room, self.board.now()).await?;
                        }
                        next = self.socket.receive_now();
                    }
                }
            }
            self.socket.flush().await?; // one write for all that was said
        }
        self.socket.close().await
    }

    async fn say(&mut self, room: u32, intended: u64) -> Result<()> {
        let Some((_, conversation, _)) = self.seat.rooms.iter().find(|(n, ..)| *n == room) else {
            bail!("not in room {room}");
        };
        let said = self.board.say(room, intended);
        self.board
            .write_message(&said, conversation, &mut self.scratch);
        let ack = self.next_ack;
        self.next_ack += 1;
        self.unanswered.push_back((ack, said));
        self.socket.put("send_message", &self.scratch, ack).await
    }

    /// Notes what a frame says. Gives the room in which something more is to be said.
    fn hear(&mut self, frame: &str) -> Result<Option<u32>> {
        match self.socket.door().read(frame)? {
            Incoming::Event {
                name: "new_message",
                data,
            } => {
                let said = Said::read(data);
                let heard = said.and_then(|said| {
                    let mut rooms = self.listening.iter_mut();
                    Some((rooms.find(|listening| listening.room == said.room)?, said))
                });
                match heard {
                    Some((listening, said)) => self.board.received(listening, &said),
                    None => self.board.event("new_message of nobody"),
                }
            }
            Incoming::Event { name, .. } => self.board.event(name),
            Incoming::Answer { ack, .. } => {
                if let Some(said) = self.answered(ack) {
                    self.board.acknowledged(&said);
                    return Ok(self.goes_on());
                }
            }
            Incoming::Failed { ack, error } => {
                if let Some(said) = self.answered(ack) {
                    self.board.refused(&said, error);
                    return Ok(self.goes_on());
                }
            }
            Incoming::Refused(reason) => bail!("the server says {reason}"),
            Incoming::Opened | Incoming::Connected | Incoming::Ping | Incoming::Nothing => {}
        }
        Ok(None)
    }

    fn answered(&mut self, ack: u64) -> Option<Said> {
        let position = self.unanswered.iter().position(|(n, _)| *n == ack)?;
        Some(self.unanswered.remove(position)?.1)
    }

    fn goes_on(&self) -> Option<u32> {
        self.talks_in.filter(|_| self.board.in_time())
    }
}
