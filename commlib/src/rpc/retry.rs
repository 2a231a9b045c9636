//! When and how often a call is tried again, and how much trying again a node allows itself.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::{Execution, Failure, StatusCode};
use crate::node::Node;

/// The longest wait before the first retry; twice as long before each one more.
const LEAST: Duration = Duration::from_millis(50);
/// The longest wait.
const MOST: Duration = Duration::from_secs(5);
/// The time over which a budget counts, in seconds.
const WINDOW: usize = 10;

/// How a call is retried: only when the failed try certainly *did not run*, or the method is idempotent or durable and
/// the failure may pass; after a random wait of up to 50 ms, 100 ms, 200 ms, … 5 s; never past the deadline of the call;
/// and only as long as the [`RetryBudget`] of the node lasts.
///
/// ```
/// use commlib::rpc::Retry;
/// let retry = Retry::times(3);
/// # let _ = retry;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    times: u32,
}

impl Retry {
    /// Up to this many more tries after the first.
    #[must_use]
    pub const fn times(times: u32) -> Self {
        Self { times }
    }

    /// The wait before the next try after so many retries: anything up to a limit that grows, so that those who failed
    /// together do not come back together.
    fn delay(retries: u32) -> Duration {
        let longest = LEAST.saturating_mul(2_u32.saturating_pow(retries)).min(MOST);
        longest.mul_f64(rand::random::<f64>())
    }
}

/// How many retries a node allows itself, so that they don't keep down a server that is about to come back: a share of
/// the calls with a [`Retry`] in the last 10 s, and a few more. When it is used up, calls end with the error that they
/// have.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commlib::rpc::RetryBudget;
/// let node = commlib::Node::builder()
///     .retry_budget(RetryBudget::default().percent(20).floor(3))
///     .connect("memory://budget")
///     .await?;
/// assert_eq!((node.retries().made, node.retries().refused), (0, 0));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a budget does nothing until it is given to `NodeBuilder::retry_budget`"]
pub struct RetryBudget {
    percent: u32,
    floor: u32,
}

impl Default for RetryBudget {
    /// 10 % and 10.
    fn default() -> Self {
        Self {
            percent: 10,
            floor: 10,
        }
    }
}

impl RetryBudget {
    /// The share of calls, in percent. Default 10.
    pub const fn percent(mut self, percent: u32) -> Self {
        self.percent = percent;
        self
    }

    /// How many more in 10 s, whatever the number of calls. Default 10.
    pub const fn floor(mut self, retries: u32) -> Self {
        self.floor = retries;
        self
    }
}

/// Counts of a node since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Retries {
    /// Retries that were made.
    pub made: u64,
    /// Retries that were not made because the [budget](RetryBudget) was used up.
    pub refused: u64,
}

impl Node {
    /// How many calls of this node were tried again.
    #[must_use]
    pub fn retries(&self) -> Retries {
        self.config().retries.counted.lock().counts
    }
}

/// The budget of a node and what was spent of it.
#[derive(Debug)]
pub(crate) struct Budget {
    setting: RetryBudget,
    counted: Mutex<Counted>,
}

#[derive(Debug)]
struct Counted {
    start: Instant,
    /// The latest second that something was counted in.
    second: u64,
    /// Calls and retries of each of the last seconds.
    seconds: [(u64, u64); WINDOW],
    counts: Retries,
}

impl Counted {
    /// The counts of this second.
    fn now(&mut self) -> &mut (u64, u64) {
        let second = self.start.elapsed().as_secs();
        let length = WINDOW as u64;
        let place = |second: u64| usize::try_from(second % length).unwrap_or(0);
        for passed in (self.second + 1).max(second.saturating_sub(length - 1))..=second {
            self.seconds[place(passed)] = (0, 0);
        }
        self.second = self.second.max(second);
        &mut self.seconds[place(self.second)]
    }
}

impl Budget {
    pub(crate) fn new(setting: RetryBudget) -> Self {
        Self {
            setting,
            counted: Mutex::new(Counted {
                start: Instant::now(),
                second: 0,
                seconds: [(0, 0); WINDOW],
                counts: Retries::default(),
            }),
        }
    }

    /// A call that may be retried.
    fn call(&self) {
        self.counted.lock().now().0 += 1;
    }

    /// Whether there may be one more retry.
    fn take(&self) -> bool {
        let mut counted = self.counted.lock();
        counted.now();
        let (calls, retries) = counted
            .seconds
            .iter()
            .fold((0, 0), |sum, second| (sum.0 + second.0, sum.1 + second.1));
        let allowed = calls * u64::from(self.setting.percent) / 100 + u64::from(self.setting.floor);
        let may = retries < allowed;
        if may {
            counted.now().1 += 1;
            counted.counts.made += 1;
        } else {
            counted.counts.refused += 1;
        }
        may
    }
}

/// The tries of one call.
pub(super) struct Tries<'a> {
    retry: Option<Retry>,
    budget: &'a Budget,
    /// Whether it may run twice.
    repeatable: bool,
    deadline: Instant,
    retries: u32,
    /// The first failure after which it may have run.
    doubt: Option<Failure>,
}

impl<'a> Tries<'a> {
    pub(super) fn new(retry: Option<Retry>, budget: &'a Budget, repeatable: bool, deadline: Instant) -> Self {
        if retry.is_some() {
            budget.call();
        }
        Self {
            retry,
            budget,
            repeatable,
            deadline,
            retries: 0,
            doubt: None,
        }
    }

