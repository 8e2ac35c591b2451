//! Clients that do not read, do not write, or say nothing: nothing is held for them that others need.

use std::pin::pin;
use std::time::Duration;

use backscroll::http::settings::ServerSettings;
use backscroll_shard::ids::UserId;
use backscroll_shard::settings::Span;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Answer, Service, User, shared_secret};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

async fn start(adjust: impl FnOnce(&mut ServerSettings)) -> Service {
    let mut settings = ServerSettings::default();
    adjust(&mut settings);
    Service::start_with(settings, shared_secret()).await
}

/// A conversation whose latest page has about 900 kB, and the path of that page.
async fn large_page(alice: &User<'_>) -> String {
    let id = alice.group(json!(["bob"])).await;
    let path = format!("/chat/conversations/{id}/messages");
    for _ in 0..60 {
        let sent = alice.post(&path, json!({ "content": "世".repeat(5000) }));
        sent.await.expect(201);
    }
    format!("{path}?limit=100")
}

/// Waits until the server has closed a connection, which is not read.
async fn closed(mut stream: TcpStream) {
    let writing = async {
        while stream.write_all(b"\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, writing)
        .await
        .expect("it is closed");
}

#[tokio::test]
async fn a_body_that_does_not_come_takes_no_place() {
    let service = start(|settings| settings.max_requests = 2).await;
    let alice = service.user("alice");
    let head = format!(
        "POST /chat/conversations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 60000\r\nExpect: 100-continue\r\n\r\n",
        alice.token
    );
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(service.address()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // `100 Continue` says that the body is waited for.
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 100");
        waiting.push(stream);
    }
    for _ in 0..5 {
        alice.get("/chat/unread-count").await.expect(200);
    }
    drop(waiting);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let service = start(|settings| settings.write_timeout = Span::millis(200)).await;
    let alice = service.user("alice");
    let path = large_page(&alice).await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        alice.token
    );
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket
        .connect(service.address().parse().unwrap())
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    closed(stream).await;
    alice.get(&path).await.expect(200);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header of HPACK, literally.
fn header(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        match text.len() {
            short @ ..127 => block.push(u8::try_from(short).unwrap()),
            long => {
                let rest = long - 127;
                block.push(127);
                block.push(u8::try_from(rest % 128).unwrap() | 0x80);
                block.push(u8::try_from(rest / 128).unwrap());
            }
        }
        block.extend(text.as_bytes());
    }
    block
}

#[tokio::test]
async fn an_http2_client_without_a_window_is_cut_off() {
    let service = start(|settings| {
        settings.write_timeout = Span::millis(200);
        settings.unread_connection_bytes = 1 << 20;
    })
    .await;
    let alice = service.user("alice");
    let path = large_page(&alice).await;
    let mut stream = TcpStream::connect(service.address()).await.unwrap();
    let mut asked = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    asked.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])); // SETTINGS_INITIAL_WINDOW_SIZE 0
    let bearer = format!("Bearer {}", alice.token);
    for n in 0..8 {
        let mut block = header(":method", "GET");
        for (name, value) in [
            (":path", path.as_str()),
            (":scheme", "http"),
            (":authority", "x"),
            ("authorization", &bearer),
        ] {
            block.extend(header(name, value));
        }
        asked.extend(frame(1, 5, 1 + 2 * n, &block)); // HEADERS, the last of the request
    }
    stream.write_all(&asked).await.unwrap();
    let mut answers = Vec::new();
    let reading = stream.read_to_end(&mut answers);
    let read = tokio::time::timeout(PATIENCE, reading).await;
    let _ = read.expect("it is closed");
    let data = answers.windows(3).filter(|it| *it == "世".as_bytes());
    assert_eq!(data.count(), 0, "there was no window");
    alice.get(&path).await.expect(200);
}

#[tokio::test]
async fn connections_that_say_nothing_give_way() {
    let service = start(|settings| settings.max_connections = 4).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(service.address()).await.unwrap());
    }
    let alice = service.user("alice");
    alice.get("/chat/unread-count").await.expect(200);
    drop(silent);
}

