//! The library's end of the connection: a stream in place of the socket.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_core::Stream;
use futures_io::{AsyncRead, AsyncWrite};

use super::frames::{self, GREETING, METHOD, TUNED_FRAME_MAX, method};
use super::{Out, Wire};

/// See the [module](self).
#[derive(Debug)]
pub(in super::super) struct LibrarySide {
    wire: Arc<Wire>,
    /// Begun and not complete, so that nothing gets between its parts.
    begun: Vec<u8>,
    greeted: bool,
}

impl LibrarySide {
    pub(super) fn new(wire: Arc<Wire>) -> Self {
        Self {
            wire,
            begun: Vec::new(),
            greeted: false,
        }
    }

    /// Makes what the library answers about the size of frames ours.
    fn tune(&mut self, frame: Range<usize>) {
        let agreed = self.wire.frame_max.load(Ordering::Relaxed);
        if let Some(wanted) = self.begun[frame].get_mut(TUNED_FRAME_MAX) {
            wanted.copy_from_slice(&agreed.to_be_bytes());
        }
    }

    /// Passes on what is complete of what the library has written. Returns the channels that the broker has closed, and
    /// of which the library knows that from now on.
    fn pass_on(&mut self, out: &mut Out) -> io::Result<Vec<u16>> {
        let mut ended = Vec::new();
        let mut passed = 0;
        if !self.greeted && self.begun.len() >= GREETING {
            passed = GREETING;
            self.greeted = true;
        }
        while self.greeted
            && let Some(frame) = frames::first(&self.begun[passed..])
                .map_err(|broken| io::Error::new(io::ErrorKind::InvalidData, broken.0))?
        {
            let is = |method: u32| frame.kind == METHOD && frame.payload.starts_with(&method.to_be_bytes());
            if is(method::CHANNEL_CLOSE) {
                self.wire.close_channel(frame.channel, out);
            } else if is(method::CHANNEL_CLOSE_OK) {
                ended.push(frame.channel);
            }
            let whole = passed..passed + frame.whole.len();
            passed = whole.end;
            if is(method::TUNE_OK) {
                self.tune(whole);
            }
        }
        out.bytes.extend_from_slice(&self.begun[..passed]);
        self.begun.drain(..passed);
        Ok(ended)
    }
}

impl AsyncRead for LibrarySide {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut inward = self.wire.inward.lock();
        let left = &inward.bytes[inward.read..];
        if left.is_empty() {
            if let Some(kind) = inward.ended {
                return Poll::Ready(match kind {
                    io::ErrorKind::UnexpectedEof => Ok(0),
                    kind => Err(kind.into()),
                });
            }
            inward.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let many = left.len().min(buffer.len());
        buffer[..many].copy_from_slice(&left[..many]);
        inward.read += many;
        if inward.read == inward.bytes.len() {
            inward.read = 0;
            inward.bytes.clear();
        }
        Poll::Ready(Ok(many))
    }
}

impl AsyncWrite for LibrarySide {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.begun.extend_from_slice(bytes);
        let wire = Arc::clone(&self.wire);
        let passed = wire.put(|out| {
            if out.closed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.pass_on(out)
        });
        Poll::Ready(passed.map(|ended| {
            for channel in ended {
                wire.end_channel(channel);
            }
            bytes.len()
        }))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.leave();
        Poll::Ready(Ok(()))
    }
}

impl LibrarySide {
    /// What was written still goes out.
    fn leave(&self) {
        self.wire.inward.lock().left = true;
        self.wire.task.wake();
    }
}

impl Drop for LibrarySide {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A runtime whose connections are these. Everything else is tokio's.
pub(in super::super) type WireRuntime = RuntimeParts<Tokio, Wires>;

pub(in super::super) fn runtime() -> Runtime<WireRuntime> {
    Runtime::new(RuntimeParts::new(Tokio::current(), Wires(Tokio::current())))
}

/// See [`WireRuntime`].
#[derive(Debug, Clone)]
pub(in super::super) struct Wires(Tokio);

/// Connections are made elsewhere, and handed to the library.
fn none_here() -> io::Error {
    io::ErrorKind::Unsupported.into()
}

impl Reactor for Wires {
    type TcpStream = LibrarySide;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<LibrarySide, _>(none_here())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(period)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(none_here()))
    }
}
