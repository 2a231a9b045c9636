//! Loom's mutex with the interface of `parking_lot`'s.

use loom::sync::MutexGuard;

/// A mutex whose every lock is a point where loom lets other threads go first.
#[derive(Debug, Default)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// Waits for the lock.
    ///
    /// # Panics
    /// When a thread of the scenario panicked with the lock held.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}
