//! The integration tests: one binary, one running server in each test, over real HTTP and a real
//! Postgres, whose address is in `TANCHO_TEST_DATABASE_URL` (`script/test` starts one).

#![expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test stops at what it did not expect"
)]

mod apps;
mod audit;
mod classic;
mod deadlock;
mod doors;
mod editions;
mod house;
mod hygiene;
mod people;
mod recorded;
mod sealing;
mod services;
mod smoke;
mod swap;
mod units;
