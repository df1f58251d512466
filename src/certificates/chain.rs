//! What a user or operator gives as a certificate: parsed and checked, so that what is stored can be served.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};
use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

/// Chains of public authorities have two to four certificates of about 2 kB.
const MAX_CHAIN_BYTES: usize = 64 << 10;
const MAX_CHAIN_LENGTH: usize = 10;
const MAX_KEY_BYTES: usize = 16 << 10;
const MIN_RSA_BITS: usize = 2048;
const PEM_LINE: usize = 64;

/// A certificate with its chain and its key, which belong together.
#[derive(Debug)]
pub(super) struct CertificateChain {
    certified: Arc<CertifiedKey>,
    key_pem: Secret,
    hosts: Vec<String>,
    validity: ValidityPeriod,
}

/// The time in which all certificates of a chain are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValidityPeriod {
    pub(super) not_before: DateTime<Utc>,
    pub(super) not_after: DateTime<Utc>,
}

impl CertificateChain {
    /// Parses a chain and its key, both PEM. Errors: `Invalid`; no message has a part of the key in it.
    pub(super) fn parse(certificate: &str, key: &Secret) -> Result<Self, Error> {
        let chain = parse_certificates(certificate)?;
        let key = parse_key(key)?;
        let (hosts, validity) = check_chain(&chain)?;
        let key_pem = encode_key(&key);
        let signing = ring::sign::any_supported_type(&key).map_err(|_| {
            Error::invalid(
                "The key cannot be used: give RSA with 2048 to 4096 bits, ECDSA P-256 or P-384, or Ed25519.",
            )
        })?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|error| match error {
            TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => Error::invalid(
                "The key does not belong to the certificate: give the key with which it was requested.",
            ),
            other => {
                Error::invalid("The certificate cannot be used: give one for web servers, X.509 version 3.")
                    .with_source(other)
            }
        })?;
        Ok(Self {
            certified: Arc::new(certified),
            key_pem,
            hosts,
            validity,
        })
    }

    /// Returns what a server presents.
    pub(super) fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The hosts that it is for, in lower case; `*.x.y` stands for each host one label below `x.y`.
    pub(super) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    pub(super) fn validity(&self) -> ValidityPeriod {
        self.validity
    }

    pub(super) fn key_pem(&self) -> &Secret {
        &self.key_pem
    }

    /// Returns the chain as PEM, without what else was in the text.
    pub(super) fn chain_pem(&self) -> String {
        let blocks = self.certified.cert.iter();
        blocks.map(|cert| encode_pem("CERTIFICATE", cert)).collect()
    }

    /// Checks that it is for a host. Errors: `Invalid`.
    pub(super) fn check_host(&self, host: &str) -> Result<(), Error> {
        let above = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        match self
            .hosts
            .iter()
            .any(|name| name == host || Some(name) == above.as_ref())
        {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "The certificate is not for {host}: it is for {}.",
                list_hosts(&self.hosts)
            ))),
        }
    }

    /// Checks that it is valid at a time. Errors: `Invalid`.
    pub(super) fn check_time(&self, now: DateTime<Utc>) -> Result<(), Error> {
        let ValidityPeriod {
            not_before,
            not_after,
        } = self.validity;
        if now >= not_after {
            return Err(Error::invalid(format!(
                "The certificate, or one of its chain, has expired on {}.",
                not_after.format("%Y-%m-%d")
            )));
        }
        if now < not_before {
            return Err(Error::invalid(format!(
                "The certificate is not valid before {}.",
                not_before.to_rfc3339()
            )));
        }
        Ok(())
    }
}

fn list_hosts(hosts: &[String]) -> String {
    const SHOWN: usize = 3;
    let first = hosts
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match hosts.len() {
        0 => "no DNS name".to_owned(),
        count if count > SHOWN => format!("{first} and {} more", count - SHOWN),
        _ => first,
    }
}

fn parse_certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    if text.len() > MAX_CHAIN_BYTES {
        return Err(Error::invalid(format!(
            "The certificate is too large: a chain has at most {MAX_CHAIN_BYTES} bytes."
        )));
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain =
        chain.map_err(|_| Error::invalid("The certificate is not valid PEM: a block of it is damaged."))?;
    match chain.len() {
        0 => Err(Error::invalid(
            "The certificate is not PEM: it must have a block that begins with -----BEGIN CERTIFICATE-----.",
        )),
        1..=MAX_CHAIN_LENGTH => Ok(chain),
        _ => Err(Error::invalid(format!(
            "The chain is too long: it has at most {MAX_CHAIN_LENGTH} certificates."
        ))),
    }
}

