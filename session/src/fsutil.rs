//! The packet protocol that moves a tree of files, independent of what carries it and where files live.
//!
//! The sender lists its entries; an entry's id is its position in the list. The receiver asks for the content
//! of those it wants, whenever it likes, and says when it has everything. [`receiver`] and [`sender`] are the
//! two sides; [`ReceiveSink`] and [`Tree`] are what they work on.

mod error;
mod limits;
mod local;
pub mod order;
mod receiver;
mod sender;
mod validate;

pub use error::{BoxError, TransferError};
pub use limits::TransferLimits;
pub use local::{LocalTree, LocalTreeError, Selection};
pub(crate) use receiver::text;
pub use receiver::{Decision, ReceiveSink, ReceiveSummary, receive};
pub use sender::{SendSummary, Tree, send};
