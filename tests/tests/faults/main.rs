//! Faults: brokers, networks and processes that break, and what each promise says then.
//!
//! Every row of the table in `docs/reliability.md` that no other suite proves has its test here, on Redis and on
//! RabbitMQ wherever both can have the fault.

#![allow(unreachable_pub, reason = "the modules of a test binary have no outside")]

mod input;
mod load;
mod only_rabbitmq;
mod only_redis;
mod outages;
mod privileges;
mod raw;
mod reconnects;
mod servers;
mod silence;
mod world;

/// Runs bodies on Redis and on RabbitMQ: with a broker of their own, or with the shared one.
macro_rules! on_both {
    (own { $($own:tt)* } shared { $($shared:tt)* }) => {
        mod redis {
            on_both!(@ redis $($own)*);
            on_both!(@ shared_redis $($shared)*);
        }
        mod amqp {
            on_both!(@ amqp $($own)*);
            on_both!(@ shared_amqp $($shared)*);
        }
    };
    (@ $world:ident $($module:ident :: $name:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::$module::$name($crate::world::World::$world().await).await;
        })*
    };
}

on_both! {
    own {
        outages::calls_and_topics_survive_a_broker_that_dies_stops_and_freezes
    }
    shared {
        input::poison_in_a_live_queue_stops_nobody
        input::wrong_clocks_cost_no_call_its_time
        privileges::each_role_has_what_it_needs_and_no_more
        outages::a_lazy_node_serves_and_hears_when_the_broker_comes
        servers::a_caller_who_is_gone_leaves_nothing
        servers::a_killed_server_takes_only_what_it_had
        servers::a_subscriber_who_sleeps_costs_bounded_memory
        servers::chains_of_calls_do_not_wait_for_themselves
        servers::panics_cost_no_permit
        servers::three_servers_share_fairly_and_each_call_runs_once
        servers::what_waits_for_the_last_server_is_told_or_served_by_the_next
        servers::two_servers_of_one_node_and_two_nodes_do_not_mix_replies
        silence::a_black_hole_in_one_and_in_both_directions_is_noticed
        silence::what_a_slow_network_delivers_late_was_never_told_as_not_run
    }
}
