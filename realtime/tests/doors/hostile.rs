//! Clients that break the protocol: bytes on a raw connection to the native door, and the close code that follows.
//!
//! What breaks RFC 6455 itself is closed with that document's codes, 1002 and 1007; the others are in `PROTOCOL.md`, also
//! that of a frame that is too large.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bed::Bed;
use crate::client::Door;

const TEXT: u8 = 1;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// A WebSocket connection without a WebSocket library.
struct Raw(TcpStream);

impl Raw {
    async fn open(bed: &Bed) -> Self {
        let mut tcp = TcpStream::connect(bed.address).await.unwrap();
        let handshake = "GET /ws/chat HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        tcp.write_all(handshake.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        Self(tcp)
    }

    /// One that has authenticated.
    async fn enter(bed: &Bed) -> Self {
        let mut raw = Self::open(bed).await;
        raw.say(r#"{"event":"authenticate","data":{"token":"alice"}}"#)
            .await;
        let (_, hello) = raw.frame().await.unwrap();
        assert!(hello.starts_with(br#"{"event":"hello""#));
        raw
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await; // it may have been closed
    }

    async fn say(&mut self, text: &str) {
        self.bytes(&frame(FIN | TEXT, text.as_bytes())).await;
    }

    /// The next frame's first byte and payload; none at the end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.0.read_u8().await.ok()?;
        let length = match self.0.read_u8().await.ok()? {
            126 => usize::from(self.0.read_u16().await.ok()?),
            127 => usize::try_from(self.0.read_u64().await.ok()?).unwrap(),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((first, payload))
    }

    /// The code it is closed with; none where the connection just ends.
    async fn closed(&mut self) -> Option<u16> {
        let read = async {
            loop {
                let (first, payload) = self.frame().await?;
                if first == FIN | 8 {
                    return Some(u16::from_be_bytes([payload[0], payload[1]]));
                }
            }
        };
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        read.expect("it is not closed")
    }
}

/// A masked frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len());
    let mask = [1, 2, 3, 4];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}

/// A frame's beginning, masked, up to the mask.
fn header(first: u8, length: usize) -> Vec<u8> {
    let mut header = vec![first];
    match length {
        0..126 => header.push(0x80 | u8::try_from(length).unwrap()),
        126..=0xffff => {
            header.push(0x80 | 126);
            header.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend(u64::try_from(length).unwrap().to_be_bytes());
        }
    }
    header
}

/// A text frame whose payload does not come.
fn begun(length: usize) -> Vec<u8> {
    [header(FIN | TEXT, length), vec![1, 2, 3, 4]].concat()
}

/// What is sent after entering, and the code that follows.
#[tokio::test(flavor = "multi_thread")]
async fn broken_frames_have_their_codes() {
    let bed = Bed::new().await;
    let unmasked = vec![FIN | TEXT, 2, b'{', b'}'];
    let (first, rest) = (frame(TEXT, b"{\"event\":"), frame(FIN | TEXT, b"\"ping\"}"));
    let interleaved = [first, rest].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", unmasked, 1002),
        ("RSV1", frame(FIN | 0x40 | TEXT, b"{}"), 1002),
        ("RSV2", frame(FIN | 0x20 | TEXT, b"{}"), 1002),
        ("RSV3", frame(FIN | 0x10 | TEXT, b"{}"), 1002),
        ("reserved opcode", frame(FIN | 3, b"{}"), 1002),
        ("reserved control opcode", frame(FIN | 0xb, b"{}"), 1002),
        ("long control frame", frame(FIN | PING, &[0; 126]), 1002),
        ("fragmented control frame", frame(PING, b"x"), 1002),
        ("continuation of nothing", frame(FIN, b"{}"), 1002),
        ("new message within a message", interleaved, 1002),
        ("one byte of a close code", frame(FIN | 8, &[3]), 1002),
        (
            "bad UTF-8",
            frame(FIN | TEXT, b"{\"event\":\"\xff\"}"),
            1007,
        ),
        ("binary", frame(FIN | 2, b"{}"), 4503),
        ("no JSON", frame(FIN | TEXT, b"hello"), 4503),
        ("no object", frame(FIN | TEXT, b"[]"), 4503),
        ("no event", frame(FIN | TEXT, b"{}"), 4503),
        (
            "ack that is none",
            frame(FIN | TEXT, br#"{"event":"ping","ack":-1}"#),
            4503,
        ),
        ("oversized", begun(65_537), 4504),
        ("vast", begun(1 << 40), 4504),
    ];
    for (name, bytes, code) in cases {
        let mut raw = Raw::enter(&bed).await;
        raw.bytes(&bytes).await;
        assert_eq!(raw.closed().await, Some(code), "{name}");
        // The same before it has authenticated.
        let mut raw = Raw::open(&bed).await;
        raw.bytes(&bytes).await;
        let early = raw.closed().await;
        let expected = if name == "ack that is none" {
            4503
        } else {
            code
        };
        assert_eq!(early, Some(expected), "{name}, before authentication");
    }
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_make_one_frame_of_bounded_length() {
    let bed = Bed::new().await;
    let mut raw = Raw::enter(&bed).await;
    let pieces = [
        frame(TEXT, br#"{"event":"#),
        frame(FIN | PING, b"between"),
        frame(0, br#""ping","#),
        frame(FIN, br#""ack":5}"#),
    ];
    raw.bytes(&pieces.concat()).await;
    let (mut pong, mut answer) = (false, false);
    while !(pong && answer) {
        let (first, payload) = raw.frame().await.unwrap();
        pong |= first == FIN | 10 && payload == b"between";
        answer |= payload == br#"{"ack":5,"data":{}}"#;
    }
    raw.bytes(&frame(TEXT, &[b' '; 40_000])).await;
    raw.bytes(&frame(0, &[b' '; 40_000])).await;
    assert_eq!(raw.closed().await, Some(4504));
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_nesting_does_no_harm() {
    let bed = Bed::with(|settings| settings.max_frame = 16 << 20).await;
    let nested = "[".repeat(5 << 20) + &"]".repeat(5 << 20);
    let mut raw = Raw::enter(&bed).await;
    // As data that no command reads, and as data that one does.
    for (event, answer) in [("ping", "data"), ("join_conversation", "error")] {
        raw.say(&format!(r#"{{"event":"{event}","data":{nested},"ack":1}}"#))
            .await;
        let (_, payload) = raw.frame().await.unwrap();
        let payload = String::from_utf8(payload).unwrap();
        assert!(
            payload.starts_with(&format!(r#"{{"ack":1,"{answer}""#)),
            "{payload:.100}"
        );
    }
    raw.say(&format!(r#"{{"event":{nested}}}"#)).await;
    assert_eq!(raw.closed().await, Some(4503));
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_commands_is_closed() {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut bob = bed.connect(Door::Native, "bob").await;
    let mut raw = Raw::enter(&bed).await;
    let typing = json!({"event": "typing_start", "data": {"conversationId": id}}).to_string();
    let many = frame(FIN | TEXT, typing.as_bytes()).repeat(5000);
    let (mut reading, mut writing) = raw.0.split();
    let flood = async {
        let _ = writing.write_all(&many).await;
    };
    let drain = async {
        let mut all = Vec::new();
        let _ = reading.read_to_end(&mut all).await;
        all
    };
    let (_, all) = tokio::time::timeout(Duration::from_secs(20), async {
        tokio::join!(flood, drain)
    })
    .await
    .expect("it is not closed");
    let close = [FIN | 8, 14, 0x0f, 0xbd]; // 4029, rate_limited
    assert!(all.windows(4).any(|bytes| bytes == close));
    // Others were served meanwhile.
    bob.ask("ping", json!({})).await.unwrap();
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_token_is_closed() {
    let bed = Bed::new().await;
    let begun = Instant::now();
    let mut silent = Raw::open(&bed).await;
    let mut slow = Raw::open(&bed).await;
    let mut pinging = Raw::open(&bed).await;
    let text = frame(
        FIN | TEXT,
        br#"{"event":"authenticate","data":{"token":"alice"}}"#,
    );
    let drip = async {
        for byte in &text {
            slow.bytes(&[*byte]).await;
            pinging.bytes(&frame(FIN | PING, b"")).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if begun.elapsed() > Duration::from_secs(12) {
                break;
            }
        }
    };
    let (code, ()) = tokio::join!(silent.closed(), drip);
    assert_eq!(code, Some(4500));
    assert_eq!(slow.closed().await, Some(4500));
    assert_eq!(pinging.closed().await, Some(4500));
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_frame_is_no_sign_of_life() {
    let bed = Bed::with(|settings| {
        settings.heartbeat = backscroll_shard::settings::Span::secs(1);
    })
    .await;
    let mut raw = Raw::enter(&bed).await;
    raw.bytes(&begun(1000)).await;
    // Pings come, and are not answered.
    assert_eq!(raw.closed().await, Some(4002));
    bed.holds(0).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_dropped() {
    let bed = Bed::new().await;
    for _ in 0..50 {
        let raw = Raw::enter(&bed).await;
        raw.0.set_zero_linger().unwrap();
        drop(raw);
        drop(Raw::open(&bed).await);
    }
    bed.holds(0).await;
    bed.close().await;
}

/// Pings are answered by the library without a command being carried out; each counts like one.
#[tokio::test]
async fn a_flood_of_control_frames_ends_the_connection() {
    let bed = Bed::new().await;
    for kind in [PING, PONG] {
        let mut raw = Raw::enter(&bed).await;
        let flood = frame(FIN | kind, b"x").repeat(1000);
        raw.bytes(&flood).await;
        assert_eq!(raw.closed().await, Some(4029));
    }
    bed.close().await;
}
