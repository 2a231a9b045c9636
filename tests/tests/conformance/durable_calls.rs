//! Durable methods: requests that are kept, handled at least once, and told apart by their keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use commlib::prelude::*;
use commlib::rpc::{DurableCall, ServeRpc};
use commlib::{DeadLetter, Durability, Execution, StatusCode};
use commlib_tests::eventually;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::world::{SOON, World};

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[serde(tag = "type")]
pub enum NotSold {
    #[error("{article} is sold out")]
    SoldOut { article: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// How many orders came before, this one included.
    pub number: u64,
    pub attempt: u32,
}

#[commlib::rpc_service(name = "shop")]
pub trait Shop {
    #[rpc(durable)]
    async fn buy(&self, ctx: &RequestContext, article: String) -> Result<Receipt, NotSold>;

    #[rpc(durable, oneway)]
    async fn note(&self, ctx: &RequestContext, text: String);

    /// Not durable, beside those that are.
    async fn sold(&self) -> u64;
}

/// An older version of it.
#[commlib::rpc_service(name = "shop")]
pub trait OldShop {
    #[rpc(durable, oneway)]
    async fn note(&self, text: u64);
}

/// Articles that are special.
const SOLD_OUT: &str = "unicorn";
const PANICS: &str = "china";
const WAITS: &str = "furniture";

#[derive(Clone)]
struct Clerk {
    /// Articles and notes, with the attempt of each.
    seen: Arc<Mutex<Vec<(String, u32)>>>,
    keys: Arc<Mutex<Vec<String>>>,
    /// One permit per piece of furniture.
    gate: Arc<Semaphore>,
}

impl Default for Clerk {
    fn default() -> Self {
        Self {
            seen: Arc::default(),
            keys: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        }
    }
}

impl Clerk {
    fn see(&self, ctx: &RequestContext, what: &str) -> u64 {
        self.keys
            .lock()
            .push(ctx.idempotency_key().unwrap_or_default().to_owned());
        let mut seen = self.seen.lock();
        seen.push((what.to_owned(), ctx.attempt()));
        seen.len() as u64
    }

    async fn saw(&self, count: usize) -> Vec<(String, u32)> {
        eventually(SOON, || async {
            let seen = self.seen.lock().clone();
            if seen.len() >= count { Ok(seen) } else { Err(seen) }
        })
        .await
    }
}

impl Shop for Clerk {
    async fn buy(&self, ctx: &RequestContext, article: String) -> Result<Receipt, NotSold> {
        let number = self.see(ctx, &article);
        match article.as_str() {
            SOLD_OUT => return Err(NotSold::SoldOut { article }),
            PANICS => panic!("it broke"),
            WAITS => {
                if let Ok(permit) = self.gate.acquire().await {
                    permit.forget();
                }
            }
            _ => {}
        }
        let attempt = ctx.attempt();
        Ok(Receipt { number, attempt })
    }

    async fn note(&self, ctx: &RequestContext, text: String) {
        self.see(ctx, &text);
        assert_ne!(text, PANICS);
    }

