//! JSON as `serde_json` writes it, byte for byte, only that long texts are written as fast as they are copied.
//!
//! `serde_json` looks at a text byte by byte, which is most of the time that it takes to encode a large body. So each
//! long text is handed to it as bytes, which its formatter can write in any form, and ours looks for what has to be escaped
//! many bytes at once.

use std::cell::Cell;
use std::fmt::Display;
use std::io;

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

/// Shorter texts are written by `serde_json` itself.
const LONG: usize = 64;
/// Room that is made beside a long text, for what comes after it.
const ROOM: usize = 64;
/// How the names begin of the structs that stand for JSON as it is.
const AS_IT_IS: &str = "$serde_json::private::";

/// Encodes a value.
///
/// # Errors
/// As `serde_json::to_writer`.
pub(super) fn write<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let is_text = Cell::new(false);
    let mut out = Out(out);
    let mut inner = serde_json::Serializer::with_formatter(&mut out, Format { is_text: &is_text });
    value.serialize(Quick {
        inner: &mut inner,
        is_text: Some(&is_text),
    })
}

/// How many of the first bytes stand for themselves in a string of JSON: all up to a quote, a backslash or a control
/// character.
pub(crate) fn plain_len(bytes: &[u8]) -> usize {
    /// Bytes that are looked at together.
    const TOGETHER: usize = 32;
    let short = &bytes[..bytes.len().min(TOGETHER)];
    let plain = plain_words(short);
    if plain < TOGETHER {
        return plain;
    }
    let (parts, _) = bytes.as_chunks::<TOGETHER>();
    let is_plain = |part: &&[u8; TOGETHER]| !part.iter().fold(false, |found, byte| found | is_special(*byte));
    let plain = parts.iter().take_while(is_plain).count() * TOGETHER;
    plain + plain_words(&bytes[plain..])
}

/// As [`plain_len`], eight bytes at a time, for few.
fn plain_words(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, _) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest high bit that is left marks the first byte that is zero after the xor, or below 0x20.
        let zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes & HIGH;
        let quote = zero(word ^ (ONES * u64::from(b'"')));
        let backslash = zero(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let found = quote | backslash | control;
        if found != 0 {
            return index * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let plain = words.len() * 8;
    let rest = &bytes[plain..];
    plain
        + rest
            .iter()
            .position(|byte| is_special(*byte))
            .unwrap_or(rest.len())
}

const fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// A buffer that makes room for a long text and what comes after it in one go.
struct Out<'a>(&'a mut Vec<u8>);

impl io::Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > LONG {
            self.0.reserve(bytes.len() + ROOM);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes bytes as a text where they are one.
struct Format<'a> {
    is_text: &'a Cell<bool>,
}

impl Formatter for Format<'_> {
    fn write_byte_array<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: &[u8]) -> io::Result<()> {
        if !self.is_text.take() {
            return CompactFormatter.write_byte_array(writer, value);
        }
        writer.write_all(b"\"")?;
        let mut rest = value;
        loop {
            let (plain, others) = rest.split_at(plain_len(rest));
            writer.write_all(plain)?;
            let Some((&byte, after)) = others.split_first() else {
                return writer.write_all(b"\"");
            };
            CompactFormatter.write_char_escape(writer, escape(byte))?;
            rest = after;
        }
    }
}

const fn escape(byte: u8) -> CharEscape {
    match byte {
        b'"' => CharEscape::Quote,
        b'\\' => CharEscape::ReverseSolidus,
        0x08 => CharEscape::Backspace,
        b'\t' => CharEscape::Tab,
        b'\n' => CharEscape::LineFeed,
        0x0c => CharEscape::FormFeed,
        b'\r' => CharEscape::CarriageReturn,
        other => CharEscape::AsciiControl(other),
    }
}

/// The serializer of `serde_json`, or one of its parts, that hands long texts over as bytes.
struct Quick<'a, I> {
    inner: I,
    /// Nothing in a struct that stands for JSON as it is: its text is no text.
    is_text: Option<&'a Cell<bool>>,
}

/// A value within another one.
struct Within<'a, T: ?Sized> {
    value: &'a T,
    is_text: Option<&'a Cell<bool>>,
}

impl<T: Serialize + ?Sized> Serialize for Within<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Quick {
            inner,
            is_text: self.is_text,
        })
    }
}