fn parse_key(text: &Secret) -> Result<PrivateKeyDer<'static>, Error> {
    let text = text.expose_secret();
    if text.len() > MAX_KEY_BYTES {
        return Err(Error::invalid(format!(
            "The key is too large: it has at most {MAX_KEY_BYTES} bytes."
        )));
    }
    if text.contains("ENCRYPTED") {
        return Err(Error::invalid(
            "The key is encrypted with a password: decrypt it first, for example with `openssl pkey`.",
        ));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
        Error::invalid(
            "The key is not PEM: it must have a block that begins with -----BEGIN PRIVATE KEY-----.",
        )
    })
}

/// Checks a chain by itself; returns the hosts of the first certificate, and when all are valid.
fn check_chain(chain: &[CertificateDer<'_>]) -> Result<(Vec<String>, ValidityPeriod), Error> {
    let mut hosts = Vec::new();
    let mut validity = ValidityPeriod {
        not_before: DateTime::<Utc>::MIN_UTC,
        not_after: DateTime::<Utc>::MAX_UTC,
    };
    let mut issuer: Option<Vec<u8>> = None;
    for (at, der) in chain.iter().enumerate() {
        let place = at + 1;
        let unreadable = || {
            Error::invalid(format!(
                "Certificate {place} of the chain cannot be read: it is damaged."
            ))
        };
        let (rest, cert) = X509Certificate::from_der(der).map_err(|_| unreadable())?;
        if !rest.is_empty() {
            return Err(unreadable());
        }
        if issuer.is_some_and(|issuer| issuer != cert.subject().as_raw()) {
            return Err(Error::invalid(format!(
                "The chain is in the wrong order: certificate {place} is not that of the issuer of the one before it; \
                 begin with the certificate itself."
            )));
        }
        issuer = Some(cert.issuer().as_raw().to_vec());
        check_key_size(&cert, place)?;
        let time = |time: ASN1Time| DateTime::from_timestamp(time.timestamp(), 0).ok_or_else(unreadable);
        validity.not_before = validity.not_before.max(time(cert.validity().not_before)?);
        validity.not_after = validity.not_after.min(time(cert.validity().not_after)?);
        if at == 0 {
            check_usage(&cert)?;
            hosts = read_hosts(&cert);
        }
    }
    Ok((hosts, validity))
}

fn check_key_size(cert: &X509Certificate<'_>, place: usize) -> Result<(), Error> {
    match cert.public_key().parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() < MIN_RSA_BITS => Err(Error::invalid(format!(
            "Certificate {place} of the chain has an RSA key of {} bits, which is too short: at least {MIN_RSA_BITS} are needed.",
            key.key_size()
        ))),
        _ => Ok(()),
    }
}

/// Refuses certificates that browsers refuse for a server.
fn check_usage(cert: &X509Certificate<'_>) -> Result<(), Error> {
    let is_allowed = match cert.extended_key_usage() {
        Ok(Some(usage)) => usage.value.any || usage.value.server_auth,
        Ok(None) => true,
        Err(_) => false,
    };
    let is_authority = cert.is_ca() && cert.subject().as_raw() != cert.issuer().as_raw();
    match is_allowed && !is_authority {
        true => Ok(()),
        false => Err(Error::invalid(
            "The first certificate is not one for web servers: begin the chain with the certificate of the host.",
        )),
    }
}

/// Browsers ignore the common name: only the alternative names count.
fn read_hosts(cert: &X509Certificate<'_>) -> Vec<String> {
    let names = cert.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
    let dns_name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(host) if host.bytes().all(is_host_byte) => Some(host.to_ascii_lowercase()),
        _ => None,
    };
    names.iter().filter_map(dns_name).collect()
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"*-._".contains(&byte)
}

fn encode_key(key: &PrivateKeyDer<'_>) -> Secret {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    Secret::new(encode_pem(label, key.secret_der()))
}

