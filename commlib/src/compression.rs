//! Compressed bodies: made where a node asks for it, recognised by what the message says, and unpacked within limits.

use bytes::Bytes;

use crate::error::{Status, StatusCode};
use crate::limits::Limits;

/// Smaller bodies are not compressed: there is next to nothing to gain.
const WORTH_IT: usize = 1024;
/// Up to this size nobody asks how well a body was compressed.
const HARMLESS: usize = 1024 * 1024;

/// How bodies are compressed.
///
/// A node's clients and publishers compress bodies of 1 KiB and more where
/// [`NodeBuilder::compression`](crate::NodeBuilder::compression) says so, if that makes them smaller. Servers and
/// subscribers know by the message's content encoding how it was done, unpack at most what
/// [`Limits::inflated`] and [`Limits::inflation_ratio`] allow, and servers answer a compressed request in the same way.
/// Messages of durable topics and requests to durable methods are compressed like others; the answers of durable methods
/// are not, as whoever asks with the same key gets them too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// zlib, RFC 1950, which every language has.
    Zlib,
    /// Zstandard, RFC 8878: smaller and several times as fast.
    Zstd,
}

impl Compression {
    /// What messages say of a body that is compressed like this.
    #[must_use]
    pub const fn content_encoding(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }

    /// The compression that a content encoding names, in any case; `None` of any other.
    #[must_use]
    pub fn from_content_encoding(name: &str) -> Option<Self> {
        [Self::Zlib, Self::Zstd]
            .into_iter()
            .find(|known| name.eq_ignore_ascii_case(known.content_encoding()))
    }

    /// Whether this build has it.
    pub(crate) const fn is_built(self) -> bool {
        cfg!(feature = "compression")
    }

    /// A smaller form of a body, if there is one.
    pub(crate) fn deflate(self, body: &[u8]) -> Option<Bytes> {
        if body.len() < WORTH_IT {
            return None;
        }
        let packed = codecs::deflate(self, body).ok()?;
        (packed.len() < body.len()).then(|| packed.into())
    }
}

/// Whether a content encoding says nothing but how the text of a body is written.
#[cfg(feature = "amqp")]
pub(crate) fn is_identity(name: &str) -> bool {
    ["", "utf8", "utf-8", "identity"]
        .iter()
        .any(|plain| name.eq_ignore_ascii_case(plain))
}

/// What a compressed body holds, and how it was compressed.
///
/// # Errors
/// When it can't be unpacked, or only to more than the limits allow.
pub(crate) fn inflate(encoding: &str, body: &[u8], limits: &Limits) -> Result<(Compression, Bytes), Status> {
    let invalid = |text: String| Status::new(StatusCode::InvalidArgument, text);
    let known = Compression::from_content_encoding(encoding).filter(|known| known.is_built());
    let Some(compression) = known else {
        let start: String = encoding.chars().take(100).collect();
        let reads = if Compression::Zlib.is_built() {
            "zlib and zstd"
        } else {
            "none, as it was built without the feature `compression`"
        };
        return Err(invalid(format!(
            "the body is of the content encoding {start:?}, this side reads {reads}"
        )));
    };
    let by_ratio = body.len().saturating_mul(limits.inflation_ratio).max(HARMLESS);
    let most = by_ratio.min(limits.inflated);
    let (inflated, whole) = codecs::inflate(compression, body, most).map_err(|reason| {
        invalid(format!(
            "the body is no sound {}: {reason}",
            compression.content_encoding()
        ))
    })?;
    if inflated.len() > most {
        let (setting, limit, unit) = if by_ratio < limits.inflated {
            ("inflation_ratio", limits.inflation_ratio, "times its size")
        } else {
            ("inflated", limits.inflated, "bytes")
        };
        return Err(Status::new(
            StatusCode::ResourceExhausted,
            format!(
                "the body unpacks to more than the limit of {limit} {unit}; its receiver can raise it with `Limits::{setting}`"
            ),
        ));
    }
    if !whole {
        return Err(invalid(format!(
            "the body is no sound {}: more bytes follow",
            compression.content_encoding()
        )));
    }
    Ok((compression, inflated.into()))
}

#[cfg(feature = "compression")]
mod codecs {
    use std::io::{self, Read};

    use super::Compression;

    /// The largest window of Zstandard, as a power of two: 8 MiB, which is what its format asks every reader to take.
    const WINDOW: u32 = 23;

    pub(super) fn deflate(compression: Compression, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut packed = Vec::with_capacity(body.len() / 2);
        match compression {
            Compression::Zlib => {
                flate2::read::ZlibEncoder::new(body, flate2::Compression::fast()).read_to_end(&mut packed)?;
            }
            Compression::Zstd => zstd::stream::copy_encode(body, &mut packed, 1)?,
        }
        Ok(packed)
    }

    /// Unpacks until there is more than `most`. Whether nothing follows what was packed.
    pub(super) fn inflate(compression: Compression, body: &[u8], most: usize) -> io::Result<(Vec<u8>, bool)> {
        let mut unpacked = Vec::new();
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        let rest = match compression {
            Compression::Zlib => {
                let mut reader = flate2::bufread::ZlibDecoder::new(body);
                reader.by_ref().take(limit).read_to_end(&mut unpacked)?;
                reader.into_inner()
            }
            Compression::Zstd => {
                let mut reader = zstd::stream::read::Decoder::with_buffer(body)?.single_frame();
                reader.window_log_max(WINDOW)?;
                reader.by_ref().take(limit).read_to_end(&mut unpacked)?;
                reader.finish()
            }
        };
        Ok((unpacked, rest.is_empty()))
    }
}

