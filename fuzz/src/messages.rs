//! Made-up messages.

use arbitrary::{Arbitrary, Result, Unstructured};
use bytes::Bytes;
use commlib::Execution;
use commlib::envelope::{Envelope, Headers, Meta, WireError};
use serde_json::value::RawValue;

/// A message whose body and details are JSON, unless it says that they are something else.
#[derive(Debug)]
pub struct Message(pub Envelope);

impl<'a> Arbitrary<'a> for Message {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let content_type: Option<String> = u
            .arbitrary::<Option<String>>()?
            .filter(|name| name != commlib::envelope::JSON);
        let is_json = content_type.is_none();
        let mut headers = Headers::new();
        for (name, value) in u.arbitrary::<Vec<(String, String)>>()? {
            headers.insert(name, value);
        }
        let error = if u.arbitrary()? {
            Some(WireError {
                code: u.arbitrary()?,
                message: u.arbitrary()?,
                details: body(u, is_json)?,
                execution: *u.choose(&[
                    None,
                    Some(Execution::DidNotRun),
                    Some(Execution::Failed),
                    Some(Execution::MayHaveRun),
                ])?,
            })
        } else {
            None
        };
        Ok(Self(Envelope {
            meta: Meta {
                id: u.arbitrary()?,
                correlation_id: u.arbitrary()?,
                reply_to: u.arbitrary()?,
                timestamp: u.arbitrary()?,
                timeout_ms: u.arbitrary()?,
                content_type,
                content_encoding: None,
                headers,
                error: error.map(Box::new),
            },
            data: body(u, is_json)?,
        }))
    }
}

fn body(u: &mut Unstructured<'_>, is_json: bool) -> Result<Bytes> {
    let bytes: &[u8] = u.arbitrary()?;
    Ok(match json(bytes) {
        _ if !is_json => Bytes::copy_from_slice(bytes),
        Some(text) => Bytes::copy_from_slice(text.as_bytes()),
        None => Bytes::new(),
    })
}

/// The value that a body of JSON is.
pub fn json(bytes: &[u8]) -> Option<&str> {
    serde_json::from_slice::<&RawValue>(bytes).ok().map(RawValue::get)
}
