//! An engine's request in the ledger's words.

use kvd_block::{LayoutHandle, RequestId, SessionId};
use kvd_ledger::Input;
use kvd_proto::local::{Reply, Request, ToDaemon, ToEngine};

/// The input for a request, or the answer when it names a layout the engine did not declare in its hello.
pub fn input(session: SessionId, layouts: &[LayoutHandle], message: ToDaemon) -> Result<Input, ToEngine> {
    let request = message.id;
    if let Some(layout) = layout_of(&message.body).filter(|layout| !layouts.contains(layout)) {
        return Err(invalid(request, format!("layout {layout} is not one of the engine's hello")));
    }
    Ok(match message.body {
        Request::Lookup { layout, keys, until_miss } => Input::Lookup { session, request, layout, keys: keys.iter().collect(), until_miss },
        Request::PrepareStore { layout, blocks } => Input::PrepareStore { session, request, layout, blocks },
        Request::CompleteStore { lease, filled } => Input::CompleteStore { session, request, lease, filled },
        Request::PrepareLoad { layout, keys, deadline_ms } => {
            Input::PrepareLoad { session, request, layout, keys: keys.iter().collect(), deadline_ms: deadline_ms.into() }
        }
        Request::CompleteLoad { lease, corrupt } => Input::CompleteLoad { session, request, lease, corrupt },
        Request::Touch { layout, keys } => Input::Touch { session, request, layout, keys: keys.iter().collect() },
        Request::Retain { layout, keys, priority, ttl_ms } => {
            Input::Retain { session, request, layout, keys: keys.iter().collect(), priority, ttl_ms }
        }
        Request::Pin { layout, keys, ttl_ms } => Input::Pin { session, request, layout, keys: keys.iter().collect(), ttl_ms },
    })
}

fn layout_of(request: &Request) -> Option<LayoutHandle> {
    match request {
        Request::Lookup { layout, .. }
        | Request::PrepareStore { layout, .. }
        | Request::PrepareLoad { layout, .. }
        | Request::Touch { layout, .. }
        | Request::Retain { layout, .. }
        | Request::Pin { layout, .. } => Some(*layout),
        Request::CompleteStore { .. } | Request::CompleteLoad { .. } => None,
    }
}

fn invalid(id: RequestId, why: String) -> ToEngine {
    ToEngine { id, body: Reply::Invalid { why } }
}