    async fn sold(&self) -> u64 {
        self.seen.lock().len() as u64
    }
}

fn serve(node: &Node, clerk: &Clerk) -> ServeRpc {
    node.serve(ShopServer::new(clerk.clone()))
        .retry_delay(Duration::from_millis(20), Duration::from_millis(100))
}

async fn letters(node: &Node, count: usize) -> Vec<DeadLetter> {
    eventually(SOON, || async {
        let letters = node.dead_letters("shop").list(10).await.expect("listing");
        (letters.len() == count).then_some(letters)
    })
    .await
}

/// Makes a call whose time is over before it is answered, though it reached the broker: on a busy machine that takes
/// longer now and then.
async fn too_late(call: impl Fn() -> DurableCall<Receipt, NotSold>) {
    for limit in [100, 1000, 10_000] {
        let error = call().timeout(Duration::from_millis(limit)).await.unwrap_err();
        assert_eq!(error.code(), Some(StatusCode::DeadlineExceeded), "{error:?}");
        if error.execution() == Execution::MayHaveRun {
            return;
        }
        assert_eq!(error.execution(), Execution::DidNotRun);
    }
    panic!("no request reached the broker");
}

pub async fn a_durable_call_is_answered(world: World) {
    let clerk = Clerk::default();
    let server = world.node().await;
    serve(&server, &clerk).await.unwrap();
    let shop = ShopClient::new(&world.node().await);
    let first = shop.buy("lamp".to_owned()).await.unwrap();
    assert_eq!(
        first,
        Receipt {
            number: 1,
            attempt: 1
        }
    );
    let error = shop.buy(SOLD_OUT.to_owned()).await.unwrap_err();
    let article = SOLD_OUT.to_owned();
    assert_eq!(error.into_app(), Some(NotSold::SoldOut { article }));
    let accepted = shop
        .note("hello".to_owned())
        .idempotency_key("a key")
        .await
        .unwrap();
    assert!(accepted.durability > Durability::None, "{accepted:?}");
    clerk.saw(3).await;
    assert_eq!(shop.sold().await.unwrap(), 3);
    let keys = clerk.keys.lock();
    assert_eq!(keys[2], "a key");
    assert!(
        keys[0].len() == 24 && keys[0] != keys[1],
        "each call has a key of its own: {keys:?}"
    );
}

pub async fn durable_requests_wait_for_servers(world: World) {
    let caller = world.node().await;
    let shop = ShopClient::new(&caller);
    // There was never a server, so nobody can know of the method but its caller.
    for number in 0..20 {
        let accepted = shop.note(number.to_string()).await.unwrap();
        assert!(accepted.durability > Durability::None, "{accepted:?}");
    }
    too_late(|| shop.buy("late".to_owned()).idempotency_key("late")).await;
    let waiting = shop.buy("lamp".to_owned()).timeout(SOON);
    let waiting = tokio::spawn(waiting.into_future());
    let clerk = Clerk::default();
    let node = world.node().await;
    let server = serve(&node, &clerk).await.unwrap();
    let receipt = waiting.await.unwrap().unwrap();
    assert_eq!(receipt.attempt, 1);
    let seen: HashMap<_, _> = clerk.saw(22).await.into_iter().collect();
    assert_eq!(seen.len(), 22, "{seen:?}");
    assert!(seen.contains_key("late"));
    // And once more, now that there was one.
    server.shutdown().await.unwrap();
    shop.note("away".to_owned()).await.unwrap();
    let clerk = Clerk::default();
    serve(&world.node().await, &clerk).await.unwrap();
    assert_eq!(clerk.saw(1).await, [("away".to_owned(), 1)]);
}

pub async fn one_key_is_handled_once(world: World) {
    let clerk = Clerk::default();
    let servers = [world.node().await, world.node().await];
    serve(&servers[0], &clerk).await.unwrap();
    let shop = ShopClient::new(&world.node().await);
    let buy = |article: &str, key: &str| shop.buy(article.to_owned()).idempotency_key(key).timeout(SOON);
    let first = buy("lamp", "one").await.unwrap();
    assert_eq!(buy("lamp", "one").await.unwrap(), first);
    for _ in 0..2 {
        let error = buy(SOLD_OUT, "two").await.unwrap_err();
        assert!(error.into_app().is_some());
    }
    // Of another node, too.
    let other = ShopClient::new(&world.node().await);
    let again = other.buy("lamp".to_owned()).idempotency_key("one");
    assert_eq!(again.await.unwrap(), first);
    assert_eq!(clerk.seen.lock().len(), 2);
    let error = buy("lantern", "one").await.unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::InvalidArgument), "{error}");
    assert_eq!(error.execution(), Execution::DidNotRun);
    assert!(error.to_string().contains("another body"), "{error}");
    // The same key of another method is another key.
    shop.note("lantern".to_owned())
        .idempotency_key("one")
        .await
        .unwrap();
    clerk.saw(3).await;
    // The second one of two that come together waits for the first.
    let both = [buy(WAITS, "three"), buy(WAITS, "three")].map(|call| tokio::spawn(call.into_future()));
    clerk.saw(4).await;
    clerk.gate.add_permits(1);
    let [one, two] = both;
    assert_eq!(one.await.unwrap().unwrap(), two.await.unwrap().unwrap());
    assert_eq!(clerk.seen.lock().len(), 4);
    for key in ["", &"x".repeat(257), "a\nb"] {
        let error = buy("lamp", key).await.unwrap_err();
        assert_eq!(error.execution(), Execution::DidNotRun, "{error}");
    }
}

