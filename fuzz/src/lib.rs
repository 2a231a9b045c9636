//! What the fuzz targets share: made-up messages, and second opinions to compare with.

pub mod glob;
pub mod levels;
pub mod message_pack;
pub mod messages;
