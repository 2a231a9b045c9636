//! A channel: the library's, for all that is declared, asked and closed, and what goes past the library.

use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::BasicConsumeOptions;
use lapin::types::{FieldTable, ShortString};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::errors::bounded;
use super::super::properties::name;
use super::frames::{self, Destination};
use super::{ChannelState, Consumer, Message, Publisher, Sent, Wire};
use crate::transport::TransportError;

/// See the [module](self).
#[derive(Clone)]
pub(in super::super) struct Channel {
    library: lapin::Channel,
    wire: Arc<Wire>,
    state: Arc<ChannelState>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Channel").field(&self.state).finish()
    }
}

/// How a queue is consumed.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Consume<'a> {
    pub(in super::super) queue: &'a ShortString,
    pub(in super::super) no_ack: bool,
    /// Of bodies that are larger, in bytes, only the beginning is kept.
    pub(in super::super) max_body: usize,
    /// How long the broker may take to begin.
    pub(in super::super) limit: Duration,
}

/// What is no message.
impl Deref for Channel {
    type Target = lapin::Channel;

    fn deref(&self) -> &lapin::Channel {
        &self.library
    }
}

impl Wire {
    /// A channel that the library has just opened.
    pub(in super::super) fn attach(self: &Arc<Self>, library: lapin::Channel) -> Channel {
        let state = Arc::new(ChannelState::new(library.id()));
        let out = self.out.lock();
        if out.closed {
            drop(out);
            state.end();
        } else {
            self.channels.lock().insert(state.id, Arc::clone(&state));
        }
        Channel {
            library,
            wire: Arc::clone(self),
            state,
        }
    }
}

impl Channel {
    /// Whether something can come and go.
    pub(in super::super) fn is_open(&self) -> bool {
        self.state.open.load(Ordering::Relaxed)
    }

    /// Cancelled when nothing can.
    pub(in super::super) fn ended(&self) -> &CancellationToken {
        &self.state.ended
    }

    /// Why the broker closed it, if it did.
    pub(in super::super) fn cause(&self) -> Option<&lapin::Error> {
        self.state.cause.get()
    }

    /// The connection that it is on.
    pub(in super::super) fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// Who is told of what becomes of its messages. To be set once, before the first of them.
    pub(in super::super) fn set_publisher(&self, publisher: Weak<dyn Publisher>) {
        let _ = self.state.publisher.set(publisher);
    }

    /// Whether messages don't pile up that the socket does not take.
    pub(in super::super) fn has_room(&self) -> bool {
        self.wire.has_room(&self.wire.out.lock())
    }

    /// Bytes of the connection that the socket has taken.
    pub(in super::super) fn written(&self) -> u64 {
        self.wire.written.load(Ordering::Relaxed)
    }

    /// Sends a message, and has its publisher told when it is written, if that matters. `None` if the channel is not open:
    /// then nothing was sent.
    pub(in super::super) fn publish(
        &self,
        to: Destination<'_>,
        properties: &BasicProperties,
        body: &[u8],
        tell: bool,
    ) -> Option<Sent> {
        self.wire.publish(&self.state, to, properties, body, tell)
    }

    /// Has the publisher told at the next write.
    pub(in super::super) fn tell(&self) {
        let mut out = self.wire.out.lock();
        if !out.closed && self.is_open() && !self.state.waits.swap(true, Ordering::Relaxed) {
            out.waiting.push(Arc::clone(&self.state));
        }
    }

    /// Acknowledges a delivery, or all up to it.
    pub(in super::super) fn ack(&self, tag: u64, multiple: bool) {
        self.wire
            .write(&self.state, |out, id| frames::ack(out, id, tag, multiple));
    }

    /// Gives a delivery back to its queue.
    pub(in super::super) fn give_back(&self, tag: u64) {
        self.wire
            .write(&self.state, |out, id| frames::give_back(out, id, tag));
    }

