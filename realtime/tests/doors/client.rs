//! One client with two codecs.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http;
use tokio_tungstenite::tungstenite::{Error, Message};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing has to come to be taken for nothing.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

/// Through which door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Native,
    SocketIo,
}

/// Why a client was not let in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) retry_after_ms: Option<u64>,
}

/// What a frame says.
#[derive(Debug)]
enum Said {
    Event(String, Value),
    Reply(u64, Value),
    Refused(Value),
    Entered,
    /// The client is sent out of the namespace.
    Out,
    /// The connection ends, for a reason when it was given as a code.
    Over(Option<u16>),
    Nothing,
}

/// What a door's frames are.
trait Codec: Send + Sync {
    fn path(&self) -> &'static str;
    fn enter(&self, auth: &Value) -> String;
    fn command(&self, name: &str, data: &Value, ack: Option<u64>) -> String;
    fn read(&self, message: &Message) -> Said;
    /// What a frame has to be answered with at once.
    fn echo(&self, message: &Message) -> Option<&'static str>;
}

struct Native;

impl Codec for Native {
    fn path(&self) -> &'static str {
        "/ws/chat"
    }

    fn enter(&self, auth: &Value) -> String {
        self.command("authenticate", auth, None)
    }

    fn command(&self, name: &str, data: &Value, ack: Option<u64>) -> String {
        let mut frame = json!({"event": name, "data": data});
        if let Some(ack) = ack {
            frame["ack"] = json!(ack);
        }
        frame.to_string()
    }

    fn read(&self, message: &Message) -> Said {
        match message {
            Message::Text(text) => {
                let mut frame: Value = serde_json::from_str(text).unwrap();
                if let Some(ack) = frame.get("ack").and_then(Value::as_u64) {
                    let error = frame.get("error").map(|error| json!({"error": error}));
                    return Said::Reply(ack, error.unwrap_or_else(|| frame["data"].take()));
                }
                let name = frame["event"].as_str().unwrap().to_owned();
                Said::Event(name, frame["data"].take())
            }
            Message::Close(frame) => Said::Over(frame.as_ref().map(|frame| frame.code.into())),
            _ => Said::Nothing,
        }
    }

    fn echo(&self, _: &Message) -> Option<&'static str> {
        None // the library answers pings
    }
}

/// Engine.IO 4 and Socket.IO 5, by hand.
struct SocketIo(&'static str);

impl Codec for SocketIo {
    fn path(&self) -> &'static str {
        "/socket.io/?EIO=4&transport=websocket"
    }

    fn enter(&self, auth: &Value) -> String {
        format!("40{},{auth}", self.0)
    }

    fn command(&self, name: &str, data: &Value, ack: Option<u64>) -> String {
        let ack = ack.map_or(String::new(), |ack| ack.to_string());
        format!("42{},{ack}{}", self.0, json!([name, data]))
    }

    fn read(&self, message: &Message) -> Said {
        let text = match message {
            Message::Text(text) => text.as_str(),
            Message::Close(_) => return Said::Over(None),
            _ => return Said::Nothing,
        };
        let Some(packet) = text.strip_prefix('4') else {
            return if matches!(text, "1") {
                Said::Over(None)
            } else {
                Said::Nothing
            };
        };
        let (kind, rest) = packet.split_at(1);
        let rest: &str = rest.strip_prefix(self.0).unwrap();
        let rest = rest.strip_prefix(',').unwrap();
        let data = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = &rest[..rest.len() - data.len()];
        let mut data: Value = match data {
            "" => Value::Null,
            data => serde_json::from_str(data).unwrap(),
        };
        match kind {
            "0" => Said::Entered,
            "1" => Said::Out,
            "2" => Said::Event(data[0].as_str().unwrap().to_owned(), data[1].take()),
            "3" => Said::Reply(number.parse().unwrap(), data[0].take()),
            "4" => Said::Refused(data),
            other => panic!("a packet of type {other}"),
        }
    }

    fn echo(&self, message: &Message) -> Option<&'static str> {
        match message {
            Message::Text(text) if text.as_str() == "2" => Some("3"),
            _ => None,
        }
    }
}

/// A connection.
pub(crate) struct Client {
    pub(crate) socket: WebSocketStream<TcpStream>,
    codec: Box<dyn Codec>,
    events: VecDeque<(String, Value)>,
    replies: HashMap<u64, Value>,
    pub(crate) asked: u64,
    over: Option<Option<u16>>,
    out: bool,
}

