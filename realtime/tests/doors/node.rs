//! The client library of Socket.IO, and the protocols' own test suites, in Node.js: `tests/socket.io`.
//!
//! The suites want a server that echoes; it stands on the same code and the same way to configure it as the door does.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::request::Parts;
use backscroll_realtime::socket_io::application::{Application, IncomingEvent, Line, Malformed};
use backscroll_realtime::socket_io::packet::{self, MAIN};
use backscroll_realtime::socket_io::settings::Settings;
use backscroll_realtime::socket_io::{PATH, SocketIo, WRITE_TIMEOUT};
use backscroll_shard::tasks::{OneShots, Supervisor};
use bytes::Bytes;
use engineioxide::handler::EngineIoHandler;
use engineioxide::service::EngineIoService;
use engineioxide::{DisconnectReason, Socket, Str};
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::bed::Bed;

/// How long one run in Node.js may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/socket.io")
}

async fn run(program: &str, arguments: &[&str], variables: &[(&str, String)]) {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("`{program} {arguments:?}` takes too long"))
        .unwrap_or_else(|error| {
            panic!("`{program}` cannot be run; these tests need Node.js 20 or newer: {error}")
        });
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
}

/// What `package-lock.json` names, installed once.
async fn installed() {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let install = || async {
        if !folder().join("node_modules").exists() {
            run("npm", &["ci"], &[]).await;
        }
    };
    INSTALLED.get_or_init(install).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_library_works() {
    installed().await;
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob", "carol"]).await;
    let variables = [
        ("SERVER_URL", format!("http://{}", bed.address)),
        ("CONVERSATION", id.to_string()),
    ];
    run("npm", &["run", "client"], &variables).await;
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_front_ends_connect_unchanged() {
    installed().await;
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob", "carol"]).await;
    let variables = [
        ("SERVER_URL", format!("http://{}", bed.address)),
        ("CONVERSATION", id.to_string()),
    ];
    let notifying = async {
        loop {
            bed.notify("frank", "an offer").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = run("npm", &["run", "front-ends"], &variables) => {}
        () = notifying => {}
    }
    bed.holds(0).await;
    bed.close().await;
}

/// What the suites ask for. They also expect two requests made at once to be begun in their order, as they are on one
/// thread.
const SUITE: Settings = Settings {
    ping_interval: Duration::from_millis(300),
    ping_timeout: Duration::from_millis(200),
    max_payload: 1_000_000,
    connect_timeout: Duration::from_secs(1),
    long_polling: true,
};

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    OneShots::new("server", 1)
        .spawn(async move { axum::serve(listener, router).await.unwrap() })
        .unwrap();
    format!("http://{address}")
}

#[tokio::test]
async fn the_socket_io_suite_passes() {
    installed().await;
    let tasks = Supervisor::default().group();
    let door = SocketIo::serving(Arc::new(Echo), &SUITE, &tasks, CancellationToken::new());
    let url = serve(Router::new().layer(door)).await;
    run("npm", &["run", "socket.io"], &[("SERVER_URL", url)]).await;
}

#[tokio::test]
async fn the_engine_io_suite_passes() {
    installed().await;
    let mut config = SUITE.engine();
    assert_eq!(config.req_path, PATH);
    config.req_path = "/engine.io".into();
    let service = EngineIoService::with_config(Arc::new(EngineEcho), config);
    let url = serve(Router::new().route_service("/engine.io/", service)).await;
    run("npm", &["run", "engine.io"], &[("SERVER_URL", url)]).await;
}

/// The server that the Socket.IO suite is for.
struct Echo;

#[derive(Clone)]
struct Echoed(Arc<Line<Echo>>);

impl Application for Echo {
    type Participant = Echoed;
    type Permit = ();

    fn namespaces(&self) -> &[&'static str] {
        &[MAIN, "/custom"]
    }

    fn permit(&self, _: &Parts) -> Option<()> {
        None
    }

    fn enter(self: &Arc<Self>, line: Line<Self>, auth: &str) -> Echoed {
        let line = Arc::new(line);
        let auth = if auth.is_empty() { "{}" } else { auth };
        let received = packet::event(line.namespace(), "auth", auth);
        let entering = Arc::clone(&line);
        let entering = async move {
            entering.accept("a-session").await.unwrap();
            let _ = entering.send(received.into(), WRITE_TIMEOUT).await;
        };
        OneShots::new("entering", 1).spawn(entering).unwrap();
        Echoed(line)
    }

    fn event(&self, Echoed(line): &Echoed, event: IncomingEvent<'_>) {
        let arguments: Vec<&str> = event.arguments.iter().map(|one| one.get()).collect();
        let (name, arguments) = arguments.split_first().unwrap();
        let arguments = arguments.join(",");
        let text = match (*name, event.ack) {
            (r#""message""#, _) => packet::event(line.namespace(), "message-back", &arguments),
            (r#""message-with-ack""#, Some(ack)) => {
                packet::answer(line.namespace(), ack, &arguments)
            }
            other => panic!("{other:?}"),
        };
        line.send_binary(text, event.attachments);
    }

    fn left(&self, _: &Echoed) {}

    fn malformed(&self, _: &Echoed, _: Malformed) -> bool {
        false
    }

    fn max_packet(&self) -> usize {
        SUITE.max_payload
    }
}

/// The server that the Engine.IO suite is for.
#[derive(Debug)]
struct EngineEcho;

impl EngineIoHandler for EngineEcho {
    type Data = ();

    fn on_connect(self: Arc<Self>, _: Arc<Socket<()>>) {}

    fn on_disconnect(&self, _: Arc<Socket<()>>, _: DisconnectReason) {}

    fn on_message(self: &Arc<Self>, message: Str, socket: Arc<Socket<()>>) {
        let _ = socket.emit(message);
    }

    fn on_binary(self: &Arc<Self>, data: Bytes, socket: Arc<Socket<()>>) {
        let _ = socket.emit_binary(data);
    }
}
