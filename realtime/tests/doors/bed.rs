//! A node of a test's own: both doors, on a store of SQLite files.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, FromRequestParts as _, Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use backscroll_realtime::admission::Token;
use backscroll_realtime::bus::in_process::{InProcessBus, InProcessRoster};
use backscroll_realtime::bus::{Bus, Roster, Status};
use backscroll_realtime::edge::{Edge, Identity};
use backscroll_realtime::gateway::Gateway;
use backscroll_realtime::handshake;
use backscroll_realtime::native::{self, BEARER, Credentials};
use backscroll_realtime::protocol::{Close, Failure};
use backscroll_realtime::publisher::Publisher;
use backscroll_realtime::settings::RealtimeSettings;
use backscroll_realtime::socket_io::SocketIoDoor;
use backscroll_shard::cold_tier::NoArchive;
use backscroll_shard::error::Error;
use backscroll_shard::guard::GuardSettings;
use backscroll_shard::ids::{ConversationId, Rev, UserId};
use backscroll_shard::migrate::migrate_all;
use backscroll_shard::model::{
    Caller, ConversationKind, Message, NewConversation, NewMessage, NewNotification, Notification,
    Timestamp,
};
use backscroll_shard::settings::StoreSettings;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use backscroll_testkit::warnings;
use serde_json::{Value, json};

