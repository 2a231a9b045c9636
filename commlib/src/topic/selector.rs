//! The variable levels of a topic: chosen when subscribing, typed when received.

use crate::message::{CaptureError, TopicLevel, from_level, to_level};

/// Selects every value of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Any;

/// What a subscription takes for a variable level of type `T`: a value, or [`Any`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not select a level of type `{T}`",
    label = "expected a `{T}` or `commlib::Any`"
)]
pub trait IntoSelector<T> {
    /// The level, or `None` for all.
    ///
    /// # Errors
    /// When the value has no form as a level.
    fn into_selector(self) -> Result<Option<String>, CaptureError>;
}

impl<T: TopicLevel> IntoSelector<T> for T {
    fn into_selector(self) -> Result<Option<String>, CaptureError> {
        to_level(&self).map(Some)
    }
}

impl<T: TopicLevel> IntoSelector<T> for Any {
    fn into_selector(self) -> Result<Option<String>, CaptureError> {
        Ok(None)
    }
}

impl IntoSelector<String> for &str {
    fn into_selector(self) -> Result<Option<String>, CaptureError> {
        Ok(Some(self.to_owned()))
    }
}

/// The captured levels of a message: a tuple of up to eight types, in the order of the template.
pub trait Captures: Sized + Send + 'static {
    /// Reads the levels.
    ///
    /// # Errors
    /// When one is no value of its type.
    fn from_levels(levels: &[String]) -> Result<Self, CaptureError>;
}

/// One captured level, by its place.
pub(crate) fn level_of<T: TopicLevel>(levels: &[String], index: usize) -> Result<T, CaptureError> {
    from_level(levels.get(index).map_or("", String::as_str))
}

macro_rules! captures {
    ($($name:ident = $index:tt),*) => {
        impl<$($name: TopicLevel),*> Captures for ($($name,)*) {
            fn from_levels(_levels: &[String]) -> Result<Self, CaptureError> {
                Ok(($(level_of::<$name>(_levels, $index)?,)*))
            }
        }
    };
}

captures!();
captures!(A = 0);
captures!(A = 0, B = 1);
captures!(A = 0, B = 1, C = 2);
captures!(A = 0, B = 1, C = 2, D = 3);
captures!(A = 0, B = 1, C = 2, D = 3, E = 4);
captures!(A = 0, B = 1, C = 2, D = 3, E = 4, F = 5);
captures!(A = 0, B = 1, C = 2, D = 3, E = 4, F = 5, G = 6);
captures!(A = 0, B = 1, C = 2, D = 3, E = 4, F = 5, G = 6, H = 7);
