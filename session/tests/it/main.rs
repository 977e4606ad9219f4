//! Both halves of every service against each other, over an in-memory tunnel and over a real server.

mod auth;
mod blob_writes;
mod blobs;
mod filesend;
mod filesync;
mod hostile;
mod other_services;
mod policy;
mod sessions;
mod support;
mod unread;
