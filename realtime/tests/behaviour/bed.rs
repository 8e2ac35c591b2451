//! What the tests stand on.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use backscroll_realtime::bus::in_process::InProcessBus;
use backscroll_realtime::bus::{Bus, Receiver};
use backscroll_realtime::push::{Push, PushKind, Topic};
use backscroll_realtime::redis::{Redis, RedisSettings};
use backscroll_shard::ids::{ConversationId, Rev, UserKey};
use backscroll_shard::settings::{DatabaseUrl, Span};
use backscroll_shard::tasks::Supervisor;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long anything may take that is to happen.
const SOON: Duration = Duration::from_secs(20);

/// Waits until `happened`.
pub(crate) async fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !happened() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Settings with a prefix of their own, that notice soon.
pub(crate) fn settings(url: &str) -> RedisSettings {
    RedisSettings {
        url: Some(DatabaseUrl(url.to_owned())),
        prefix: format!("test-{:016x}", rand::random::<u64>()),
        canary_interval: Span::millis(100),
        ..RedisSettings::default()
    }
}

pub(crate) fn conversation(n: u64) -> ConversationId {
    ConversationId::new(UserKey(7), n)
}

pub(crate) fn topic(n: u64) -> Topic {
    Topic::Conversation(conversation(n))
}

pub(crate) fn change(rev: u64) -> Push {
    Push::change(PushKind::NewMessage, Rev(rev), &json!({"rev": rev}))
}

/// Records the pushes that it receives.
#[derive(Default)]
pub(crate) struct Recorder {
    pushes: Mutex<HashMap<Topic, Vec<Push>>>,
    interrupted: AtomicU64,
}

impl Recorder {
    pub(crate) fn revs(&self, topic: &Topic) -> Vec<u64> {
        let pushes = self.pushes.lock().unwrap();
        let pushes = pushes.get(topic).map(Vec::as_slice).unwrap_or_default();
        pushes.iter().map(|push| push.rev.0).collect()
    }

    /// On how many topics pushes arrived.
    pub(crate) fn topics(&self) -> usize {
        self.pushes.lock().unwrap().len()
    }

    pub(crate) fn clear(&self) {
        self.pushes.lock().unwrap().clear();
    }

    pub(crate) fn interruptions(&self) -> u64 {
        self.interrupted.load(Ordering::SeqCst)
    }
}

impl Receiver for Recorder {
    fn listens(&self, _topic: &Topic) -> bool {
        true
    }

    fn received(&self, topic: Topic, push: Push) {
        assert_eq!(push.data.get(), format!("{{\"rev\":{}}}", push.rev.0));
        let mut pushes = self.pushes.lock().unwrap();
        pushes.entry(topic).or_default().push(push);
    }

    fn interrupted(&self) {
        self.interrupted.fetch_add(1, Ordering::SeqCst);
    }
}

/// A node: its bus, and the pushes that arrive on it.
pub(crate) struct Node {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) recorded: Arc<Recorder>,
}

impl Node {
    pub(crate) fn new(bus: Arc<dyn Bus>) -> Self {
        let recorded = Arc::new(Recorder::default());
        let receiver: Weak<Recorder> = Arc::downgrade(&recorded);
        bus.attach(receiver);
        Self { bus, recorded }
    }

    pub(crate) fn redis(settings: &RedisSettings) -> Self {
        Self::new(
            Redis::open(settings, "node", &Supervisor::default())
                .unwrap()
                .bus(),
        )
    }

    /// Until it is connected to Redis.
    pub(crate) async fn connected(self) -> Self {
        self.bus.subscribe(topic(u64::MAX)).await.unwrap();
        self.proven().await;
        self
    }

    /// Until something that it publishes from now on comes back.
    pub(crate) async fn proven(&self) {
        let start = Instant::now();
        eventually("a canary comes back", || self.silence() < start.elapsed()).await;
    }

    pub(crate) fn silence(&self) -> Duration {
        self.bus.silence().unwrap()
    }

