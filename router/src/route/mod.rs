//! Which worker a request should go to: a pure decision, and the bookkeeping that it rests on.
//!
//! [`Router::select`] prices every candidate in milliseconds ([`price`](price::price)) from what the index says it has, what it has
//! to do ([`Loads`]) and how fast it proved to be ([`Speeds`]), and picks one by [`Mode`]. [`Router::reserve`] then counts the
//! request as that worker's load and remembers its prompt as coming there ([`Footprints`]), so that the next decision
//! knows of it before any event can. [`Router::prefill_complete`] and [`Router::finish`] take it off again and learn from it.
//!
//! No clock, thread, socket or random source: time is passed in as milliseconds on the caller's clock, and chance is drawn from a
//! seed and the request's id. The same calls give the same decisions.

mod affinity;
mod decision;
mod footprints;
mod learn;
mod load;
mod modes;
mod price;
mod queue;
mod request;
mod router;
mod settings;
mod split;

pub use affinity::Affinity;
pub use decision::{Decision, Evidence, Fallback, History, Priced};
pub use footprints::{Footprints, Mark, Trail, mark};
pub use learn::{Speeds, StartSpeeds, Work};
pub use load::{Finished, Load, Loads, Prefilled, Reservation, ReserveError};
pub use price::{Offer, Prompt, Terms, price};
pub use queue::{Queue, QueuePolicy, QueueSettings, Rejected, Waiting};
pub use request::{Candidate, Excluded, Hints, Known, Label, RequestId, Role, RouteRequest, Session, WorkerId, WorkerProfile};
pub use router::{Choice, Counters, Measured, Refusal, RouteError, Router};
pub use settings::{Mode, RouteSettings, WrongSetting};
pub use split::{Split, SplitReason, SplitSettings};
