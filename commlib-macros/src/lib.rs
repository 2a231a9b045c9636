//! Attribute macros of commlib.
