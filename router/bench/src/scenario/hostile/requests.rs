//! What is asked for: the users, conversations and messages that make each kind of request as costly as it can be, and the
//! requests.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::harness::router::Router;
use crate::http::{self, Connection, request};
use crate::population::User;

/// How many requests of a kind differ, where each has to.
const VARIANTS: usize = 64;
/// Messages of the conversation that has many.
const MANY: usize = 600;
/// Conversations that a client may name in a sync.
const KNOWN: usize = 200;
/// Members of the channel.
const CROWD: usize = 1000;

/// A kind of request.
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Asked for in turn.
    pub(super) requests: Arc<[Vec<u8>]>,
}

/// What requests are about.
pub(super) struct Scene {
    user: User,
    other: User,
    /// Of the user, with many small messages.
    many: String,
    /// Of the user, with messages as large as they may be.
    large: String,
    /// Of the user, with a thousand members.
    channel: String,
    /// Of other people.
    foreign: String,
    /// Conversations of the user with one message each, and the rev before it.
    known: Map<String, Value>,
    /// Conversations that the user is no member of.
    unknown: Map<String, Value>,
}

/// Makes things for one user.
struct Maker<'a> {
    connection: Connection,
    user: &'a User,
}

impl Maker<'_> {
    async fn call(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let request = request(method, path, &self.user.token, Some(&body));
        let answer = self.connection.exchange(&request).await?;
        ensure!(
            (200..300).contains(&answer.status),
            "{method} {path} was answered with {}: {}",
            answer.status,
            http::text(answer.body)
        );
        Ok(serde_json::from_slice(answer.body).unwrap_or_default())
    }

    async fn conversation(&mut self, kind: &str, members: &[String]) -> Result<(String, u64)> {
        let new = json!({ "kind": kind, "members": members, "title": "hostile" });
        let made = self.call("POST", "/chat/conversations", &new).await?;
        let id = made["id"].as_str().context("a conversation has an id")?;
        let rev = made["rev"].as_u64().context("a conversation has a rev")?;
        Ok((id.to_owned(), rev))
    }

    async fn say(&mut self, id: &str, message: &Value) -> Result<String> {
        let path = format!("/chat/conversations/{id}/messages");
        let sent = self.call("POST", &path, message).await?;
        let id = sent["id"].as_str().context("a message has an id")?;
        Ok(id.to_owned())
    }
}

/// A message with everything that it may hold.
fn full() -> Value {
    json!({
        "content": "\u{4e16}".repeat(5000),
        "metadata": { "m": "x".repeat(4000) },
        "attachments": [{ "a": "y".repeat(8000) }],
    })
}

impl Scene {
    pub(super) async fn make(router: &Router) -> Result<Self> {
        let user = User::new("mallory".to_owned(), &router.secret)?;
        let other = User::new("vic".to_owned(), &router.secret)?;
        let friend = ["ben".to_owned()];
        let mut maker = Maker {
            connection: Connection::open(router.address).await?,
            user: &user,
        };
        let (many, _) = maker.conversation("group", &friend).await?;
        for n in 0..MANY {
            let message = json!({ "content": format!("small {n}") });
            maker.say(&many, &message).await?;
        }
        let (large, _) = maker.conversation("group", &friend).await?;
        for _ in 0..MANY / 3 {
            maker.say(&large, &full()).await?;
        }
        let crowd: Vec<String> = (1..CROWD).map(|n| format!("crowd{n}")).collect();
        let (channel, _) = maker.conversation("channel", &crowd).await?;
        let mut known = Map::new();
        for _ in 0..KNOWN {
            let (id, rev) = maker.conversation("group", &friend).await?;
            maker.say(&id, &full()).await?;
            known.insert(id, rev.into());
        }
        let mut maker = Maker {
            connection: maker.connection,
            user: &other,
        };
        let mut unknown = Map::new();
        let mut foreign = String::new();
        for _ in 0..KNOWN {
            let (id, rev) = maker.conversation("group", &friend).await?;
            foreign.clone_from(&id);
            unknown.insert(id, rev.into());
        }
        for n in 0..60 {
            let message = json!({ "content": format!("quiet words {n}") });
            maker.say(&foreign, &message).await?;
        }
        Ok(Self {
            user,
            other,
            many,
            large,
            channel,
            foreign,
            known,
            unknown,
        })
    }

    /// What another user does all the while: reads, lists, sends, counts.
    pub(super) fn other_user(&self) -> Arc<[Vec<u8>]> {
        let messages = format!("/chat/conversations/{}/messages", self.foreign);
        let token = &self.other.token;
        let get = |path: &str| request("GET", path, token, None);
        let send = json!({ "content": "still here" }).to_string();
        Arc::from([
            get(&format!("{messages}?limit=20")),
            get("/chat/conversations?limit=20"),
            request("POST", &messages, token, Some(&send)),
            get("/chat/unread-count"),
        ])
    }

    /// Every kind; the first is mere load.
    pub(super) fn kinds(&self) -> Vec<Kind> {
        let mut kinds = self.reads();
        kinds.extend(self.syncs());
        kinds.extend(self.writes());
        kinds
    }