    /// After a failure: waits until it is to be tried again, or gives back what the call ends with.
    pub(super) async fn after(&mut self, failure: Failure) -> Option<Failure> {
        let delay = Retry::delay(self.retries);
        let again = self.retry.is_some_and(|retry| self.retries < retry.times)
            && self.allows(&failure)
            && Instant::now() + delay < self.deadline
            && self.budget.take();
        if !again {
            // That the last try did not run says nothing of the others.
            let did_not_run = failure.execution() == Execution::DidNotRun;
            return Some(self.doubt.take().filter(|_| did_not_run).unwrap_or(failure));
        }
        self.retries += 1;
        if self.doubt.is_none() && failure.execution() != Execution::DidNotRun {
            self.doubt = Some(failure);
        }
        tokio::time::sleep(delay).await;
        None
    }

    /// Whether another try can help and can do no harm.
    fn allows(&self, failure: &Failure) -> bool {
        let passing = matches!(
            failure.code(),
            Some(StatusCode::Unavailable | StatusCode::NoResponders | StatusCode::ResourceExhausted)
        );
        passing && (self.repeatable || failure.execution() == Execution::DidNotRun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LocalError, Status};

    fn status(code: StatusCode) -> Failure {
        Failure::Status(Status::new(code, "a failure"))
    }

    fn tries(budget: &Budget, repeatable: bool) -> Tries<'_> {
        let deadline = Instant::now() + Duration::from_secs(60);
        Tries::new(Some(Retry::times(3)), budget, repeatable, deadline)
    }

    fn budget(percent: u32, floor: u32) -> Budget {
        Budget::new(RetryBudget::default().percent(percent).floor(floor))
    }

    #[tokio::test(start_paused = true)]
    async fn never_repeats_what_may_have_run_unless_that_is_harmless() {
        let budget = budget(10, 10);
        let again = async |error, repeatable| tries(&budget, repeatable).after(error).await.is_none();
        assert!(!again(status(StatusCode::Unavailable), false).await);
        assert!(again(status(StatusCode::Unavailable), true).await);
        assert!(again(status(StatusCode::NoResponders), false).await);
        assert!(!again(status(StatusCode::DeadlineExceeded), true).await);
        assert!(!again(status(StatusCode::InvalidArgument), true).await);
        assert!(!again(Failure::Local(LocalError::Closed), true).await);
    }

    #[tokio::test(start_paused = true)]
    async fn tries_as_often_as_it_was_told_and_not_past_the_deadline() {
        let budget = budget(10, 100);
        let mut three = tries(&budget, false);
        for _ in 0..3 {
            assert!(three.after(status(StatusCode::NoResponders)).await.is_none());
        }
        assert!(three.after(status(StatusCode::NoResponders)).await.is_some());
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(500);
        let mut short = Tries::new(Some(Retry::times(1000)), &budget, false, deadline);
        while short.after(status(StatusCode::NoResponders)).await.is_none() {}
        // tokio's timers are exact to a millisecond.
        assert!(Instant::now() < deadline + Duration::from_millis(1));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_are_spread_over_the_whole_range() {
        for (retries, longest) in [(0, 50), (1, 100), (3, 400), (7, 5000), (60, 5000)] {
            let longest = Duration::from_millis(longest);
            let delays: Vec<_> = (0..400).map(|_| Retry::delay(retries)).collect();
            assert!(delays.iter().all(|delay| *delay <= longest));
            for part in 0..4 {
                let range = longest * part / 4..longest * (part + 1) / 4;
                let within = delays.iter().filter(|delay| range.contains(*delay)).count();
                assert!((50..150).contains(&within), "{within} of 400 in {range:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_never_hides_that_an_earlier_try_may_have_run() {
        let budget = budget(10, 10);
        let mut tries = tries(&budget, true);
        assert!(tries.after(status(StatusCode::Unavailable)).await.is_none());
        assert!(tries.after(status(StatusCode::NoResponders)).await.is_none());
        let last = tries.after(status(StatusCode::InvalidArgument)).await.unwrap();
        assert_eq!(last.execution(), Execution::MayHaveRun);
        assert_eq!(last.code(), Some(StatusCode::Unavailable));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_retries_a_tenth_of_its_calls_and_a_few() {
        let budget = budget(10, 5);
        let mut made = 0;
        for _ in 0..200 {
            let mut tries = tries(&budget, false);
            while tries.after(status(StatusCode::NoResponders)).await.is_none() {
                made += 1;
            }
        }
        // Some 5 s have passed, all within one window.
        assert!(budget.counted.lock().start.elapsed() < Duration::from_secs(9));
        assert_eq!(made, 25);
        let counts = budget.counted.lock().counts;
        // Only the first call was tried as often as it may.
        assert_eq!((counts.made, counts.refused), (25, 199));
        // What is long ago does not count: neither the retries, nor the calls.
        tokio::time::advance(Duration::from_secs(20)).await;
        let taken = (0..100).filter(|_| budget.take()).count();
        assert_eq!(taken, 5);
    }

    #[test]
    fn the_counts_of_long_ago_go() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let budget = budget(100, 0);
            budget.call();
            tokio::time::advance(Duration::from_secs(9)).await;
            budget.call();
            assert_eq!((budget.take(), budget.take(), budget.take()), (true, true, false));
            tokio::time::advance(Duration::from_secs(5)).await;
            assert!(!budget.take(), "the first call is gone, the retries are not");
            tokio::time::advance(Duration::from_secs(1000)).await;
            budget.call();
            assert_eq!((budget.take(), budget.take()), (true, false));
        });
    }
}