impl Client {
    /// A WebSocket with the given headers.
    pub(crate) async fn websocket(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<WebSocketStream<TcpStream>, Error> {
        let tcp = TcpSocket::new_v4().unwrap();
        tcp.set_recv_buffer_size(64 << 10).unwrap(); // so that a slow reader is soon known for one
        let tcp = tcp.connect(address).await.unwrap();
        let url = format!("ws://{address}{path}");
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let value = http::HeaderValue::from_str(value).unwrap();
            request.headers_mut().insert(*name, value);
        }
        let (socket, _) = tokio_tungstenite::client_async(request, tcp).await?;
        Ok(socket)
    }

    /// An authenticated connection.
    pub(crate) async fn dial(
        address: SocketAddr,
        door: Door,
        auth: Value,
    ) -> Result<Self, Refusal> {
        match door {
            Door::Native => Self::enter(address, Box::new(Native), auth).await,
            Door::SocketIo => Self::dial_namespace(address, "/chat", auth).await,
        }
    }

    /// A Socket.IO connection to `namespace`.
    pub(crate) async fn dial_namespace(
        address: SocketAddr,
        namespace: &'static str,
        auth: Value,
    ) -> Result<Self, Refusal> {
        Self::enter(address, Box::new(SocketIo(namespace)), auth).await
    }

    async fn enter(
        address: SocketAddr,
        codec: Box<dyn Codec>,
        auth: Value,
    ) -> Result<Self, Refusal> {
        let refused = |code: &str| Refusal {
            code: code.to_owned(),
            retry_after_ms: None,
        };
        let socket = match Self::websocket(address, codec.path(), &[]).await {
            Ok(socket) => socket,
            Err(Error::Http(response)) => return Err(refused(response.status().as_str())),
            Err(error) => panic!("{error}"),
        };
        let mut client = Self::over(socket, codec);
        let text = client.codec.enter(&auth);
        client.text(&text).await;
        // The first that comes says whether it is in.
        match client.read().await {
            Some(Said::Refused(refusal)) => {
                assert!(refusal["message"].is_string(), "{refusal}");
                Err(Refusal {
                    code: refusal["data"]["code"].as_str().unwrap().to_owned(),
                    retry_after_ms: refusal["data"]["retryAfterMs"].as_u64(),
                })
            }
            Some(Said::Event(name, failure)) if name == "error" => {
                let code = client.end().await;
                assert_ne!(code, "", "closed without a reason: {failure}");
                Err(Refusal {
                    code: failure["code"].as_str().unwrap().to_owned(),
                    retry_after_ms: failure["retryAfterMs"].as_u64(),
                })
            }
            Some(Said::Event(name, data)) => {
                client.events.push_back((name, data));
                Ok(client)
            }
            Some(Said::Entered) => Ok(client),
            Some(Said::Over(code)) => {
                client.over = Some(code);
                Err(refused(&client.end().await))
            }
            _ => Err(refused(&client.end().await)),
        }
    }

    /// The native protocol over a socket that is open.
    pub(crate) fn native(socket: WebSocketStream<TcpStream>) -> Self {
        Self::over(socket, Box::new(Native))
    }

    fn over(socket: WebSocketStream<TcpStream>, codec: Box<dyn Codec>) -> Self {
        Self {
            socket,
            codec,
            events: VecDeque::new(),
            replies: HashMap::new(),
            asked: 0,
            over: None,
            out: false,
        }
    }

    pub(crate) async fn text(&mut self, text: &str) {
        let _ = self.socket.send(Message::text(text)).await;
    }

    /// Reads a frame; none at the end of the connection.
    async fn read(&mut self) -> Option<Said> {
        loop {
            let message = match self.socket.next().await {
                Some(Ok(message)) => message,
                Some(Err(_)) | None => return None,
            };
            if let Some(echo) = self.codec.echo(&message) {
                self.text(echo).await;
            }
            match self.codec.read(&message) {
                Said::Nothing => {}
                said => return Some(said),
            }
        }
    }

