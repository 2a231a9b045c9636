//! Shared contracts of the examples.
