//! Clients of the nodes: over HTTP, and over sockets of either protocol. An answer is a success, an error, or unknown.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use tokio::time::timeout;

use crate::faults::context::RunContext;
use crate::faults::operation::{Answer, Operation, Refusal, Reply, parse};
use crate::http::{Connection, request};
use crate::population::User;
use crate::realtime::door::{Door, Incoming};
use crate::realtime::socket::{Socket, Target};

/// The client's timeout; that of nodes is shorter.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
/// The longest time until a connection is established.
const CONNECTED_WITHIN: Duration = Duration::from_secs(8);

/// An HTTP client with a connection to each node.
#[derive(Default)]
pub struct HttpClient {
    connections: Vec<Option<Connection>>,
}

impl HttpClient {
    /// Sends a request to `node`.
    pub async fn ask(
        &mut self,
        context: &RunContext,
        node: usize,
        user: &User,
        (method, path, body): (&str, &str, Option<&str>),
    ) -> Reply {
        let bytes = request(method, path, &user.token, body);
        let connection = self.take(context.fronts[node], node).await;
        let asked = Instant::now();
        let answer = match connection {
            Ok(connection) => self.exchange(connection, node, &bytes).await,
            Err(error) => Answer::Refused(Refusal::not_sent(format!("{error:#}"))),
        };
        let reply = Reply {
            node,
            asked,
            answer,
        };
        note(context, &reply, path);
        reply
    }

    /// The open connection to a node, or a new one.
    async fn take(&mut self, address: SocketAddr, node: usize) -> Result<Connection> {
        if self.connections.len() <= node {
            self.connections.resize_with(node + 1, || None);
        }
        match self.connections[node].take() {
            Some(connection) => Ok(connection),
            None => timeout(CONNECTED_WITHIN, Connection::open(address)).await?,
        }
    }

    async fn exchange(&mut self, mut connection: Connection, node: usize, bytes: &[u8]) -> Answer {
        let (status, body) = match timeout(ANSWERED_WITHIN, connection.exchange(bytes)).await {
            Ok(Ok(answer)) => (answer.status, answer.body.to_vec()),
            Ok(Err(error)) => return Answer::Unknown(format!("{error:#}")),
            Err(_) => return Answer::Unknown("no answer in time".into()),
        };
        self.connections[node] = Some(connection);
        match status {
            200..=299 => Answer::Done { status, body },
            _ => refused(status, &body),
        }
    }
}

/// Counts an answer, and reports a forbidden one.
fn note(context: &RunContext, reply: &Reply, what: &str) {
    match &reply.answer {
        Answer::Done { .. } => context.count("done"),
        Answer::Unknown(_) => context.count("no answer"),
        Answer::Refused(refusal) => {
            context.count(&refusal.code);
            if refusal.is_failure() {
                let finding = (0, format!("failed: {}", refusal.brief()));
                context.report(what, &finding, &format!("node{}", reply.node + 1));
            }
        }
    }
}

/// The error in an answer.
fn refused(status: u16, body: &[u8]) -> Answer {
    match parse::<Refusal>(body) {
        Ok(refusal) if !refusal.code.is_empty() => Answer::Refused(refusal),
        // A working node answers errors with problem documents.
        _ => Answer::Refused(Refusal::without_document(status)),
    }
}

/// A client with a socket of one user, which it opens again when it breaks.
pub struct SocketClient {
    door: Door,
    open: Option<(Socket, usize)>,
    next_ack: u64,
}

impl SocketClient {
    /// A client of this protocol.
    #[must_use]
    pub fn new(door: Door) -> Self {
        Self {
            door,
            open: None,
            next_ack: 1,
        }
    }

    /// Requests `operation` at any node.
    pub async fn perform(
        &mut self,
        context: &RunContext,
        random: &mut SmallRng,
        operation: &Operation,
    ) -> Reply {
        if self.open.is_none() {
            let node = random.random_range(0..context.fronts.len());
            match connect(
                context,
                self.door,
                node,
                &context.users[operation.user],
                None,
            )
            .await
            {
                Ok((socket, _hello)) => self.open = Some((socket, node)),
                Err(error) => {
                    context.count("not connected");
                    // Nothing was sent.
                    let refusal = Refusal::not_sent(format!("{error:#}"));
                    return Reply {
                        node,
                        asked: Instant::now(),
                        answer: Answer::Refused(refusal),
                    };
                }
            }
        }
        let node = self.open.as_ref().map_or(0, |(_, node)| *node);
        let asked = Instant::now();
        let answer = match timeout(ANSWERED_WITHIN, self.command(operation)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Unknown(format!("{error:#}")),
            Err(_) => Answer::Unknown("no answer in time".into()),
        };
        if matches!(answer, Answer::Unknown(_)) {
            self.open = None;
        }
        let reply = Reply {
            node,
            asked,
            answer,
        };
        note(context, &reply, &operation.request().1);
        reply
    }

    async fn command(&mut self, operation: &Operation) -> Result<Answer> {
        let Some((socket, _)) = &mut self.open else {
            bail!("there is no socket");
        };
        let Some((command, data)) = operation.command() else {
            bail!("sockets have no command for {:?}", operation.action);
        };
        let number = self.next_ack;
        self.next_ack += 1;
        socket.command(command, &data.to_string(), number).await?;
        loop {
            let frame = socket.receive().await?;
            match socket.door().read(&frame)? {
                Incoming::Answer { ack, data } if ack == number => {
                    let body = data.as_bytes().to_vec();
                    return Ok(Answer::Done { status: 202, body });
                }
                Incoming::Failed { ack, error } if ack == number => return Ok(failed(error)),
                Incoming::Refused(reason) => bail!("the server refuses: {reason}"),
                _ => {}
            }
        }
    }
}

/// The error of a command. Socket.IO wraps it in an object.
fn failed(error: &str) -> Answer {
    #[derive(serde::Deserialize)]
    struct Wrapped {
        error: Refusal,
    }
    let wrapped = parse::<Wrapped>(error.as_bytes()).map(|wrapped| wrapped.error);
    match wrapped.or_else(|_| parse::<Refusal>(error.as_bytes())) {
        Ok(refusal) => Answer::Refused(refusal),
        Err(what) => Answer::Unknown(what),
    }
}

/// Connects a user's socket to `node`. Returns the data of `hello` too.
///
/// # Errors
/// When it is refused, or not connected in time.
pub async fn connect(
    context: &RunContext,
    door: Door,
    node: usize,
    user: &User,
    resume: Option<&str>,
) -> Result<(Socket, String)> {
    let target = Target {
        nodes: context.fronts.clone(),
        door,
        greets: true,
    };
    let address = context.fronts[node];
    let connecting = Socket::connect(&target, address, 0, &user.token, resume);
    timeout(CONNECTED_WITHIN, connecting).await?
}
