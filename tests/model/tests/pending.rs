//! The scenarios of the table of calls in flight, each in every order in which it can go.

use commlib_model::scenarios;

macro_rules! in_every_order {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            scenarios::$name();
        })*
    };
}

in_every_order! {
    replies_and_a_loss
    two_calls_and_a_loss
    a_late_reply_and_the_next_call
    one_gives_up_beside_another
    a_deadline_and_a_reply
    a_deadline_alone
    a_call_comes_while_the_deadlines_are_looked_at
    the_watching_ends_while_a_call_comes
    the_runtime_goes_away
    the_runtime_goes_away_for_good
}
