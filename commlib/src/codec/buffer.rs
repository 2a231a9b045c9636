//! Where bodies are written before their size is known: a buffer per thread. A small body is copied out of it, into
//! one allocation of its size; `Bytes` would need another one for a buffer with room to spare.

use std::cell::Cell;

use bytes::Bytes;

/// The largest body that is copied.
const SMALL: usize = 4096;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What this writes.
pub(super) fn written<E>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Bytes, E> {
    // It is not there while a thread ends, nor for a body that is encoded within another one's.
    let mut buffer = BUFFER.try_with(Cell::take).unwrap_or_default();
    buffer.clear();
    buffer.reserve(128);
    write(&mut buffer)?;
    if buffer.len() > SMALL {
        return Ok(buffer.into());
    }
    let body = Bytes::copy_from_slice(&buffer);
    // What made it larger went with a large body.
    let _ = BUFFER.try_with(|kept| kept.set(buffer));
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_written_comes_out() {
        for len in [0, 1, 127, 128, 129, SMALL - 1, SMALL, SMALL + 1, 10 * SMALL, 1] {
            let body = written(|out| {
                out.resize(len, b'x');
                Ok::<_, ()>(())
            });
            assert_eq!(body, Ok(Bytes::from(vec![b'x'; len])));
        }
    }

    #[test]
    fn what_was_refused_is_not_seen_again() {
        let refused = written(|out| {
            out.extend_from_slice(b"half a body");
            Err("no")
        });
        assert_eq!(refused, Err("no"));
        let body = written(|out| {
            out.extend_from_slice(b"outer");
            let inner = written(|out| {
                out.extend_from_slice(b"inner");
                Ok::<_, ()>(())
            });
            assert_eq!(inner, Ok(Bytes::from("inner")));
            Ok::<_, ()>(())
        });
        assert_eq!(body, Ok(Bytes::from("outer")));
    }
}
