//! What is particular to RabbitMQ, against a real one.

mod alarm;
mod auto_ack;
mod channels;
mod goodbye;
mod login;
mod redelivery;
mod returns;
mod unconfirmed;
mod world;
