//! A TCP proxy that breaks on command.

mod mysql;
mod stream;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

pub use mysql::MySqlError;

const LISTEN_BACKLOG: u32 = 1024;
/// How long a forgotten connection stays open: longer than any peer waits for one that is silent.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// What the proxy does to the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward everything at once.
    Pass,
    /// The server is gone: all connections are closed and new ones are refused.
    Cut,
    /// The server is stuck: connections are accepted, nothing is forwarded, not even a close. What was held back is
    /// forwarded when the mode changes.
    Hang,
    /// The server is far away: each chunk waits this long, in both directions. A chunk is what one read returns, so
    /// a request and its answer take twice this time.
    Delay(Duration),
    /// The link is thin: so many bytes per second, in each direction of each connection.
    Throttle {
        /// More than zero.
        bytes_per_second: u64,
    },
    /// A firewall forgot the connections that are open: they go silent, without a close. New ones pass. The proxy itself
    /// closes them after [`FORGOTTEN`], so that it does not run out of files.
    Forget,
    /// A MySQL or MariaDB server refuses something with this error, instead of doing it.
    Refuse {
        /// What it says.
        error: MySqlError,
        /// What it refuses.
        what: Refused,
    },
    /// A MySQL or MariaDB server commits, and each connection that is open now ends before the answer of its next COMMIT.
    /// New connections pass.
    LoseCommits,
    /// The link lies: from the server to the client, every so many bytes of a connection one arrives inverted.
    Corrupt {
        /// More than zero. Counted from the start of the connection: the bytes number `every`, twice `every`, and so
        /// on are the inverted ones.
        every: u64,
    },
}

/// What a server refuses in [`Mode::Refuse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// New connections, before the handshake. Those that are open go on.
    Connections,
    /// Every statement, also those that prepare a session.
    Statements,
    /// INSERT, UPDATE, DELETE and REPLACE.
    Writes,
    /// The same, on the connections that are open now: as sessions do that were opened while the server was read-only.
    WritesOfOpenSessions,
    /// COMMIT. What came before it is undone.
    Commits,
    /// Preparing a statement. What is prepared goes on, and so does what is sent as text.
    Preparing,
}

/// The mode, and since when.
#[derive(Clone, Copy, Debug)]
struct Orders {
    mode: Mode,
    /// How often a mode was set.
    number: u64,
    /// Connections that were opened before this number are forgotten.
    forgotten: u64,
}

/// A proxy on a free port of 127.0.0.1 in front of one server, in [`Mode::Pass`] at first. Dropping it closes all
/// connections.
///
/// ```no_run
/// # async fn example() {
/// use backscroll_testkit::{Mode, Proxy, redis_url, socket_address};
///
/// let proxy = Proxy::start(socket_address(&redis_url()));
/// let url = proxy.url(&redis_url());
/// // Connect to `url`, then:
/// proxy.set(Mode::Cut).await;
/// # }
/// ```
#[derive(Debug)]
pub struct Proxy {
    upstream: SocketAddr,
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    commands: mpsc::Sender<Command>,
    /// Holds the one task that owns the listener and the connections, and ends it with the proxy.
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Command {
    mode: Mode,
    done: oneshot::Sender<()>,
}

impl Proxy {
    /// Starts a proxy in front of the server at `upstream`. Call it in a Tokio runtime.
    ///
    /// # Panics
    /// When no port can be listened on.
    pub fn start(upstream: SocketAddr) -> Self {
        let port = Port::reserve();
        let listener = port.listen();
        let address = port.address;
        let connections = Arc::new(AtomicU64::new(0));
        let (commands, received_commands) = mpsc::channel(1);
        let server = Server {
            upstream,
            port,
            listener: Some(listener),
            orders: watch::Sender::new(Orders {
                mode: Mode::Pass,
                number: 0,
                forgotten: 0,
            }),
            accepted: Arc::clone(&connections),
            open: JoinSet::new(),
        };
        let mut task = JoinSet::new();
        task.spawn(server.run(received_commands));
        Self {
            upstream,
            address,
            connections,
            commands,
            _task: task,
        }
    }

