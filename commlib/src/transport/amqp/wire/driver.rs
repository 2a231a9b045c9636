//! The task that owns the socket.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_io::{AsyncRead, AsyncWrite};
use lapin::BasicProperties;
use lapin::protocol::AMQPError;
use tokio::time::Instant;

use super::frames::{self, BODY, Broken, Frame, HEADER, HEARTBEAT, METHOD, method};
use super::library::LibrarySide;
use super::{ChannelState, Consumer, Message, Wire, table};

/// What is read at once.
const CHUNK: usize = 64 * 1024;
/// Buffers that have grown beyond this are let go when they are empty.
const KEEP: usize = 1024 * 1024;
/// Bodies that are larger grow with what comes of them.
const RESERVED: usize = 1024 * 1024;
/// What is kept of bodies that are too large: enough to see of which kind they are.
const BEGINNING: usize = 1024;
/// Reads in a row before others get their turn.
const READS: usize = 4;
/// How often the library is told that the broker speaks, while it speaks to others.
const ALIVE: Duration = Duration::from_secs(1);

/// A message of which not all has come.
struct Begun {
    what: What,
    delivery_tag: u64,
    redelivered: bool,
    exchange: String,
    routing_key: String,
    properties: Option<(BasicProperties, Option<&'static str>)>,
    size: usize,
    /// Of its body.
    came: usize,
    body: Vec<u8>,
}

/// Who gets it.
enum What {
    /// A consumer, if it is still there.
    Delivery(Option<Consumer>),
    Returned,
    /// Whoever asked.
    Got,
}

/// See the [module](self).
pub(super) struct Driver<S> {
    wire: Arc<Wire>,
    stream: S,
    /// Taken to be written, and how much of that is.
    writing: Vec<u8>,
    at: usize,
    /// What was read and is not complete.
    read: Vec<u8>,
    start: usize,
    end: usize,
    begun: HashMap<u16, Begun>,
    /// When what is looked at was read.
    now: Instant,
    /// When the library heard something last.
    heard: Instant,
    /// Until it is known better.
    reason: io::ErrorKind,
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.wire.end(self.reason);
    }
}

impl Wire {
    /// Takes over a connection. Returns what the library is to use in its place. It is closed when the library lets go of
    /// that.
    pub(in super::super) fn over<S>(stream: S) -> (Arc<Self>, LibrarySide)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let wire = Self::new();
        tokio::spawn(Driver::new(Arc::clone(&wire), stream));
        let library = LibrarySide::new(Arc::clone(&wire));
        (wire, library)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.wire.task.register(cx.waker());
        let end = ready!(this.drive(cx));
        this.reason = end
            .err()
            .map_or(io::ErrorKind::UnexpectedEof, |error| error.kind());
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(wire: Arc<Wire>, stream: S) -> Self {
        Self {
            wire,
            stream,
            writing: Vec::new(),
            at: 0,
            read: vec![0; CHUNK],
            start: 0,
            end: 0,
            begun: HashMap::new(),
            now: Instant::now(),
            heard: Instant::now(),
            reason: io::ErrorKind::ConnectionAborted,
        }
    }

