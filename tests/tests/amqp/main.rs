//! What is particular to RabbitMQ, against a real one.

mod alarm;
mod channels;
mod login;
mod redelivery;
mod returns;
mod world;