#[tokio::test]
async fn one_address_has_a_share_of_the_connections() {
    let service = start(|settings| settings.connections_per_ip = 3).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(service.address()).await.unwrap());
    }
    let alice = service.user("alice");
    alice.get("/chat/unread-count").await.expect(200);
    // It took the place of the first.
    let mut rest = Vec::new();
    let reading = silent[0].read_to_end(&mut rest);
    let read = tokio::time::timeout(PATIENCE, reading).await;
    let _ = read.expect("the first is closed");
}

#[tokio::test]
async fn a_body_that_is_packed_is_refused() {
    let service = Service::start().await;
    let alice = service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let path = format!("/chat/conversations/{id}/messages");
    let send = |coding: &'static str| {
        let request = alice.request(Method::POST, &path);
        let request = request.header("content-encoding", coding);
        Answer::of(request.json(&json!({ "content": "plain" })))
    };
    for coding in ["gzip", "br", "deflate", "zstd", "gzip, gzip"] {
        let detail = send(coding).await.problem(415, "unsupported_media_type");
        assert!(detail.contains("Content-Encoding"), "{detail}");
    }
    send("identity").await.expect(201);
}

#[tokio::test]
async fn reads_of_one_user_wait_for_each_other_and_not_for_anybody_else() {
    let service = start(|_| {}).await;
    let (alice, bob) = (service.user("alice"), service.user("bob"));
    let user = UserId::new("alice").unwrap();
    let at_once = service.store.settings().limits.reads_at_once;
    let mut turns = Vec::new();
    for _ in 0..at_once {
        turns.extend(service.store.turns().wait(&user).await);
    }
    let reads = async {
        tokio::join!(
            alice.get("/chat/conversations"),
            alice.post("/chat/sync", json!({}))
        )
    };
    let mut reads = pin!(reads);
    // What others read, and what oneself writes, goes on.
    for _ in 0..3 {
        tokio::select! {
            biased;
            _ = &mut reads => panic!("it was not their turn"),
            listed = bob.get("/chat/conversations") => drop(listed.expect(200)),
        }
    }
    tokio::select! {
        biased;
        _ = &mut reads => panic!("it was not their turn"),
        _ = alice.group(json!(["bob"])) => {}
    }
    turns.pop();
    let (listed, synced) = tokio::time::timeout(PATIENCE, reads).await.unwrap();
    listed.expect(200);
    synced.expect(200);
}

/// Begins a connection as a proxy does that names `client`, and asks for something on it.
async fn proxied(service: &Service, header: &str) -> TcpStream {
    let mut stream = TcpStream::connect(service.address()).await.unwrap();
    let request = format!("{header}GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Whether an answer comes before the connection ends.
async fn is_answered(stream: &mut TcpStream) -> bool {
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer));
    let length = read.await.expect("it is answered or closed").unwrap_or(0);
    answer.starts_with(b"HTTP/1.1 200") && length > 0
}

#[tokio::test]
async fn a_proxy_names_the_clients_whose_connections_are_counted() {
    let service = start(|settings| {
        settings.proxy_protocol = true;
        settings.connections_per_ip = 1;
    })
    .await;
    let named = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 40000 8080\r\n");
    let mut first = proxied(&service, &named("192.0.2.1")).await;
    let mut other = proxied(&service, &named("192.0.2.2")).await;
    assert!(is_answered(&mut first).await && is_answered(&mut other).await);
    let mut second = proxied(&service, &named("192.0.2.1")).await;
    assert!(is_answered(&mut second).await);
    closed(first).await; // it gave way to the second of the same client
    let again = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    other.write_all(again).await.unwrap();
    assert!(is_answered(&mut other).await);
    // What is no header is never taken for a request.
    for wrong in ["", "PROXY TCP4 nobody\r\n"] {
        assert!(!is_answered(&mut proxied(&service, wrong).await).await);
    }
}
