//! What types must be to travel: one trait for bodies, one for errors, one for levels of topics.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::ser::{Error as _, Impossible, Serialize, Serializer};

/// A type that can be sent and received. Implemented for everything that has the three derives.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent in a message",
    label = "this type is not a message",
    note = "derive `serde::Serialize`, `serde::Deserialize` and `schemars::JsonSchema` for it, without borrowed data"
)]
pub trait Message: serde::Serialize + DeserializeOwned + JsonSchema + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: serde::Serialize + DeserializeOwned + JsonSchema + Send + 'static> Message for T {}

/// The error type of a method: a message that is an error.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a method",
    label = "this type is not an error that can be sent",
    note = "derive `serde::Serialize`, `serde::Deserialize` and `schemars::JsonSchema` for it, and implement `std::error::Error`"
)]
pub trait ServiceError: Message + std::error::Error {}

#[diagnostic::do_not_recommend]
impl<T: Message + std::error::Error> ServiceError for T {}

/// A type whose values are one level of a topic: a string, a number, a `bool`, a `char`, or an enum of plain variants.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a level of a topic",
    label = "this type is not a topic level",
    note = "use a string, an integer, or an enum of plain variants that derives `serde::Serialize`, `serde::Deserialize`, `schemars::JsonSchema` and `Clone`"
)]
pub trait TopicLevel:
    serde::Serialize + DeserializeOwned + JsonSchema + Clone + Send + Sync + 'static
{
}

#[diagnostic::do_not_recommend]
impl<T: serde::Serialize + DeserializeOwned + JsonSchema + Clone + Send + Sync + 'static> TopicLevel for T {}

/// Why a value is no level, or a level no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureError(String);

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CaptureError {}

impl serde::ser::Error for CaptureError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }
}

/// The level that a value stands for.
///
/// # Errors
/// When the type has no such form, such as a struct with fields.
pub(crate) fn to_level<T: Serialize + ?Sized>(value: &T) -> Result<String, CaptureError> {
    value.serialize(LevelSerializer)
}

/// The value that a level stands for.
///
/// # Errors
/// When it is none of the type.
pub(crate) fn from_level<T: DeserializeOwned>(level: &str) -> Result<T, CaptureError> {
    T::deserialize(LevelDeserializer(level)).map_err(|error| CaptureError(error.to_string()))
}

struct LevelSerializer;

fn no_level<T>() -> Result<T, CaptureError> {
    Err(CaptureError::custom(
        "a topic level is a string, a number, a bool, a char or a plain enum variant",
    ))
}

macro_rules! display_levels {
    ($($name:ident: $type:ty),*) => {$(
        fn $name(self, value: $type) -> Result<String, CaptureError> {
            Ok(value.to_string())
        }
    )*};
}

impl Serializer for LevelSerializer {
    type Ok = String;
    type Error = CaptureError;
    type SerializeSeq = Impossible<String, CaptureError>;
    type SerializeTuple = Impossible<String, CaptureError>;
    type SerializeTupleStruct = Impossible<String, CaptureError>;
    type SerializeTupleVariant = Impossible<String, CaptureError>;
    type SerializeMap = Impossible<String, CaptureError>;
    type SerializeStruct = Impossible<String, CaptureError>;
    type SerializeStructVariant = Impossible<String, CaptureError>;

    display_levels!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_i128: i128, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_u128: u128, serialize_char: char, serialize_str: &str
    );

    fn serialize_f32(self, _: f32) -> Result<String, CaptureError> {
        no_level()
    }

    fn serialize_f64(self, _: f64) -> Result<String, CaptureError> {
        no_level()
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<String, CaptureError> {
        no_level()
    }

    fn serialize_none(self) -> Result<String, CaptureError> {
        no_level()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<String, CaptureError> {
        no_level()
    }

    fn serialize_unit(self) -> Result<String, CaptureError> {
        no_level()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<String, CaptureError> {
        no_level()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<String, CaptureError> {
        Ok(variant.to_owned())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<String, CaptureError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<String, CaptureError> {
        no_level()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, CaptureError> {
        no_level()
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, CaptureError> {
        no_level()
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, CaptureError> {
        no_level()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, CaptureError> {
        no_level()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, CaptureError> {
        no_level()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, CaptureError> {
        no_level()
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, CaptureError> {
        no_level()
    }
}

struct LevelDeserializer<'a>(&'a str);

macro_rules! parsed_levels {
    ($($name:ident => $visit:ident: $type:ty),*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
            match self.0.parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => visitor.visit_str(self.0),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for LevelDeserializer<'_> {
    type Error = ValueError;

    parsed_levels!(
        deserialize_bool => visit_bool: bool, deserialize_i8 => visit_i8: i8, deserialize_i16 => visit_i16: i16,
        deserialize_i32 => visit_i32: i32, deserialize_i64 => visit_i64: i64, deserialize_i128 => visit_i128: i128,
        deserialize_u8 => visit_u8: u8, deserialize_u16 => visit_u16: u16, deserialize_u32 => visit_u32: u32,
        deserialize_u64 => visit_u64: u64, deserialize_u128 => visit_u128: u128, deserialize_char => visit_char: char
    );

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_str(self.0)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        let plain: StrDeserializer<'_, ValueError> = self.0.into_deserializer();
        plain.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        f32 f64 str string bytes byte_buf option unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Side {
        Front,
        FarLeft,
    }

    #[derive(Debug, PartialEq, serde::Serialize, Deserialize)]
    struct Room(u16);

    fn round<T: serde::Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: T, level: &str) {
        assert_eq!(to_level(&value).as_deref(), Ok(level));
        assert_eq!(from_level::<T>(level), Ok(value));
    }

    #[test]
    fn values_become_levels_and_come_back() {
        round(Side::Front, "front");
        round(Side::FarLeft, "far_left");
        round(Room(12), "12");
        round("a-b".to_owned(), "a-b");
        round(-3i64, "-3");
        round(true, "true");
        round('x', "x");
    }

    #[test]
    fn other_values_are_refused_with_a_reason() {
        assert!(
            to_level(&(1, 2))
                .unwrap_err()
                .to_string()
                .contains("plain enum variant")
        );
        assert!(to_level(&Some(1)).is_err());
        assert!(
            from_level::<Side>("back")
                .unwrap_err()
                .to_string()
                .contains("unknown variant `back`")
        );
        assert!(from_level::<Room>("x").is_err());
    }
}
