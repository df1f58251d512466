//! The integration tests: one binary, one running server in each test, over real HTTP and a real Postgres,
//! whose address is in `TANCHO_TEST_DATABASE_URL` (`script/test` starts one).

#![expect(clippy::unwrap_used, unreachable_pub, reason = "a failed test panics")]

mod access_matrix;
mod accounts;
mod acme;
mod app_changes;
mod apps;
mod attacks;
mod audit;
mod autoscale;
mod catalog;
mod certificates;
mod classic;
mod deadlock;
mod deploy_edges;
mod editions;
mod environment;
mod events;
mod exec;
mod fairness;
mod hostile_input;
mod import;
mod input_validation;
mod jobs;
mod log_posts;
mod pebble;
mod permission_tree;
mod pools;
mod recorded;
mod repositories;
mod request_origin;
mod saga_leases;
mod sagas;
mod schemathesis;
mod sealing;
mod services;
mod smoke;
mod swap;
mod test_server;
mod units;
mod upgrade;
mod versions;
mod volumes;
mod webhooks;
mod wire;
