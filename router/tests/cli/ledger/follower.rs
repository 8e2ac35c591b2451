//! A client that keeps to the protocol, and notes what it is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// The addresses of the nodes that run, as `http://127.0.0.1:1234`.
pub(super) type Nodes = Arc<Mutex<Vec<String>>>;

/// Messages by number.
pub(super) type Log = BTreeMap<u64, Version>;

/// A message as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    rev: u64,
    content: String,
    deleted: bool,
    pub(super) client_msg_id: Option<String>,
}

impl Version {
    fn of(message: &Value) -> (u64, Self) {
        let version = Self {
            rev: message["rev"].as_u64().unwrap(),
            content: message["content"].as_str().unwrap().to_owned(),
            deleted: !message["deletedAt"].is_null(),
            client_msg_id: message["clientMsgId"].as_str().map(ToOwned::to_owned),
        };
        (message["seq"].as_u64().unwrap(), version)
    }
}

/// What followers are to do.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Say and change things.
    Talk,
    /// Only what was begun.
    Finish,
    /// Only listen, until one was told all of this, or that time has come.
    Settle(Arc<BTreeMap<String, Log>>, Instant),
}

/// Requests to any node, tried again on another until they are answered.
#[derive(Clone)]
pub(super) struct Rest {
    nodes: Nodes,
    client: reqwest::Client,
}

impl Rest {
    pub(super) fn new(nodes: Nodes) -> Self {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .no_proxy()
            .build()
            .unwrap();
        Self { nodes, client }
    }

    fn node(&self) -> String {
        let nodes = self.nodes.lock().unwrap();
        nodes.choose(&mut rand::rng()).unwrap().clone()
    }

