//! A WebSocket connection to a chat server, authenticated, through either door.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::realtime::door::{Door, Incoming};

/// How long a connection may take until it may be used.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
/// Connections from one address. Far fewer than the ephemeral ports that a kernel has for it, since it tries them one after
/// the other: with half of them taken, looking for a free one takes longer than everything else about a connection.
const CONNECTIONS_PER_SOURCE: usize = 2000;
/// The first of the addresses of the loopback device to connect from, 127.0.0.1; the others follow it.
const FIRST_SOURCE: u32 = 0x7f00_0001;
/// How many of them are used at most.
const SOURCES: usize = 65_534;
const READ_BUFFER_BYTES: usize = 4 << 10;
const WRITE_BUFFER_BYTES: usize = 16 << 10;
const MAX_WRITE_BUFFER_BYTES: usize = 256 << 10;

/// Where and how to connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// The nodes; clients are spread over them evenly.
    pub nodes: Vec<SocketAddr>,
    /// The door to take.
    pub door: Door,
    /// Whether the server greets with the event `hello`.
    pub greets: bool,
}

impl Target {
    /// Which of the nodes client number `number` connects to. Neighbours go to different ones, and so do the first of
    /// each pair, group of ten and so on.
    #[must_use]
    pub fn home(&self, number: usize) -> usize {
        let nodes = self.nodes.len().max(1);
        (number + number / nodes) % nodes
    }
}

/// A connection.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    door: Door,
    scratch: String,
}

impl Socket {
    /// Connects client number `number` to `node`, says who it is, and waits until it is welcome. Returns the data of
    /// `hello` too, if the server greets.
    ///
    /// # Errors
    /// When it is not welcome, or not soon.
    pub async fn connect(
        target: &Target,
        node: SocketAddr,
        number: usize,
        token: &str,
        resume: Option<&str>,
    ) -> Result<(Self, String)> {
        let welcomed = async {
            let mut socket = Self::open(target.door, node, source(number, node.ip())).await?;
            let hello = socket.introduce(target, token, resume).await?;
            anyhow::Ok((socket, hello))
        };
        timeout(CONNECT_PATIENCE, welcomed)
            .await
            .context("connecting took too long")?
            .with_context(|| format!("cannot connect to {node}{}", target.door.path()))
    }

