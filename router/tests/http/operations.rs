//! What operators see: health, readiness, metrics, headers, bounds.

use std::time::{Duration, Instant};

use backscroll::http::settings::ServerSettings;
use backscroll::metrics;
use backscroll_shard::db::Database;
use backscroll_shard::ids::{KeyFunction, UserId};
use backscroll_shard::settings::{DatabaseUrl, PoolSettings};
use backscroll_testkit::warnings;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Answer, Service, shared_secret};
use crate::logged;

#[tokio::test]
async fn health_and_readiness_name_every_dependency() {
    let service = Service::start().await;
    let alive = Answer::of(service.request(Method::GET, "/healthz")).await;
    assert_eq!(alive.expect(200), json!({ "status": "alive" }));
    let ready = Answer::of(service.request(Method::GET, "/readyz"))
        .await
        .expect(200);
    assert_eq!(ready["status"], "ready");
    assert_eq!(ready["directory"]["ok"], true);
    let shards = ready["shards"].as_array().unwrap();
    assert_eq!(
        shards
            .iter()
            .map(|shard| shard["name"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["shard1", "shard2"]
    );
    assert!(
        shards
            .iter()
            .all(|shard| shard["takesReads"] == true && shard["takesWrites"] == true),
        "{shards:?}"
    );
}

/// Somebody whose data is on the first shard, and somebody whose is on the second.
fn one_user_a_shard() -> [String; 2] {
    let is_on_second = |name: &String| {
        let key = KeyFunction::Hashed.key(&UserId::new(name.clone()).unwrap());
        key.unwrap().0 >= 1 << 63
    };
    let mut names = (0..).map(|n| format!("user{n}"));
    let second = names.find(is_on_second).unwrap();
    [names.find(|name| !is_on_second(name)).unwrap(), second]
}

#[tokio::test]
async fn one_dead_shard_is_reported_and_hurts_only_its_own_users() {
    warnings::expect(logged::NOT_SERVED);
    let service =
        Service::start_without(&["shard2"], ServerSettings::default(), shared_secret()).await;
    let ready = Answer::of(service.request(Method::GET, "/readyz")).await;
    let ready = ready.expect(200);
    assert_eq!(ready["status"], "degraded");
    assert_eq!(ready["shards"][0]["primary"]["ok"], true);
    assert_eq!(ready["shards"][1]["primary"]["ok"], false);

    let [first, second] = one_user_a_shard();
    let group = json!({ "kind": "group", "members": [] });
    let served = service.user(&first);
    let created = served.post("/chat/conversations", group.clone()).await;
    let id = created.expect(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/chat/conversations/{id}/messages");
    served
        .post(&path, json!({ "content": "a" }))
        .await
        .expect(201);
    assert_eq!(served.get(&path).await.expect(200)["headSeq"], 1);

    let unlucky = service.user(&second);
    for answer in [
        unlucky.post("/chat/conversations", group).await,
        unlucky.get("/chat/unread-count").await,
    ] {
        let detail = answer.problem(503, "shard_unavailable");
        assert!(!detail.contains("shard2"), "{detail}");
    }
}

#[tokio::test]
async fn without_any_shard_the_service_is_not_ready() {
    warnings::expect(logged::NOT_SERVED);
    let dead = ["shard1", "shard2"];
    let service = Service::start_without(&dead, ServerSettings::default(), shared_secret()).await;
    let ready = Answer::of(service.request(Method::GET, "/readyz")).await;
    assert_eq!(
        (ready.status, &ready.body["status"]),
        (503, &json!("unavailable"))
    );
    Answer::of(service.request(Method::GET, "/healthz"))
        .await
        .expect(200);
}

#[tokio::test]
async fn metrics_count_requests_by_route() {
    let service = Service::start().await;
    service
        .user("alice")
        .get("/chat/conversations/00000000000003e900000000000004d2")
        .await;
    Answer::of(service.request(Method::GET, "/no/such/route")).await;
    let response = service
        .request(Method::GET, "/metrics")
        .send()
        .await
        .unwrap();
    assert!(
        response.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let text = response.text().await.unwrap();
    let requests = metrics::HTTP_REQUESTS.name();
    let seconds = metrics::HTTP_REQUEST_SECONDS.name();
    let conversation = r#"{method="GET",route="/chat/conversations/{conversationId}""#;
    for line in [
        format!(r#"{requests}{conversation},status="403"}}"#),
        format!(r#"{requests}{{method="GET",route="unmatched",status="404"}}"#),
        format!(r#"{seconds}_bucket{conversation},le="0.0005"}}"#),
        format!("{} ", metrics::HTTP_REQUESTS_IN_FLIGHT.name()),
        format!("{} ", metrics::HTTP_CONNECTIONS.name()),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert!(
        !text.contains("no/such") && !text.contains("00000000000003e9"),
        "addresses are no labels"
    );
}

#[tokio::test]
async fn every_answer_has_an_id_and_safe_headers() {
    let service = Service::start().await;
    for path in [
        "/healthz",
        "/chat/unread-count",
        "/nothing",
        "/openapi.json",
    ] {
        let answer = Answer::of(service.request(Method::GET, path)).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-request-id").len(), 16);
    }
    let given = Answer::of(
        service
            .request(Method::GET, "/chat/unread-count")
            .header("x-request-id", "trace-1.a:b"),
    )
    .await;
    assert_eq!(given.header("x-request-id"), "trace-1.a:b");
    assert_eq!(given.body["requestId"], "trace-1.a:b");
    let hostile = Answer::of(
        service
            .request(Method::GET, "/healthz")
            .header("x-request-id", "<script>"),
    )
    .await;
    assert_ne!(hostile.header("x-request-id"), "<script>");
}

#[tokio::test]
async fn documentation_is_served_without_the_internet() {
    let service = Service::start().await;
    let page = service.request(Method::GET, "/docs").send().await.unwrap();
    assert_eq!((page.status().as_u16(), page.url().path()), (200, "/docs/"));
    let under_a_path = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let redirect = under_a_path
        .get(format!("http://{}/docs", service.address()))
        .send()
        .await
        .unwrap();
    assert_eq!(redirect.headers()["location"], "docs/");
    let page = page.text().await.unwrap();
    assert!(
        page.contains("swagger-ui") && !page.contains("https://"),
        "{page}"
    );
    for asset in [
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "swagger-initializer.js",
    ] {
        let response = service
            .request(Method::GET, &format!("/docs/{asset}"))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{asset}");
        let text = response.text().await.unwrap();
        assert!(
            asset != "swagger-initializer.js" || text.contains("\"../openapi.json\""),
            "{text}"
        );
    }
    Answer::of(service.request(Method::GET, "/docs/nothing.js"))
        .await
        .problem(404, "not_found");
    let document = Answer::of(service.request(Method::GET, "/openapi.json")).await;
    assert_eq!(document.header("content-type"), "application/json");
    assert_eq!(document.expect(200)["info"]["title"], "Backscroll");
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_ask() {
    let service = Service::start().await;
    let encoding = async |path: &str, accepted: Option<&str>| {
        let mut request = service.request(Method::GET, path);
        if let Some(accepted) = accepted {
            request = request.header("accept-encoding", accepted);
        }
        let response = request.send().await.unwrap();
        let encoding = response
            .headers()
            .get("content-encoding")
            .map(|value| value.to_str().unwrap().to_owned());
        (encoding, response.bytes().await.unwrap())
    };
    let (none, plain) = encoding("/openapi.json", None).await;
    assert_eq!(none, None);
    let (zstd, small) = encoding("/openapi.json", Some("gzip, zstd")).await;
    assert_eq!(zstd.as_deref(), Some("zstd"));
    assert_eq!(zstd::decode_all(&small[..]).unwrap(), plain);
    let (gzip, small) = encoding("/openapi.json", Some("gzip")).await;
    assert_eq!(gzip.as_deref(), Some("gzip"));
    assert!(small.len() * 3 < plain.len() && small.starts_with(&[0x1f, 0x8b]));
    assert_eq!(
        encoding("/healthz", Some("gzip, zstd")).await.0,
        None,
        "tiny answers are left alone"
    );
}

#[tokio::test]
async fn more_requests_than_allowed_are_shed_at_once() {
    let service = Service::start_with(
        ServerSettings {
            max_requests: 2,
            ..ServerSettings::default()
        },
        shared_secret(),
    )
    .await;
    let alice = service.user("alice");
    // Two requests that wait for a database hold both places.
    let mut locks = Vec::new();
    for shard in ["shard1", "shard2"] {
        let url = DatabaseUrl(format!("sqlite://{}/{shard}.db", service.folder()));
        let database = Database::open_any(&url, &PoolSettings::default()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut connection = database.writer(deadline).await.unwrap();
        connection.begin().await.unwrap();
        locks.push(connection);
    }
    let new = json!({ "kind": "group", "members": ["bob"] });
    let held = join_all((0..2).map(|_| alice.post("/chat/conversations", new.clone())));
    let in_flight = async || {
        Answer::of(service.request(Method::GET, "/readyz"))
            .await
            .body["requestsInFlight"]
            .clone()
    };
    let shed = async {
        while in_flight().await != 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for answer in join_all((0..20).map(|_| alice.get("/chat/unread-count"))).await {
            answer.problem(503, "overloaded");
        }
        Answer::of(service.request(Method::GET, "/healthz"))
            .await
            .expect(200);
        drop(locks);
    };
    // They go on as if nothing had been.
    let (held, ()) = tokio::join!(held, shed);
    for answer in held {
        answer.expect(201);
    }
    while in_flight().await != 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    alice.get("/chat/unread-count").await.expect(200);
}

#[tokio::test]
async fn more_connections_than_allowed_wait_while_all_are_in_use() {
    let service = Service::start_with(
        ServerSettings {
            max_connections: 2,
            ..ServerSettings::default()
        },
        shared_secret(),
    )
    .await;
    let in_use = format!(
        "POST /chat/conversations HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 10\r\nexpect: 100-continue\r\n\r\n",
        service.user("alice").token
    );
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(service.address()).await.unwrap();
        stream.write_all(in_use.as_bytes()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'H'); // it waits for the body
        open.push(stream);
    }
    let mut third = TcpStream::connect(service.address()).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    third.write_all(request).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), third.read_u8()).await;
    assert!(early.is_err(), "it waits");
    open.pop();
    let late = tokio::time::timeout(Duration::from_secs(5), third.read_u8()).await;
    assert_eq!(late.expect("its turn comes").unwrap(), b'H');
}

#[tokio::test]
async fn http_2_without_tls_works() {
    let service = Service::start().await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .unwrap();
    let requests = (0..50).map(|_| client.get(format!("{}/healthz", service.base)).send());
    for response in join_all(requests).await {
        let response = response.unwrap();
        assert_eq!(
            (response.status().as_u16(), response.version()),
            (200, reqwest::Version::HTTP_2)
        );
    }
}
