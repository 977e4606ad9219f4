//! Canonical bytes.
