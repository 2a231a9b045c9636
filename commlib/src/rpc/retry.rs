//! When and how often a call is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::error::{CallError, Execution, StatusCode};

/// How a call is retried: only when the failed try certainly *did not run*, or the method is idempotent and the
/// failure may pass; with exponential backoff and jitter; never past the deadline of the call.
///
/// ```
/// use commlib::rpc::Retry;
/// let retry = Retry::times(3);
/// # let _ = retry;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    times: usize,
}

impl Retry {
    /// Up to this many more tries after the first.
    #[must_use]
    pub const fn times(times: usize) -> Self {
        Self { times }
    }

    pub(super) fn delays(self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(5))
            .with_jitter()
            .with_max_times(self.times)
            .build()
    }

    /// Whether another try can help and can do no harm.
    pub(super) fn allows<E>(error: &CallError<E>, idempotent: bool) -> bool {
        let passing = matches!(
            error.code(),
            Some(StatusCode::Unavailable | StatusCode::NoResponders | StatusCode::ResourceExhausted)
        );
        passing && (idempotent || error.execution() == Execution::DidNotRun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LocalError, NoError, Status};

    #[test]
    fn never_repeats_what_may_have_run_unless_that_is_harmless() {
        let lost = || CallError::<NoError>::Status(Status::new(StatusCode::Unavailable, "cut"));
        assert!(!Retry::allows(&lost(), false));
        assert!(Retry::allows(&lost(), true));
        let refused = CallError::<NoError>::Status(Status::new(StatusCode::NoResponders, "nobody"));
        assert!(Retry::allows(&refused, false));
        let timeout = CallError::<NoError>::Status(Status::new(StatusCode::DeadlineExceeded, "late"));
        assert!(!Retry::allows(&timeout, true));
        assert!(!Retry::allows(
            &CallError::<NoError>::Local(LocalError::Closed),
            true
        ));
        assert_eq!(Retry::times(3).delays().count(), 3);
    }
}
