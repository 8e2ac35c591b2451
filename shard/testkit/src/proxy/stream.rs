//! One connection through the proxy, in both directions.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::mysql::{self, Answered, Requests};
use super::{Mode, Orders, Refused};

const CHUNK_BYTES: usize = 16 * 1024;
/// A throttled stream moves in this many pieces per second.
const THROTTLE_PIECES_PER_SECOND: u64 = 20;

/// Forwards until one side closes.
pub(super) async fn forward(
    mut client: TcpStream,
    upstream: SocketAddr,
    orders: watch::Receiver<Orders>,
) -> io::Result<()> {
    let opened = *orders.borrow();
    if let Mode::Refuse {
        error,
        what: Refused::Connections,
    } = opened.mode
    {
        client.write_all(&error.packet(0)).await?;
        return client.shutdown().await;
    }
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (refuse, refusals) = mpsc::channel(16);
    let (requests, answered) = mysql::session();
    let stream = |to| Stream {
        to,
        orders: orders.clone(),
        opened: opened.number,
        forwarded_bytes: 0,
    };
    tokio::try_join!(
        forward_requests(from_client, stream(to_server), requests, refuse),
        forward_answers(from_server, stream(to_client), answered, refusals),
    )?;
    Ok(())
}

async fn forward_requests(
    mut from: OwnedReadHalf,
    mut stream: Stream,
    mut requests: Requests,
    refuse: mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return stream.end().await;
        }
        let mode = stream.mode();
        let (mut forwarded, refusals) = requests.sort(&buffer[..length], mode);
        for refusal in refusals {
            let _ = refuse.send(refusal).await; // without the other direction nobody reads it
        }
        stream.forward(&mut forwarded, false).await?;
    }
}

async fn forward_answers(
    mut from: OwnedReadHalf,
    mut stream: Stream,
    mut answered: Answered,
    mut refusals: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let length = tokio::select! {
            length = from.read(&mut buffer) => length?,
            Some(refusal) = refusals.recv() => {
                stream.to.write_all(&refusal).await?;
                continue;
            }
        };
        if length == 0 {
            return stream.end().await;
        }
        if answered.is_lost() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        answered.note(&buffer[..length]);
        stream.forward(&mut buffer[..length], true).await?;
    }
}

/// Where one direction leads.
struct Stream {
    to: OwnedWriteHalf,
    orders: watch::Receiver<Orders>,
    /// The number of the orders under which the connection was opened.
    opened: u64,
    forwarded_bytes: u64,
}

impl Stream {
    /// What this connection does to the traffic.
    fn mode(&mut self) -> Mode {
        let orders = *self.orders.borrow_and_update();
        match orders.mode {
            _ if self.opened < orders.forgotten => Mode::Hang,
            Mode::Refuse {
                what: Refused::WritesOfOpenSessions,
                ..
            }
            | Mode::LoseCommits
                if self.opened == orders.number =>
            {
                Mode::Pass
            }
            mode => mode,
        }
    }

    /// Passes a close on, once closes are passed on.
    async fn end(&mut self) -> io::Result<()> {
        while self.mode() == Mode::Hang {
            // `Err` means that the proxy is gone, and then this task is about to end.
            if self.orders.changed().await.is_err() {
                break;
            }
        }
        self.to.shutdown().await
    }

    async fn forward(&mut self, mut chunk: &mut [u8], is_answer: bool) -> io::Result<()> {
        while !chunk.is_empty() {
            let mode = self.mode();
            let (length, wait) = next_piece(mode, chunk.len());
            if !wait.is_zero() && timeout(wait, self.orders.changed()).await.is_ok() {
                // The mode changed while the piece waited: the new one decides.
                continue;
            }
            let (piece, rest) = chunk.split_at_mut(length);
            if let Mode::Corrupt { every } = mode
                && is_answer
            {
                invert_every(every, self.forwarded_bytes, piece);
            }
            self.to.write_all(piece).await?;
            self.forwarded_bytes += length as u64;
            chunk = rest;
        }
        Ok(())
    }
}

/// How much of a chunk goes next, and after which wait.
fn next_piece(mode: Mode, chunk_length: usize) -> (usize, Duration) {
    match mode {
        Mode::Pass
        | Mode::Forget
        | Mode::Refuse { .. }
        | Mode::LoseCommits
        | Mode::Corrupt { .. } => (chunk_length, Duration::ZERO),
        // The task of a cut connection is being ended; until then it forwards nothing.
        Mode::Cut | Mode::Hang => (chunk_length, Duration::MAX),
        Mode::Delay(delay) => (chunk_length, delay),
        Mode::Throttle { bytes_per_second } => {
            let piece = (bytes_per_second / THROTTLE_PIECES_PER_SECOND).max(1);
            let length = chunk_length.min(usize::try_from(piece).unwrap_or(usize::MAX));
            let seconds = length as f64 / bytes_per_second as f64;
            (length, Duration::from_secs_f64(seconds))
        }
    }
}

/// Inverts the bytes number `every`, twice `every` and so on of a stream, of which `bytes` come after `offset` others.
fn invert_every(every: u64, offset: u64, bytes: &mut [u8]) {
    for (number, byte) in (offset + 1..).zip(bytes) {
        if number % every == 0 {
            *byte = !*byte;
        }
    }
}
