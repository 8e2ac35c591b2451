//! The frames of the two doors, written and read by hand: a client that costs next to nothing leaves the processor to
//! what is measured.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The namespace of Socket.IO, as it stands in frames.
const NAMESPACE: &str = "/chat,";

/// Which protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Door {
    /// Backscroll's own: a JSON object in each frame.
    Native,
    /// Socket.IO v5 over Engine.IO v4, over WebSocket alone.
    SocketIo,
}

/// A frame from the server. Texts of JSON are left as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// Engine.IO is open: the namespace may be asked for.
    Opened,
    /// The namespace is open.
    Connected,
    /// The server does not want us, or wants us no longer.
    Refused(&'a str),
    /// Engine.IO asks whether we are there.
    Ping,
    /// Nothing to do.
    Nothing,
    /// An event.
    Event {
        /// Its name.
        name: &'a str,
        /// Its data; empty when there are none.
        data: &'a str,
    },
    /// The answer to the command that was sent with this number.
    Answer {
        /// The number.
        ack: u64,
        /// Its data; empty when there are none.
        data: &'a str,
    },
    /// The command that was sent with this number failed.
    Failed {
        /// The number.
        ack: u64,
        /// The error.
        error: &'a str,
    },
}

impl Door {
    /// Where the server listens for it.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Native => "/ws/chat",
            Self::SocketIo => "/socket.io/?EIO=4&transport=websocket",
        }
    }

    /// The frame that says who we are, and from where to go on (`resume`, JSON).
    #[must_use]
    pub fn authentication(self, token: &str, resume: Option<&str>) -> String {
        let resume = resume.map_or(String::new(), |resume| format!(",\"resume\":{resume}"));
        let data = format!("{{\"token\":\"{token}\"{resume}}}");
        match self {
            Self::Native => format!("{{\"event\":\"authenticate\",\"data\":{data}}}"),
            Self::SocketIo => format!("40{NAMESPACE}{data}"),
        }
    }

    /// Writes the frame of a command whose answer is wanted under the number `ack`; `data` is JSON.
    pub fn write_command(self, command: &str, data: &str, ack: u64, frame: &mut String) {
        frame.clear();
        // Writing to a string cannot fail.
        let _ = match self {
            Self::Native => write!(
                frame,
                "{{\"event\":\"{command}\",\"ack\":{ack},\"data\":{data}}}"
            ),
            Self::SocketIo => write!(frame, "42{NAMESPACE}{ack}[\"{command}\",{data}]"),
        };
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// When it is none of this door.
    pub fn read(self, frame: &str) -> Result<Incoming<'_>> {
        let read = match self {
            Self::Native => read_native(frame),
            Self::SocketIo => read_socket_io(frame),
        };
        read.with_context(|| format!("cannot read the frame `{:.200}`", frame))
    }
}

/// The usual order of the keys is read without parsing the data; any other order is parsed.
fn read_native(frame: &str) -> Result<Incoming<'_>> {
    if let Some(incoming) = read_usual_native(frame) {
        return Ok(incoming);
    }
    #[derive(Deserialize)]
    struct Frame<'a> {
        event: Option<&'a str>,
        ack: Option<u64>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let frame: Frame<'_> = serde_json::from_str(frame)?;
    let data = frame.data.map_or("", RawValue::get);
    match (frame.event, frame.ack, frame.error) {
        (Some(name), _, _) => Ok(Incoming::Event { name, data }),
        (None, Some(ack), None) => Ok(Incoming::Answer { ack, data }),
        (None, Some(ack), Some(error)) => Ok(Incoming::Failed {
            ack,
            error: error.get(),
        }),
        (None, None, _) => bail!("neither an event nor an answer"),
    }
}

fn read_usual_native(frame: &str) -> Option<Incoming<'_>> {
    let frame = frame.strip_suffix('}')?;
    if let Some(rest) = frame.strip_prefix("{\"event\":\"") {
        let (name, rest) = rest.split_once('"')?;
        let data = rest.strip_prefix(",\"data\":")?;
        return Some(Incoming::Event { name, data });
    }
    let (ack, rest) = leading_number(frame.strip_prefix("{\"ack\":")?);
    let ack = ack?;
    if let Some(data) = rest.strip_prefix(",\"data\":") {
        return Some(Incoming::Answer { ack, data });
    }
    let error = rest.strip_prefix(",\"error\":")?;
    Some(Incoming::Failed { ack, error })
}