#[cfg(not(feature = "compression"))]
mod codecs {
    use std::io;

    use super::Compression;

    pub(super) fn deflate(_: Compression, _: &[u8]) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn inflate(_: Compression, _: &[u8], _: usize) -> io::Result<(Vec<u8>, bool)> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_recognised_and_never_guessed() {
        assert_eq!(
            Compression::from_content_encoding("ZLIB"),
            Some(Compression::Zlib)
        );
        assert_eq!(
            Compression::from_content_encoding("zstd"),
            Some(Compression::Zstd)
        );
        for name in ["", "utf8", "gzip", "deflate", "zlib "] {
            assert_eq!(Compression::from_content_encoding(name), None, "{name}");
        }
        let status = inflate("gzip", b"", &Limits::new()).unwrap_err();
        assert_eq!(status.code, StatusCode::InvalidArgument);
        assert!(status.message.contains("\"gzip\""), "{status}");
        let built = inflate("zlib", b"", &Limits::new()).unwrap_err().message;
        assert_eq!(
            built.contains("feature `compression`"),
            !cfg!(feature = "compression")
        );
    }
}

#[cfg(all(test, feature = "compression"))]
mod codec_tests {
    use super::*;

    const BOTH: [Compression; 2] = [Compression::Zlib, Compression::Zstd];

    fn pack(compression: Compression, body: &[u8]) -> Vec<u8> {
        codecs::deflate(compression, body).unwrap()
    }

    fn unpack(compression: Compression, packed: &[u8], limits: &Limits) -> Result<Bytes, Status> {
        inflate(compression.content_encoding(), packed, limits).map(|(_, body)| body)
    }

    /// Bytes that compress to about half.
    fn mixed(size: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'a' + (state >> 28).to_le_bytes()[0]
        };
        (0..size).map(|_| next()).collect()
    }

    #[test]
    fn bodies_come_back() {
        for compression in BOTH {
            for size in [0, 1, 1024, 100_000] {
                let body = mixed(size);
                let packed = pack(compression, &body);
                assert_eq!(unpack(compression, &packed, &Limits::new()).unwrap(), body);
            }
            assert_eq!(compression.deflate(&[b'x'; WORTH_IT - 1]), None);
            assert!(compression.deflate(&[b'x'; WORTH_IT]).is_some());
            // What does not get smaller stays as it is.
            let packed = pack(compression, &mixed(100_000));
            assert_eq!(compression.deflate(&packed), None);
        }
    }

    #[test]
    fn reads_what_other_libraries_wrote() {
        // Python's `zlib.compress(b'{"a":1}')`.
        let zlib = b"\x78\x9c\xab\x56\x4a\x54\xb2\x32\xac\x05\x00\x08\x2a\x02\x09";
        assert_eq!(
            unpack(Compression::Zlib, zlib, &Limits::new()).unwrap().as_ref(),
            br#"{"a":1}"#
        );
    }

    #[test]
    fn what_is_not_sound_is_refused() {
        for compression in BOTH {
            let packed = pack(compression, &mixed(10_000));
            for end in [0, 1, 5, packed.len() / 2, packed.len() - 1] {
                let status = unpack(compression, &packed[..end], &Limits::new()).unwrap_err();
                assert_eq!(status.code, StatusCode::InvalidArgument, "{compression:?} {end}");
            }
            let more = [&packed[..], b"x"].concat();
            assert!(unpack(compression, &more, &Limits::new()).is_err());
            assert!(unpack(compression, b"no such thing", &Limits::new()).is_err());
        }
    }

    #[test]
    fn unpacking_ends_at_the_limits() {
        for compression in BOTH {
            let limits = Limits::new().inflated(100_000);
            for size in [99_999, 100_000, 100_001] {
                let result = unpack(compression, &pack(compression, &mixed(size)), &limits);
                match result {
                    Ok(body) => assert!(size <= 100_000 && body.len() == size),
                    Err(status) => {
                        assert_eq!((size, status.code), (100_001, StatusCode::ResourceExhausted));
                        assert!(status.message.contains("`Limits::inflated`"), "{status}");
                    }
                }
            }
            // 64 MiB of nothing in a few kilobytes.
            let bomb = pack(compression, &vec![0; 64 << 20]);
            assert!(bomb.len() < 400 * 1024);
            let status = unpack(compression, &bomb, &Limits::new()).unwrap_err();
            assert_eq!(status.code, StatusCode::ResourceExhausted);
            // By how much it grows only large ones are judged.
            let packed = pack(compression, &vec![0; HARMLESS]);
            assert_eq!(
                unpack(compression, &packed, &Limits::new()).unwrap().len(),
                HARMLESS
            );
            let packed = pack(compression, &vec![0; HARMLESS + 1]);
            let status = unpack(compression, &packed, &Limits::new()).unwrap_err();
            assert!(status.message.contains("`Limits::inflation_ratio`"), "{status}");
            let limits = Limits::new().inflation_ratio(100_000);
            assert_eq!(unpack(compression, &packed, &limits).unwrap().len(), HARMLESS + 1);
        }
    }
}
