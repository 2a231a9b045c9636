//! Chooses the transport that a URL names, and connects it.

use std::sync::Arc;
use std::time::Duration;

use super::{BrokerUrl, Tls, Transport, url};
use crate::envelope::Dialect;
use crate::error::ConnectError;
use crate::limits::Limits;

/// Where replies come back on AMQP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ReplyRoute {
    /// RabbitMQ's Direct Reply-to: no queue.
    #[default]
    Direct,
    /// An exclusive queue of this node, bound to the direct exchange `commlib.reply`.
    Queue,
}

/// What a transport is connected with.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(any(feature = "redis", feature = "amqp")),
    expect(dead_code, reason = "the in-process bus has no connection to set up")
)]
pub(crate) struct TransportOptions {
    /// Returns from connecting before there is a connection, and keeps trying.
    pub(crate) lazy: bool,
    /// How long one try of connecting may take, greeting and login included.
    pub(crate) connect_timeout: Duration,
    /// Limit for each operation at the broker that has no deadline of its own.
    pub(crate) operation_timeout: Duration,
    /// Those of the node.
    pub(crate) limits: Limits,
    /// The form that clients and publishers write.
    pub(crate) dialect: Dialect,
    /// Only AMQP has a choice.
    pub(crate) reply_route: ReplyRoute,
    /// Whom secure connections trust, and who we are there.
    pub(crate) tls: Tls,
    /// A name for this node at the broker: 24 characters of `[A-Za-z0-9_-]`, unguessable.
    pub(crate) node_id: String,
}

/// Connects the transport that the URL names.
pub(crate) async fn connect(
    url: &BrokerUrl,
    options: TransportOptions,
) -> Result<Arc<dyn Transport>, ConnectError> {
    check(url, &options)?;
    if url.is_readable_on_the_way() {
        tracing::warn!(
            broker = url.address(),
            "messages and passwords go to the broker unencrypted, and it is not on this machine; write {}s:// unless the network between is to be trusted",
            url.scheme()
        );
    }
    match url.kind() {
        #[cfg(feature = "memory")]
        url::Scheme::Memory => Ok(super::memory::connect(url, &options)),
        #[cfg(feature = "redis")]
        url::Scheme::Redis | url::Scheme::Rediss | url::Scheme::RedisUnix => {
            super::redis::connect(url, options).await
        }
        #[cfg(feature = "amqp")]
        url::Scheme::Amqp | url::Scheme::Amqps => super::amqp::connect(url, options).await,
        #[cfg(not(all(feature = "memory", feature = "redis", feature = "amqp")))]
        scheme => Err(ConnectError::NotBuilt {
            scheme: scheme.as_str(),
            feature: scheme.feature(),
        }),
    }
}

/// Refuses settings that the URL's transport does not have.
fn check(url: &BrokerUrl, options: &TransportOptions) -> Result<(), ConnectError> {
    use url::Scheme;
    let unsupported = |transport, reason: &str| {
        let reason = reason.to_owned();
        Err(ConnectError::Unsupported { transport, reason })
    };
    if !options.tls.is_default() && !matches!(url.kind(), Scheme::Rediss | Scheme::Amqps) {
        return Err(ConnectError::Settings(format!(
            "there are settings for TLS, but {}:// is not secure; write rediss:// or amqps://",
            url.scheme()
        )));
    }
    match url.kind() {
        Scheme::Memory if options.dialect != Dialect::Native => {
            unsupported("memory", "has no peers of another dialect; leave the dialect out")
        }
        Scheme::Memory if options.reply_route != ReplyRoute::Direct => {
            unsupported("memory", "has no choice of reply routes; leave the route out")
        }
        Scheme::Redis | Scheme::Rediss | Scheme::RedisUnix if options.reply_route != ReplyRoute::Direct => {
            unsupported("redis", "has no choice of reply routes; leave the route out")
        }
        _ => Ok(()),
    }
}

#[cfg(all(test, feature = "memory", feature = "redis"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settings_that_a_transport_lacks_are_refused() {
        let lacks = async |builder: crate::NodeBuilder, url: &str| match builder.connect(url).await {
            Err(ConnectError::Unsupported { transport, .. }) => transport,
            other => panic!("{url}: {other:?}"),
        };
        assert_eq!(
            lacks(crate::Node::builder().dialect(Dialect::CommlibPy), "memory://").await,
            "memory"
        );
        assert_eq!(
            lacks(crate::Node::builder().reply_route(ReplyRoute::Queue), "memory://").await,
            "memory"
        );
        let queue = crate::Node::builder().reply_route(ReplyRoute::Queue);
        assert_eq!(lacks(queue, "redis://127.0.0.1:1").await, "redis");
    }
}
