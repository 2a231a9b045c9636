//! The conformance suite: the same test bodies for every transport.
//!
//! Each module holds the bodies of one subject, written against a [`World`](world::World). The clauses of the
//! transport contract (`commlib::transport`) are named in the tests that prove them.

#![allow(unreachable_pub, reason = "the modules of a test binary have no outside")]

mod bad_input;
mod calls;
mod clauses;
mod codecs;
mod compressed;
mod contract;
mod durable;
mod durable_calls;
mod headers;
mod limits;
mod namespaces;
mod outages;
mod raw;
mod topics;
mod world;

/// Runs bodies on every transport, as `memory::…`, `redis::…` and `amqp::…`, and those that stay in their namespace once
/// more as users who may do nothing beyond it.
macro_rules! on_every_transport {
    (all { $($all:tt)* } brokers { $($brokers:tt)* } everywhere { $($everywhere:tt)* }) => {
        on_every_transport!(@ memory $($all)* $($everywhere)*);
        on_every_transport!(@ redis $($all)* $($brokers)* $($everywhere)*);
        on_every_transport!(@ amqp $($all)* $($brokers)* $($everywhere)*);
        on_every_transport!(@ redis_as_least $($all)* $($brokers)*);
        on_every_transport!(@ amqp_as_least $($all)* $($brokers)*);
    };
    (@ $transport:ident $($module:ident { $($name:ident)* })*) => {
        mod $transport {
            $(mod $module {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    $crate::$module::$name($crate::world::World::$transport().await).await;
                })*
            })*
        }
    };
}

