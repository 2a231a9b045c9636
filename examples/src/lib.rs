//! What the examples share: the contracts, and how a small program takes arguments, fails and ends ([`cli`]).
//!
//! A team would keep its contracts like this, in a crate of their own that all its programs depend on.

mod calculator;
pub mod cli;
mod sensors;

pub use calculator::{Answer, Calculator, CalculatorClient, CalculatorServer, DivError, Slept};
pub use sensors::{Sensors, SensorsHandler, SensorsPublisher, SensorsSubscriber, Sonar};

/// All contracts, as they are exported to `schemas/`.
#[must_use]
pub fn contracts() -> Vec<commlib::Contract> {
    vec![CalculatorClient::contract(), SensorsPublisher::contract()]
}

/// The code of the README is compiled and run with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
