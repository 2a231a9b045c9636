//! What the macros generate in a crate without commlib's own name works like anywhere else.

use commlib_minimal_deps::{
    Reexported, ReexportedClient, ReexportedServer, Renamed, RenamedClient, RenamedServer, Swapping,
    SwappingClient, SwappingServer, TopicsPublisher, TopicsSubscriber,
};
use commlib_minimal_deps_facade::Pair;
use messaging::{Any, NoError, Node, RequestContext};

struct Handler;

impl Renamed for Handler {
    async fn add(&self, a: u8, b: u8, _: &RequestContext) -> u8 {
        a + b
    }
    async fn fail(&self) -> Result<Pair, NoError> {
        Ok(PAIR)
    }
    async fn tell(&self, _: String) {}
}

impl Reexported for Handler {
    async fn swap(&self, pair: Pair) -> Pair {
        Pair {
            first: pair.second,
            second: pair.first,
        }
    }
}

impl Swapping for Handler {
    async fn swap(&self, pair: Pair, twice: bool) -> Pair {
        if twice {
            pair
        } else {
            Pair {
                first: pair.second,
                second: pair.first,
            }
        }
    }
}

const PAIR: Pair = Pair { first: 1, second: 2 };
const SWAPPED: Pair = Pair { first: 2, second: 1 };

#[tokio::test]
async fn contracts_work_under_any_name() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::connect("memory://minimal-deps").await?;
    let _renamed = node.serve(RenamedServer::new(Handler)).await?;
    let _reexported = node.serve(ReexportedServer::new(Handler)).await?;
    let _swapping = node.serve(SwappingServer::new(Handler)).await?;
    assert_eq!(RenamedClient::new(&node).add(1, 2).await?, 3);
    assert_eq!(RenamedClient::new(&node).fail().await?, PAIR);
    assert_eq!(ReexportedClient::new(&node).swap(PAIR).await?, SWAPPED);
    assert_eq!(SwappingClient::new(&node).swap(PAIR, false).await?, SWAPPED);
    assert_eq!(SwappingClient::new(&node).swap(PAIR, true).await?, PAIR);

    let mut pairs = TopicsSubscriber::new(&node).pair(Any).await?;
    TopicsPublisher::new(&node).pair(7, PAIR).await?;
    let received = pairs.next().await.ok_or("the stream ended")??;
    assert_eq!((received.captures, received.message), ((7,), PAIR));
    Ok(())
}