impl<'a, I> Quick<'a, I> {
    fn within<'b, T: ?Sized>(&self, value: &'b T) -> Within<'b, T>
    where
        'a: 'b,
    {
        Within {
            value,
            is_text: self.is_text,
        }
    }
}

/// Hands values over as they are.
macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $part:ident)?;)*) => {$(
        forward!(@one $name($($argument: $type),*) $(-> $part)?);
    )*};
    (@one $name:ident($($argument:ident: $type:ty),*)) => {
        #[inline]
        fn $name(self, $($argument: $type),*) -> Result<I::Ok, I::Error> {
            self.inner.$name($($argument),*)
        }
    };
    (@one $name:ident($($argument:ident: $type:ty),*) -> $part:ident) => {
        #[inline]
        fn $name(self, $($argument: $type),*) -> Result<Self::$part, I::Error> {
            Ok(Quick {
                inner: self.inner.$name($($argument),*)?,
                is_text: self.is_text,
            })
        }
    };
}

impl<'a, I: Serializer> Serializer for Quick<'a, I> {
    type Ok = I::Ok;
    type Error = I::Error;
    type SerializeSeq = Quick<'a, I::SerializeSeq>;
    type SerializeTuple = Quick<'a, I::SerializeTuple>;
    type SerializeTupleStruct = Quick<'a, I::SerializeTupleStruct>;
    type SerializeTupleVariant = Quick<'a, I::SerializeTupleVariant>;
    type SerializeMap = Quick<'a, I::SerializeMap>;
    type SerializeStruct = Quick<'a, I::SerializeStruct>;
    type SerializeStructVariant = Quick<'a, I::SerializeStructVariant>;

