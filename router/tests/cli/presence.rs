//! Two nodes and a Redis that goes away: presence is a hint, and what a lost hint left wrong is put right.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backscroll_testkit::TestDatabases;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::harness::{Sandbox, Server};
use crate::ledger::token;
use crate::own_redis::OwnRedis;

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long a user's sessions may be gone before the user is offline, and one second more.
const GRACE: Duration = Duration::from_secs(11);
/// A comparison with the roster every 15 s, 10 s until a missing user counts as offline, the lease that ends meanwhile, and
/// a slow machine.
const HEALED: Duration = Duration::from_secs(60);

/// A connection of `user` that has received `hello`.
pub(crate) async fn connect(node: &Server, user: &str) -> Socket {
    let url = format!("{}/ws/chat", node.url().replace("http", "ws"));
    let (mut socket, _) = connect_async(url).await.unwrap();
    say(&mut socket, "authenticate", json!({"token": token(user)})).await;
    until(&mut socket, |frame| frame["event"] == "hello").await;
    socket
}

pub(crate) async fn say(socket: &mut Socket, event: &str, data: Value) {
    let frame = json!({"event": event, "data": data, "ack": 1});
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

/// The next frame that `is_it`.
pub(crate) async fn until(socket: &mut Socket, is_it: impl Fn(&Value) -> bool) -> Value {
    loop {
        let Some(Ok(message)) = socket.next().await else {
            panic!("the connection ended");
        };
        if let Message::Text(text) = message {
            let frame: Value = serde_json::from_str(&text).unwrap();
            if is_it(&frame) {
                return frame;
            }
        }
    }
}

/// The statuses that a new watcher on `node` is answered.
async fn answered(node: &Server, users: &[&str]) -> BTreeMap<String, String> {
    let mut socket = connect(node, "stranger").await;
    say(&mut socket, "presence_subscribe", json!({"userIds": users})).await;
    let reply = until(&mut socket, |frame| frame["ack"] == 1).await;
    let users = reply["data"]["users"].as_array().unwrap();
    let status = |user: &Value| {
        let text = |key: &str| user[key].as_str().unwrap().to_owned();
        (text("userId"), text("status"))
    };
    users.iter().map(status).collect()
}

/// What a watcher of `users` on `node` believes from its first answer and each event since.
async fn watch(
    node: &Server,
    users: &[&str],
    tasks: &mut JoinSet<()>,
) -> Arc<Mutex<BTreeMap<String, String>>> {
    let believed = Arc::new(Mutex::new(answered(node, users).await));
    let mut socket = connect(node, "alice").await;
    say(&mut socket, "presence_subscribe", json!({"userIds": users})).await;
    until(&mut socket, |frame| frame["ack"] == 1).await;
    let beliefs = Arc::clone(&believed);
    tasks.spawn(async move {
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else {
                continue;
            };
            let frame: Value = serde_json::from_str(&text).unwrap();
            let status = match frame["event"].as_str() {
                Some("user_online") => frame["data"]["status"].as_str().unwrap(),
                Some("user_offline") => "offline",
                _ => continue,
            };
            let user = frame["data"]["userId"].as_str().unwrap();
            let mut beliefs = beliefs.lock().unwrap();
            beliefs.insert(user.to_owned(), status.to_owned());
        }
    });
    believed
}

fn start(sandbox: &Sandbox) -> Server {
    tokio::task::block_in_place(|| sandbox.serve(&[], 1))
}

/// Users who stayed are not offline for good because Redis forgot them, and a user who left meanwhile is not online for good:
/// neither for a watcher that was there all the time nor for one that asks anew.
#[tokio::test(flavor = "multi_thread")]
async fn presence_is_right_again_after_redis_was_away() {
    let databases = TestDatabases::create(2).await;
    let mut redis = OwnRedis::start(&[]);
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let sandbox = Sandbox::new()
        .on_databases(&databases.urls())
        .with("BACKSCROLL_REDIS__URL", url)
        .with("BACKSCROLL_REALTIME__PRESENCE", "anyone");
    sandbox.run(&["migrate"]).exits(0);
    let (here, there) = (start(&sandbox), start(&sandbox));
    let users = ["bob", "carol"];
    let both = |bob: &str, carol: &str| {
        BTreeMap::from([("bob", bob), ("carol", carol)].map(|(a, b)| (a.to_owned(), b.to_owned())))
    };

    let mut bob = connect(&there, "bob").await;
    let carol = connect(&there, "carol").await;
    let deadline = Instant::now() + HEALED;
    while answered(&here, &users).await != both("online", "online") {
        assert!(Instant::now() < deadline, "they are never online");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut watching = JoinSet::new();
    watching.spawn(async move { while bob.next().await.is_some() {} }); // who reads answers pings
    let believed = watch(&here, &users, &mut watching).await;
    assert_eq!(*believed.lock().unwrap(), both("online", "online"));

    redis.kill();
    drop(carol);
    tokio::time::sleep(GRACE).await; // her time to come back ends while Redis is away
    redis.restart();

    let right = both("online", "offline");
    let deadline = Instant::now() + HEALED;
    loop {
        let asked = answered(&here, &users).await;
        let told = believed.lock().unwrap().clone();
        if told == right && asked == right {
            break;
        }
        assert!(Instant::now() < deadline, "told {told:?}, asked {asked:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // And it stays so: the roster knows it, not only the watcher.
    let calm = Instant::now() + Duration::from_secs(3);
    while Instant::now() < calm {
        assert_eq!(answered(&here, &users).await, right);
        assert_eq!(*believed.lock().unwrap(), right);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop((here, there));
    databases.drop_all().await;
}
