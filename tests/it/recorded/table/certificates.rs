//! The certificates of an app.

use crate::recorded::shapes::AnswerShape::{Any, Certificates, NoCertificates, Words};
use crate::recorded::{ReplayRow, row};

const CNAME: &[&str] = &["POST /1.0/apps/shop/cname cname=www.shop.example.test"];

/// In an order in which each recording finds the state it needs.
pub(in crate::recorded) const CERTIFICATES: &[ReplayRow] = &[
    row("certificate-list-empty", &[NoCertificates]).after(CNAME),
    row("certificate-set-invalid", &[Words]),
    row("certificate-set", &[Any]),
    row("certificate-list", &[Certificates]),
    row("certificate-list-raw", &[Certificates]),
    row("certificate-list-json", &[Certificates]),
    row("certificate-unset", &[Any]),
];
