//! The scenarios of groups on the in-process bus, each in every order in which it can go.

use commlib_model::groups;

#[test]
fn two_members_and_two_messages() {
    groups::two_members_and_two_messages();
}

#[test]
fn a_member_that_leaves_and_another() {
    groups::a_member_that_leaves_and_another();
}

#[test]
fn a_message_that_comes_back() {
    groups::a_message_that_comes_back();
}
