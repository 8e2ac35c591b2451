//! The life of an open session on its connection: one loop for every door.
//!
//! A door is a codec ([`Door`]): it reads commands and writes events and answers. The loop reads the next command when the one
//! before is done, so that a client's commands are carried out in order and a flood waits in the client's own buffers; events
//! are written meanwhile. Sends, and joins, that arrived back to back are carried out together. A write that makes no progress
//! for [`WRITE_TIMEOUT`] ends the connection, as a full queue does (INV-BOUND).
//!
//! A session whose front-end was written for another server also has a [`Dialect`].

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backscroll_shard::ids::UserId;
use backscroll_shard::lane::TOGETHER_MAX;

use crate::client_event::ClientEvent;
use crate::gateway::Gateway;
use crate::legacy::told::Told;
use crate::outbox::Item;
use crate::protocol::commands::{Answer, BatchedCommand};
use crate::protocol::events::EventName;
use crate::protocol::{COMMANDS_RULE, Close, Failure};
use crate::session::Session;

/// How long a write may make no progress.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most items in one write: the answers to a batch of sends, and the events of the same messages.
const ITEMS_MAX: usize = 2 * TOGETHER_MAX;
/// How many more commands may be refused for their rate than are carried out, before the connection is closed.
const REFUSED_MAX: u32 = 100;

/// A command as it arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// Its name.
    pub(crate) name: Box<str>,
    /// Its data as JSON text.
    pub(crate) data: Box<str>,
    /// The number under which the client awaits the answer.
    pub(crate) ack: Option<u64>,
    /// Whether binary frames came with it, which no command takes.
    pub(crate) binary: bool,
}

/// The answer to a command, on its way to the client.
pub(crate) struct Outcome {
    /// The number under which the client awaits the answer.
    pub(crate) ack: Option<u64>,
    /// The event that carries the answer where there is no number: older front-ends have some.
    pub(crate) event: Option<&'static str>,
    /// The answer.
    pub(crate) answer: Answer,
}

impl Outcome {
    fn new(ack: Option<u64>, answer: Answer) -> Self {
        Self {
            ack,
            event: None,
            answer,
        }
    }
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// The server closes it.
    Close(Close),
    /// The client broke the transport's protocol, which has this code for it.
    Violation(u16),
    /// The client closes it, and waits for the server to do the same.
    Left,
    /// The client is gone, or the transport failed.
    Gone,
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Close(close)
    }
}

/// A connection of one session, as a codec.
pub(crate) trait Door: Send {
    /// Lets the client know that its session is open, before any event.
    ///
    /// # Errors
    /// The end of the connection.
    fn open(&mut self) -> impl Future<Output = Result<(), End>> + Send;

    /// Waits for the client: the next command, or none for a mere sign of life, which counts like a command. The future may be dropped at any time without
    /// the loss of a command.
    ///
    /// # Errors
    /// The end of the connection.
    fn next_command(&mut self) -> impl Future<Output = Result<Option<Command>, End>> + Send;

    /// The next command, if it has arrived already and is `name`.
    fn next_same(&mut self, name: &str) -> Option<Command>;

    /// Writes items, in order and in as few writes as possible.
    ///
    /// # Errors
    /// The end of the connection.
    fn send(&mut self, items: Vec<Item>) -> impl Future<Output = Result<(), End>> + Send;

    /// Closes the connection, and lets the client know why.
    fn close(&mut self, end: End) -> impl Future<Output = ()> + Send;
}

/// The names and forms of an older front-end, in place of the protocol's. See [`legacy`](crate::legacy).
#[async_trait]
pub(crate) trait Dialect: Send + Sync {
    /// The session is open; the client is about to learn it.
    async fn session_opened(&self, gateway: &Gateway, session: &Arc<Session>);

    /// `event` is about to be sent.
    async fn before_event(&self, gateway: &Gateway, session: &Arc<Session>, event: &ClientEvent);

    /// Carries out a command.
    async fn run(&self, gateway: &Gateway, session: &Arc<Session>, command: &Command) -> Outcome;

    /// The text that carries `event` to `user`; none for an event that the front-end does not have.
    fn write(&self, event: &ClientEvent, user: &UserId) -> Option<String>;
}

/// Ends a session, also when its task is dropped.
struct Ending<'a> {
    gateway: &'a Gateway,
    session: &'a Arc<Session>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.gateway.end(self.session);
    }
}

/// Serves an open session until its connection ends.
pub(crate) async fn serve<D: Door>(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    door: &mut D,
    dialect: Option<&Arc<dyn Dialect>>,
) {
    let ending = Ending { gateway, session };
    // What happens once is on the heap, so that a connection's task is no larger than what stays.
    let end = match Box::pin(open(gateway, session, door, dialect)).await {
        Ok(()) => converse(gateway, session, door, dialect).await,
        Err(end) => end,
    };
    drop(ending);
    Box::pin(door.close(end)).await;
}

/// Lets the client know that its session is open, once what it does not join by itself is joined: from then on it receives every
/// message.
async fn open<D: Door>(
    gateway: &Gateway,
    session: &Arc<Session>,
    door: &mut D,
    dialect: Option<&Arc<dyn Dialect>>,
) -> Result<(), End> {
    if let Some(dialect) = dialect {
        dialect.session_opened(gateway, session).await;
    }
    door.open().await
}

