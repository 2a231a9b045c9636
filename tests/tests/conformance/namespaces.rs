//! Namespaces: what is in one is not in another.

use crate::contract::ProbeClient;
use crate::world::World;

pub async fn namespaces_keep_apart(world: World) {
    let _served = world.serve().await;
    let other = world
        .connect(world.builder().namespace(commlib_tests::unique("other")))
        .await;
    assert!(
        ProbeClient::new(&other)
            .add(1, 2)
            .await
            .unwrap_err()
            .is_no_responders()
    );
}
