//! What the handlers of both editions are made of: who calls, what they send, how answers stream.

pub mod caller;
pub mod input;
pub mod stream;

pub use caller::Caller;
pub use input::Input;
