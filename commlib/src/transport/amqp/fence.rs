//! Finds out what the broker returned on a channel without confirms.
//!
//! The client library keeps returned messages until they are asked for, and does not say that there are any. The broker
//! answers a channel in order. So some time after the first message an operation without any effect is sent: when it is
//! answered, everything before it was returned that will ever be.

use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::Channel;
use lapin::message::BasicReturnMessage;
use lapin::options::ChannelFlowOptions;
use tokio::time::{Instant, Sleep};

/// How long returned messages may lie there.
const PATIENCE: Duration = Duration::from_millis(10);

/// See the [module](self).
pub(super) struct Fence {
    channel: Channel,
    state: State,
    /// Sent since the operation was.
    more: bool,
    timer: Pin<Box<Sleep>>,
}

enum State {
    Idle,
    Due,
    Sent(BoxFuture<'static, ()>),
}

impl Fence {
    pub(super) fn new(channel: &Channel) -> Self {
        Self {
            channel: channel.clone(),
            state: State::Idle,
            more: false,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// Messages were sent.
    pub(super) fn sent(&mut self) {
        match self.state {
            State::Idle => self.start(),
            State::Due => {}
            State::Sent(_) => self.more = true,
        }
    }

    fn start(&mut self) {
        self.state = State::Due;
        self.more = false;
        self.timer.as_mut().reset(Instant::now() + PATIENCE);
    }

    /// What was returned, when that is known. Never resolves when nothing was sent. Dropping the future loses nothing.
    pub(super) async fn returned(&mut self) -> Vec<BasicReturnMessage> {
        loop {
            match &mut self.state {
                State::Idle => std::future::pending().await,
                State::Due => {
                    self.timer.as_mut().await;
                    let channel = self.channel.clone();
                    let asked = async move {
                        // An error ends the channel, which is seen elsewhere.
                        let _ = channel.channel_flow(ChannelFlowOptions { active: true }).await;
                    };
                    self.state = State::Sent(asked.boxed());
                }
                State::Sent(asked) => {
                    asked.await;
                    self.state = State::Idle;
                    if self.more {
                        self.start();
                    }
                    // Without confirms this does not wait.
                    let returned = self.channel.wait_for_confirms().now_or_never();
                    return returned.and_then(Result::ok).unwrap_or_default();
                }
            }
        }
    }
}
