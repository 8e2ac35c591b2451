//! Packets of the Socket.IO protocol, version 5, as text: `<type>[<attachments>-][<namespace>,][<ack>][<JSON>]`.
//!
//! JSON is passed through as it is: outgoing data is not parsed, and of incoming data only the outermost array is.

use serde_json::value::RawValue;

/// The namespace that needs no name.
pub const MAIN: &str = "/";
/// The namespace of the API.
pub const NAMESPACE: &str = "/chat";

/// The kind of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client asks to enter a namespace.
    Connect,
    /// The client leaves a namespace.
    Disconnect,
    /// An event.
    Event,
    /// The answer to an event of the server.
    Ack,
}

/// A packet of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its kind.
    pub kind: Kind,
    /// How many binary frames follow it.
    pub attachments: usize,
    /// Its namespace.
    pub namespace: &'a str,
    /// The number under which the client awaits an answer, or answers.
    pub ack: Option<u64>,
    /// JSON text: empty or an object with `Connect`, an array with an event or an answer.
    pub data: &'a str,
}

impl<'a> Packet<'a> {
    /// Reads a packet; none when it is malformed.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (kind, binary) = match text.as_bytes().first()? {
            b'0' => (Kind::Connect, false),
            b'1' => (Kind::Disconnect, false),
            b'2' => (Kind::Event, false),
            b'3' => (Kind::Ack, false),
            b'5' => (Kind::Event, true),
            b'6' => (Kind::Ack, true),
            _ => return None,
        };
        let mut rest = &text[1..];
        let mut attachments = 0;
        if binary {
            let (count, after) = rest.split_once('-')?;
            attachments = digits(count)?;
            rest = after;
        }
        let mut namespace = MAIN;
        if rest.starts_with('/') {
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
        }
        let data = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = &rest[..rest.len() - data.len()];
        let ack = match number {
            "" => None,
            number => Some(digits(number)?),
        };
        let packet = Self {
            kind,
            attachments,
            namespace,
            ack,
            data,
        };
        packet.is_valid().then_some(packet)
    }

    fn is_valid(&self) -> bool {
        match self.kind {
            Kind::Connect => self.ack.is_none() && (self.data.is_empty() || is_object(self.data)),
            Kind::Disconnect => self.ack.is_none() && self.data.is_empty(),
            Kind::Event => is_event(self.data),
            Kind::Ack => self.ack.is_some() && arguments(self.data).is_some(),
        }
    }
}

fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    let all = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| all)
}

fn is_object(data: &str) -> bool {
    data.starts_with('{') && serde_json::from_str::<&RawValue>(data).is_ok()
}

fn is_event(data: &str) -> bool {
    let arguments = arguments(data);
    arguments.is_some_and(|all| all.first().is_some_and(|name| name.get().starts_with('"')))
}

/// The elements of a JSON array; none when the text is no array.
#[must_use]
pub fn arguments(data: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(data).ok()
}

/// A namespace as it is written in a packet, and the comma behind it.
fn prefix(namespace: &str) -> (&str, &str) {
    if namespace == MAIN {
        ("", "")
    } else {
        (namespace, ",")
    }
}