fn encode_pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let body = STANDARD.encode(der);
    for line in body.as_bytes().chunks(PEM_LINE) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    };

    use super::*;

    const RSA_1024: (&str, &str) = (
        include_str!("../../tests/certificates/rsa1024.crt"),
        include_str!("../../tests/certificates/rsa1024.key"),
    );
    const RSA_2048: (&str, &str) = (
        include_str!("../../tests/certificates/rsa2048.crt"),
        include_str!("../../tests/certificates/rsa2048.key"),
    );

    /// Makes a certificate that `change` has changed, signed by an authority; returns it, its issuer and its key.
    fn issue(hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String, String) {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let mut params =
            CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "leaf");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        (leaf.pem(), issuer.pem(), key.serialize_pem())
    }

    fn parse(certificate: &str, key: &str) -> Result<CertificateChain, Error> {
        CertificateChain::parse(certificate, &Secret::new(key))
    }

    fn assert_refused(certificate: &str, key: &str, words: &str) {
        let error = parse(certificate, key).unwrap_err();
        assert!(error.message().contains(words), "{words}: {}", error.message());
        assert!(error.message().len() < 400);
    }

    #[test]
    fn chain_is_stored_without_what_else_is_in_the_text() {
        let (leaf, issuer, key) = issue(&["www.shop.test", "*.shop.test"], |_| {});
        let chain = parse(
            &format!("subject=leaf\n{leaf}\n{key}{issuer}# end\n"),
            &format!("{leaf}{key}"),
        )
        .unwrap();
        assert_eq!(chain.chain_pem().matches("BEGIN").count(), 2);
        let again = parse(&chain.chain_pem(), chain.key_pem().expose_secret()).unwrap();
        assert_eq!(again.chain_pem(), chain.chain_pem());
        assert_eq!(again.hosts(), ["www.shop.test", "*.shop.test"]);
        assert!(parse(RSA_2048.0, RSA_2048.1).is_ok());
    }

    #[test]
    fn unusable_certificates_and_keys_are_refused_with_the_reason() {
        let (leaf, issuer, key) = issue(&["www.shop.test"], |_| {});
        let (_, stranger, other) = issue(&["www.shop.test"], |_| {});
        let damaged = leaf.replacen("MII", "M!I", 1);
        for (certificate, key, words) in [
            ("no certificate\n", key.as_str(), "not PEM"),
            ("", key.as_str(), "not PEM"),
            (damaged.as_str(), &key, "damaged"),
            (&leaf.replace("END CERT", "EMD CERT"), &key, "not"),
            (&leaf, "no key", "not PEM"),
            (&leaf, &leaf, "not PEM"),
            (&leaf, &other, "does not belong"),
            (&leaf, "-----BEGIN ENCRYPTED PRIVATE KEY-----", "password"),
            (&format!("{issuer}{leaf}"), &key, "wrong order"),
            (&format!("{leaf}{leaf}"), &key, "wrong order"),
            (&leaf.repeat(11), &key, "too long"),
            (&"x".repeat(100_000), &key, "too large"),
            (&leaf, &"x".repeat(100_000), "too large"),
            (RSA_1024.0, RSA_1024.1, "1024 bits"),
            (RSA_2048.0, RSA_1024.1, "cannot be used"),
        ] {
            assert_refused(certificate, key, words);
        }
        // The names of both issuers are the same: the order is right, and clients will tell whom they trust.
        assert!(parse(&format!("{leaf}{stranger}"), &key).is_ok());
        let client = |params: &mut CertificateParams| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        };
        let (leaf, _, key) = issue(&["www.shop.test"], client);
        assert_refused(&leaf, &key, "not one for web servers");
        let authority =
            |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (leaf, _, key) = issue(&["www.shop.test"], authority);
        assert_refused(&leaf, &key, "not one for web servers");
    }

    #[test]
    fn certificate_fits_its_hosts_and_its_time_only() {
        let (leaf, issuer, key) = issue(&["WWW.shop.test", "*.shop.test"], |params| {
            params.not_before = rcgen::date_time_ymd(2024, 1, 1);
            params.not_after = rcgen::date_time_ymd(2024, 3, 1);
        });
        let chain = parse(&format!("{leaf}{issuer}"), &key).unwrap();
        for host in ["www.shop.test", "a.shop.test", "*.shop.test"] {
            assert!(chain.check_host(host).is_ok(), "{host}");
        }
        for host in [
            "shop.test",
            "a.b.shop.test",
            "*.a.shop.test",
            "*.test",
            "shop.test.evil.test",
        ] {
            let error = chain.check_host(host).unwrap_err();
            assert!(
                error.message().contains("it is for www.shop.test, *.shop.test."),
                "{}",
                error.message()
            );
        }
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert!(chain.check_time(at("2024-02-01T00:00:00Z")).is_ok());
        let late = chain.check_time(at("2024-03-01T00:00:00Z")).unwrap_err();
        assert!(
            late.message().contains("has expired on 2024-03-01"),
            "{}",
            late.message()
        );
        let early = chain.check_time(at("2023-12-31T23:59:59Z")).unwrap_err();
        assert!(
            early.message().contains("not valid before"),
            "{}",
            early.message()
        );
    }
}
