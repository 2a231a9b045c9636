//! Waiting for the signals that ask a program to end. Offered, not imposed: nothing is installed until it is awaited.

/// Resolves at the first SIGTERM or SIGINT (Ctrl-C); where there are no such signals, at Ctrl-C.
///
/// ```no_run
/// # async fn f(node: commlib::Node) -> Result<(), Box<dyn std::error::Error>> {
/// commlib::signal::terminated().await?;
/// node.shutdown(std::time::Duration::from_secs(10)).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the system does not let this process listen for signals.
pub async fn terminated() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
