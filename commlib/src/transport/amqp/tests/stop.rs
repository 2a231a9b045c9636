//! What a server has taken from its queue when it is told to stop.

use std::pin::pin;

use commlib_tests::RabbitMq;
use futures_util::stream::{self, StreamExt};
use tokio::sync::Semaphore;

use super::consumer::{Session, Task};
use super::last::PATIENCE;
use super::session::{End, Taker};
use super::*;
use crate::envelope::Meta;

struct Requests(UnboundedSender<Delivery>);

impl RequestSink for Requests {
    fn deliver(&self, delivery: Delivery) {
        let _ = self.0.send(delivery);
    }
}

/// The only server of a queue, with a request that is there to be taken, and who waits for its answer.
struct World {
    amqp: Arc<Amqp>,
    link: Arc<supervisor::Link>,
    task: Task,
    session: Session,
    permits: Arc<Semaphore>,
    taken: UnboundedReceiver<Delivery>,
    told: UnboundedReceiver<Told>,
}

impl World {
    async fn new() -> Self {
        let amqp = open_at(&RabbitMq::shared().await.url()).await;
        let (sink, told) = replies();
        amqp.open_inbox(sink).await.unwrap();
        let (sender, taken) = unbounded_channel();
        let permits = Arc::new(Semaphore::new(1));
        let address = unique();
        let task = Task {
            core: Arc::clone(&amqp.core),
            spec: ConsumeSpec {
                service: "test".into(),
                addresses: vec![address.clone()],
                permits: Arc::clone(&permits),
                concurrency: 1,
                auto_ack: false,
                max_wait: None,
                max_body: 1024,
                sink: Arc::new(Requests(sender)),
            },
            stop: CancellationToken::new(),
        };
        let link = amqp.core.link().await.unwrap();
        let mut session = task.build(&link).await.unwrap();
        amqp.request(Request {
            address,
            message: Envelope {
                data: "{}".into(),
                meta: Meta {
                    id: Some("1".into()),
                    ..Meta::default()
                },
            },
            time_to_live: LIMIT,
            durable: false,
        })
        .unwrap();
        let item = tokio::time::timeout(LIMIT, session.queues.next()).await.unwrap();
        // It is put back where it came from: there for certain when the server looks.
        session.queues.push(stream::iter(item).boxed());
        Self {
            amqp,
            link,
            task,
            session,
            permits,
            taken,
            told,
        }
    }
}

#[tokio::test]
async fn what_is_there_when_a_server_is_told_to_stop_is_handed_up() {
    let mut world = World::new().await;
    world.task.stop.cancel();
    let taking = world.task.take(world.session, &world.link);
    let end = tokio::time::timeout(LIMIT, taking).await.unwrap();
    assert!(matches!(end, End::Stopped));
    let delivery = world.taken.try_recv().expect("the request is lost");
    let Taken::Message(request) = delivery.taken else {
        panic!("the request can't be read");
    };
    assert_eq!(request.meta.id.as_deref(), Some("1"));
    delivery.responder.reply(Envelope::default());
    assert!(
        matches!(next(&mut world.told).await, Told::Reply(id, reply) if id == "1" && reply.meta.error.is_none())
    );
    world.amqp.close(LIMIT).await.unwrap();
}

#[tokio::test]
async fn what_waits_for_a_place_when_the_last_server_is_told_to_stop_is_refused() {
    // While the machine stalls it may not learn in time that it is the last.
    for _ in 0..5 {
        if refuses_what_waits(World::new().await).await {
            return;
        }
    }
    panic!("it takes too long to stop");
}

/// Whether the server learned in time that it is the last.
async fn refuses_what_waits(mut world: World) -> bool {
    let _busy = Arc::clone(&world.permits).try_acquire_owned().unwrap();
    let mut taking = pin!(world.task.take(world.session, &world.link));
    assert!(poll_immediate(&mut taking).await.is_none());
    world.task.stop.cancel();
    let begun = Instant::now();
    let end = tokio::time::timeout(LIMIT, taking).await.unwrap();
    assert!(matches!(end, End::Stopped));
    if begun.elapsed() >= PATIENCE {
        return false;
    }
    let Told::Reply(id, reply) = next(&mut world.told).await else {
        panic!("that was no reply");
    };
    let error = reply.meta.error.expect("a refusal");
    // Had the broker got it back in between, nobody could tell whether it ran.
    let told = (id.as_str(), error.code.as_str(), error.execution);
    assert_eq!(told, ("1", "unavailable", Some(Execution::DidNotRun)));
    assert!(world.taken.try_recv().is_err());
    world.amqp.close(LIMIT).await.unwrap();
    true
}

#[tokio::test]
async fn what_gets_a_place_while_a_server_stops_is_handed_up() {
    let mut world = World::new().await;
    let busy = Arc::clone(&world.permits).try_acquire_owned().unwrap();
    let mut taking = pin!(world.task.take(world.session, &world.link));
    assert!(poll_immediate(&mut taking).await.is_none());
    world.task.stop.cancel();
    // Now it asks the broker whether it is the last one.
    assert!(poll_immediate(&mut taking).await.is_none());
    drop(busy);
    let end = tokio::time::timeout(LIMIT, taking).await.unwrap();
    assert!(matches!(end, End::Stopped));
    let delivery = world.taken.try_recv().expect("the request is lost");
    assert!(!delivery.redelivered);
    delivery.responder.reply(Envelope::default());
    assert!(
        matches!(next(&mut world.told).await, Told::Reply(id, reply) if id == "1" && reply.meta.error.is_none())
    );
    world.amqp.close(LIMIT).await.unwrap();
}