    forward! {
        serialize_bool(value: bool);
        serialize_i8(value: i8);
        serialize_i16(value: i16);
        serialize_i32(value: i32);
        serialize_i64(value: i64);
        serialize_i128(value: i128);
        serialize_u8(value: u8);
        serialize_u16(value: u16);
        serialize_u32(value: u32);
        serialize_u64(value: u64);
        serialize_u128(value: u128);
        serialize_f32(value: f32);
        serialize_f64(value: f64);
        serialize_char(value: char);
        serialize_bytes(value: &[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(name: &'static str);
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
        serialize_seq(len: Option<usize>) -> SerializeSeq;
        serialize_tuple(len: usize) -> SerializeTuple;
        serialize_tuple_struct(name: &'static str, len: usize) -> SerializeTupleStruct;
        serialize_tuple_variant(name: &'static str, index: u32, variant: &'static str, len: usize) -> SerializeTupleVariant;
        serialize_map(len: Option<usize>) -> SerializeMap;
        serialize_struct_variant(name: &'static str, index: u32, variant: &'static str, len: usize) -> SerializeStructVariant;
    }

    #[inline]
    fn serialize_str(self, text: &str) -> Result<I::Ok, I::Error> {
        match self.is_text.filter(|_| text.len() >= LONG) {
            Some(is_text) => {
                is_text.set(true);
                self.inner.serialize_bytes(text.as_bytes())
            }
            None => self.inner.serialize_str(text),
        }
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<I::Ok, I::Error> {
        let value = self.within(value);
        self.inner.serialize_some(&value)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<I::Ok, I::Error> {
        let value = self.within(value);
        self.inner.serialize_newtype_struct(name, &value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<I::Ok, I::Error> {
        let value = self.within(value);
        self.inner.serialize_newtype_variant(name, index, variant, &value)
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, I::Error> {
        Ok(Quick {
            inner: self.inner.serialize_struct(name, len)?,
            is_text: self.is_text.filter(|_| !name.starts_with(AS_IT_IS)),
        })
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<I::Ok, I::Error> {
        self.inner.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! parts {
    ($($trait:ident::$name:ident($($argument:ident: $type:ty)?);)*) => {$(
        impl<I: $trait> $trait for Quick<'_, I> {
            type Ok = I::Ok;
            type Error = I::Error;

            #[inline]
            fn $name<T: Serialize + ?Sized>(&mut self, $($argument: $type,)? value: &T) -> Result<(), I::Error> {
                let value = self.within(value);
                self.inner.$name($($argument,)? &value)
            }

            #[inline]
            fn end(self) -> Result<I::Ok, I::Error> {
                self.inner.end()
            }
        }
    )*};
}

parts! {
    SerializeSeq::serialize_element();
    SerializeTuple::serialize_element();
    SerializeTupleStruct::serialize_field();
    SerializeTupleVariant::serialize_field();
    SerializeStruct::serialize_field(name: &'static str);
    SerializeStructVariant::serialize_field(name: &'static str);
}

impl<I: SerializeMap> SerializeMap for Quick<'_, I> {
    type Ok = I::Ok;
    type Error = I::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), I::Error> {
        self.inner.serialize_key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), I::Error> {
        let value = self.within(value);
        self.inner.serialize_value(&value)
    }

    fn end(self) -> Result<I::Ok, I::Error> {
        self.inner.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn to_vec<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
        let mut json = Vec::new();
        write(value, &mut json).map(|()| json)
    }

    fn assert_same<T: Serialize + ?Sized>(value: &T) {
        let own = to_vec(value).map(|json| String::from_utf8(json).unwrap());
        let other = serde_json::to_string(value);
        assert_eq!(
            own.map_err(|error| error.to_string()),
            other.map_err(|error| error.to_string())
        );
    }

    fn long(part: &str) -> String {
        part.repeat(200)
    }

    #[derive(serde::Serialize)]
    enum Shape {
        Unit,
        New(String),
        Tuple(String, Option<String>, ()),
        Fields { name: String, list: Vec<String> },
    }

    #[derive(serde::Serialize)]
    struct New(Box<str>);

    #[derive(serde::Serialize)]
    struct Pair(String, f32);

    #[derive(serde::Serialize)]
    #[serde(tag = "kind", content = "of")]
    enum Adjacent {
        Text(String),
    }

    #[derive(serde::Serialize)]
    #[serde(tag = "kind")]
    enum Internal {
        Fields { text: String },
    }

    #[derive(serde::Serialize)]
    struct Flat {
        #[serde(flatten)]
        rest: BTreeMap<String, String>,
        shape: Shape,
    }

    #[test]
    fn writes_what_serde_json_writes() {
        let text = || long("é\"\\\n\t\r\u{8}\u{c}\u{1}\u{7f}/ x");
        assert_same(&text());
        assert_same(&(
            text(),
            'c',
            true,
            1_u8,
            -1_i128,
            1.5_f64,
            f32::NAN,
            b"bytes".as_slice(),
        ));
        assert_same(&[
            Shape::Unit,
            Shape::New(text()),
            Shape::Tuple(text(), Some(text()), ()),
        ]);
        let list = vec![text(), String::new(), long("plain")];
        assert_same(&Shape::Fields { name: text(), list });
        assert_same(&(New(text().into()), Pair(text(), 0.5), Adjacent::Text(text())));
        assert_same(&Internal::Fields { text: text() });
        let rest = BTreeMap::from([(text(), long("plain"))]);
        assert_same(&Flat {
            rest,
            shape: Shape::Unit,
        });
        assert_same(&BTreeMap::from([(1.5_f32.to_bits(), text())]));
        assert_same(&BTreeMap::from([(Some(1), text())]));
        assert_same(&format_args!("{}", text()));
        assert_same(&serde_json::json!({"a": [text(), null, {"b": text()}], text(): 1}));
    }

    #[test]
    fn json_as_it_is_stays_as_it_is() {
        let raw = RawValue::from_string(format!("[ {:?} ]", long("as it is"))).unwrap();
        assert_same(&(&raw, long("no json")));
        assert_eq!(to_vec(&raw).unwrap(), raw.get().as_bytes());
    }

    #[test]
    fn a_long_text_takes_one_growth() {
        let json = to_vec(&serde_json::json!({"text": "x".repeat(10_000)})).unwrap();
        assert!(json.capacity() < json.len() + 2 * ROOM, "{}", json.capacity());
    }

    proptest! {
        #[test]
        fn finds_the_first_special_byte(
            plain in "[ !#-\\[\\]-~\u{80}-\u{10ffff}]{0,150}", special in prop::option::of("[\u{0}-\u{1f}\"\\\\]"), rest in any::<String>(),
        ) {
            let text = format!("{plain}{}", special.map(|byte| byte + &rest).unwrap_or_default());
            prop_assert_eq!(plain_len(text.as_bytes()), plain.len());
        }

        #[test]
        fn any_text_is_written_as_by_serde_json(text in "[ -~]{0,90}\\PC{0,3}[\u{0}-\u{7f}]{0,90}") {
            prop_assert_eq!(String::from_utf8(to_vec(&text).unwrap()).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }
}
