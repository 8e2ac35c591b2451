//! A TCP proxy that breaks on command.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const CHUNK_BYTES: usize = 16 * 1024;
const LISTEN_BACKLOG: u32 = 1024;
/// A throttled stream moves in this many pieces per second.
const THROTTLE_PIECES_PER_SECOND: u64 = 20;

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
    /// The link lies: from the server to the client, every so many bytes of a connection one arrives inverted.
    Corrupt {
        /// More than zero. Counted from the start of the connection: the bytes number `every`, twice `every`, and so
        /// on are the inverted ones.
        every: u64,
    },
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
            mode: watch::Sender::new(Mode::Pass),
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
    mode: watch::Sender<Mode>,
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
        self.mode.send_replace(command.mode);
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
        let mode = self.mode.subscribe();
        self.open.spawn(async move {
            // An error on either side closes both, which is all that the peers could be told.
            let _ = forward(client, upstream, mode).await;
        });
    }
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

async fn forward(
    client: TcpStream,
    upstream: SocketAddr,
    mode: watch::Receiver<Mode>,
) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let requests = Stream {
        direction: Direction::ToServer,
        from: from_client,
        to: to_server,
        mode: mode.clone(),
        forwarded_bytes: 0,
    };
    let answers = Stream {
        direction: Direction::ToClient,
        from: from_server,
        to: to_client,
        mode,
        forwarded_bytes: 0,
    };
    tokio::try_join!(requests.forward(), answers.forward())?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

/// One direction of one connection.
struct Stream {
    direction: Direction,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    mode: watch::Receiver<Mode>,
    forwarded_bytes: u64,
}

impl Stream {
    async fn forward(mut self) -> std::io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = self.from.read(&mut buffer).await?;
            if length == 0 {
                // `Err` means that the proxy is gone, and then this task is about to end.
                let _ = self.mode.wait_for(|mode| *mode != Mode::Hang).await;
                return self.to.shutdown().await;
            }
            self.forward_chunk(&mut buffer[..length]).await?;
        }
    }

    async fn forward_chunk(&mut self, mut chunk: &mut [u8]) -> std::io::Result<()> {
        while !chunk.is_empty() {
            let mode = *self.mode.borrow_and_update();
            let (length, wait) = next_piece(mode, chunk.len());
            if !wait.is_zero() && timeout(wait, self.mode.changed()).await.is_ok() {
                // The mode changed while the piece waited: the new one decides.
                continue;
            }
            let (piece, rest) = chunk.split_at_mut(length);
            if let Mode::Corrupt { every } = mode
                && self.direction == Direction::ToClient
            {
                invert_every(every, self.forwarded_bytes, piece);
            }
            self.to.write_all(piece).await?;
            self.forwarded_bytes += length as u64;
            chunk = rest;
        }
        Ok(())
    }
}

/// How much of a chunk goes next, and after which wait.
fn next_piece(mode: Mode, chunk_length: usize) -> (usize, Duration) {
    match mode {
        Mode::Pass | Mode::Corrupt { .. } => (chunk_length, Duration::ZERO),
        // The task of a cut connection is being ended; until then it forwards nothing.
        Mode::Cut | Mode::Hang => (chunk_length, Duration::MAX),
        Mode::Delay(delay) => (chunk_length, delay),
        Mode::Throttle { bytes_per_second } => {
            let piece = (bytes_per_second / THROTTLE_PIECES_PER_SECOND).max(1);
            let length = chunk_length.min(usize::try_from(piece).unwrap_or(usize::MAX));
            let seconds = length as f64 / bytes_per_second as f64;
            (length, Duration::from_secs_f64(seconds))
        }
    }
}

