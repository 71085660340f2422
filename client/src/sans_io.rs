//! Sessions over an [`Env`] of the caller's, for simulators. Not covered by semantic versioning.

use std::sync::Arc;

use crate::{CheckedConfig, Credentials, Result, Session, SessionOptions};
pub use crate::{
    env::{Boxed, Env, Incoming, Opening},
    session::Outgoing,
};

/// Opens a session.
///
/// # Errors
/// Those of [`crate::Client::session`].
pub async fn open(
    env: Arc<dyn Env>,
    config: &CheckedConfig,
    options: SessionOptions,
    secret: [u8; 16],
) -> Result<Session> {
    Session::open(env, &config.config, options, secret).await
}

/// Goes on with a session.
///
/// # Errors
/// Those of [`crate::Client::resume`].
pub async fn resume(env: Arc<dyn Env>, config: &CheckedConfig, credentials: Credentials) -> Result<Session> {
    Session::resume(env, &config.config, credentials).await
}