    /// Takes one message from a queue, if it has one. An error is that of the channel. Dropping the future loses the message
    /// until the channel is closed.
    pub(in super::super) async fn get(&self, queue: &ShortString) -> lapin::Result<Option<Message>> {
        let (answer, answered) = oneshot::channel();
        // Asked and noted under one lock, so that the answers come in this order.
        self.wire.write(&self.state, |out, id| {
            frames::get(out, id, queue.as_str());
            self.state.asked.lock().push_back(answer);
        });
        answered.await.map_err(|_| self.lost())
    }

    /// The error of a channel that is gone.
    pub(in super::super) fn lost(&self) -> lapin::Error {
        self.cause().cloned().unwrap_or_else(|| {
            let aborted = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
            lapin::ErrorKind::IOError(Arc::new(aborted)).into()
        })
    }

    /// Consumes a queue; each message goes to `deliver`, on the task of the connection.
    pub(in super::super) async fn consume(
        &self,
        Consume {
            queue,
            no_ack,
            max_body,
            limit,
        }: Consume<'_>,
        deliver: impl Fn(Message) + Send + Sync + 'static,
    ) -> Result<Consuming, TransportError> {
        let tag = self.wire.tags.fetch_add(1, Ordering::Relaxed);
        // The first message may come before the answer.
        let registered = Registered {
            state: Arc::clone(&self.state),
            tag,
        };
        self.state.consumers.lock().push(Consumer {
            tag,
            max_body,
            deliver: Arc::new(deliver),
        });
        let options = BasicConsumeOptions {
            no_ack,
            ..BasicConsumeOptions::default()
        };
        let tag = name(itoa::Buffer::new().format(tag));
        let consume = self
            .library
            .basic_consume(queue.clone(), tag, options, FieldTable::default());
        let control = bounded(&format!("consuming the queue `{queue}`"), limit, consume).await?;
        Ok(Consuming {
            control,
            _registered: registered,
        })
    }

    /// Consumes a queue; messages wait until they are taken.
    pub(in super::super) async fn incoming(&self, consume: Consume<'_>) -> Result<Incoming, TransportError> {
        let (sender, messages) = mpsc::unbounded_channel();
        let deliver = move |message| {
            // Nobody takes it any more: it goes back with the channel.
            let _ = sender.send(message);
        };
        Ok(Incoming {
            consuming: self.consume(consume, deliver).await?,
            messages,
            end: None,
        })
    }
}

/// Keeps a consumer known.
struct Registered {
    state: Arc<ChannelState>,
    tag: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut consumers = self.state.consumers.lock();
        let at = consumers.iter().position(|consumer| consumer.tag == self.tag);
        let consumer = at.map(|at| consumers.swap_remove(at));
        drop(consumers);
        drop(consumer);
    }
}

/// A consumer.
pub(in super::super) struct Consuming {
    /// Gets no messages, only its end.
    control: lapin::Consumer,
    _registered: Registered,
}

impl Consuming {
    pub(in super::super) fn tag(&self) -> ShortString {
        self.control.tag()
    }

    /// Resolves when it is over, with the reason where there is one. By then all its messages were delivered. Dropping the
    /// future loses nothing.
    pub(in super::super) async fn ended(&mut self) -> Option<lapin::Error> {
        loop {
            match self.control.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Some(error),
                None => return None,
            }
        }
    }
}

/// A consumer whose messages wait.
pub(in super::super) struct Incoming {
    consuming: Consuming,
    messages: mpsc::UnboundedReceiver<Message>,
    end: Option<Option<lapin::Error>>,
}

impl Incoming {
    pub(in super::super) fn tag(&self) -> ShortString {
        self.consuming.tag()
    }

    /// The next message, or the end with the reason where there is one. Dropping the future loses nothing.
    pub(in super::super) async fn next(&mut self) -> Result<Message, Option<lapin::Error>> {
        if self.end.is_none() {
            tokio::select! {
                biased;
                Some(message) = self.messages.recv() => return Ok(message),
                end = self.consuming.ended() => self.end = Some(end),
            }
        }
        self.messages
            .try_recv()
            .map_err(|_| self.end.clone().unwrap_or_default())
    }
}
