//! What fuzz targets look at in the connection.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};

use super::driver::Driver;
use super::*;

/// Properties, and what is wrong with them.
pub fn read_properties(bytes: &[u8]) -> (BasicProperties, Option<&'static str>) {
    let (properties, broken) = table::read_properties(&mut frames::Bytes(bytes));
    (properties, broken.map(|broken| broken.0))
}

/// Properties as bytes.
pub fn write_properties(properties: &BasicProperties) -> Vec<u8> {
    let mut bytes = Vec::new();
    table::write_properties(&mut bytes, properties);
    bytes
}

/// A broker of bytes.
struct Parts(VecDeque<Vec<u8>>);

impl AsyncRead for Parts {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(mut part) = self.0.pop_front() else {
            return Poll::Pending;
        };
        let many = part.len().min(buffer.len());
        buffer[..many].copy_from_slice(&part[..many]);
        if many < part.len() {
            self.0.push_front(part.split_off(many));
        }
        Poll::Ready(Ok(many))
    }
}

impl AsyncWrite for Parts {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What became of bytes from a broker.
#[derive(Debug, PartialEq)]
pub struct Split {
    /// Tags, bodies, and whether the properties can't be trusted.
    pub messages: Vec<(u64, Vec<u8>, bool)>,
    /// What is no message.
    pub for_library: Vec<u8>,
    /// The connection is over.
    pub ended: bool,
}

/// Has these bytes read in pieces of so many, on a connection whose channels 1 and 2 have a consumer `1` each.
pub fn split(bytes: &[u8], piece: usize) -> Split {
    let wire = Wire::new();
    let messages = Arc::new(Mutex::new(Vec::new()));
    for id in [1, 2] {
        let state = Arc::new(ChannelState::new(id));
        let messages = Arc::clone(&messages);
        state.consumers.lock().push(Consumer {
            tag: 1,
            max_body: 64,
            deliver: Arc::new(move |message: Message| {
                let malformed = message.malformed.is_some();
                messages
                    .lock()
                    .push((message.delivery_tag, message.data.to_vec(), malformed));
            }),
        });
        wire.channels.lock().insert(id, state);
    }
    let parts = bytes.chunks(piece.max(1)).map(<[u8]>::to_vec).collect();
    let mut driver = Box::pin(Driver::new(Arc::clone(&wire), Parts(parts)));
    let mut cx = Context::from_waker(Waker::noop());
    let mut ended = false;
    // Each poll reads a few pieces.
    for _ in 0..=bytes.len() {
        if driver.as_mut().poll(&mut cx).is_ready() {
            ended = true;
            break;
        }
    }
    drop(driver);
    let for_library = std::mem::take(&mut wire.inward.lock().bytes);
    let messages = std::mem::take(&mut *messages.lock());
    Split {
        messages,
        for_library,
        ended,
    }
}
