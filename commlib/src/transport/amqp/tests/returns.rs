//! Requests without confirms that the broker returns.

use commlib_tests::RabbitMq;

use super::*;

#[tokio::test]
async fn an_unconfirmed_request_that_comes_back_is_told_at_once() {
    let amqp = open_at(&RabbitMq::shared().await.url()).await;
    let (sink, mut told) = replies();
    amqp.open_inbox(sink).await.unwrap();
    let lane = &amqp.requests.get().unwrap().unconfirmed;
    let nobody = unique();
    // One by one, so that each has to be found by itself, and then many.
    for many in [1, 1, 20] {
        let mut ids: Vec<_> = (0..many).map(|number| format!("{many}-{number}")).collect();
        for id in &ids {
            lane.submit(job(&nobody, id)).unwrap();
        }
        while !ids.is_empty() {
            // There are no deadlines here: nothing else would tell.
            let Told::Failed(id, error) = next(&mut told).await else {
                panic!("that was no failure");
            };
            let what = (error.kind, error.execution);
            assert_eq!(
                what,
                (TransportErrorKind::NoResponders, Execution::DidNotRun),
                "{error}"
            );
            let at = ids.iter().position(|other| *other == id);
            ids.swap_remove(at.expect("told once"));
        }
    }
    amqp.close(LIMIT).await.unwrap();
}