use crate::client::{Client, Door, Refusal};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A node.
pub(crate) struct Bed {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<Store>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) gateway: Arc<Gateway>,
    roster: Arc<dyn Roster>,
    server: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Bed {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(adjust: impl FnOnce(&mut RealtimeSettings)) -> Self {
        Self::with_both(GuardSettings::off(), adjust).await
    }

    /// With rate limits.
    pub(crate) async fn with_guard(guard: GuardSettings) -> Self {
        Self::with_both(guard, |_| {}).await
    }

    async fn with_both(guard: GuardSettings, adjust: impl FnOnce(&mut RealtimeSettings)) -> Self {
        warnings::watch();
        let folder = tempfile::tempdir().unwrap();
        let deployment = StoreSettings {
            guard,
            ..StoreSettings::embedded(folder.path().to_str().unwrap(), 2)
        };
        migrate_all(&deployment, false).await.expect("the schema");
        let bus: Arc<dyn Bus> = Arc::new(InProcessBus::default());
        let publisher = Arc::new(Publisher::new(Arc::clone(&bus)));
        let supervisor = Supervisor::default();
        let store = Store::open(&deployment, Arc::new(NoArchive), publisher, &supervisor)
            .await
            .expect("a store");
        let mut settings = RealtimeSettings {
            drain_window: backscroll_shard::settings::Span::secs(0),
            ..RealtimeSettings::default()
        };
        adjust(&mut settings);
        let roster: Arc<dyn Roster> = Arc::new(InProcessRoster::default());
        let gateway = Gateway::start(
            Arc::clone(&store),
            &bus,
            Arc::clone(&roster),
            Arc::new(TestEdge),
            &settings,
        );
        let door = SocketIoDoor::new(&gateway);
        let router = Router::new()
            .route("/ws/chat", get(connect))
            .with_state(Arc::clone(&gateway))
            .layer(door);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = router.into_make_service_with_connect_info::<SocketAddr>();
        let server = gateway
            .session_tasks()
            .spawn(async move { axum::serve(listener, router).await.unwrap() })
            .unwrap();
        Self {
            address,
            store,
            bus,
            gateway,
            roster,
            server,
            _folder: folder,
        }
    }

    pub(crate) async fn close(self) {
        self.server.abort();
        self.gateway.close(PATIENCE).await;
        self.store.close(Instant::now() + PATIENCE).await;
        warnings::check();
    }

    /// A connection that has received `hello`.
    pub(crate) async fn connect(&self, door: Door, token: &str) -> Client {
        let mut client = self.dial(door, json!({"token": token})).await.unwrap();
        client.event("hello").await;
        client
    }

    /// A connection that has received nothing yet.
    pub(crate) async fn dial(&self, door: Door, auth: Value) -> Result<Client, Refusal> {
        Client::dial(self.address, door, auth).await
    }

    pub(crate) async fn group(&self, owner: &str, others: &[&str]) -> ConversationId {
        let new = NewConversation {
            kind: ConversationKind::Group,
            members: others.iter().map(|name| user(name)).collect(),
            title: None,
            metadata: None,
        };
        let owner = caller(owner);
        let created = self.store.create_conversation(&owner, new, None).await;
        created.unwrap().0.id
    }

    pub(crate) async fn direct(&self, name: &str, other: &str) -> ConversationId {
        let new = NewConversation {
            kind: ConversationKind::Direct,
            members: vec![user(other)],
            title: None,
            metadata: None,
        };
        let creator = caller(name);
        let created = self.store.create_conversation(&creator, new, None).await;
        created.unwrap().0.id
    }

    /// Waits until the list of `name` has an entry; its rev.
    pub(crate) async fn listed(&self, name: &str) -> Rev {
        let begun = Instant::now();
        let users = [user(name)];
        loop {
            let revs = self.store.list_revs(&users, begun + PATIENCE).await;
            match revs.get(&users[0]) {
                Some(rev) if *rev > Rev(0) => return *rev,
                _ => assert!(begun.elapsed() < PATIENCE, "{name} has no list"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn say(&self, name: &str, id: ConversationId, content: &str) -> Message {
        let message = NewMessage {
            content: content.to_owned(),
            message_type: backscroll_shard::model::MessageType::default(),
            client_msg_id: None,
            reply_to: None,
            attachments: None,
            metadata: None,
            mentions: Vec::new(),
        };
        let sent = self.store.send(&caller(name), id, message).await;
        sent.unwrap().message
    }

    pub(crate) async fn notify(&self, name: &str, title: &str) -> Notification {
        let new = NewNotification {
            user_ids: vec![user(name)],
            kind: "offer".to_owned(),
            title: title.to_owned(),
            body: format!("about {title}"),
            ..NewNotification::default()
        };
        let outcome = self.store.notify(&caller("admin"), new).await;
        outcome.unwrap().sent.remove(0).1
    }

    /// Waits until it is known that `name` is online.
    pub(crate) async fn shows(&self, name: &str) {
        let begun = Instant::now();
        let users = [user(name)];
        while self.roster.look_up(&users).await.unwrap().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "{name} is not online");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sets `name` online in the roster without a push.
    pub(crate) async fn shows_unpublished(&self, name: &str) {
        let online = [(user(name), Status::Online)];
        self.roster.set(&online).await.unwrap();
    }

    /// Waits until the gateway holds `count` connections.
    pub(crate) async fn holds(&self, count: usize) {
        let begun = Instant::now();
        while self.gateway.count() != count {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} connections, not {count}",
                self.gateway.count()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn caller(name: &str) -> Caller {
    Caller::new(user(name), PATIENCE)
}

async fn connect(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let address = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(address)| address.ip());
    handshake::in_one_form(&mut parts.headers);
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let text = |name| {
        let value = parts.headers.get(name);
        value.and_then(|value: &axum::http::HeaderValue| value.to_str().ok())
    };
    let credentials = if let Some(header) = text(AUTHORIZATION) {
        let token = header.strip_prefix("Bearer ").unwrap_or_default();
        match gateway.authenticate(token).await {
            Ok(identity) => Credentials::Known(identity),
            Err(_) => return StatusCode::UNAUTHORIZED.into_response(),
        }
    } else {
        let mut protocols = text(SEC_WEBSOCKET_PROTOCOL)
            .unwrap_or_default()
            .split(',')
            .map(str::trim);
        match (protocols.next(), protocols.next()) {
            (Some(BEARER), Some(token)) => Credentials::Token(token.to_owned()),
            _ => match native::token_in(&parts.uri) {
                Some(token) => Credentials::Address(token.to_owned()),
                None => Credentials::FirstFrame,
            },
        }
    };
    let token = match credentials {
        Credentials::Known(_) => Token::Checked,
        _ => Token::Later,
    };
    let Ok(place) = gateway.admit(address, token) else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let upgrade = native::bounded(upgrade, gateway.settings().max_frame);
    let task = gateway.session_tasks().reserve().unwrap();
    upgrade.on_upgrade(move |socket| task.watch(native::serve(gateway, place, socket, credentials)))
}

/// Tokens are a user's id, or `<user>~<seconds until it ends>`; some are no good.
struct TestEdge;

#[async_trait]
impl Edge for TestEdge {
    async fn authenticate(
        &self,
        token: &str,
        _deadline: Instant,
    ) -> Result<Identity, (Close, Failure)> {
        let refusal = |close, code, retry_after_ms| {
            let failure = Failure {
                code,
                message: format!("the token `{token}` is no good"),
                retry_after_ms,
                rule: None,
            };
            Err((close, failure))
        };
        let now = u64::try_from(Timestamp::now().0 / 1000).unwrap();
        match token {
            "expired" => refusal(Close::TokenExpired, "token_expired", None),
            "invalid" => refusal(Close::TokenInvalid, "token_invalid", None),
            "unknown" => refusal(Close::Internal, "auth_unavailable", Some(2000)),
            _ => {
                let (name, lasts) = token.split_once('~').unwrap_or((token, "3600"));
                Ok(Identity {
                    user: user(name),
                    issued_at: Some(now),
                    expires_at: now.saturating_add_signed(lasts.parse().unwrap()),
                    key: (name == "withdrawn").then_some(NonZeroU64::MIN),
                })
            }
        }
    }

    fn trusts(&self, _key: NonZeroU64) -> bool {
        false
    }

    fn failure(&self, error: Error) -> Failure {
        if let Error::RateLimited(refusal) = &error {
            return Failure {
                code: "rate_limited",
                message: error.to_string(),
                retry_after_ms: u64::try_from(refusal.retry_after.as_millis()).ok(),
                rule: Some(refusal.rule.name()),
            };
        }
        let code = match &error {
            Error::NotMember => "not_a_member",
            Error::Invalid(_) => "invalid_request",
            Error::NotFound(_) => "not_found",
            Error::Forbidden(_) => "forbidden",
            Error::Sanctioned(_) => "muted",
            Error::NotAccepted => "not_accepted",
            Error::IdempotencyConflict(_) => "conflict_idempotency",
            Error::LimitReached { .. } => "limit_reached",
            _ => "internal",
        };
        Failure {
            code,
            message: error.to_string(),
            retry_after_ms: None,
            rule: None,
        }
    }
}