on_every_transport! {
    all {
        calls {
            a_call_returns_what_the_method_returns
            the_methods_own_error_comes_back_typed
            a_oneway_request_runs_without_a_reply
            headers_and_context_reach_the_handler
            a_call_ends_at_its_deadline
            what_a_handler_returns_because_of_the_deadline_is_no_success
            the_deadline_of_a_request_bounds_the_calls_of_its_handler
            dropping_a_call_is_seen_by_the_handler
            a_canceled_request_that_waits_is_not_run
            a_panic_is_an_internal_error_and_the_server_lives_on
            nested_calls_do_not_deadlock_at_concurrency_one
            two_services_that_call_each_other_do_not_deadlock
            many_calls_in_flight_each_get_their_own_reply
            too_many_calls_in_flight_are_refused
            a_request_that_waited_too_long_is_refused
            servers_that_refuse_are_sent_less
            a_full_queue_is_sent_less
            a_body_over_the_limit_is_refused_before_it_is_sent
            a_reply_over_the_limit_is_an_error
            shutdown_finishes_what_was_taken
            shutdown_ends_what_does_not_finish
            a_node_that_is_shut_down_refuses_calls
            retries_stop_when_somebody_serves
            middleware_wraps_both_sides
            the_trace_goes_through
        }
        topics {
            a_message_reaches_every_matching_subscription_once
            captured_levels_come_typed_and_select
            wildcards_keep_to_levels
            a_slow_reader_is_told_how_many_it_missed
            a_group_shares_the_messages
            a_handler_gets_messages_in_order
            messages_that_are_awaited_together_keep_their_order
            handlers_of_a_group_share_the_messages
            a_dropped_subscription_ends
            a_stopped_subscription_gives_what_it_has_and_ends
            an_unusable_message_is_a_notice
            one_that_joins_others_hears_nothing_of_before
            untyped_subscriptions_hear_everything
            the_trace_goes_through_topics
            a_bad_level_is_refused_before_it_is_sent
        }
        durable {
            a_group_gets_what_was_published_while_it_was_away
            a_group_of_readers_takes_up_where_it_was
            a_failed_message_is_handled_again_and_then_given_up
            a_message_that_cannot_be_read_is_given_up_at_once
            a_dead_letter_is_sent_again_or_discarded
            members_share_and_groups_do_not
            members_that_come_and_go_lose_nothing
            what_a_member_leaves_unhandled_goes_to_another
            captures_of_durable_topics_select
            listeners_without_a_group_hear_durable_topics
            a_group_without_members_can_be_removed
            a_group_has_no_more_messages_than_its_node_says
            a_group_has_no_more_dead_letters_than_its_node_says
            the_members_of_a_group_agree_on_its_messages
            a_member_handles_no_more_at_once_than_it_says
            a_durable_topic_needs_a_group
        }
        durable_calls {
            a_durable_call_is_answered
            durable_requests_wait_for_servers
            one_key_is_handled_once
            a_key_is_remembered_as_long_as_the_server_says
            a_panic_is_handled_again_and_then_given_up
            what_nobody_can_be_told_is_a_dead_letter
            what_a_server_leaves_goes_to_another
            a_caller_that_goes_away_does_not_cancel
        }
        codecs {
            a_server_answers_in_the_codec_of_the_call
            a_server_of_message_pack_answers_json_in_json
            subscribers_read_every_codec
            a_dead_letter_keeps_its_codec
            an_unknown_content_type_is_refused
            bad_message_pack_is_an_invalid_argument
            message_pack_over_the_servers_limit_is_refused
        }
        compressed {
            bodies_are_compressed_both_ways
            topic_messages_are_compressed
            what_the_broker_keeps_is_compressed
            an_unknown_encoding_is_refused
            what_unpacks_to_too_much_is_refused
        }
        limits {
            a_body_may_be_smaller_in_one_direction
            too_many_headers_are_refused_on_both_sides
            headers_that_are_too_large_are_refused_on_both_sides
            very_many_headers_cost_a_server_no_time
            nesting_over_the_limit_is_refused
            topic_messages_over_a_limit_are_notices
            a_server_runs_no_more_at_once_than_its_node_says
            handlers_of_topics_run_no_more_at_once_than_they_say
            servers_of_durable_methods_run_no_more_at_once_than_they_say
            a_reader_keeps_no_more_than_its_node_says
            addresses_have_a_longest_length
        }
        clauses {
            c01_exactly_one_consumer_gets_a_message
            c06_a_busy_server_leaves_requests_to_others
            c06_a_place_that_one_method_frees_serves_another
            c07_what_was_not_started_is_not_lost_at_shutdown
            c09_nobody_serves_is_known_at_once
            c09_nobody_serves_is_known_soon_after_a_shutdown
            c10_a_stopped_server_takes_nothing
            c15_an_expired_request_is_not_run
        }
        bad_input {
            bytes_that_are_no_message
            a_body_of_the_wrong_type_is_an_invalid_argument
            missing_arguments_are_named
            unknown_fields_are_ignored
            an_empty_body_is_an_invalid_argument
            deep_nesting_is_an_invalid_argument
            a_body_over_the_servers_limit_is_refused
            forged_reply_addresses_are_not_written_to
            what_a_peer_calls_its_headers_changes_nothing
            errors_tell_a_peer_nothing_of_the_inside
            an_unknown_method_is_refused
            unusable_topic_messages_do_not_stop_a_subscription
        }
    }
    brokers {
        outages {
            c11_a_cut_connection_ends_calls_in_flight_at_once
            c12_servers_and_clients_come_back_after_a_cut
            c12_subscriptions_come_back_and_tell_of_the_gap
            a_call_made_while_the_broker_is_away_keeps_its_deadline
            a_call_waits_for_a_connection_that_comes_in_time
            an_unreachable_broker_is_an_error_at_once
            a_lazy_node_connects_when_the_broker_comes
            a_black_hole_does_not_outlast_the_deadline
            c13_whatever_is_begun_in_a_black_hole_ends
        }
    }
    everywhere {
        namespaces {
            namespaces_keep_apart
        }
        headers {
            any_headers_arrive_unchanged_or_are_refused
        }
    }
}
