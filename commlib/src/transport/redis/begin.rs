//! Begins servers and subscriptions: at once, so that they take when that is told, or, on a lazy node without a connection,
//! when the connection comes.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::consumer::{ConsumerHandle, ConsumerTask, OpenFailure};
use super::group::{self, Member};
use super::jobs::{Call, Job, Tell};
use super::pubsub::{Command, Hub};
use super::subscription::{Entry, GroupEnd, Outlet, SubscriptionHandle};
use super::{RedisTransport, fault};
use crate::error::Execution;
use crate::transport::{
    ConnectionState, ConsumeSpec, Consumer, SubscribeSpec, Subscription, TransportError, TransportErrorKind,
};

impl RedisTransport {
    pub(super) async fn consume_now(&self, spec: ConsumeSpec) -> Result<Box<dyn Consumer>, TransportError> {
        let what = format!("serve `{}`", spec.service);
        let deadline = Instant::now() + self.options.operation_timeout;
        let later = self.begins_later();
        if !later {
            self.connected(&what, deadline).await?;
        }
        let member = format!("{}.{}", self.options.node_id, self.number());
        let stop = self.receiving.child_token();
        let guard = stop.clone().drop_guard();
        let mut task = ConsumerTask::new(
            Arc::clone(&self.endpoint),
            Arc::clone(&self.handle),
            spec,
            member,
            stop.clone(),
            Arc::downgrade(&self.life),
        );
        let ready = if later {
            None
        } else {
            let ready = match tokio::time::timeout_at(deadline, task.open()).await {
                Ok(Ok(ready)) => ready,
                Ok(Err(OpenFailure::Refused(error))) => return Err(error),
                Ok(Err(OpenFailure::Lost(reason))) => {
                    let nothing = Execution::DidNotRun;
                    return Err(fault::lost(&what, &reason, nothing));
                }
                Err(_) => return Err(self.too_late(&what)),
            };
            let announcement = task.presence().call();
            self.limited(&what, |done| {
                Job::Call(Call {
                    done: Some(Tell::Future(done)),
                    ..announcement
                })
            })
            .await?;
            Some(ready)
        };
        let (ended, watched) = watch::channel(false);
        tokio::spawn(task.run(ready, ended).boxed());
        guard.disarm();
        Ok(Box::new(ConsumerHandle {
            stop,
            ended: watched,
            _life: Arc::clone(&self.life),
        }))
    }

    pub(super) async fn subscribe_now(
        &self,
        spec: SubscribeSpec,
    ) -> Result<Box<dyn Subscription>, TransportError> {
        let what = format!("subscribe to `{}`", spec.pattern);
        if self.handle.is_closed() {
            return Err(TransportError::closed());
        }
        if let Some(wishes) = self.wishes.lock().take() {
            let hub = Hub::new(Arc::clone(&self.endpoint), wishes, self.receiving.clone());
            tokio::spawn(hub.run().boxed());
        }
        let number = self.number();
        let (outlet, queue) = match &spec.group {
            None => (Outlet::Plain, None),
            Some(_) => {
                let (sender, receiver) = mpsc::channel(group::QUEUE);
                (Outlet::Group(sender), Some(receiver))
            }
        };
        let entry = Arc::new(Entry::new(
            number,
            spec.pattern,
            spec.max_body,
            Arc::clone(&self.handle),
            outlet,
            spec.sink,
        ));
        let group = match (spec.group, queue) {
            (Some(group), Some(queue)) => {
                let stop = self.receiving.child_token();
                let (ended, watched) = watch::channel(false);
                let member = Member {
                    entry: Arc::clone(&entry),
                    handle: Arc::clone(&self.handle),
                    group: group.name,
                    name: format!("{}.{number}", self.options.node_id),
                    joined: self.handle.clock.now(),
                    permits: group.permits,
                    queue,
                    stop: stop.clone(),
                };
                tokio::spawn(member.run(ended).boxed());
                Some(GroupEnd { stop, ended: watched })
            }
            _ => None,
        };
        let handle = SubscriptionHandle {
            entry: Arc::clone(&entry),
            commands: self.commands.clone(),
            group,
            _life: Arc::clone(&self.life),
        };
        if self.begins_later() {
            entry.begins_later();
            let add = Command::Add { entry, done: None };
            return match self.commands.send(add) {
                Ok(()) => Ok(Box::new(handle)),
                Err(_) => Err(TransportError::closed()),
            };
        }
        let (done, confirmed) = oneshot::channel();
        let done = Some(done);
        if self.commands.send(Command::Add { entry, done }).is_err() {
            return Err(TransportError::closed());
        }
        match timeout(self.options.operation_timeout, confirmed).await {
            Ok(Ok(Ok(()))) => Ok(Box::new(handle)),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(TransportError::closed()),
            Err(_) => Err(self.too_late(&what)),
        }
    }

    pub(super) fn too_late(&self, what: &str) -> TransportError {
        let limit = self.options.operation_timeout;
        TransportError::did_not_run(
            TransportErrorKind::Timeout,
            format!("cannot {what}: the broker did not answer within {limit:?}"),
        )
    }

    /// Whether servers and subscriptions begin when the connection comes, as on a lazy node that has none.
    pub(super) fn begins_later(&self) -> bool {
        self.options.lazy && !self.state.borrow().is_connected()
    }

    /// Waits for a connection.
    pub(super) async fn connected(&self, what: &str, deadline: Instant) -> Result<(), TransportError> {
        let mut state = self.state.clone();
        let up = state
            .wait_for(|state| matches!(state, ConnectionState::Connected { .. } | ConnectionState::Closed));
        match tokio::time::timeout_at(deadline, up).await {
            Ok(_) => self.handle.check(what),
            Err(_) => Err(fault::disconnected(what)),
        }
    }
}
