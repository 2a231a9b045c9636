//! The signals that ask a program to end. Offered, not imposed: nothing is installed until [`terminated`] is called.

use std::io;

/// Listens for SIGTERM and SIGINT (Ctrl-C) from now on; the future resolves at the first.
///
/// A second signal then ends the process at once, with the exit code of a process that the signal killed: whoever
/// sends it does not want to wait for the drain. Where there are no such signals, only Ctrl-C is listened for.
/// Must be called within a tokio runtime.
///
/// ```no_run
/// # async fn f(node: commlib::Node) -> Result<(), Box<dyn std::error::Error>> {
/// let terminated = commlib::signal::terminated()?;
/// println!("ready");
/// terminated.await;
/// node.shutdown(std::time::Duration::from_secs(10)).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the system does not let this process listen for signals.
#[cfg(unix)]
pub fn terminated() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        }
    };
    Ok(async move {
        next().await;
        tokio::spawn(async move {
            let second = next().await;
            std::process::exit(128 + second.as_raw_value());
        });
    })
}

/// Listens for Ctrl-C; the future resolves at the first.
///
/// # Errors
/// When the system does not let this process listen for it.
#[cfg(not(unix))]
pub fn terminated() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "cannot listen for Ctrl-C");
        }
    })
}
