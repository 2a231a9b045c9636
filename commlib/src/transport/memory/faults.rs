//! What goes wrong on an in-process bus on purpose, drawn from a seed.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;

/// How many messages are remembered to tell a second delivery from a first.
const REMEMBERED: usize = 4_096;
/// How long a message that others overtake waits at most.
const OVERTAKEN: Duration = Duration::from_millis(5);

/// Faults of an in-process bus, for tests of programs: messages that are lost, late, doubled or overtaken, and
/// connections that break, all drawn from a seed. Nothing goes wrong by default.
///
/// Set them with [`Bus::set_faults`](super::Bus::set_faults) before the nodes connect. On a current-thread runtime with a
/// paused clock, one seed gives one history: print the seed when a test fails, and run it again. What goes wrong is what
/// real brokers and networks do, and no more:
///
/// - requests, replies, and the confirmations of what was published or sent without a reply are lost; a publish or send
///   without its confirmation fails when [`NodeBuilder::operation_timeout`](crate::NodeBuilder::operation_timeout) is over,
///   and may have arrived;
/// - requests and messages of durable topics are delivered twice, the second time marked as redelivered, and replies
///   come twice;
/// - requests and replies are late, or overtaken by others;
/// - the connection of a node breaks and comes back: calls in flight end, its servers serve nothing meanwhile, and its
///   subscriptions miss messages and are told of the gap.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use commlib::Node;
/// use commlib::transport::memory::{Bus, MemoryFaults};
///
/// let bus = Bus::named("bad-weather");
/// bus.set_faults(
///     MemoryFaults::seed(7)
///         .lose(0.01)
///         .delay(0.2, Duration::from_millis(50))
///         .duplicate(0.01)
///         .reorder(0.1)
///         .disconnect(0.002, Duration::from_millis(300)),
/// );
/// let node = Node::connect("memory://bad-weather").await?;
/// # node.shutdown(Duration::from_secs(1)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "faults do nothing until they are set on a bus"]
pub struct MemoryFaults {
    seed: u64,
    lose: f64,
    delay: (f64, Duration),
    duplicate: f64,
    reorder: f64,
    disconnect: (f64, Duration),
}

impl MemoryFaults {
    /// No faults yet, and the seed of those to come.
    pub const fn seed(seed: u64) -> Self {
        Self {
            seed,
            lose: 0.0,
            delay: (0.0, Duration::ZERO),
            duplicate: 0.0,
            reorder: 0.0,
            disconnect: (0.0, Duration::ZERO),
        }
    }

    /// This share of messages, from 0 to 1, is lost.
    pub const fn lose(mut self, share: f64) -> Self {
        self.lose = share;
        self
    }

    /// This share of messages, from 0 to 1, is late by up to `most`.
    pub const fn delay(mut self, share: f64, most: Duration) -> Self {
        self.delay = (share, most);
        self
    }

    /// This share of messages, from 0 to 1, comes twice.
    pub const fn duplicate(mut self, share: f64) -> Self {
        self.duplicate = share;
        self
    }

    /// This share of messages, from 0 to 1, is overtaken by those sent within the next 5 ms.
    pub const fn reorder(mut self, share: f64) -> Self {
        self.reorder = share;
        self
    }

    /// After this share of messages, from 0 to 1, the connection of the node that sent or took it breaks, and is back
    /// after up to `most`.
    pub const fn disconnect(mut self, share: f64, most: Duration) -> Self {
        self.disconnect = (share, most);
        self
    }
}

/// What happens to one message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fate {
    pub(super) lost: bool,
    /// Where there is a confirmation, whether that is what was lost.
    pub(super) arrived: bool,
    pub(super) late: Option<Duration>,
    /// How much later it comes once more.
    pub(super) again: Option<Duration>,
    /// For how long the connection is gone after it.
    pub(super) cut: Option<Duration>,
}

/// The faults of a bus, being drawn.
#[derive(Debug)]
pub(super) struct Weather {
    faults: MemoryFaults,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    /// The ids of what was delivered, the oldest first.
    order: VecDeque<String>,
    delivered: HashSet<String>,
}

