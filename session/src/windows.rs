//! How much either side of a connection may send before it is read: for tunnels, and for the connections that carry them.
//!
//! Sessions are streams of small messages, one or two for each file of a directory, and many clients put each into a
//! frame of its own. The HTTP/2 library bounds what unread frames cost besides their bytes: each smaller than 256 bytes
//! counts as what it lacks of that, and once all of a connection's come to more than half of the *connection's* window,
//! the connection is ended. A reader that pauses (a slow disk is enough) must not come to that before the *stream's*
//! window holds the sender back. So a connection's window is wide not for the sake of bytes, but of frames.

/// Bytes of one call in a session's tunnel. The smallest messages of a transfer are 11 bytes long, so that a call which
/// nobody reads counts at most 45 MiB.
pub const STREAM: u32 = 2 << 20;
/// Bytes of all calls on one connection: room for five such calls that nobody reads at the same time, or for twenty
/// lists of files.
pub const CONNECTION: u32 = 512 << 20;
