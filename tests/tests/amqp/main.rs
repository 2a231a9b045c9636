//! What is particular to RabbitMQ, against a real one.

mod alarm;
mod channels;
mod login;
mod returns;
mod world;
