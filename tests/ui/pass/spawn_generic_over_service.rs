//! Futures of a trait's methods and of its client are `Send`, so generic code can spawn them.

use std::sync::Arc;

#[commlib::rpc_service]
trait Service: Clone {
    async fn call(&self, a: String) -> String;
    async fn with_default(&self, a: String) -> String {
        self.call(a).await
    }
}

#[commlib::topic]
trait Topics {
    async fn told(&self, a: String);
}

fn spawn<F: Future + Send + 'static>(future: F) {
    drop(future);
}

fn over_trait<S: Service>(service: S) {
    spawn(
        async move { service.call(String::new()).await + &service.clone().with_default(String::new()).await },
    );
}

fn over_topics<T: Topics>(handler: Arc<T>) {
    spawn(async move { handler.told(String::new()).await });
}

fn over_client(client: ServiceClient, publisher: TopicsPublisher) {
    spawn(async move {
        let _ = client.call(String::new()).await;
        let _ = publisher.told(String::new()).await;
    });
}

pub(crate) fn main() {
    #[derive(Clone)]
    struct Handler;
    impl Service for Handler {
        async fn call(&self, a: String) -> String {
            a
        }
    }
    impl Topics for Handler {
        async fn told(&self, _: String) {}
    }
    over_trait(Handler);
    over_topics(Arc::new(Handler));
    let _ = over_client;
}