    /// Takes a frame in; `false` at the end of the connection.
    async fn take(&mut self) -> bool {
        let said = tokio::time::timeout(PATIENCE, self.read()).await;
        match said.expect("nothing comes") {
            Some(Said::Event(name, data)) => self.events.push_back((name, data)),
            Some(Said::Reply(ack, data)) => {
                let before = self.replies.insert(ack, data);
                assert!(before.is_none(), "answered twice");
            }
            Some(Said::Out) => self.out = true,
            Some(Said::Over(code)) => {
                self.over.get_or_insert(code);
            }
            Some(other) => panic!("{other:?}"),
            None => return false,
        }
        true
    }

    /// Gives a command that is not answered.
    pub(crate) async fn emit(&mut self, name: &str, data: Value) {
        let text = self.codec.command(name, &data, None);
        self.text(&text).await;
    }

    /// Gives a command; the number under which its answer comes.
    pub(crate) async fn begin(&mut self, name: &str, data: Value) -> u64 {
        self.asked += 1;
        let text = self.codec.command(name, &data, Some(self.asked));
        self.text(&text).await;
        self.asked
    }

    /// Gives commands in one write; the numbers under which their answers come.
    pub(crate) async fn begin_all(&mut self, commands: &[(&str, Value)]) -> Vec<u64> {
        let mut acks = Vec::new();
        for (name, data) in commands {
            self.asked += 1;
            let text = self.codec.command(name, data, Some(self.asked));
            self.socket.feed(Message::text(text)).await.unwrap();
            acks.push(self.asked);
        }
        self.socket.flush().await.unwrap();
        acks
    }

    /// The answer to the command of that number.
    pub(crate) async fn reply(&mut self, ack: u64) -> Result<Value, Value> {
        loop {
            if let Some(mut data) = self.replies.remove(&ack) {
                return match data.get_mut("error") {
                    Some(error) => Err(error.take()),
                    None => Ok(data),
                };
            }
            assert!(self.take().await, "closed before the answer");
        }
    }

    /// Gives a command and waits for its answer.
    pub(crate) async fn ask(&mut self, name: &str, data: Value) -> Result<Value, Value> {
        let ack = self.begin(name, data).await;
        self.reply(ack).await
    }

    /// The code with which a command fails.
    pub(crate) async fn fails(&mut self, name: &str, data: Value) -> String {
        let failure = self.ask(name, data).await.unwrap_err();
        assert!(failure["message"].is_string(), "{failure}");
        failure["code"].as_str().unwrap().to_owned()
    }

    /// The next event of that name; others stay.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        loop {
            let found = self.events.iter().position(|(other, _)| other == name);
            if let Some(found) = found {
                return self.events.remove(found).unwrap().1;
            }
            assert!(
                self.take().await,
                "closed before `{name}`: {:?}",
                self.events
            );
        }
    }

    /// Asserts that no event of that name comes.
    pub(crate) async fn receives_no(&mut self, name: &str) {
        let begun = tokio::time::Instant::now();
        while tokio::time::timeout_at(begun + QUIET, self.take())
            .await
            .is_ok_and(|open| open)
        {}
        let arrived = self.events.iter().find(|(other, _)| other == name);
        assert_eq!(arrived, None);
    }

    /// Names of the events that came and were not asked for.
    pub(crate) fn events_so_far(&self) -> Vec<&str> {
        self.events.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Waits for the end; gives its reason: a close code's name, or the code of the last `error`.
    pub(crate) async fn end(&mut self) -> String {
        while self.take().await {}
        if let Some(Some(code)) = self.over {
            use backscroll_realtime::protocol::Close;
            let close = Close::ALL.iter().find(|close| close.code() == code);
            return close.map_or(code.to_string(), |close| close.name().to_owned());
        }
        let mut errors = self.events.iter().filter(|(name, _)| name == "error");
        let last = errors
            .next_back()
            .and_then(|(_, data)| data["code"].as_str());
        last.unwrap_or_default().to_owned()
    }

    /// Closes the connection in order.
    pub(crate) async fn leave(mut self) {
        self.socket.close(None).await.unwrap();
        while self.take().await {}
    }

    /// Whether the server sent the client away for good: out of the namespace, or with a code that says so.
    pub(crate) fn is_final(&self) -> bool {
        use backscroll_realtime::protocol::Close;
        let code = self.over.flatten();
        let mut final_ones = Close::ALL.iter().filter(|close| close.is_final());
        self.out || final_ones.any(|close| Some(close.code()) == code)
    }
}