    async fn open(door: Door, node: SocketAddr, source: Option<IpAddr>) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(node).await?;
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES);
        let url = format!("ws://{node}{}", door.path());
        let (stream, _response) = client_async_with_config(url, stream, Some(config)).await?;
        Ok(Self {
            stream,
            door,
            scratch: String::new(),
        })
    }

    async fn introduce(
        &mut self,
        target: &Target,
        token: &str,
        resume: Option<&str>,
    ) -> Result<String> {
        let authentication = self.door.authentication(token, resume);
        if self.door == Door::Native {
            self.write(authentication.as_str().into()).await?;
        }
        loop {
            let frame = self.receive().await?;
            match self.door.read(&frame)? {
                Incoming::Opened => self.write(authentication.as_str().into()).await?,
                Incoming::Connected if !target.greets => return Ok(String::new()),
                Incoming::Event {
                    name: "hello",
                    data,
                } => return Ok(data.to_owned()),
                Incoming::Ping => self.write("3".into()).await?,
                Incoming::Connected => {}
                Incoming::Refused(reason) => bail!("not welcome: {reason}"),
                other => bail!("{other:?} instead of a welcome"),
            }
        }
    }

    /// Sends a command whose answer is wanted under the number `ack`; `data` is JSON.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn command(&mut self, command: &str, data: &str, ack: u64) -> Result<()> {
        self.put(command, data, ack).await?;
        self.flush().await
    }

    /// The same, but it may wait here for [`Socket::flush`], so that several go out in one write.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn put(&mut self, command: &str, data: &str, ack: u64) -> Result<()> {
        self.door
            .write_command(command, data, ack, &mut self.scratch);
        let frame = Utf8Bytes::from(self.scratch.as_str());
        Ok(self.stream.feed(Message::Text(frame)).await?)
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn flush(&mut self) -> Result<()> {
        Ok(self.stream.flush().await?)
    }

    async fn write(&mut self, frame: Utf8Bytes) -> Result<()> {
        Ok(self.stream.send(Message::Text(frame)).await?)
    }

    /// The next frame, to be read with [`Door::read`]. Pings are answered, and may come out all the same.
    ///
    /// # Errors
    /// When the connection is broken or was closed.
    pub async fn receive(&mut self) -> Result<Utf8Bytes> {
        loop {
            let message = self.stream.next().await.context("the connection ended")??;
            match message {
                Message::Text(text) => {
                    if self.door == Door::SocketIo && text.as_str() == "2" {
                        self.write("3".into()).await?;
                    }
                    return Ok(text);
                }
                Message::Close(Some(frame)) => {
                    bail!(
                        "the server closed: {} {}",
                        u16::from(frame.code),
                        frame.reason
                    )
                }
                Message::Close(None) => bail!("the server closed without a code"),
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Binary(_) | Message::Frame(_) => bail!("a binary frame"),
            }
        }
    }

    /// The next frame if it is here already.
    ///
    /// # Errors
    /// As [`Socket::receive`].
    pub fn receive_now(&mut self) -> Option<Result<Utf8Bytes>> {
        self.receive().now_or_never()
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn close(mut self) -> Result<()> {
        self.stream.close(None).await?;
        Ok(())
    }

    /// Which door it came through.
    #[must_use]
    pub fn door(&self) -> Door {
        self.door
    }
}

/// The address that client number `number` connects from, when the server is on this machine: a port may be used once
/// for each of its addresses.
fn source(number: usize, server: IpAddr) -> Option<IpAddr> {
    let nth = u32::try_from(number / CONNECTIONS_PER_SOURCE).ok()?;
    server
        .is_loopback()
        .then_some(IpAddr::V4(Ipv4Addr::from(FIRST_SOURCE + nth)))
}

/// Waits for the answer to the command with the number `ack`, and gives its data. Whatever else comes is dropped.
///
/// # Errors
/// When the command fails, or the connection.
pub async fn answer(socket: &mut Socket, ack: u64) -> Result<String> {
    loop {
        let frame = socket.receive().await?;
        match socket.door.read(&frame)? {
            Incoming::Answer { ack: of, data } if of == ack => return Ok(data.to_owned()),
            Incoming::Failed { ack: of, error } if of == ack => bail!("{error}"),
            Incoming::Refused(reason) => bail!("the server says {reason}"),
            _ => {}
        }
    }
}

/// Refuses a number of connections that no set of loopback addresses has ports for.
///
/// # Errors
/// When there are too many.
pub fn check_sources(connections: usize) -> Result<()> {
    ensure!(
        connections <= CONNECTIONS_PER_SOURCE * SOURCES,
        "too many connections for the addresses of the loopback device"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_and_those_who_speak_are_spread_over_the_nodes() {
        let target = Target {
            nodes: vec![SocketAddr::from(([127, 0, 0, 1], 1)); 2],
            door: Door::Native,
            greets: true,
        };
        for step in [1, 2, 10] {
            let on_first = (0..1000).filter(|n| target.home(n * step) == 0).count();
            assert_eq!(on_first, 500, "every {step}");
        }
    }

    #[test]
    fn clients_come_from_several_addresses_of_this_machine() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(source(1999, here), Some(here));
        let another = |number| source(number, here).map(|address| address.to_string());
        assert_eq!(another(2000).as_deref(), Some("127.0.0.2"));
        assert_eq!(another(999_999).as_deref(), Some("127.0.1.244"));
        assert_eq!(source(0, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))), None);
        assert!(check_sources(1_000_000).is_ok() && check_sources(1_000_000_000).is_err());
    }
}
