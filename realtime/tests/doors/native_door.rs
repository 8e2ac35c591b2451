//! What only the native door does.

use futures_util::StreamExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::bed::Bed;
use crate::client::{Client, Door};

const PATH: &str = "/ws/chat";

#[tokio::test]
async fn a_header_authenticates() {
    let bed = Bed::new().await;
    let headers = [("authorization", "Bearer alice")];
    let socket = Client::websocket(bed.address, PATH, &headers)
        .await
        .unwrap();
    let mut alice = Client::native(socket);
    assert_eq!(alice.event("hello").await["userId"], "alice");
    let headers = [("authorization", "Bearer expired")];
    let refused = Client::websocket(bed.address, PATH, &headers).await;
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 401));
    bed.close().await;
}

#[tokio::test]
async fn a_subprotocol_authenticates() {
    let bed = Bed::new().await;
    let headers = [("sec-websocket-protocol", "bearer, alice")];
    let socket = Client::websocket(bed.address, PATH, &headers)
        .await
        .unwrap();
    let mut alice = Client::native(socket);
    assert_eq!(alice.event("hello").await["userId"], "alice");
    let headers = [("sec-websocket-protocol", "bearer, invalid")];
    let socket = Client::websocket(bed.address, PATH, &headers)
        .await
        .unwrap();
    let mut mallory = Client::native(socket);
    assert_eq!(mallory.event("error").await["code"], "token_invalid");
    assert_eq!(mallory.end().await, "token_invalid");
    bed.close().await;
}

#[tokio::test]
async fn the_first_frame_is_authenticate() {
    let bed = Bed::new().await;
    for (frame, reason) in [
        (r#"{"event":"ping"}"#, "unauthenticated"),
        (r#"{"event":"authenticate","data":{}}"#, "invalid_frame"),
        (r#"{"event":"authenticate"}"#, "invalid_frame"),
        ("hello", "invalid_frame"),
    ] {
        let socket = Client::websocket(bed.address, PATH, &[]).await.unwrap();
        let mut client = Client::native(socket);
        client.text(frame).await;
        assert_eq!(client.end().await, reason, "{frame}");
    }
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_one_that_answers_stays() {
    let bed = Bed::with(|settings| {
        settings.heartbeat = backscroll_shard::settings::Span::secs(1);
    })
    .await;
    let mut alice = bed.connect(Door::Native, "alice").await;
    alice.receives_no("error").await;
    // The library answers pings while something is read.
    let begun = tokio::time::Instant::now();
    let two_seconds = begun + std::time::Duration::from_secs(2);
    let mut pinged = false;
    while let Ok(message) = tokio::time::timeout_at(
        two_seconds,
        futures_util::StreamExt::next(&mut alice.socket),
    )
    .await
    {
        pinged |= message.unwrap().unwrap().is_ping();
    }
    assert!(pinged);
    alice.ask("ping", json!({})).await.unwrap();
    bed.close().await;
}

#[tokio::test]
async fn a_frame_is_an_object() {
    let bed = Bed::new().await;
    let mut alice = bed.connect(Door::Native, "alice").await;
    alice.text(r#"["ping",{},1]"#).await;
    assert_eq!(alice.end().await, "invalid_frame");
    bed.close().await;
}

#[tokio::test]
async fn a_client_that_closes_is_answered() {
    let bed = Bed::new().await;
    for enters in [true, false] {
        let mut client = if enters {
            bed.connect(Door::Native, "alice").await
        } else {
            Client::native(Client::websocket(bed.address, PATH, &[]).await.unwrap())
        };
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "bye".into(),
        };
        client.socket.close(Some(frame.clone())).await.unwrap();
        let answer = loop {
            let message = client.socket.next().await.unwrap().unwrap();
            if let Message::Close(answer) = message {
                break answer;
            }
        };
        assert_eq!(answer.map(|it| it.code), Some(frame.code));
        assert!(
            client.socket.next().await.is_none(),
            "the server ends the connection"
        );
    }
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test]
async fn a_newcomer_takes_the_place_of_a_dead_connection() {
    let bed = Bed::with(|settings| {
        settings.sessions_per_user = 2;
        settings.heartbeat = backscroll_shard::settings::Span::secs(1);
    })
    .await;
    // The library answers pings while something is read: this one's client is gone, as far as the server can tell.
    let mut dead = bed.connect(Door::Native, "alice").await;
    let mut alive = bed.connect(Door::Native, "alice").await;
    let mut newcomer = tokio::select! {
        end = alive.end() => panic!("{end}"),
        newcomer = bed.connect(Door::Native, "alice") => newcomer,
    };
    assert_eq!(dead.end().await, "replaced");
    assert!(!dead.is_final());
    newcomer.ask("ping", json!({})).await.unwrap();
    bed.close().await;
}
