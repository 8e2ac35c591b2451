//! A connection whose reading has a pace once it is a WebSocket's: what a frame costs to read is bounded whatever is in it.
//!
//! The doors count commands and control frames, but the parts of a message are put together below them, and an endless message of
//! empty parts would be read as fast as it comes. The pace is far above what commands within their rate take.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// The length of a turn.
const TURN: Duration = Duration::from_millis(250);
/// About how many bytes are read in a turn: 4 MiB/s.
const TURN_BYTES: usize = 1 << 20;

/// A stream of which only so much is read in a turn, as soon as it has been told to.
#[derive(Debug)]
pub(super) struct Paced<S> {
    stream: S,
    is_socket: Arc<AtomicBool>,
    turn: Instant,
    read: usize,
    /// Until the next turn.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    /// Reads `stream` as fast as it comes until `is_socket` is set.
    pub(super) fn new(stream: S, is_socket: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            is_socket,
            turn: Instant::now(),
            read: 0,
            waiting: None,
        }
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.read < TURN_BYTES {
            return Poll::Ready(());
        }
        let next = self.turn + TURN;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        self.turn = Instant::now();
        self.read = 0;
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_socket.load(Ordering::Relaxed) {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        ready!(self.poll_turn(context));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if self.turn.elapsed() >= TURN {
            self.turn = Instant::now();
            self.read = 0;
        }
        self.read += buffer.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// How long it takes to read so many turns' bytes, by a clock that stands still while there is something to do.
    async fn reading(turns: usize, is_socket: bool) -> Duration {
        let (near, mut far) = tokio::io::duplex(64 << 10);
        let mut near = Paced::new(near, Arc::new(AtomicBool::new(is_socket)));
        let mut buffer = vec![0; turns * TURN_BYTES];
        let sent = buffer.clone();
        let start = Instant::now();
        let (read, written) = tokio::join!(near.read_exact(&mut buffer), far.write_all(&sent));
        read.unwrap();
        written.unwrap();
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_socket_is_read_at_a_pace() {
        assert_eq!(reading(4, false).await, Duration::ZERO);
        let took = reading(4, true).await;
        assert!((3 * TURN..4 * TURN).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_within_the_pace_does_not_wait() {
        assert_eq!(reading(1, true).await, Duration::ZERO);
    }
}
