//! Calls to the authority, within limits of time, and the account there: one for all replicas. Its key is stored before it
//! is registered, so that a process that dies in between registers the same account again.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use instant_acme::{Account, AccountBuilder, Error as AcmeError, Key};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::certificates::orders::model::{describe_error, is_transient};
use crate::certificates::orders::store;
use crate::core::Core;
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;
use crate::sagas::{StepContext, StepError};

/// For one exchange with the authority, including its own waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(40);
/// For the authority to ask for the proof, or to sign.
pub(super) const DECISION_TIMEOUT: Duration = Duration::from_secs(90);
/// How often a step is repeated after a failure that says nothing, and the first pause.
const MAX_REPEATS: i32 = 3;
const REPEAT_PAUSE: Duration = Duration::from_secs(1);

/// Why an account could not be opened.
enum AccountFailure {
    Own(Error),
    Authority(AcmeError),
}

impl From<Error> for AccountFailure {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

impl From<sqlx::Error> for AccountFailure {
    fn from(error: sqlx::Error) -> Self {
        Self::Own(error.into())
    }
}

impl From<AcmeError> for AccountFailure {
    fn from(error: AcmeError) -> Self {
        Self::Authority(error)
    }
}

/// Opens the account, and registers it first where that has not been done.
async fn open_account(core: &Core) -> Result<Account, AccountFailure> {
    let acme = &core.settings.acme;
    let directory = acme.directory_url.as_str();
    let aad = AssociatedData::new(SealedColumn::ACME_ACCOUNT_KEY, &[&directory]);
    let row = match store::find_account(&core.db, directory).await? {
        Some(row) => row,
        None => {
            let (_, fresh) = Key::generate_pkcs8()?;
            let fresh = Secret::new(STANDARD.encode(fresh.secret_pkcs8_der()));
            store::find_or_insert_account(&core.db, directory, &core.keys.encrypt(&aad, &fresh)).await?
        }
    };
    let opened = core.keys.decrypt(&aad, &row.key)?;
    let der = STANDARD.decode(opened.expose_secret()).map_err(Error::internal)?;
    let key = PrivatePkcs8KeyDer::from(der);
    if !row.account_url.is_empty() {
        let account = builder(core)?.from_parts(row.account_url, key, directory.to_owned());
        return Ok(account.await?);
    }
    let pair = Key::from_pkcs8_der(key.clone_key())?;
    let created = builder(core)?.create_from_key((pair, PrivateKeyDer::Pkcs8(key)), directory.to_owned());
    let (account, _) = created.await?;
    if !acme.contact.is_empty() {
        account
            .update_contacts(&[&format!("mailto:{}", acme.contact)])
            .await?;
    }
    store::set_account_url(&core.db, directory, account.id()).await?;
    Ok(account)
}

fn builder(core: &Core) -> Result<AccountBuilder, AcmeError> {
    let root = &core.settings.acme.root_file;
    match root.as_os_str().is_empty() {
        true => Account::builder(),
        false => Account::builder_with_root(root),
    }
}

fn to_error(error: AcmeError) -> Error {
    Error::failed(describe_error(&error)).with_source(error)
}

/// Opens the account in a step of an order.
pub(super) async fn account_for_step(core: &Core, ctx: &StepContext) -> Result<Account, StepError> {
    let opened = wait_for_authority(ctx, async { Ok(open_account(core).await) }).await?;
    match opened {
        Ok(Ok(account)) => Ok(account),
        Ok(Err(AccountFailure::Own(error))) => Err(error.into()),
        Ok(Err(AccountFailure::Authority(error))) => Err(describe_failure(ctx, error)),
        Err(error) => Err(describe_failure(ctx, error)),
    }
}

/// Awaits the authority without holding a worker; ends when the saga is to stop, or when the authority hangs.
pub(super) async fn wait_for_authority<T>(
    ctx: &StepContext,
    work: impl Future<Output = Result<T, AcmeError>>,
) -> Result<Result<T, AcmeError>, StepError> {
    let cancel = ctx.cancel_token().clone();
    let limited = tokio::time::timeout(DECISION_TIMEOUT + CALL_TIMEOUT, work);
    let done = ctx.without_worker(async {
        tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            done = limited => Some(done),
        }
    });
    match done.await {
        None => Err(StepError::Interrupted),
        Some(Err(_)) => Ok(Err(AcmeError::Timeout(None))),
        Some(Ok(done)) => Ok(done),
    }
}

/// The same for one exchange, whose failure is final.
pub(super) async fn call_authority<T>(
    ctx: &StepContext,
    work: impl Future<Output = Result<T, AcmeError>>,
) -> Result<T, StepError> {
    let limited = async {
        match tokio::time::timeout(CALL_TIMEOUT, work).await {
            Ok(done) => done,
            Err(_) => Err(AcmeError::Timeout(None)),
        }
    };
    wait_for_authority(ctx, limited)
        .await?
        .map_err(|error| describe_failure(ctx, error))
}

/// A lost connection or a refused nonce is no decision: the step is repeated a few times first.
pub(super) fn describe_failure(ctx: &StepContext, error: AcmeError) -> StepError {
    let may_pass = is_transient(&error) && ctx.attempts() < MAX_REPEATS;
    match (may_pass, to_error(error)) {
        (true, why) => StepError::Retry {
            why,
            after: REPEAT_PAUSE,
        },
        (false, why) => StepError::GiveUp(why),
    }
}

/// The same for the next item of a list at the authority.
pub(super) async fn call_authority_optional<T>(
    ctx: &StepContext,
    work: impl Future<Output = Option<Result<T, AcmeError>>>,
) -> Result<Option<T>, StepError> {
    call_authority(ctx, async { work.await.transpose() }).await
}
