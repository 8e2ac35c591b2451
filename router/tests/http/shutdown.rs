//! A shutdown under load loses nothing that was taken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backscroll::http::settings::ServerSettings;
use backscroll_shard::settings::Span;
use backscroll_testkit::warnings;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Answer, Service, shared_secret};
use crate::logged;

async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut answer = String::new();
    while !answer.contains(text) {
        answer.push(char::from(
            stream
                .read_u8()
                .await
                .unwrap_or_else(|error| panic!("{error} after {answer:?}")),
        ));
    }
    answer
}

#[tokio::test]
async fn connections_in_use_end_after_an_answer() {
    let service = Service::start().await;
    let mut stream = TcpStream::connect(service.address()).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let answer = read_until(&mut stream, "}").await;
    assert!(!answer.contains("connection: close"), "{answer}");
    service.ask_to_stop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    stream.write_all(request).await.unwrap();
    let answer = read_until(&mut stream, "}").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"),
        "{answer}"
    );
    assert_eq!(
        stream.read(&mut [0; 1]).await.unwrap(),
        0,
        "and then it is closed"
    );
    service.stopped().await;
    TcpStream::connect(service.address()).await.unwrap_err();
}

#[tokio::test]
async fn readiness_ends_before_the_service_does() {
    warnings::expect(logged::NOT_SERVED);
    let settings = ServerSettings {
        shutdown_delay: Span::secs(1),
        ..ServerSettings::default()
    };
    let service = Service::start_with(settings, shared_secret()).await;
    Answer::of(service.request(Method::GET, "/readyz"))
        .await
        .expect(200);
    service.ask_to_stop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let draining = Answer::of(service.request(Method::GET, "/readyz")).await;
    assert_eq!(
        (draining.status, &draining.body["status"]),
        (503, &json!("draining"))
    );
    Answer::of(service.request(Method::GET, "/healthz"))
        .await
        .expect(200);
    service
        .user("alice")
        .get("/chat/unread-count")
        .await
        .expect(200);
    service.stopped().await;
}

#[tokio::test]
async fn what_was_taken_is_finished_and_the_rest_is_cut_in_time() {
    warnings::expect(logged::CUT_OFF);
    let settings = ServerSettings {
        shutdown_timeout: Span::secs(3),
        request_timeout: Span::secs(60),
        ..ServerSettings::default()
    };
    let service = Service::start_with(settings, shared_secret()).await;
    let head = format!(
        "POST /chat/sync HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n",
        service.user("alice").token
    );
    let mut finishing = TcpStream::connect(service.address()).await.unwrap();
    let mut stuck = TcpStream::connect(service.address()).await.unwrap();
    for stream in [&mut finishing, &mut stuck] {
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    service.ask_to_stop();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    finishing.write_all(b"{}").await.unwrap();
    let answer = read_until(&mut finishing, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    service.stopped().await;
    let took = start.elapsed();
    assert!(
        (Duration::from_millis(2900)..Duration::from_secs(6)).contains(&took),
        "{took:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_request_is_broken_off_and_no_acknowledged_message_lost() {
    let service = Service::start().await;
    let alice = service.user("alice");
    let created = alice
        .post(
            "/chat/conversations",
            json!({ "kind": "group", "members": [] }),
        )
        .await
        .expect(201);
    let id = created["id"].as_str().unwrap();
    let path = format!("/chat/conversations/{id}/messages");
    let stopping = AtomicBool::new(false);

    let sender = async |n: usize| {
        let mut acknowledged = 0;
        for i in 0.. {
            let was_stopping = stopping.load(Ordering::SeqCst);
            let body = json!({ "content": "x", "clientMsgId": format!("{n}-{i}") });
            match alice.request(Method::POST, &path).json(&body).send().await {
                Ok(response) => {
                    assert_eq!(response.status(), 201);
                    response.bytes().await.expect("the whole answer");
                    acknowledged += 1;
                }
                // New connections are refused at the end. Connections that were taken are not broken.
                Err(error)
                    if error.is_connect() && was_stopping | stopping.load(Ordering::SeqCst) =>
                {
                    return acknowledged;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        acknowledged
    };
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stopping.store(true, Ordering::SeqCst);
        service.ask_to_stop();
    };
    let (acknowledged, ()) = tokio::join!(join_all((0..32).map(sender)), stop);
    service.stopped().await;
    let acknowledged: u64 = acknowledged.into_iter().sum();
    assert!(acknowledged > 0);

    let settings = backscroll_shard::settings::StoreSettings::embedded(service.folder(), 2);
    let store = backscroll_shard::store::Store::open(
        &settings,
        std::sync::Arc::new(backscroll_shard::cold_tier::NoArchive),
        std::sync::Arc::new(backscroll_shard::commit_event::NoListener),
        &backscroll_shard::tasks::Supervisor::default(),
    )
    .await
    .unwrap();
    let caller = backscroll_shard::model::Caller::new(
        backscroll_shard::ids::UserId::new("alice").unwrap(),
        Duration::from_secs(5),
    );
    let conversation = store
        .conversation(&caller, id.parse().unwrap())
        .await
        .unwrap();
    assert_eq!(
        conversation.head_seq.0, acknowledged,
        "each acknowledged message is there, and nothing else"
    );
    store.close(Instant::now() + Duration::from_secs(5)).await;
}
