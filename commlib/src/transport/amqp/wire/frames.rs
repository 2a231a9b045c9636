//! Frames, as AMQP 0-9-1 lays them out: a type, a channel, a length, that many bytes, and an end.
//!
//! Only those that carry messages and their acknowledgements are read and written here
//! (<https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>, sections 2.3 and 4.2).

use lapin::BasicProperties;

use super::table;

/// What comes before the bytes of a frame.
const HEAD: usize = 7;
/// The byte behind them.
const END: u8 = 0xCE;
/// No frame of any use is larger: bodies come in frames of the agreed size, and the properties of a message in one, however
/// large they are.
const MAX_FRAME: usize = 16 * 1024 * 1024;

pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;

/// What is needed to tell a connection with traffic from one that is silent.
pub(super) const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, END];
/// What a client begins with, in place of a frame.
pub(super) const GREETING: usize = 8;

/// Where a `connection.tune-ok` has the size of frames: behind its class, its method, and the number of channels.
pub(super) const TUNED_FRAME_MAX: std::ops::Range<usize> = HEAD + 6..HEAD + 10;

/// Classes and methods, as they begin the bytes of a method frame.
pub(super) mod method {
    const fn id(class: u16, method: u16) -> u32 {
        (class as u32) << 16 | method as u32
    }

    pub(in super::super) const TUNE: u32 = id(10, 30);
    pub(in super::super) const TUNE_OK: u32 = id(10, 31);
    pub(in super::super) const CHANNEL_CLOSE: u32 = id(20, 40);
    pub(in super::super) const CHANNEL_CLOSE_OK: u32 = id(20, 41);
    pub(in super::super) const PUBLISH: u32 = id(60, 40);
    pub(in super::super) const RETURN: u32 = id(60, 50);
    pub(in super::super) const DELIVER: u32 = id(60, 60);
    pub(in super::super) const GET: u32 = id(60, 70);
    pub(in super::super) const GET_OK: u32 = id(60, 71);
    pub(in super::super) const GET_EMPTY: u32 = id(60, 72);
    pub(in super::super) const ACK: u32 = id(60, 80);
    pub(in super::super) const NACK: u32 = id(60, 120);
}

/// The bytes of something that comes from the broker do not mean what they should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) channel: u16,
    pub(super) payload: &'a [u8],
    /// All of it, as it came.
    pub(super) whole: &'a [u8],
}

/// The first frame of these bytes; `None` when it is not there as a whole.
pub(super) fn first(bytes: &[u8]) -> Result<Option<Frame<'_>>, Broken> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else {
        return Ok(None);
    };
    let mut head = Bytes(head);
    let (kind, channel, length) = (head.u8()?, head.u16()?, head.u32()? as usize);
    if length > MAX_FRAME {
        return Err(Broken("a frame is too large"));
    }
    let Some(end) = rest.get(length) else {
        return Ok(None);
    };
    if *end != END {
        return Err(Broken("a frame does not end where it should"));
    }
    Ok(Some(Frame {
        kind,
        channel,
        payload: &rest[..length],
        whole: &bytes[..HEAD + length + 1],
    }))
}

/// How many bytes the first frame of these has, as far as that is known.
pub(super) fn size(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(3..HEAD)?;
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    Some(HEAD + length.min(MAX_FRAME) + 1)
}

/// Reads from the front.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

const SHORT: Broken = Broken("it ends too early");

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, many: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.0.split_at_checked(many).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        self.take(N)?.try_into().map_err(|_| SHORT)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Broken> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Broken> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Broken> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Broken> {
        self.array().map(u64::from_be_bytes)
    }

    /// Up to 255 bytes.
    pub(super) fn short(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// Up to 4 GiB.
    pub(super) fn long(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.u32()?;
        self.take(length as usize)
    }
}

/// Writes a frame around what `payload` writes.
fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    payload(out);
    // What is written here is far below 4 GiB: a body frame has its size, and headers are bounded by our limits.
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    out.push(END);
}

/// A text of up to 255 bytes; a longer one is none of AMQP's short strings, and was refused before.
pub(super) fn short(out: &mut Vec<u8>, text: &str) {
    let text = text.as_bytes();
    let text = &text[..text.len().min(255)];
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text);
}

/// Where a message goes.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Destination<'a> {
    pub(in super::super) exchange: &'a str,
    pub(in super::super) key: &'a str,
    /// The broker returns it when nobody would get it.
    pub(in super::super) mandatory: bool,
}

