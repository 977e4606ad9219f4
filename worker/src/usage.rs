//! What is used of the machine: by groups of processes, and of the machine as a whole.
//!
//! | module | part |
//! |---|---|
//! | [`sampler`] | measuring again and again, of what takes long more rarely |
//! | [`counters`] | the kernel's files, as numbers |
//! | [`group`] | a control group of either version |
//! | [`machine`] | everything |

mod counters;
mod group;
mod machine;
mod sampler;

pub(crate) use self::group::measure;
pub use self::machine::{MachineSample, cpu_times_since, machine};
pub use self::sampler::Sampler;