/// The client has entered the namespace, under the name `sid`.
#[must_use]
pub fn connected(namespace: &str, sid: &str) -> String {
    let (namespace, comma) = prefix(namespace);
    format!(r#"0{namespace}{comma}{{"sid":"{sid}"}}"#)
}

/// The client may not enter; `data` is JSON text.
#[must_use]
pub fn refused(namespace: &str, message: &str, data: Option<&str>) -> String {
    let (namespace, comma) = prefix(namespace);
    let message = serde_json::Value::from(message);
    match data {
        Some(data) => format!(r#"4{namespace}{comma}{{"message":{message},"data":{data}}}"#),
        None => format!(r#"4{namespace}{comma}{{"message":{message}}}"#),
    }
}

/// The client is sent out of the namespace.
#[must_use]
pub fn disconnected(namespace: &str) -> String {
    let (namespace, comma) = prefix(namespace);
    format!("1{namespace}{comma}")
}

/// An event; `name` needs no escaping and `data` is JSON text.
#[must_use]
pub fn event(namespace: &str, name: &str, data: &str) -> String {
    let (namespace, comma) = prefix(namespace);
    format!(r#"2{namespace}{comma}["{name}",{data}]"#)
}

/// The answer to the event with the number `ack`; `data` is JSON text.
#[must_use]
pub fn answer(namespace: &str, ack: u64, data: &str) -> String {
    let (namespace, comma) = prefix(namespace);
    format!("3{namespace}{comma}{ack}[{data}]")
}

/// An event or an answer with `count` binary frames behind it; the same packet when there are none.
#[must_use]
pub fn with_attachments(packet: String, count: usize) -> String {
    match (count, packet.split_at_checked(1)) {
        (1.., Some(("2", rest))) => format!("5{count}-{rest}"),
        (1.., Some(("3", rest))) => format!("6{count}-{rest}"),
        _ => packet,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(kind: Kind, namespace: &'static str, data: &'static str) -> Packet<'static> {
        Packet {
            kind,
            attachments: 0,
            namespace,
            ack: None,
            data,
        }
    }

    #[test]
    fn packets_are_read() {
        let cases = [
            ("0", packet(Kind::Connect, "/", "")),
            ("0/chat,", packet(Kind::Connect, "/chat", "")),
            ("0/chat", packet(Kind::Connect, "/chat", "")),
            (
                r#"0/chat,{"token":"t"}"#,
                packet(Kind::Connect, "/chat", r#"{"token":"t"}"#),
            ),
            ("1/chat,", packet(Kind::Disconnect, "/chat", "")),
            (r#"2["a",1]"#, packet(Kind::Event, "/", r#"["a",1]"#)),
            (
                r#"2/chat,17["a"]"#,
                Packet {
                    ack: Some(17),
                    ..packet(Kind::Event, "/chat", r#"["a"]"#)
                },
            ),
            (
                r#"52-/chat,3["a",{"_placeholder":true,"num":0}]"#,
                Packet {
                    attachments: 2,
                    ack: Some(3),
                    ..packet(
                        Kind::Event,
                        "/chat",
                        r#"["a",{"_placeholder":true,"num":0}]"#,
                    )
                },
            ),
            (
                "3/chat,5[]",
                Packet {
                    ack: Some(5),
                    ..packet(Kind::Ack, "/chat", "[]")
                },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Packet::parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn malformed_packets_are_none() {
        let deep = format!("2[\"a\",{}", "[".repeat(100_000));
        for text in [
            "",
            "4",
            "7",
            "abc",
            "2",
            "2{}",
            "2[]",
            "2[1]",
            r#"2["a""#,
            r#"2abc["a"]"#,
            r#"299999999999999999999["a"]"#,
            r#"5["a"]"#,
            r#"5-["a"]"#,
            r#"5+1-["a"]"#,
            "3[]",
            "0[]",
            "0{",
            "1{}",
            "ü",
            &deep,
        ] {
            assert_eq!(Packet::parse(text), None, "{text}");
        }
    }

    #[test]
    fn packets_are_written() {
        assert_eq!(connected("/", "ab"), r#"0{"sid":"ab"}"#);
        assert_eq!(connected("/chat", "ab"), r#"0/chat,{"sid":"ab"}"#);
        assert_eq!(refused("/x", "a\"b", None), r#"4/x,{"message":"a\"b"}"#);
        assert_eq!(
            refused("/x", "no", Some(r#"{"code":"c"}"#)),
            r#"4/x,{"message":"no","data":{"code":"c"}}"#
        );
        assert_eq!(disconnected("/chat"), "1/chat,");
        assert_eq!(event("/chat", "a", "{}"), r#"2/chat,["a",{}]"#);
        assert_eq!(answer("/chat", 7, "{}"), "3/chat,7[{}]");
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in r#"[0-6]?(/[a-z]{0,3},?)?[0-9]{0,3}.{0,20}"#) {
            let _ = Packet::parse(&text);
        }
    }
}