    async fn answered(&self, build: impl Fn(&str) -> reqwest::RequestBuilder) -> Value {
        loop {
            if let Ok(answer) = build(&self.node()).send().await
                && answer.status().is_success()
                && let Ok(body) = answer.json().await
            {
                return body;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(super) async fn post(&self, token: &str, path: &str, body: &Value) -> Value {
        self.answered(|node| {
            let request = self.client.post(format!("{node}{path}"));
            request.bearer_auth(token).json(body)
        })
        .await
    }

    /// A conversation from its first message to its newest, and the rev it had before that was read.
    pub(super) async fn load(&self, token: &str, id: &str) -> (Log, u64) {
        let mut log = Log::new();
        let mut first_rev = None;
        loop {
            let after = log.keys().last().copied().unwrap_or(0);
            let page = self
                .answered(|node| {
                    let path =
                        format!("{node}/chat/conversations/{id}/messages?after={after}&limit=200");
                    self.client.get(path).bearer_auth(token)
                })
                .await;
            first_rev.get_or_insert(page["rev"].as_u64().unwrap());
            log.extend(page["messages"].as_array().unwrap().iter().map(Version::of));
            if page["hasMoreAfter"] != true {
                return (log, first_rev.unwrap());
            }
        }
    }
}

/// What one does.
#[derive(Clone, Debug)]
enum Operation {
    Send { conversation: String, text: String },
    Edit { message: String, text: String },
    Delete { message: String },
}

impl Operation {
    fn command(&self) -> (&'static str, Value) {
        match self {
            Self::Send { conversation, text } => (
                "send_message",
                json!({"conversationId": conversation, "content": text, "clientMsgId": text}),
            ),
            Self::Edit { message, text } => (
                "edit_message",
                json!({"messageId": message, "content": text}),
            ),
            Self::Delete { message } => ("delete_message", json!({"messageId": message})),
        }
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The connection is gone: try another.
struct Gone;

/// A client.
pub(super) struct Follower {
    pub(super) user: String,
    pub(super) conversations: Vec<String>,
    pub(super) logs: BTreeMap<String, Log>,
    /// Conversation, number and text of what was acknowledged.
    pub(super) acknowledged: Vec<(String, u64, String)>,
    pub(super) reconnects: usize,
    pub(super) resyncs: usize,
    token: String,
    rest: Rest,
    /// The greatest rev of each conversation that was loaded.
    revs: BTreeMap<String, u64>,
    cursor: Option<String>,
    doing: Option<(Operation, u64)>,
    asked: bool,
    done: u64,
    next_at: Instant,
    /// How many followers have finished what they were doing, this one too once it has.
    finished: Arc<AtomicUsize>,
    has_finished: bool,
}

impl Follower {
    pub(super) fn new(
        (user, token): (&str, &str),
        conversations: Vec<String>,
        rest: Rest,
        finished: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            user: user.to_owned(),
            logs: conversations
                .iter()
                .map(|id| (id.clone(), Log::new()))
                .collect(),
            conversations,
            acknowledged: Vec::new(),
            reconnects: 0,
            resyncs: 0,
            token: token.to_owned(),
            rest,
            revs: BTreeMap::new(),
            cursor: None,
            doing: None,
            asked: false,
            done: 0,
            next_at: Instant::now(),
            finished,
            has_finished: false,
        }
    }

    pub(super) async fn follow(mut self, mut phases: watch::Receiver<Phase>) -> Self {
        loop {
            if let Phase::Settle(_, deadline) = &*phases.borrow()
                && Instant::now() > *deadline
            {
                return self;
            }
            if let Some(mut socket) = self.connect().await
                && self.listen(&mut socket, &mut phases).await.is_ok()
            {
                return self;
            }
            self.reconnects += 1;
            let wait = rand::rng().random_range(20..400);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }

    async fn connect(&mut self) -> Option<Socket> {
        let url = format!("{}/ws/chat", self.rest.node().replace("http", "ws"));
        let connecting = tokio::time::timeout(Duration::from_secs(5), connect_async(url));
        let (mut socket, _) = connecting.await.ok()?.ok()?;
        let mut data = json!({"token": self.token});
        if self.cursor.is_some() {
            data["resume"] = json!({"cursor": self.cursor, "conversations": self.revs});
        }
        let frame = json!({"event": "authenticate", "data": data});
        socket.send(Message::text(frame.to_string())).await.ok()?;
        Some(socket)
    }

    /// Follows until everything is told.
    async fn listen(
        &mut self,
        socket: &mut Socket,
        phases: &mut watch::Receiver<Phase>,
    ) -> Result<(), Gone> {
        self.asked = false;
        loop {
            let phase = phases.borrow_and_update().clone();
            if let Phase::Settle(stored, deadline) = &phase {
                let whole = self
                    .conversations
                    .iter()
                    .all(|id| self.logs[id] == stored[id]);
                if whole && self.doing.is_none() || Instant::now() > *deadline {
                    return Ok(());
                }
            }
            if matches!(phase, Phase::Finish) && self.doing.is_none() && !self.has_finished {
                self.has_finished = true;
                self.finished.fetch_add(1, Ordering::Relaxed);
            }
            self.act(socket, &phase).await?;
            tokio::select! {
                frame = socket.next() => self.take(socket, frame).await?,
                _ = phases.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }

    /// Does what is due.
    async fn act(&mut self, socket: &mut Socket, phase: &Phase) -> Result<(), Gone> {
        let ready = self.cursor.is_some() && self.revs.len() == self.conversations.len();
        let now = Instant::now();
        if !ready || self.asked || now < self.next_at {
            return Ok(());
        }
        if self.doing.is_none() && matches!(phase, Phase::Talk) {
            if rand::rng().random_ratio(1, 60) {
                // It reads nothing for a while; what waits for it may be too much.
                let pause = rand::rng().random_range(1000..4000);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            self.done += 1;
            self.doing = Some((self.think(), self.done));
        }
        let Some((operation, ack)) = &self.doing else {
            return Ok(());
        };
        let (event, data) = operation.command();
        let frame = json!({"event": event, "data": data, "ack": ack});
        self.asked = true;
        socket
            .send(Message::text(frame.to_string()))
            .await
            .map_err(|_| Gone)
    }

    fn think(&self) -> Operation {
        let mut random = rand::rng();
        let text = format!("{} says {}", self.user, self.done);
        if random.random_ratio(1, 4)
            && let Some((id, seq, _)) = self.acknowledged.choose(&mut random)
            && !self.logs[id]
                .get(seq)
                .is_some_and(|version| version.deleted)
        {
            let message = format!("{id}-{seq}");
            return match random.random_ratio(1, 3) {
                true => Operation::Delete { message },
                false => Operation::Edit { message, text },
            };
        }
        let conversation = self.conversations.choose(&mut random).unwrap().clone();
        Operation::Send { conversation, text }
    }

    async fn take(
        &mut self,
        socket: &mut Socket,
        frame: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    ) -> Result<(), Gone> {
        let text = match frame {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Gone),
            Some(Ok(_)) => return Ok(()),
        };
        let frame: Value = serde_json::from_str(&text).unwrap();
        if let Some(ack) = frame["ack"].as_u64() {
            return self.answered(ack, &frame).await;
        }
        let data = &frame["data"];
        match frame["event"].as_str().unwrap() {
            "hello" => self.hello(socket, data).await?,
            "new_message" | "message_updated" | "message_deleted" => {
                let id = data["conversationId"].as_str().unwrap();
                let (seq, version) = Version::of(&data["message"]);
                self.note(id, seq, version);
            }
            "conversation_updated" => {
                self.cursor = Some(data["cursor"].as_str().unwrap().to_owned());
            }
            "resync" => {
                self.resyncs += 1;
                for head in data["conversations"].as_array().unwrap() {
                    let id = head["conversationId"].as_str().unwrap();
                    self.load(id, head["rev"].as_u64().unwrap()).await;
                }
            }
            "error" if data["code"] != "shutting_down" => panic!("{frame}"),
            "left_conversation" => panic!("{frame}"),
            _ => {}
        }
        Ok(())
    }

    async fn hello(&mut self, socket: &mut Socket, hello: &Value) -> Result<(), Gone> {
        if self.cursor.is_none() {
            self.cursor = hello["cursor"].as_str().map(ToOwned::to_owned);
        }
        // What was not loaded when the connection was lost is begun anew.
        for id in self.conversations.clone() {
            if !self.revs.contains_key(&id) {
                let join =
                    json!({"event": "join_conversation", "data": {"conversationId": id}, "ack": 0});
                socket
                    .send(Message::text(join.to_string()))
                    .await
                    .map_err(|_| Gone)?;
            }
        }
        Ok(())
    }

    async fn answered(&mut self, ack: u64, frame: &Value) -> Result<(), Gone> {
        if ack == 0 {
            // Whoever cannot join just now comes again. Position first, then state: it is open now, and loaded.
            if !frame["error"].is_null() {
                return Err(Gone);
            }
            let head = &frame["data"];
            let id = head["conversationId"].as_str().unwrap();
            self.load(id, head["rev"].as_u64().unwrap()).await;
            return Ok(());
        }
        let Some((operation, number)) = self.doing.take() else {
            return Ok(());
        };
        assert_eq!(ack, number, "{frame}");
        self.asked = false;
        if let Some(code) = frame["error"]["code"].as_str() {
            let again = !frame["error"]["retryAfterMs"].is_null();
            assert!(
                again || code == "not_found" || code == "conflict",
                "{operation:?}: {frame}"
            );
            if again {
                self.doing = Some((operation, number));
            }
            self.next_at = Instant::now() + Duration::from_millis(300);
            return Ok(());
        }
        if let Operation::Send { conversation, text } = operation {
            let seq = frame["data"]["seq"].as_u64().unwrap();
            self.acknowledged.push((conversation, seq, text));
        }
        let pause = rand::rng().random_range(100..1500);
        self.next_at = Instant::now() + Duration::from_millis(pause);
        Ok(())
    }

    /// Loads a conversation; what is told afterwards begins at `rev`.
    async fn load(&mut self, id: &str, rev: u64) {
        let (log, _) = self.rest.load(&self.token, id).await;
        for (seq, version) in log {
            let known = self.logs[id].get(&seq).map_or(0, |version| version.rev);
            if version.rev > known {
                self.logs.get_mut(id).unwrap().insert(seq, version);
            }
        }
        let newest = self.revs.entry(id.to_owned()).or_default();
        *newest = (*newest).max(rev);
    }

    fn note(&mut self, id: &str, seq: u64, version: Version) {
        if let Some(newest) = self.revs.get_mut(id) {
            *newest = (*newest).max(version.rev);
        }
        let log = self.logs.get_mut(id).unwrap();
        if log.get(&seq).is_none_or(|known| known.rev < version.rev) {
            log.insert(seq, version);
        }
    }
}