/// Writes a message: what is to be done, its properties, and its body in as many frames as it takes.
pub(super) fn publish(
    out: &mut Vec<u8>,
    channel: u16,
    to: Destination<'_>,
    properties: &BasicProperties,
    body: &[u8],
    frame_max: usize,
) {
    frame(out, METHOD, channel, |out| {
        out.extend_from_slice(&method::PUBLISH.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        short(out, to.exchange);
        short(out, to.key);
        out.push(u8::from(to.mandatory));
    });
    frame(out, HEADER, channel, |out| {
        // The class, and a weight that is not used.
        out.extend_from_slice(&[0, 60, 0, 0]);
        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
        table::write_properties(out, properties);
    });
    for part in body.chunks(frame_max.saturating_sub(HEAD + 1).max(1)) {
        frame(out, BODY, channel, |out| out.extend_from_slice(part));
    }
}

/// Writes an acknowledgement of one delivery, or of all up to it.
pub(super) fn ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    frame(out, METHOD, channel, |out| {
        out.extend_from_slice(&method::ACK.to_be_bytes());
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}

/// Writes that a delivery goes back to its queue.
pub(super) fn give_back(out: &mut Vec<u8>, channel: u16, tag: u64) {
    const REQUEUE: u8 = 2;
    frame(out, METHOD, channel, |out| {
        out.extend_from_slice(&method::NACK.to_be_bytes());
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(REQUEUE);
    });
}

/// Writes a question for one message of a queue, which is to be acknowledged.
pub(super) fn get(out: &mut Vec<u8>, channel: u16, queue: &str) {
    frame(out, METHOD, channel, |out| {
        out.extend_from_slice(&method::GET.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        short(out, queue);
        out.push(0);
    });
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPClass;
    use lapin::protocol::basic::AMQPMethod;

    use super::*;

    /// What the library makes of the only frame of these bytes.
    fn parsed(bytes: &[u8]) -> AMQPClass {
        let frame = first(bytes).unwrap().unwrap();
        assert_eq!((frame.kind, frame.channel, frame.whole), (METHOD, 7, bytes));
        let (rest, class) = lapin::protocol::parse_class(frame.payload).unwrap();
        assert!(rest.is_empty());
        class
    }

    #[test]
    fn the_library_reads_what_is_written_here() {
        let mut out = Vec::new();
        ack(&mut out, 7, 300, true);
        let AMQPClass::Basic(AMQPMethod::Ack(read)) = parsed(&out) else {
            panic!("that is no ack");
        };
        assert_eq!((read.delivery_tag, read.multiple), (300, true));

        out.clear();
        give_back(&mut out, 7, 1 << 40);
        let AMQPClass::Basic(AMQPMethod::Nack(read)) = parsed(&out) else {
            panic!("that is no nack");
        };
        assert_eq!(
            (read.delivery_tag, read.multiple, read.requeue),
            (1 << 40, false, true)
        );

        out.clear();
        get(&mut out, 7, "letters");
        let AMQPClass::Basic(AMQPMethod::Get(read)) = parsed(&out) else {
            panic!("that is no get");
        };
        assert_eq!((read.queue.as_str(), read.no_ack), ("letters", false));
    }

    #[test]
    fn a_body_is_cut_into_frames_of_the_agreed_size() {
        let mut out = Vec::new();
        let to = Destination {
            exchange: "",
            key: "a.b",
            mandatory: true,
        };
        let body: Vec<_> = (0..25).collect();
        publish(&mut out, 3, to, &BasicProperties::default(), &body, 18);
        let mut rest = out.as_slice();
        let mut kinds = Vec::new();
        let mut read = Vec::new();
        while let Some(frame) = first(rest).unwrap() {
            assert_eq!(frame.channel, 3);
            assert_eq!(size(rest), Some(frame.whole.len()));
            kinds.push(frame.kind);
            if frame.kind == BODY {
                assert!(frame.whole.len() <= 18);
                read.extend_from_slice(frame.payload);
            }
            rest = &rest[frame.whole.len()..];
        }
        assert_eq!((kinds, read), (vec![METHOD, HEADER, BODY, BODY, BODY], body));
        assert!(rest.is_empty());

        let (_, class) = lapin::protocol::parse_class(first(&out).unwrap().unwrap().payload).unwrap();
        let AMQPClass::Basic(AMQPMethod::Publish(read)) = class else {
            panic!("that is no publish");
        };
        assert_eq!((read.exchange.as_str(), read.routing_key.as_str()), ("", "a.b"));
        assert!(read.mandatory && !read.immediate);
    }

    #[test]
    fn what_is_no_frame_is_told_from_what_is_not_there_yet() {
        let mut whole = Vec::new();
        ack(&mut whole, 1, 1, false);
        for end in 0..whole.len() {
            assert_eq!(first(&whole[..end]), Ok(None));
        }
        let last = whole.len() - 1;
        whole[last] = 0;
        assert!(first(&whole).is_err());
        assert!(first(&[1, 0, 1, 0xFF, 0, 0, 0]).is_err());
    }
}