pub async fn a_key_is_remembered_as_long_as_the_server_says(world: World) {
    let clerk = Clerk::default();
    let window = Duration::from_millis(1500);
    serve(&world.node().await, &clerk).remember(window).await.unwrap();
    let shop = ShopClient::new(&world.node().await);
    let buy = |article: &str| shop.buy(article.to_owned()).idempotency_key("key").timeout(SOON);
    // A handler that takes longer than the window keeps its key.
    let slow = tokio::spawn(buy(WAITS).into_future());
    clerk.saw(1).await;
    tokio::time::sleep(2 * window).await;
    let second = tokio::spawn(buy(WAITS).into_future());
    tokio::time::sleep(window / 10).await;
    clerk.gate.add_permits(1);
    assert_eq!(slow.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!(clerk.seen.lock().len(), 1);
    // Afterwards it is a key like any other.
    eventually(SOON, || async { buy("lamp").await.is_ok() }).await;
    assert_eq!(clerk.seen.lock().len(), 2);
}

pub async fn a_panic_is_handled_again_and_then_given_up(world: World) {
    let clerk = Clerk::default();
    let node = world.node().await;
    serve(&node, &clerk).attempts(3).await.unwrap();
    let shop = ShopClient::new(&world.node().await);
    let begun = Instant::now();
    let error = shop
        .buy(PANICS.to_owned())
        .idempotency_key("vase")
        .timeout(SOON)
        .header("k", "v")
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::Internal), "{error}");
    assert_eq!(error.execution(), Execution::MayHaveRun);
    assert!(
        begun.elapsed() >= Duration::from_millis(20 + 40),
        "it rests between the attempts"
    );
    let panics = |attempts: u32| (1..=attempts).map(|attempt| (PANICS.to_owned(), attempt));
    assert_eq!(*clerk.seen.lock(), panics(3).collect::<Vec<_>>());
    let letter = letters(&node, 1).await.remove(0);
    assert_eq!(letter.topic, "shop.buy");
    assert!(letter.reason.contains("never handled"), "{letter:?}");
    assert_eq!(letter.body.as_ref(), br#"{"article":"china"}"#);
    assert_eq!(letter.headers.get("k"), Some("v"));
    // Sent again it comes as for the first time.
    clerk.seen.lock().clear();
    let dead = node.dead_letters("shop");
    assert!(dead.resend(&letter.id).await.unwrap());
    let letter = letters(&node, 1).await.remove(0);
    assert_eq!(clerk.saw(3).await, panics(3).collect::<Vec<_>>());
    assert!(dead.discard(&letter.id).await.unwrap());
    assert_eq!(letters(&node, 0).await, []);
}

pub async fn what_nobody_can_be_told_is_a_dead_letter(world: World) {
    let clerk = Clerk::default();
    let node = world.node().await;
    serve(&node, &clerk).attempts(2).await.unwrap();
    OldShopClient::new(&node).note(7).await.unwrap();
    let letter = letters(&node, 1).await.remove(0);
    assert_eq!((letter.topic.as_str(), letter.attempts), ("shop.note", 1));
    assert!(letter.reason.contains("not what the method takes"), "{letter:?}");
    assert!(node.dead_letters("shop").discard(&letter.id).await.unwrap());
    ShopClient::new(&node).note(PANICS.to_owned()).await.unwrap();
    let letter = letters(&node, 1).await.remove(0);
    assert!(letter.reason.contains("2 times"), "{letter:?}");
}

pub async fn what_a_server_leaves_goes_to_another(world: World) {
    let gone = Clerk::default();
    let node = world.node().await;
    serve(&node, &gone).concurrency(4).await.unwrap();
    let caller = world.node().await;
    let shop = ShopClient::new(&caller);
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let call = shop.buy(WAITS.to_owned()).timeout(Duration::from_secs(30));
            tokio::spawn(call.into_future())
        })
        .collect();
    gone.saw(4).await;
    // The handlers do not finish: their node ends them.
    node.shutdown(Duration::ZERO).await.unwrap_err();
    let clerk = Clerk::default();
    clerk.gate.add_permits(100);
    serve(&world.node().await, &clerk).await.unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().attempt, 2);
    }
    assert_eq!(clerk.seen.lock().len(), 4);
}

pub async fn a_caller_that_goes_away_does_not_cancel(world: World) {
    let clerk = Clerk::default();
    serve(&world.node().await, &clerk).await.unwrap();
    let shop = ShopClient::new(&world.node().await);
    let call = || shop.buy(WAITS.to_owned()).idempotency_key("mine");
    too_late(call).await;
    clerk.saw(1).await;
    let dropped = tokio::spawn(call().into_future());
    dropped.abort();
    clerk.gate.add_permits(1);
    // The answer is there for whoever asks with the key.
    let receipt = call().timeout(SOON).await.unwrap();
    assert_eq!(
        receipt,
        Receipt {
            number: 1,
            attempt: 1
        }
    );
    assert_eq!(clerk.seen.lock().len(), 1);
}
