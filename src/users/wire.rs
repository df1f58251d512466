//! Requests that both editions share.

use crate::kernel::error::Error;
use crate::kernel::names::Email;
use crate::kernel::secret::Secret;
use crate::users::{actions, reset, tokens};
use crate::web::{Ctx, Params};

/// Ends the session of the request; with `all` all sessions and the API key of the caller, or with `user` of
/// another user.
pub(super) async fn log_out(ctx: &Ctx, params: &Params) -> Result<(), Error> {
    let other: Option<Email> = params.parse_field("user")?;
    match params.get_bool("all")? {
        true => actions::end_sessions(&ctx.core, &ctx.request, other.as_ref()).await,
        false if other.is_some() => Err(Error::invalid("Send all=true to end the sessions of a user.")),
        false => tokens::end_session(&ctx.core, &ctx.request).await,
    }
}

/// Requests a token for a new password, or redeems `token`.
pub(super) async fn reset_password(ctx: &Ctx, email: &Email, params: &Params) -> Result<(), Error> {
    match params.get_string("token")? {
        None => reset::request_reset(&ctx.core, &ctx.request, email).await,
        Some(token) => reset::redeem_token(&ctx.core, &ctx.request, email, &Secret::new(token)).await,
    }
}

/// Changes the password of the caller from `old` to `new`; newer clients send the new one again as `confirm`.
pub(super) async fn change_password(ctx: &Ctx, params: &Params) -> Result<(), Error> {
    let old = Secret::new(params.require_string("old")?);
    let new = Secret::new(params.require_string("new")?);
    if let Some(confirm) = params.get_string("confirm")?
        && confirm != new.expose_secret()
    {
        return Err(Error::invalid("The new password and its confirmation differ."));
    }
    actions::change_password(&ctx.core, &ctx.request, &old, &new).await
}

/// Removes the caller, or another `user`.
pub(super) async fn remove_user(ctx: &Ctx, params: &Params) -> Result<(), Error> {
    let other: Option<Email> = params.parse_field("user")?;
    actions::remove_user(&ctx.core, &ctx.request, other.as_ref()).await
}
