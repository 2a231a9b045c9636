//! Typed messaging over message brokers.