/// Inverts the bytes number `every`, twice `every` and so on of a stream, of which `bytes` come after `offset` others.
fn invert_every(every: u64, offset: u64, bytes: &mut [u8]) {
    for (number, byte) in (offset + 1..).zip(bytes) {
        if number % every == 0 {
            *byte = !*byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Instant;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const A_WHILE: Duration = Duration::from_millis(200);

    /// An echo server and a proxy in front of it.
    struct Fixture {
        proxy: Proxy,
        _echo: JoinSet<()>,
    }

    impl Fixture {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let upstream = listener.local_addr().unwrap();
            let mut echo = JoinSet::new();
            echo.spawn(async move {
                let mut connections = JoinSet::new();
                loop {
                    let (connection, _) = listener.accept().await.unwrap();
                    connections.spawn(async move {
                        let (mut from, mut to) = connection.into_split();
                        let _ = tokio::io::copy(&mut from, &mut to).await;
                    });
                }
            });
            Self {
                proxy: Proxy::start(upstream),
                _echo: echo,
            }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.proxy.address()).await.unwrap()
        }
    }

    /// Sends `request` and reads an answer of the same length.
    async fn exchange(connection: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
        connection.write_all(request).await?;
        read(connection, request.len()).await
    }

    async fn read(connection: &mut TcpStream, length: usize) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; length];
        timeout(SOON, connection.read_exact(&mut answer)).await??;
        Ok(answer)
    }

    async fn assert_silent(connection: &mut TcpStream) {
        let mut byte = [0];
        let read = timeout(A_WHILE, connection.read(&mut byte)).await;
        assert!(read.is_err(), "something arrived: {read:?}");
    }

    #[tokio::test]
    async fn pass_forwards_both_ways_and_counts_connections() {
        let fixture = Fixture::start().await;
        assert_eq!(fixture.proxy.connections(), 0);
        let mut first = fixture.connect().await;
        let mut second = fixture.connect().await;

        assert_eq!(exchange(&mut first, b"one").await.unwrap(), b"one");
        assert_eq!(exchange(&mut second, b"two").await.unwrap(), b"two");

        assert_eq!(fixture.proxy.connections(), 2);
    }

    #[tokio::test]
    async fn pass_forwards_a_close_of_one_direction() {
        let fixture = Fixture::start().await;
        let mut connection = fixture.connect().await;
        connection.write_all(b"last words").await.unwrap();
        connection.shutdown().await.unwrap();

        let mut answer = Vec::new();
        timeout(SOON, connection.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();

        assert_eq!(answer, b"last words");
    }

    #[tokio::test]
    async fn a_server_that_is_down_closes_the_connection() {
        let reserved = Port::reserve();
        let proxy = Proxy::start(reserved.address);
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();

        let read = timeout(SOON, connection.read(&mut [0])).await.unwrap();

        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }

    #[tokio::test]
    async fn cut_closes_and_refuses_until_it_ends() {
        let fixture = Fixture::start().await;
        let mut before = fixture.connect().await;
        exchange(&mut before, b"works").await.unwrap();

        fixture.proxy.set(Mode::Cut).await;

        exchange(&mut before, b"closed").await.unwrap_err();
        let refused = TcpStream::connect(fixture.proxy.address())
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        fixture.proxy.set(Mode::Cut).await;
        fixture.proxy.set(Mode::Pass).await;
        let mut after = fixture.connect().await;
        assert_eq!(exchange(&mut after, b"again").await.unwrap(), b"again");
        assert_eq!(fixture.proxy.connections(), 2);
    }

    #[tokio::test]
    async fn hang_accepts_and_keeps_back_until_it_ends() {
        let fixture = Fixture::start().await;
        let mut before = fixture.connect().await;
        exchange(&mut before, b"works").await.unwrap();

        fixture.proxy.set(Mode::Hang).await;

        let mut during = fixture.connect().await;
        before.write_all(b"kept").await.unwrap();
        during.write_all(b"back").await.unwrap();
        assert_silent(&mut before).await;
        assert_silent(&mut during).await;
        fixture.proxy.set(Mode::Pass).await;
        assert_eq!(read(&mut before, 4).await.unwrap(), b"kept");
        assert_eq!(read(&mut during, 4).await.unwrap(), b"back");
    }

    #[tokio::test]
    async fn hang_keeps_a_close_back() {
        let fixture = Fixture::start().await;
        let mut connection = fixture.connect().await;
        exchange(&mut connection, b"works").await.unwrap();
        fixture.proxy.set(Mode::Hang).await;

        connection.shutdown().await.unwrap();

        assert_silent(&mut connection).await;
        fixture.proxy.set(Mode::Pass).await;
        let closed = timeout(SOON, connection.read(&mut [0]))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(closed, 0);
    }

    #[tokio::test]
    async fn delay_holds_each_chunk_in_both_directions() {
        let fixture = Fixture::start().await;
        let mut connection = fixture.connect().await;
        let delay = Duration::from_millis(60);
        fixture.proxy.set(Mode::Delay(delay)).await;

        let start = Instant::now();
        exchange(&mut connection, b"slow").await.unwrap();

        assert!(start.elapsed() >= 2 * delay, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_change_of_mode_ends_a_delay() {
        let fixture = Fixture::start().await;
        let mut connection = fixture.connect().await;
        fixture
            .proxy
            .set(Mode::Delay(Duration::from_secs(3600)))
            .await;
        connection.write_all(b"late").await.unwrap();
        assert_silent(&mut connection).await;

        fixture.proxy.set(Mode::Pass).await;

        assert_eq!(read(&mut connection, 4).await.unwrap(), b"late");
    }

    #[tokio::test]
    async fn throttle_limits_the_rate() {
        let fixture = Fixture::start().await;
        let mut connection = fixture.connect().await;
        let bytes_per_second = 10_000;
        fixture.proxy.set(Mode::Throttle { bytes_per_second }).await;

        let start = Instant::now();
        let request = vec![7; 4_000];
        let answer = exchange(&mut connection, &request).await.unwrap();

        assert_eq!(answer, request);
        assert!(
            start.elapsed() >= Duration::from_millis(400),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test]
    async fn corrupt_inverts_every_so_many_bytes_of_the_answer() {
        let fixture = Fixture::start().await;
        let mut connection = fixture.connect().await;
        fixture.proxy.set(Mode::Corrupt { every: 100 }).await;

        // Two exchanges: the count goes on over chunks.
        let mut answer = exchange(&mut connection, &[0; 250]).await.unwrap();
        answer.extend(exchange(&mut connection, &[0; 250]).await.unwrap());

        let inverted: Vec<usize> = (1..=500)
            .filter(|number| answer[number - 1] == 0xff)
            .collect();
        let untouched = answer.iter().filter(|byte| **byte == 0).count();
        // The echo passed the proxy twice: had the request been corrupted too, the two would have undone each other.
        assert_eq!(inverted, [100, 200, 300, 400, 500]);
        assert_eq!(untouched, 495);
    }

    #[tokio::test]
    #[should_panic(expected = "must be more than zero")]
    async fn a_rate_of_zero_is_refused() {
        let fixture = Fixture::start().await;
        fixture
            .proxy
            .set(Mode::Throttle {
                bytes_per_second: 0,
            })
            .await;
    }

    #[tokio::test]
    async fn puts_its_address_into_a_url() {
        let fixture = Fixture::start().await;
        let proxy = &fixture.proxy;
        let url = format!("mysql://root@{}/db", proxy.upstream);
        assert_eq!(
            proxy.url(&url),
            format!("mysql://root@{}/db", proxy.address())
        );
    }

    #[tokio::test]
    async fn dropping_it_closes_the_connections() {
        let fixture = Fixture::start().await;
        let mut connection = fixture.connect().await;
        exchange(&mut connection, b"works").await.unwrap();

        drop(fixture.proxy);

        let read = timeout(SOON, connection.read(&mut [0])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}