impl Weather {
    pub(super) fn new(faults: MemoryFaults) -> Self {
        let state = State {
            next: faults.seed,
            order: VecDeque::new(),
            delivered: HashSet::new(),
        };
        Self {
            faults,
            state: Mutex::new(state),
        }
    }

    /// What happens to the next message. Each takes as many numbers, so that one fault more or less moves no other.
    pub(super) fn fate(&self) -> Fate {
        let mut state = self.state.lock();
        let mut draws = [0.0; 9];
        draws.fill_with(|| state.draw());
        drop(state);
        let [
            lost,
            arrived,
            late,
            how_late,
            overtaken,
            how_far,
            again,
            cut,
            how_long,
        ] = draws;
        let faults = &self.faults;
        let of = |most: Duration, share: f64| most.mul_f64(share);
        let mut delay = Duration::ZERO;
        if late < faults.delay.0 {
            delay += of(faults.delay.1, how_late);
        }
        if overtaken < faults.reorder {
            delay += of(OVERTAKEN, how_far);
        }
        Fate {
            lost: lost < faults.lose,
            arrived: arrived < 0.5,
            late: (delay > Duration::ZERO).then_some(delay),
            again: (again < faults.duplicate).then(|| of(OVERTAKEN, how_far)),
            cut: (cut < faults.disconnect.0).then(|| of(faults.disconnect.1, how_long)),
        }
    }

    /// Whether a message with this id is delivered for the first time.
    pub(super) fn is_first(&self, id: &str) -> bool {
        let mut state = self.state.lock();
        if !state.delivered.insert(id.to_owned()) {
            return false;
        }
        state.order.push_back(id.to_owned());
        if state.order.len() > REMEMBERED
            && let Some(oldest) = state.order.pop_front()
        {
            state.delivered.remove(&oldest);
        }
        true
    }
}

impl State {
    /// A number from 0 to below 1: SplitMix64, written out so that a seed means the same with every version of a library.
    fn draw(&mut self) -> f64 {
        self.next = self.next.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.next;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // The 53 bits that a float can hold.
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(faults: MemoryFaults) -> Vec<Fate> {
        let weather = Weather::new(faults);
        (0..10_000).map(|_| weather.fate()).collect()
    }

    #[test]
    fn a_seed_is_one_history_and_no_fault_moves_another() {
        let faults = MemoryFaults::seed(7).lose(0.1).duplicate(0.1);
        assert_eq!(fates(faults.clone()), fates(faults.clone()));
        assert_ne!(
            fates(faults.clone()),
            fates(MemoryFaults::seed(8).lose(0.1).duplicate(0.1))
        );
        let lost = |fates: Vec<Fate>| fates.iter().map(|fate| fate.lost).collect::<Vec<_>>();
        assert_eq!(lost(fates(faults)), lost(fates(MemoryFaults::seed(7).lose(0.1))));
    }

    #[test]
    fn shares_are_kept() {
        let ms = Duration::from_millis;
        let drawn = fates(
            MemoryFaults::seed(1)
                .lose(0.1)
                .delay(0.2, ms(50))
                .disconnect(0.01, ms(300)),
        );
        let share = |is: fn(&Fate) -> bool| drawn.iter().filter(|fate| is(fate)).count() as f64 / 10_000.0;
        for (share, wanted) in [
            (share(|fate| fate.lost), 0.1),
            (share(|fate| fate.late.is_some()), 0.2),
            (share(|fate| fate.cut.is_some()), 0.01),
            (share(|fate| fate.again.is_some()), 0.0),
        ] {
            assert!((share - wanted).abs() < 0.01, "{share} for {wanted}");
        }
        assert!(
            drawn
                .iter()
                .all(|fate| fate.late.is_none_or(|late| late <= ms(50)))
        );
        assert!(
            fates(MemoryFaults::seed(1))
                .iter()
                .all(|fate| !fate.lost && fate.late.is_none() && fate.cut.is_none())
        );
    }

    #[test]
    fn a_second_delivery_is_told_from_a_first() {
        let weather = Weather::new(MemoryFaults::seed(1));
        assert!(weather.is_first("a") && weather.is_first("b") && !weather.is_first("a"));
    }
}
