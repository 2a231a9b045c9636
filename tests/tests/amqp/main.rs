//! What is particular to RabbitMQ, against a real one.

mod alarm;
mod auto_ack;
mod channels;
mod copies;
mod goodbye;
mod last_acks;
mod last_server;
mod login;
mod patience;
mod redelivery;
mod returns;
mod surge;
mod unconfirmed;
mod world;
