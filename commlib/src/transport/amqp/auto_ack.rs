//! Taking without acknowledgements: the broker forgets a request when it has sent it, and sends all there are.
//!
//! So what is taken has its bound here: as many as there are permits run, some wait, and the rest is refused at once.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;

use super::acks::Unsettled;
use super::consumer::{Item, Session, Task};
use super::properties::read_request;
use super::responder::refusal;
use super::session::End;
use super::wire::Message;
use crate::error::{Execution, Status, StatusCode};

/// Requests that may wait, for each that may run.
const WAITING: usize = 16;
/// Within these bounds.
const FEWEST_WAITING: usize = 64;
const MOST_WAITING: usize = 16 * 1024;
/// Their bodies, in bytes.
const WAITING_BYTES: usize = 64 * 1024 * 1024;

/// Requests that came and did not start.
pub(super) struct Backlog {
    waiting: VecDeque<(usize, Message)>,
    bytes: usize,
    limit: usize,
}

impl Backlog {
    fn new(concurrency: u32) -> Self {
        let limit = (concurrency as usize).saturating_mul(WAITING);
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            limit: limit.clamp(FEWEST_WAITING, MOST_WAITING),
        }
    }

    fn has_room(&self, message: &Message) -> bool {
        self.waiting.len() < self.limit && self.bytes + message.data.len() <= WAITING_BYTES
    }

    fn push(&mut self, index: usize, message: Message) {
        self.bytes += message.data.len();
        self.waiting.push_back((index, message));
    }

    fn pop(&mut self) -> Option<(usize, Message)> {
        let next = self.waiting.pop_front();
        if let Some((_, message)) = &next {
            self.bytes -= message.data.len();
        }
        next
    }
}

impl Task {
    /// Hands up what comes until there is nothing more to come, and refuses what there is no room for.
    pub(super) async fn take_all(&self, session: &mut Session) -> End {
        let mut backlog = Backlog::new(self.spec.concurrency);
        let end = loop {
            tokio::task::coop::consume_budget().await;
            self.start_waiting(&mut backlog);
            let permit = Arc::clone(&self.spec.permits).acquire_owned();
            let item = tokio::select! {
                biased;
                () = self.stop.cancelled() => break End::Stopped,
                item = session.queues.next() => item,
                permit = permit, if !backlog.waiting.is_empty() => {
                    if let (Ok(permit), Some((index, message))) = (permit, backlog.pop()) {
                        self.deliver(index, message, None, Some(permit));
                    }
                    continue;
                }
            };
            match item {
                Some((index, Item::Message(message))) => {
                    if backlog.has_room(&message) {
                        backlog.push(index, message);
                    } else {
                        self.refuse(message, None, &overloaded(self.spec.concurrency, backlog.limit));
                    }
                }
                item => {
                    if let Some(end) = self.gone(session, item).await {
                        break end;
                    }
                }
            }
        };
        // The broker would not give them to another server.
        self.start_waiting(&mut backlog);
        let status = match end {
            End::Stopped => stopping(),
            End::Gone(_) => unavailable("the server has lost its connection and did not start the request"),
        };
        while let Some((_, message)) = backlog.pop() {
            self.refuse(message, None, &status);
        }
        end
    }

    fn start_waiting(&self, backlog: &mut Backlog) {
        while !backlog.waiting.is_empty()
            && let Ok(permit) = Arc::clone(&self.spec.permits).try_acquire_owned()
            && let Some((index, message)) = backlog.pop()
        {
            self.deliver(index, message, None, Some(permit));
        }
    }

    /// Answers a request that does not run.
    pub(super) fn refuse(&self, message: Message, delivery: Option<Unsettled>, status: &Status) {
        let (_, question) = read_request(&message.properties, message.data, message.size, 0);
        if question.route.is_none() {
            tracing::warn!(service = %self.spec.service, %status, "a request that nobody waits for was not run");
        }
        self.answer(delivery, question, None).send(&refusal(status));
    }
}

fn overloaded(concurrency: u32, waiting: usize) -> Status {
    let text = format!(
        "the server runs {concurrency} requests and {waiting} wait: it takes no more now; try again later or ask less often"
    );
    Status::new(StatusCode::ResourceExhausted, text).with_execution(Execution::DidNotRun)
}

/// What a request is told that came while the server stops.
pub(super) fn stopping() -> Status {
    unavailable("the server is shutting down and did not start the request")
}

fn unavailable(reason: &str) -> Status {
    Status::new(StatusCode::Unavailable, reason).with_execution(Execution::DidNotRun)
}
