//! Blocking work of the kit, off the async threads.

/// Runs `work` on a thread for blocking work and hands a panic of it on to the caller.
///
/// The kit waits in real time, whatever clock the runtime of the test uses: with a paused clock a `tokio`
/// sleep would give a starting broker no time at all.
pub(crate) async fn blocking<T, F>(work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("the runtime stopped during work of the test kit: {error}"),
        },
    }
}