    /// Resolves at the end of the connection.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..READS {
            let idle = self.write(cx)?;
            if idle.is_ready() && self.wire.inward.lock().left {
                return Pin::new(&mut self.stream).poll_close(cx);
            }
            match self.read(cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) => self
                    .dispatch()
                    .map_err(|broken| io::Error::new(io::ErrorKind::InvalidData, broken.0))?,
                Poll::Pending => return Poll::Pending,
            }
        }
        // Those who got something have their turn now.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what there is. Resolves when nothing is left.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let mut wrote = 0;
        let state = loop {
            if self.at == self.writing.len() {
                self.at = 0;
                self.writing.clear();
                self.writing.shrink_to(KEEP);
                let mut out = self.wire.out.lock();
                std::mem::swap(&mut out.bytes, &mut self.writing);
                out.taken += self.writing.len() as u64;
            }
            if self.writing.is_empty() {
                break Poll::Ready(());
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.writing[self.at..])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(many) => {
                    self.at += many;
                    wrote += many;
                }
                Poll::Pending => break Poll::Pending,
            }
        };
        let flushed = Pin::new(&mut self.stream).poll_flush(cx)?;
        if wrote > 0 {
            self.wrote(wrote as u64);
        }
        Ok(if flushed.is_ready() { state } else { Poll::Pending })
    }

    /// Tells those who wait for that.
    fn wrote(&self, many: u64) {
        let written = self.wire.written.fetch_add(many, Ordering::Relaxed) + many;
        let waiting = std::mem::take(&mut self.wire.out.lock().waiting);
        for state in waiting {
            state.waits.store(false, Ordering::Relaxed);
            if state
                .publisher()
                .is_some_and(|publisher| publisher.written(written))
            {
                let mut out = self.wire.out.lock();
                if !state.waits.swap(true, Ordering::Relaxed) {
                    out.waiting.push(state);
                }
            }
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<usize>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.read.len() > KEEP {
                self.read = vec![0; CHUNK];
            }
        } else if self.read.len() - self.end < CHUNK / 4 {
            self.read.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let needed = frames::size(&self.read[..self.end]).unwrap_or(0);
            if self.read.len() < needed {
                self.read.resize(needed, 0);
            }
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut self.read[self.end..])?;
        if let Poll::Ready(many) = read {
            self.end += many;
            self.wire.heard.fetch_add(1, Ordering::Relaxed);
        }
        Ok(read)
    }

    /// Gives each frame to whom it belongs.
    fn dispatch(&mut self) -> Result<(), Broken> {
        self.now = Instant::now();
        let read = std::mem::take(&mut self.read);
        let mut for_library = Vec::new();
        let result = loop {
            match frames::first(&read[self.start..self.end]) {
                Ok(Some(frame)) => {
                    self.start += frame.whole.len();
                    match self.take(frame) {
                        Ok(true) => {}
                        Ok(false) => for_library.extend_from_slice(frame.whole),
                        Err(broken) => break Err(broken),
                    }
                }
                Ok(None) => break Ok(()),
                Err(broken) => break Err(broken),
            }
        };
        self.read = read;
        self.pass_to_library(&for_library);
        result
    }

    fn pass_to_library(&mut self, frames: &[u8]) {
        // What goes past it is a sign of life, too.
        let silent = frames.is_empty();
        if silent && self.now.duration_since(self.heard) < ALIVE {
            return;
        }
        self.heard = self.now;
        let mut inward = self.wire.inward.lock();
        inward
            .bytes
            .extend_from_slice(if silent { &HEARTBEAT } else { frames });
        let waker = inward.waker.take();
        drop(inward);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it was a frame of a message. All others are the library's.
    fn take(&mut self, frame: Frame<'_>) -> Result<bool, Broken> {
        match frame.kind {
            METHOD if frame.channel != 0 => self.method(frame),
            METHOD => {
                let mut bytes = frames::Bytes(frame.payload);
                if bytes.u32()? == method::TUNE {
                    let (_channels, frame_max) = (bytes.u16()?, bytes.u32()?);
                    self.wire.tune(frame_max);
                }
                Ok(false)
            }
            HEADER => {
                self.header(frame)?;
                Ok(true)
            }
            BODY => {
                self.body(frame)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn state(&self, channel: u16) -> Option<Arc<ChannelState>> {
        self.wire.channels.lock().get(&channel).cloned()
    }

    fn method(&mut self, frame: Frame<'_>) -> Result<bool, Broken> {
        let mut bytes = frames::Bytes(frame.payload);
        let id = bytes.u32()?;
        match id {
            method::DELIVER => {
                let tag = bytes.short()?;
                let consumer = self.state(frame.channel).and_then(|state| {
                    let tag: u64 = std::str::from_utf8(tag).ok()?.parse().ok()?;
                    let consumers = state.consumers.lock();
                    consumers.iter().find(|consumer| consumer.tag == tag).cloned()
                });
                self.begin(frame.channel, What::Delivery(consumer), &mut bytes)?;
            }
            method::GET_OK => self.begin(frame.channel, What::Got, &mut bytes)?,
            method::GET_EMPTY => self.answer(frame.channel, None),
            method::RETURN => {
                let (_code, _text) = (bytes.u16()?, bytes.short()?);
                self.begun.insert(
                    frame.channel,
                    Begun::new(What::Returned, (0, false), bytes.short()?, bytes.short()?),
                );
            }
            method::ACK | method::NACK => {
                let (number, flags) = (bytes.u64()?, bytes.u8()?);
                if let Some(publisher) = self.state(frame.channel).and_then(|state| state.publisher()) {
                    publisher.confirmed(number, flags & 1 != 0, id == method::ACK);
                }
            }
            method::CHANNEL_CLOSE => {
                let (code, text) = (bytes.u16()?, bytes.short()?);
                let text = String::from_utf8_lossy(text);
                let cause = AMQPError::from_id(code, text.as_ref().into())
                    .map(|error| lapin::ErrorKind::ProtocolError(error).into());
                self.begun.remove(&frame.channel);
                let mut out = self.wire.out.lock();
                self.wire.close_channel(frame.channel, &mut out);
                drop(out);
                if let (Some(state), Some(cause)) = (self.state(frame.channel), cause) {
                    let _ = state.cause.set(cause);
                }
                return Ok(false);
            }
            method::CHANNEL_CLOSE_OK => {
                self.begun.remove(&frame.channel);
                self.wire.end_channel(frame.channel);
                return Ok(false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A message begins that is to be acknowledged.
    fn begin(&mut self, channel: u16, what: What, bytes: &mut frames::Bytes<'_>) -> Result<(), Broken> {
        let delivery = (bytes.u64()?, bytes.u8()? & 1 != 0);
        let begun = Begun::new(what, delivery, bytes.short()?, bytes.short()?);
        self.begun.insert(channel, begun);
        Ok(())
    }

    fn header(&mut self, frame: Frame<'_>) -> Result<(), Broken> {
        const UNASKED: Broken = Broken("properties came without a message");
        let begun = self.begun.get_mut(&frame.channel).ok_or(UNASKED)?;
        let mut bytes = frames::Bytes(frame.payload);
        let (_class, _weight, size) = (bytes.u16()?, bytes.u16()?, bytes.u64()?);
        let (properties, broken) = table::read_properties(&mut bytes);
        begun.properties = Some((properties, broken.map(|broken| broken.0)));
        begun.size = usize::try_from(size).map_err(|_| Broken("a message is too large"))?;
        if begun.size == 0 {
            self.complete(frame.channel, Bytes::new());
        }
        Ok(())
    }

    fn body(&mut self, frame: Frame<'_>) -> Result<(), Broken> {
        const UNASKED: Broken = Broken("a body came without a message");
        let begun = self
            .begun
            .get_mut(&frame.channel)
            .filter(|begun| begun.properties.is_some())
            .ok_or(UNASKED)?;
        begun.came += frame.payload.len();
        if begun.came > begun.size {
            return Err(Broken("a body is longer than it said"));
        }
        let kept = begun.kept();
        if frame.payload.len() == begun.size && kept == begun.size {
            self.complete(frame.channel, Bytes::copy_from_slice(frame.payload));
            return Ok(());
        }
        if begun.body.is_empty() {
            begun.body.reserve_exact(kept.min(RESERVED));
        }
        let missing = kept - begun.body.len();
        let part = &frame.payload[..frame.payload.len().min(missing)];
        begun.body.extend_from_slice(part);
        if begun.came == begun.size {
            let body = std::mem::take(&mut begun.body);
            self.complete(frame.channel, body.into());
        }
        Ok(())
    }

    fn complete(&mut self, channel: u16, data: Bytes) {
        let Some(begun) = self.begun.remove(&channel) else {
            return;
        };
        let (properties, malformed) = begun.properties.unwrap_or_default();
        let message = Message {
            delivery_tag: begun.delivery_tag,
            redelivered: begun.redelivered,
            exchange: begun.exchange,
            routing_key: begun.routing_key,
            properties,
            malformed,
            size: begun.size,
            data,
            came: self.now,
        };
        match begun.what {
            What::Delivery(Some(consumer)) => (consumer.deliver)(message),
            What::Delivery(None) => {}
            What::Returned => {
                if let Some(publisher) = self.state(channel).and_then(|state| state.publisher()) {
                    publisher.returned(message);
                }
            }
            What::Got => self.answer(channel, Some(message)),
        }
    }

    /// Answers the first of those who asked a channel for a message.
    fn answer(&self, channel: u16, message: Option<Message>) {
        let state = self.state(channel);
        if let Some(answer) = state.and_then(|state| state.asked.lock().pop_front()) {
            // Nobody waits any more: it goes back with the channel.
            let _ = answer.send(message);
        }
    }
}

impl Begun {
    /// How much of its body is kept, in bytes.
    fn kept(&self) -> usize {
        match &self.what {
            What::Delivery(Some(consumer)) if self.size > consumer.max_body => self.size.min(BEGINNING),
            What::Delivery(None) => 0,
            What::Delivery(Some(_)) | What::Returned | What::Got => self.size,
        }
    }

    fn new(what: What, (delivery_tag, redelivered): (u64, bool), exchange: &[u8], key: &[u8]) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self {
            what,
            delivery_tag,
            redelivered,
            exchange: text(exchange),
            routing_key: text(key),
            properties: None,
            size: 0,
            came: 0,
            body: Vec::new(),
        }
    }
}
