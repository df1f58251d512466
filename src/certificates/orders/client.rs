//! The account at the authority: one for all replicas. Its key is stored before it is registered, so that a process that
//! dies in between registers the same account again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use instant_acme::{Account, AccountBuilder, Error as AcmeError, Key};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::certificates::orders::model::describe_error;
use crate::certificates::orders::store;
use crate::core::Core;
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

/// Why an account could not be opened.
pub(super) enum AccountFailure {
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
pub(super) async fn open_account(core: &Core) -> Result<Account, AccountFailure> {
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

pub(super) fn to_error(error: AcmeError) -> Error {
    Error::failed(describe_error(&error)).with_source(error)
}