    fn get(&self, name: &'static str, path: &str) -> Kind {
        self.each(name, 1, |_| ("GET", path.to_owned(), None))
    }

    fn each(
        &self,
        name: &'static str,
        count: usize,
        make: impl Fn(usize) -> (&'static str, String, Option<Value>),
    ) -> Kind {
        let requests = (0..count).map(|n| {
            let (method, path, body) = make(n);
            let body = body.map(|body| body.to_string());
            request(method, &path, &self.user.token, body.as_deref())
        });
        Kind {
            name,
            requests: requests.collect(),
        }
    }

    /// The same request, for an answer with gzip.
    fn compressed(&self, name: &'static str, path: &str) -> Kind {
        let mut request = http::head("GET", path, &self.user.token, false);
        request.extend_from_slice(b"accept-encoding: gzip\r\n\r\n");
        Kind {
            name,
            requests: Arc::from([request]),
        }
    }

    fn reads(&self) -> Vec<Kind> {
        let page = |id: &str, limit| format!("/chat/conversations/{id}/messages?limit={limit}");
        let (many, large) = (page(&self.many, 200), page(&self.large, 200));
        vec![
            self.get("control: count unread", "/chat/unread-count"),
            self.get("page of 20", &page(&self.many, 20)),
            self.get("page of 200", &many),
            self.compressed("page of 200, gzip", &many),
            self.get("page of 200 large", &large),
            self.compressed("page of 200 large, gzip", &large),
            self.get("page of a foreign conversation", &page(&self.foreign, 200)),
            self.get("message", &format!("/chat/messages/{}-1", self.large)),
            self.get("list of 100", "/chat/conversations?limit=100"),
            self.get(
                "conversation of 1,000",
                &format!("/chat/conversations/{}", self.channel),
            ),
            self.get(
                "members, 100 of 1,000",
                &format!("/chat/conversations/{}/members?limit=100", self.channel),
            ),
            self.get("notifications", "/chat/notifications"),
            self.compressed("openapi.json, gzip", "/openapi.json"),
            self.get("metrics", "/metrics"),
        ]
    }

    fn syncs(&self) -> Vec<Kind> {
        let sync = |name, conversations: &Map<String, Value>| {
            let body = json!({ "cursor": "99999999", "conversations": conversations });
            self.each(name, 1, |_| {
                ("POST", "/chat/sync".to_owned(), Some(body.clone()))
            })
        };
        let one = |id: &String, rev: u64| Map::from_iter([(id.clone(), rev.into())]);
        vec![
            sync("sync of the list", &Map::new()),
            sync("sync of 500 changes", &one(&self.many, MANY as u64 - 500)),
            sync("sync of 200 large changes", &one(&self.large, 1)),
            sync("sync of 200 conversations", &self.known),
            sync("sync of 200 foreign ones", &self.unknown),
        ]
    }

    fn writes(&self) -> Vec<Kind> {
        let messages = |id: &str| format!("/chat/conversations/{id}/messages");
        let send = |name, id: &str, body: Value| {
            let path = messages(id);
            self.each(name, 1, |_| ("POST", path.clone(), Some(body.clone())))
        };
        let create = |name, kind: &str, members: usize| {
            self.each(name, 1, |_| {
                let members: Vec<String> = (1..members).map(|n| format!("crowd{n}")).collect();
                let body = json!({ "kind": kind, "members": members, "title": "x" });
                ("POST", "/chat/conversations".to_owned(), Some(body))
            })
        };
        let first = format!("/chat/messages/{}-1", self.many);
        let channel = format!("/chat/conversations/{}", self.channel);
        vec![
            send("send a word", &self.many, json!({ "content": "x" })),
            send("send all that fits", &self.large, full()),
            send(
                "send to a foreign conversation",
                &self.foreign,
                json!({ "content": "x" }),
            ),
            self.each("edit", VARIANTS, |n| {
                let content = format!("{n}{}", "\u{4e16}".repeat(4990));
                let path = format!("/chat/messages/{}-{}", self.many, 100 + n);
                ("PATCH", path, Some(json!({ "content": content })))
            }),
            self.each("react and take back", 2 * VARIANTS, |n| {
                let method = if n % 2 == 0 { "PUT" } else { "DELETE" };
                (method, format!("{first}/reactions/{}", n / 2 % 10), None)
            }),
            self.each("mark read", VARIANTS, |n| {
                let path = format!("/chat/conversations/{}/read", self.many);
                ("PATCH", path, Some(json!({ "seq": n + 1 })))
            }),
            create("create a group of 2", "group", 2),
            create("create a channel of 1,000", "channel", CROWD),
            self.each("rename a channel of 1,000", VARIANTS, |n| {
                let title = format!("title {n}");
                ("PATCH", channel.clone(), Some(json!({ "title": title })))
            }),
            self.each("add a member, and remove them", 2, |n| match n {
                0 => {
                    let new = json!({ "members": ["newcomer"] });
                    ("POST", format!("{channel}/members"), Some(new))
                }
                _ => ("DELETE", format!("{channel}/members/newcomer"), None),
            }),
        ]
    }
}