/// Commands that are being carried out.
type Running = Pin<Box<dyn Future<Output = Vec<Outcome>> + Send>>;

/// Takes commands and sends what waits, until one side ends it.
async fn converse<D: Door>(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    door: &mut D,
    dialect: Option<&Arc<dyn Dialect>>,
) -> End {
    let mut items: Vec<Item> = Vec::new();
    let mut running: Option<Running> = None;
    let mut told = Told::default();
    let mut refused = 0;
    loop {
        let idle = running.is_none();
        let done = async {
            match running.as_mut() {
                Some(commands) => commands.await,
                None => pending().await,
            }
        };
        tokio::select! {
            // Answers first, so that they are written together with the events that wait.
            biased;
            outcomes = done => {
                running = None;
                for outcome in outcomes {
                    refused = refused_after(refused, is_too_fast(&outcome.answer));
                    if refused > REFUSED_MAX {
                        return Close::RateLimited.into();
                    }
                    queue(session, outcome);
                }
                // The events that a command caused arrive a moment later: they are written together with its answer.
                tokio::task::yield_now().await;
            }
            waiting = session.outbox.next(&mut items, ITEMS_MAX) => {
                if let Err(close) = waiting {
                    return close.into();
                }
                if let Some(dialect) = dialect {
                    Box::pin(announce(&**dialect, gateway, session, &items)).await;
                    told.note(&items);
                }
                // Taken, so that an idle connection keeps no memory.
                if let Err(end) = door.send(std::mem::take(&mut items)).await {
                    return end;
                }
            }
            arrived = door.next_command(), if idle => {
                session.note_activity();
                match arrived {
                    Ok(Some(command)) => running = Some(start(gateway, session, door, dialect, command)),
                    Ok(None) => {
                        // Signs of life count like commands: a client that sends nothing else has no need of many.
                        let charged = gateway.commands().charge(session, 1);
                        refused = refused_after(refused, charged.is_err());
                        if refused > REFUSED_MAX {
                            return Close::RateLimited.into();
                        }
                    }
                    Err(End::Left) => {
                        Box::pin(told.finish(gateway, session)).await;
                        return End::Left;
                    }
                    Err(end) => return end,
                }
            }
            () = told.keep(gateway, session) => {}
        }
    }
}

/// Starts to carry out a command. A batched command takes those of its name along that have arrived already.
fn start<D: Door>(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    door: &mut D,
    dialect: Option<&Arc<dyn Dialect>>,
    command: Command,
) -> Running {
    let (gateway, session) = (Arc::clone(gateway), Arc::clone(session));
    if command.binary {
        let failure = Failure::invalid("no command takes binary data");
        let refused = Outcome::new(command.ack, Err(failure));
        return Box::pin(async move { vec![refused] });
    }
    if let Some(dialect) = dialect.cloned() {
        return Box::pin(async move { vec![dialect.run(&gateway, &session, &command).await] });
    }
    let Command {
        name, data, ack, ..
    } = command;
    let Some(batched) = BatchedCommand::parse(&name) else {
        return Box::pin(async move {
            let answer = gateway.commands().run(&session, &name, &data).await;
            vec![Outcome::new(ack, answer)]
        });
    };
    let (mut acks, mut all) = (vec![ack], vec![data]);
    while all.len() < TOGETHER_MAX
        && let Some(next) = door.next_same(&name)
    {
        acks.push(next.ack);
        all.push(next.data);
    }
    Box::pin(async move {
        let answers = gateway.commands().run_batch(&session, batched, &all).await;
        let outcomes = acks.into_iter().zip(answers);
        outcomes
            .map(|(ack, answer)| Outcome::new(ack, answer))
            .collect()
    })
}

/// Lets the dialect see the events among `items` before they are sent.
async fn announce(
    dialect: &dyn Dialect,
    gateway: &Gateway,
    session: &Arc<Session>,
    items: &[Item],
) {
    for item in items {
        if let Item::Event(event) = item {
            dialect.before_event(gateway, session, event).await;
        }
    }
}

/// The number of commands refused for their rate after another one: one that was carried out makes up for one that was refused.
fn refused_after(refused: u32, is_refused: bool) -> u32 {
    match is_refused {
        true => refused + 1,
        false => refused.saturating_sub(1),
    }
}

/// Whether the command was refused for the rate of its connection. A user's limits are no reason to close a connection.
fn is_too_fast(answer: &Answer) -> bool {
    let failure = answer.as_ref().err();
    failure.is_some_and(|failure| failure.rule == Some(COMMANDS_RULE))
}

/// Queues the answer to a command. Without a number to answer to, a failure is an `error` event.
fn queue(session: &Session, outcome: Outcome) {
    let Outcome { ack, event, answer } = outcome;
    match (ack, answer) {
        (Some(ack), outcome) => session.outbox.put(Item::Reply { ack, outcome }),
        (None, Err(failure)) => {
            let error = ClientEvent::new(EventName::Error, &failure);
            session.outbox.put_event(&Arc::new(error));
        }
        (None, Ok(data)) => {
            if let Some(name) = event {
                let answer = ClientEvent::named(name, data);
                session.outbox.put_event(&Arc::new(answer));
            }
        }
    }
}
