//! A service of its own for each test: SQLite files in a temporary folder, a free port, a client for each user.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll::auth::{AuthSettings, Secret, mint_token};
use backscroll::deployment::Deployment;
use backscroll::http::settings::ServerSettings;
use backscroll::server;
use backscroll_archiver::media::settings::MediaSettings;
use backscroll_archiver::media::worker::Program;
use backscroll_archiver::object_store::ObjectStoreSettings;
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_realtime::redis::RedisSettings;
use backscroll_realtime::settings::RealtimeSettings;
use backscroll_shard::guard::GuardSettings;
use backscroll_shard::ids::UserId;
use backscroll_shard::migrate::migrate_all;
use backscroll_shard::settings::StoreSettings;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::{Supervisor, TaskGroup};
use backscroll_testkit::warnings;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::logged;

/// The secret of all tests.
pub(crate) const SECRET: &str = "a secret of the tests, with more than 32 bytes";

/// A running service.
pub(crate) struct Service {
    pub(crate) base: String,
    pub(crate) client: reqwest::Client,
    pub(crate) auth: AuthSettings,
    /// What it serves.
    pub(crate) store: Arc<Store>,
    shutdown: CancellationToken,
    running: TaskGroup,
    folder: TempDir,
}

impl Service {
    /// With the default settings.
    pub(crate) async fn start() -> Self {
        Self::start_with(ServerSettings::default(), shared_secret()).await
    }

    pub(crate) async fn start_with(server: ServerSettings, auth: AuthSettings) -> Self {
        Self::start_without(&[], server, auth).await
    }

    /// With shards whose databases cannot be opened.
    pub(crate) async fn start_without(
        shards: &[&str],
        server: ServerSettings,
        auth: AuthSettings,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let objects = objects_in(&folder);
        let media = MediaSettings::default();
        Self::start_on(folder, shards, (server, auth), (objects, media)).await
    }

    /// With databases in `folder`, and files elsewhere.
    pub(crate) async fn start_on(
        folder: TempDir,
        shards: &[&str],
        served: (ServerSettings, AuthSettings),
        stored: (ObjectStoreSettings, MediaSettings),
    ) -> Self {
        let off = GuardSettings::off();
        Box::pin(Self::start_guarded(folder, shards, off, served, stored)).await
    }

    /// With rate limits.
    pub(crate) async fn start_with_guard(guard: GuardSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stored = (objects_in(&folder), MediaSettings::default());
        let served = (ServerSettings::default(), shared_secret());
        Box::pin(Self::start_guarded(folder, &[], guard, served, stored)).await
    }

    async fn start_guarded(
        folder: TempDir,
        shards: &[&str],
        guard: GuardSettings,
        (server, auth): (ServerSettings, AuthSettings),
        (objects, media): (ObjectStoreSettings, MediaSettings),
    ) -> Self {
        warnings::watch();
        warnings::expect(logged::SLOW);
        let settings = StoreSettings {
            guard,
            ..StoreSettings::embedded(folder.path().to_str().unwrap(), 2)
        };
        migrate_all(&settings, false).await.unwrap();
        if !shards.is_empty() {
            logged::DATABASE_AWAY.into_iter().for_each(warnings::expect);
        }
        for shard in shards {
            let database = folder.path().join(format!("{shard}.db"));
            std::fs::remove_file(&database).unwrap();
            std::fs::create_dir(&database).unwrap();
        }
        let archive = ArchiveSettings {
            schedule: String::new(),
            ..ArchiveSettings::default()
        };
        let deployment = Deployment::open(
            &settings,
            &objects,
            &archive,
            &RealtimeSettings::default(),
            &RedisSettings::default(),
            &Supervisor::default(),
        )
        .await
        .unwrap();
        let store = Arc::clone(&deployment.store);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let running = Supervisor::default().group();
        let (stop, settings) = (shutdown.clone(), auth.clone());
        let worker = Program::at(env!("CARGO_BIN_EXE_backscroll"));
        let serving = async move {
            server::serve(
                deployment,
                &server,
                &settings,
                (&media, &worker, None),
                listener,
                stop,
            )
            .await
            .unwrap()
        };
        running.one_shots("service", 1).spawn(serving).unwrap();
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .no_proxy()
            .build()
            .unwrap();
        Self {
            base,
            client,
            auth,
            store,
            shutdown,
            running,
            folder,
        }
    }