    /// Publishes on `from` until a push arrives on this node.
    pub(crate) async fn receives_again(&self, from: &Node, topic: &Topic) {
        let deadline = Instant::now() + SOON;
        for rev in 1_000_000.. {
            from.bus.publish(topic, &change(rev));
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self
                .recorded
                .revs(topic)
                .iter()
                .any(|rev| *rev >= 1_000_000)
            {
                return;
            }
            assert!(Instant::now() < deadline, "no push arrives on {topic}");
        }
    }
}

/// The nodes of a deployment; with the in-process bus, both are the same.
pub(crate) struct Bed {
    pub(crate) a: Arc<Node>,
    pub(crate) b: Arc<Node>,
}

impl Bed {
    pub(crate) fn in_process() -> Self {
        let node = Arc::new(Node::new(Arc::new(InProcessBus::default())));
        Self {
            a: node.clone(),
            b: node,
        }
    }

    pub(crate) async fn redis() -> Self {
        Self::with(&settings(&backscroll_testkit::redis_url())).await
    }

    pub(crate) async fn with(settings: &RedisSettings) -> Self {
        let (a, b) = (Node::redis(settings), Node::redis(settings));
        Self {
            a: Arc::new(a.connected().await),
            b: Arc::new(b.connected().await),
        }
    }
}

/// Commands for the test's own use.
pub(crate) async fn raw(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(SOON));
    let connection = client.get_multiplexed_async_connection_with_config(&patient);
    connection.await.unwrap()
}

/// A Redis that can be stopped and started, on a port of its own. What it knew is gone then.
pub(crate) struct OwnRedis {
    folder: tempfile::TempDir,
    port: u16,
    server: Option<Child>,
}

impl OwnRedis {
    pub(crate) fn start() -> Self {
        for _ in 0..20 {
            // Outside the range that the kernel takes for outgoing connections, as it has to stay free while Redis is stopped.
            let port = 20_000 + rand::random::<u16>() % 10_000;
            let mut own = Self {
                folder: tempfile::tempdir().unwrap(),
                port,
                server: None,
            };
            if own.try_restart() {
                return own;
            }
        }
        panic!("redis-server does not start");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    pub(crate) fn restart(&mut self) {
        assert!(self.try_restart(), "redis-server does not start again");
    }

    fn try_restart(&mut self) -> bool {
        self.stop();
        let mut server = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + SOON;
        while server.try_wait().unwrap().is_none() && Instant::now() < deadline {
            if TcpStream::connect(self.address()).is_ok() {
                std::thread::sleep(Duration::from_millis(50));
                // The port may have been somebody else's.
                if server.try_wait().unwrap().is_none() {
                    self.server = Some(server);
                    return true;
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = server.kill();
        let _ = server.wait();
        false
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Forwards to a server, until it swallows: then connections stay open, and the bytes that are sent on them are lost. New
/// connections work, as after the loss of a firewall's state.
pub(crate) struct Swallower {
    pub(crate) address: SocketAddr,
    upstream: watch::Sender<SocketAddr>,
    swallowed: watch::Sender<u64>,
    opened: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl Swallower {
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let swallowed = watch::Sender::new(0);
        let opened = Arc::new(AtomicU64::new(0));
        let (counter, state) = (opened.clone(), swallowed.clone());
        let upstream = watch::Sender::new(upstream);
        let leads_to = upstream.subscribe();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = 1 + counter.fetch_add(1, Ordering::SeqCst);
                let upstream = *leads_to.borrow();
                let Ok(server) = tokio::net::TcpStream::connect(upstream).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                open.spawn(forward(number, state.subscribe(), from_client, to_server));
                open.spawn(forward(number, state.subscribe(), from_server, to_client));
            }
        });
        Self {
            address,
            upstream,
            swallowed,
            opened,
            _task: task,
        }
    }

    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// Leads new connections to another server. Those that are open stay.
    pub(crate) fn lead_to(&self, upstream: SocketAddr) {
        self.upstream.send_replace(upstream);
    }

    pub(crate) fn swallow(&self) {
        self.swallowed.send_replace(self.opened());
    }
}

async fn forward(
    number: u64,
    swallowed: watch::Receiver<u64>,
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
) {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        if number > *swallowed.borrow() && to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}
