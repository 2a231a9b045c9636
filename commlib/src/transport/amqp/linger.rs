//! Channels are let go late.

use std::time::Duration;

use lapin::Channel;
use tokio::runtime::Handle;

/// Longer than the library takes to forget a connection that ended.
const LATE: Duration = Duration::from_secs(5);

/// Keeps a channel that had a consumer for a while after its last use.
///
/// When a connection ends, lapin (4.12) drops what it keeps of the channel's consumers under one lock, and, if that was the
/// last of the channel, looks at the state of the channel under another one. Its I/O thread takes the same two in the
/// other order whenever a message comes. Then both wait for ever, and with them a thread of the runtime. What is kept
/// here makes that one never the last.
pub(super) fn linger(channel: Channel) {
    // Without a runtime, at the end of a program, there is nobody left to wait.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(async move {
            tokio::time::sleep(LATE).await;
            drop(channel);
        });
    }
}
