//! What senders handed over while the task of their lane had not heard of an alarm yet.

use std::pin::pin;

use commlib_tests::RabbitMq;
use tokio::sync::Semaphore;

use super::*;

#[tokio::test]
async fn who_handed_over_when_an_alarm_began_is_told_of_it() {
    let broker = RabbitMq::start().await;
    let amqp = open_at(&broker.url()).await;
    let link = link(&amqp).await;
    let queue = queue(&link).await;
    let (requests, mut told) = requests(&amqp);
    let answers = lane(&amqp, Kind::Replies);
    let mut asking = pin!(requests.build(&link).await.unwrap().run());
    let mut answering = pin!(answers.build(&link).await.unwrap().run());
    // From here on senders hand over themselves, and neither task gets a turn.
    assert_eq!(poll_immediate(&mut asking).await, None);
    assert_eq!(poll_immediate(&mut answering).await, None);

    // The disk, as other tests have the memory: no machine has so much.
    broker.ctl(&["set_disk_free_limit", "1000000GB"]).await;
    // The broker says so to those who publish. It may take one or two messages before.
    let mut blocked = link.blocked();
    let mut sent = Vec::new();
    let begun = Instant::now();
    while blocked.borrow_and_update().is_none() {
        assert!(begun.elapsed() < LIMIT, "there is no alarm");
        let id = sent.len().to_string();
        requests.submit(job(&queue, &id)).unwrap();
        sent.push(id);
        let _ = tokio::time::timeout(Duration::from_secs(1), blocked.changed()).await;
    }
    assert!(!sent.is_empty());
    // What a server answers now is not written before the alarm is over.
    let permits = Arc::new(Semaphore::new(1));
    let reply = Job {
        outcome: Outcome::Reply {
            permit: Arc::clone(&permits).try_acquire_owned().ok(),
            delivery: None,
            until: (Instant::now() + LIMIT).into_std(),
        },
        ..job(&queue, "reply")
    };
    answers.submit(reply).unwrap();
    assert_eq!(permits.available_permits(), 0);

    assert_eq!(poll_immediate(&mut asking).await, None);
    for id in sent {
        let Ok(Told::Failed(of, error)) = told.try_recv() else {
            panic!("the caller of {id} is not told");
        };
        assert_eq!((of, error.execution), (id, Execution::MayHaveRun), "{error}");
    }
    assert_eq!(poll_immediate(&mut answering).await, None);
    assert_eq!(
        permits.available_permits(),
        1,
        "the server's place is still taken"
    );
}