    /// Where the proxy listens. It stays the same through every mode.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the server with the proxy's address in it.
    ///
    /// # Panics
    /// When the URL is not that of the server behind this proxy.
    pub fn url(&self, upstream_url: &str) -> String {
        let upstream = self.upstream.to_string();
        assert!(
            upstream_url.contains(&upstream),
            "{upstream_url} is not at {upstream}, where this proxy leads"
        );
        upstream_url.replacen(&upstream, &self.address.to_string(), 1)
    }

    /// Changes the mode, for open connections too. After [`Mode::Cut`] all connections are closed when this returns; in
    /// the other modes a chunk that was already being written may still arrive.
    ///
    /// # Panics
    /// When the mode's figure is zero.
    pub async fn set(&self, mode: Mode) {
        if let Mode::Throttle {
            bytes_per_second: figure,
        }
        | Mode::Corrupt { every: figure } = mode
        {
            assert!(figure > 0, "{mode:?}: must be more than zero");
        }
        let (done, is_done) = oneshot::channel();
        let command = Command { mode, done };
        self.commands
            .send(command)
            .await
            .expect("the proxy runs as long as it exists");
        is_done.await.expect("the proxy runs as long as it exists");
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A port that stays ours while nobody listens on it, so that [`Mode::Cut`] can refuse connections and come back.
#[derive(Debug)]
struct Port {
    address: SocketAddr,
    /// Bound, never listening. Another socket with `SO_REUSEADDR` may listen on the same address beside it.
    _reservation: TcpSocket,
}

impl Port {
    fn reserve() -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let reservation = Self::bind(any_port);
        let address = reservation
            .local_addr()
            .expect("a bound socket has an address");
        Self {
            address,
            _reservation: reservation,
        }
    }

    fn listen(&self) -> TcpListener {
        Self::bind(self.address)
            .listen(LISTEN_BACKLOG)
            .expect("the reserved port can be listened on")
    }

    fn bind(address: SocketAddr) -> TcpSocket {
        let socket = TcpSocket::new_v4().expect("a socket can be opened");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR can be set");
        socket
            .bind(address)
            .expect("a port of 127.0.0.1 can be bound");
        socket
    }
}

/// The task behind a [`Proxy`].
struct Server {
    upstream: SocketAddr,
    port: Port,
    /// `None` while connections are refused.
    listener: Option<TcpListener>,
    orders: watch::Sender<Orders>,
    accepted: Arc<AtomicU64>,
    open: JoinSet<()>,
}

impl Server {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.change_mode(command).await,
                    None => return,
                },
                client = accept(self.listener.as_ref()) => self.open_connection(client),
                Some(_closed) = self.open.join_next() => {}
            }
        }
    }

    async fn change_mode(&mut self, command: Command) {
        self.orders.send_modify(|orders| {
            orders.mode = command.mode;
            orders.number += 1;
            if command.mode == Mode::Forget {
                orders.forgotten = orders.number;
            }
        });
        if command.mode == Mode::Cut {
            self.listener = None;
            self.open.shutdown().await;
        } else if self.listener.is_none() {
            self.listener = Some(self.port.listen());
        }
        // Nobody waits when the caller of `set` was cancelled; the mode is changed all the same.
        let _ = command.done.send(());
    }

    fn open_connection(&mut self, client: TcpStream) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let upstream = self.upstream;
        let orders = self.orders.subscribe();
        self.open.spawn(async move {
            tokio::select! {
                // An error on either side closes both, which is all that the peers could be told.
                _ = stream::forward(client, upstream, orders.clone()) => {}
                () = forgotten(orders) => {}
            }
        });
    }
}

/// Returns when a connection that is opened now was forgotten [`FORGOTTEN`] ago.
async fn forgotten(mut orders: watch::Receiver<Orders>) {
    let opened = orders.borrow().number;
    let is_forgotten = |orders: &Orders| opened < orders.forgotten;
    let is_over = orders.wait_for(is_forgotten).await.is_err();
    if is_over {
        return std::future::pending().await; // the proxy ends, and its connections with it
    }
    sleep(FORGOTTEN).await;
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((client, _address)) => return client,
            // Out of file descriptors, most likely: some connection will close.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}
