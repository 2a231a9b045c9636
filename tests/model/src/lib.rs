//! The table of calls in flight (`commlib/src/runtime/pending.rs`) and the messages of a group on the in-process bus
//! (`commlib/src/transport/memory/items.rs`) under all interleavings of what may come to them.
//!
//! The very files of the library are compiled here a second time, with the mutex of [loom] in place of `parking_lot`'s:
//! loom runs each scenario once for every order in which its threads can come to a lock or be woken, and reports
//! a thread that is never woken as a deadlock. What the states are and what must hold is in [`scenarios`] and [`groups`].
//!
//! [loom]: https://docs.rs/loom

// The table's `use parking_lot::Mutex` means the one below.
extern crate self as parking_lot;

pub mod groups;
mod mutex;
mod notify;
pub mod scenarios;

#[path = "../../../commlib/src/runtime/id.rs"]
#[allow(
    dead_code,
    reason = "of a file of the library, only what the table needs is used"
)]
mod id;
#[path = "../../../commlib/src/transport/memory/items.rs"]
mod items;
#[path = "../../../commlib/src/runtime/pending.rs"]
#[allow(dead_code, reason = "scenarios need no Debug output and no limit")]
mod pending;

// As the files above name them.
use commlib::{envelope, transport};
pub use mutex::Mutex;
use notify::Notify;