    /// A request without a token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) fn user(&self, name: &str) -> User<'_> {
        self.user_with(name, None)
    }

    pub(crate) fn admin(&self, name: &str) -> User<'_> {
        self.user_with(name, Some("admin"))
    }

    pub(crate) fn user_with(&self, name: &str, role: Option<&str>) -> User<'_> {
        let id = UserId::new(name).unwrap();
        let token = mint_token(&self.auth, &id, role, Duration::from_secs(600)).unwrap();
        User {
            service: self,
            token,
        }
    }

    /// Tells it to stop, without waiting.
    pub(crate) fn ask_to_stop(&self) {
        self.shutdown.cancel();
    }

    /// Waits until it has stopped.
    pub(crate) async fn stopped(&self) {
        let deadline = Instant::now() + Duration::from_secs(40);
        assert!(self.running.finish(deadline).await, "the service stops");
    }

    /// Where its databases are.
    pub(crate) fn folder(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    /// The host and port, for connections by hand.
    pub(crate) fn address(&self) -> &str {
        self.base.strip_prefix("http://").unwrap()
    }
}

fn objects_in(folder: &TempDir) -> ObjectStoreSettings {
    ObjectStoreSettings {
        path: folder.path().join("objects"),
        ..ObjectStoreSettings::default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            warnings::check();
        }
    }
}

/// Settings with the secret of the tests.
pub(crate) fn shared_secret() -> AuthSettings {
    AuthSettings {
        secret: Secret::new(SECRET),
        ..AuthSettings::default()
    }
}

/// Somebody with a valid token.
pub(crate) struct User<'a> {
    pub(crate) service: &'a Service,
    pub(crate) token: String,
}

impl User<'_> {
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.service.request(method, path).bearer_auth(&self.token)
    }

    /// A group of this user and `members`.
    pub(crate) async fn group(&self, members: Value) -> String {
        let new = json!({ "kind": "group", "members": members, "title": "Lunch" });
        let created = self.post("/chat/conversations", new).await;
        created.expect(201)["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::PATCH, path).json(&body)).await
    }

    pub(crate) async fn put(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::PUT, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }
}

/// A status, headers and a JSON body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        Self::from(request.send().await.unwrap()).await
    }

    async fn from(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}"))
        };
        Self {
            status,
            headers,
            body,
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no header {name} in {self:?}"))
            .to_str()
            .unwrap()
    }

    /// The body of an answer that must have this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:#?}");
        self.body
    }

    /// Checks that this is a complete problem document with this status and code, and gives its detail.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> String {
        let text = |name: &str| {
            self.body[name]
                .as_str()
                .unwrap_or_else(|| panic!("no text `{name}` in {self:#?}"))
                .to_owned()
        };
        assert_eq!(
            (self.status, text("code").as_str()),
            (status, code),
            "{self:#?}"
        );
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert_eq!(text("type"), format!("urn:problem-type:backscroll:{code}"));
        assert_eq!(text("requestId"), self.header("x-request-id"));
        assert!(!text("title").is_empty());
        assert_eq!(
            self.headers.contains_key("retry-after"),
            self.body.get("retryAfterMs").is_some()
        );
        if matches!(status, 429 | 503) {
            assert!(self.headers.contains_key("retry-after"));
        }
        assert_eq!(self.headers.contains_key("www-authenticate"), status == 401);
        let detail = text("detail");
        assert!(!detail.is_empty());
        detail
    }
}
