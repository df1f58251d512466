//! The integration tests: one binary, one running server in each test, over real HTTP and a real
//! Postgres, whose address is in `TANCHO_TEST_DATABASE_URL` (`script/test` starts one).

mod house;
mod smoke;
mod units;
