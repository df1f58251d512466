//! What routers answer while an authority asks for the proof of a host: a text by HTTP, or a certificate by TLS-ALPN
//! (RFC 8737).

use std::sync::Arc;

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use crate::kernel::error::Error;

/// Makes the certificate that proves a host: its key is of no meaning.
pub(in crate::certificates) fn make_proof_certificate(
    host: &str,
    key_authorization: &str,
) -> Result<Arc<CertifiedKey>, Error> {
    let key = KeyPair::generate().map_err(Error::internal)?;
    let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(Error::internal)?;
    let digest = Sha256::digest(key_authorization.as_bytes());
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
    let certificate = params.self_signed(&key).map_err(Error::internal)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = ring::sign::any_supported_type(&key).map_err(Error::internal)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}
