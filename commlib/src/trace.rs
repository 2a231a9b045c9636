//! W3C Trace Context: reading, writing and passing on `traceparent` and `tracestate`
//! (<https://www.w3.org/TR/trace-context/>).
//!
//! A handler's calls and publishes continue the trace of the request that it serves. Elsewhere a new trace begins
//! when the span of the call is enabled in `tracing`; without a subscriber nothing is added to messages.

use std::fmt;
use std::str::FromStr;

use crate::envelope::Headers;
use crate::runtime::scope::Scope;

/// The header that carries the ids.
pub const TRACEPARENT: &str = "traceparent";
/// The header that carries what vendors add.
pub const TRACESTATE: &str = "tracestate";

/// Where in which trace a piece of work is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    state: Option<String>,
}

/// The text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct BadTraceparent;

impl TraceContext {
    /// The context of the request or message that the current task handles.
    #[must_use]
    pub fn current() -> Option<Self> {
        Scope::current().trace
    }

    /// The first span of a new, sampled trace.
    #[must_use]
    pub fn new_root() -> Self {
        Self {
            trace_id: rand::random::<u128>() | 1,
            span_id: rand::random::<u64>() | 1,
            flags: 1,
            state: None,
        }
    }

    /// A new span below this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            span_id: rand::random::<u64>() | 1,
            ..self.clone()
        }
    }

    /// The id of the trace, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The id of the span, 16 hexadecimal digits.
    #[must_use]
    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// Reads the headers of a message; a broken `traceparent` counts as none, as the specification says.
    pub(crate) fn from_headers(headers: &Headers) -> Option<Self> {
        let mut context: Self = headers.get(TRACEPARENT)?.parse().ok()?;
        context.state = headers.get(TRACESTATE).map(str::to_owned);
        Some(context)
    }

    pub(crate) fn write(&self, headers: &mut Headers) {
        headers.insert(TRACEPARENT, self.to_string());
        if let Some(state) = &self.state {
            headers.insert(TRACESTATE, state.clone());
        }
    }

    /// Adds the context that an outgoing message belongs to, unless the caller set one.
    pub(crate) fn inject(headers: &mut Headers, scope: &Scope, span: &tracing::Span) {
        if headers.get(TRACEPARENT).is_some() {
            return;
        }
        let context = match &scope.trace {
            Some(context) => context.child(),
            None if !span.is_disabled() => Self::new_root(),
            None => return,
        };
        span.record("trace_id", context.trace_id());
        context.write(headers);
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.span_id, self.flags
        )
    }
}

impl FromStr for TraceContext {
    type Err = BadTraceparent;

    fn from_str(text: &str) -> Result<Self, BadTraceparent> {
        let mut parts = text.split('-');
        let mut field = |len: usize| {
            parts
                .next()
                .filter(|part| {
                    part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                })
                .ok_or(BadTraceparent)
        };
        let (version, trace_id, span_id, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        // Later versions may append fields; version 00 may not, and ff is never valid.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(BadTraceparent);
        }
        let context = Self {
            trace_id: u128::from_str_radix(trace_id, 16).map_err(|_| BadTraceparent)?,
            span_id: u64::from_str_radix(span_id, 16).map_err(|_| BadTraceparent)?,
            flags: u8::from_str_radix(flags, 16).map_err(|_| BadTraceparent)?,
            state: None,
        };
        if context.trace_id == 0 || context.span_id == 0 {
            Err(BadTraceparent)
        } else {
            Ok(context)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_the_header() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context: TraceContext = text.parse().unwrap();
        assert_eq!(context.to_string(), text);
        let child = context.child();
        assert_eq!(child.trace_id(), context.trace_id());
        assert_ne!(child.span_id(), context.span_id());
        assert_eq!(TraceContext::new_root().to_string().len(), 55);
    }

    #[test]
    fn refuses_what_the_specification_refuses() {
        for text in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(BadTraceparent), "{text}");
        }
        assert!(
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later"
                .parse::<TraceContext>()
                .is_ok()
        );
    }
}
