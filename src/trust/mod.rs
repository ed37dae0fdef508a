//! Trust that we issue ourselves, and what we keep: tokens, and the record of uploads.

pub mod record;
pub mod token;
