//! Channels are let go late.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;

use super::wire::Channel;

/// Longer than the library takes to forget a connection that ended.
const LATE: Duration = Duration::from_secs(5);

/// Keeps a channel that had a consumer for a while after its last use.
///
/// When a connection ends, lapin (4.12) drops what it keeps of the channel's consumers under one lock, and, if that was the
/// last of the channel, looks at the state of the channel under another one. Its I/O thread takes the same two in the
/// other order whenever a message comes. Then both wait for ever, and with them a thread of the runtime. What is kept
/// here makes that one never the last. No more are kept than came to their end within that time, and a consumer that
/// is built again pauses before.
pub(super) fn linger(channel: Channel) {
    keep(channel);
}

fn keep(channel: impl Send + 'static) {
    // Without a runtime, at the end of a program, there is nobody left to wait.
    if let Ok(runtime) = Handle::try_current() {
        let kept = async move {
            tokio::time::sleep(LATE).await;
            drop(channel);
        };
        runtime.spawn(kept.boxed());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{Instant, advance};

    use super::*;

    /// How many are kept beside this one.
    fn kept(channel: &Arc<()>) -> usize {
        Arc::strong_count(channel) - 1
    }

    /// Lets the tasks run whose time has come.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_lingers_is_let_go_after_its_time() {
        let channel = Arc::new(());
        keep(Arc::clone(&channel));
        settle().await;
        advance(LATE - Duration::from_millis(2)).await;
        settle().await;
        assert_eq!(kept(&channel), 1);
        advance(Duration::from_millis(4)).await;
        settle().await;
        assert_eq!(kept(&channel), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_linger_than_came_within_the_time() {
        let (channel, begun) = (Arc::new(()), Instant::now());
        let mut most = 0;
        while begun.elapsed() < 10 * LATE {
            keep(Arc::clone(&channel));
            settle().await;
            most = most.max(kept(&channel));
            advance(LATE / 10).await;
            settle().await;
        }
        // Ten, and one whose time is just about to end.
        assert!((10..=11).contains(&most), "{most}");
    }

    #[test]
    fn without_a_runtime_nothing_lingers() {
        let channel = Arc::new(());
        keep(Arc::clone(&channel));
        assert_eq!(kept(&channel), 0);
    }
}
