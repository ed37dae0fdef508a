//! Trust that we issue ourselves, and what we keep: tokens, and the log of uploads.

pub mod callback_token;
pub mod upload_log;
pub mod upload_token;
