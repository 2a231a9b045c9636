//! The systems that publish and subscribe.

pub(crate) mod durable;
pub(crate) mod floor;
pub(crate) mod lapin;
pub(crate) mod ours;
pub(crate) mod redis;
