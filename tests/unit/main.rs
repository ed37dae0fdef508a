//! Tests without a server: pure modules by tables and known answers, the budgets of src/, and the
//! documents. The fast ones.

mod budget;
mod callback;
mod config;
mod documents;
mod head;
mod inputs;
mod keys;
mod policy;
mod rsa;
mod time;
mod token;
mod upstream;