fn read_socket_io(frame: &str) -> Result<Incoming<'_>> {
    let (engine_type, packet) = frame.split_at_checked(1).context("an empty frame")?;
    match engine_type {
        "0" => return Ok(Incoming::Opened),
        "1" => return Ok(Incoming::Refused("closed")),
        "2" => return Ok(Incoming::Ping),
        "3" | "6" => return Ok(Incoming::Nothing),
        "4" => {}
        _ => bail!("an unknown packet of Engine.IO"),
    }
    let (packet_type, rest) = packet.split_at_checked(1).context("an empty packet")?;
    let rest = rest.strip_prefix(NAMESPACE).unwrap_or(rest);
    match packet_type {
        "0" => return Ok(Incoming::Connected),
        "1" => return Ok(Incoming::Refused("disconnected")),
        "4" => return Ok(Incoming::Refused(rest)),
        "2" | "3" => {}
        _ => bail!("an unknown packet of Socket.IO"),
    }
    let (ack, payload) = leading_number(rest);
    let inside = payload
        .strip_prefix('[')
        .and_then(|payload| payload.strip_suffix(']'))
        .context("the payload is no array")?;
    if packet_type == "2" {
        let named = inside.strip_prefix('"').and_then(|s| s.split_once('"'));
        let (name, rest) = named.context("the event has no name")?;
        let data = rest.strip_prefix(',').unwrap_or(rest);
        return Ok(Incoming::Event { name, data });
    }
    let ack = ack.context("an answer to nothing")?;
    Ok(if inside.starts_with("{\"error\":") {
        Incoming::Failed { ack, error: inside }
    } else {
        Incoming::Answer { ack, data: inside }
    })
}

/// The number at the start, if there is one, and what follows it.
fn leading_number(text: &str) -> (Option<u64>, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    (number.parse().ok(), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_frames_are_read_in_any_order_of_their_keys() {
        let event = Incoming::Event {
            name: "new_message",
            data: r#"{"a":"}"}"#,
        };
        for frame in [
            r#"{"event":"new_message","data":{"a":"}"}}"#,
            r#"{ "data": {"a":"}"}, "event": "new_message" }"#,
        ] {
            assert_eq!(Door::Native.read(frame).unwrap(), event);
        }
        for frame in [r#"{"ack":7,"data":{}}"#, r#"{"data":{},"ack":7}"#] {
            let answer = Incoming::Answer { ack: 7, data: "{}" };
            assert_eq!(Door::Native.read(frame).unwrap(), answer);
        }
        let failed = Incoming::Failed {
            ack: 0,
            error: r#"{"code":"forbidden"}"#,
        };
        let frame = r#"{"ack":0,"error":{"code":"forbidden"}}"#;
        assert_eq!(Door::Native.read(frame).unwrap(), failed);
        assert!(Door::Native.read("{}").is_err());
    }

    #[test]
    fn socket_io_frames_are_read() {
        let read = |frame| Door::SocketIo.read(frame).unwrap();
        assert_eq!(read(r#"0{"sid":"x"}"#), Incoming::Opened);
        assert_eq!(read(r#"40/chat,{"sid":"x"}"#), Incoming::Connected);
        assert_eq!(
            read(r#"44/chat,{"message":"no"}"#),
            Incoming::Refused(r#"{"message":"no"}"#)
        );
        assert_eq!(read("2"), Incoming::Ping);
        assert_eq!(
            read(r#"42/chat,["new_message",{"a":[1]}]"#),
            Incoming::Event {
                name: "new_message",
                data: r#"{"a":[1]}"#
            }
        );
        assert_eq!(
            read(r#"42/chat,["bye"]"#),
            Incoming::Event {
                name: "bye",
                data: ""
            }
        );
        assert_eq!(
            read("43/chat,12[{}]"),
            Incoming::Answer {
                ack: 12,
                data: "{}"
            }
        );
        assert_eq!(
            read(r#"43/chat,12[{"error":{}}]"#),
            Incoming::Failed {
                ack: 12,
                error: r#"{"error":{}}"#
            }
        );
        assert!(Door::SocketIo.read("43/chat,[{}]").is_err());
        assert!(Door::SocketIo.read("").is_err());
    }

    #[test]
    fn commands_are_written() {
        let mut frame = String::new();
        Door::Native.write_command("ping", "{}", 3, &mut frame);
        assert_eq!(frame, r#"{"event":"ping","ack":3,"data":{}}"#);
        Door::SocketIo.write_command("ping", "{}", 3, &mut frame);
        assert_eq!(frame, r#"42/chat,3["ping",{}]"#);
        assert_eq!(
            Door::SocketIo.authentication("t", Some("{}")),
            r#"40/chat,{"token":"t","resume":{}}"#
        );
    }
}
