//! A micro-cache, as nginx has it: a response that says `X-Accel-Expires: 1` is given again to the
//! same request while the clock shows the same second. It keeps floods of anonymous policies off
//! the backend.

use std::collections::BTreeMap;

use super::connection::Response;
use super::head::Head;

/// Responses that are kept: two policies and the files of the page, from two origins.
const MAX_RESPONSES: usize = 16;

/// The responses that came in one second of Unix time, by canonical request.
#[derive(Default)]
pub struct Cache {
    second: u64,
    responses: BTreeMap<String, Response>,
}

impl Cache {
    pub fn find(&self, head: &Head, second: u64) -> Option<Response> {
        if self.second != second || is_private(head) {
            return None;
        }
        self.responses.get(&head.canonical).cloned()
    }

    pub fn keep(&mut self, head: &Head, response: &Response, second: u64) {
        if self.second != second {
            *self = Cache { second, responses: BTreeMap::new() };
        }
        if !is_private(head) && self.responses.len() < MAX_RESPONSES {
            self.responses.insert(head.canonical.clone(), response.clone());
        }
    }
}

/// The response depends on who asks, or on a body.
fn is_private(head: &Head) -> bool {
    head.passed_on.contains(&"authorization") || head.content_length.unwrap_or(0) > 0
}
