//! tokio's `Notify` as its documentation describes it, on loom's mutex.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::mutex::Mutex;

/// Wakes one waiter, or the next one to come: notifications without a waiter don't add up.
#[derive(Debug, Default)]
pub(crate) struct Notify(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    kept: bool,
    next: u64,
    waiters: VecDeque<(u64, Waker)>,
}

impl Notify {
    /// Wakes the waiter that came first, or is kept for the next one.
    pub(crate) fn notify_one(&self) {
        let mut state = self.0.lock();
        let waiter = state.waiters.pop_front();
        state.kept |= waiter.is_none();
        drop(state);
        if let Some((_, waker)) = waiter {
            waker.wake();
        }
    }

    /// Waits from its first poll on.
    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified {
            notify: self,
            progress: Progress::New,
        }
    }
}

/// Resolves with a notification, which goes to another one if this is dropped without having looked.
#[derive(Debug)]
pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    New,
    Waits(u64),
    Done,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.notify.0.lock();
        let waits = match self.progress {
            Progress::New if !std::mem::take(&mut state.kept) => {
                let id = state.next;
                state.next += 1;
                state.waiters.push_back((id, cx.waker().clone()));
                Some(id)
            }
            Progress::Waits(id) => {
                let mut waiters = state.waiters.iter_mut();
                waiters.find(|(waiter, _)| *waiter == id).map(|(_, waker)| {
                    waker.clone_from(cx.waker());
                    id
                })
            }
            Progress::New | Progress::Done => None,
        };
        drop(state);
        match waits {
            Some(id) => {
                self.progress = Progress::Waits(id);
                Poll::Pending
            }
            None => {
                self.progress = Progress::Done;
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let Progress::Waits(id) = self.progress else {
            return;
        };
        let mut state = self.notify.0.lock();
        let before = state.waiters.len();
        state.waiters.retain(|(waiter, _)| *waiter != id);
        let was_notified = state.waiters.len() == before;
        drop(state);
        if was_notified {
            self.notify.notify_one();
        }
    }
}
