//! The command line: builds images on a daemon, or carries one inside itself.
//!
//! Arguments as typed ([`args`]) become arguments as meant ([`build_plan`], [`target`]); [`commands`] acts on
//! them through the `client` library; everything written goes through [`ui`].

use std::process::ExitCode as ProcessExitCode;

use clap::Parser as _;

use crate::args::Cli;
use crate::exit::ExitCode;
use crate::surroundings::Surroundings;

mod args;
mod build_plan;
mod commands;
mod csv;
mod daemon;
mod error;
mod exit;
mod quantity;
mod signals;
mod surroundings;
mod target;
mod ui;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ProcessExitCode {
    let cli = Cli::parse();
    let surroundings = match Surroundings::read() {
        Ok(surroundings) => surroundings,
        Err(error) => {
            ui::report(&error, &Surroundings::default());
            return error.exit_code().into();
        }
    };
    commands::init_logs(&surroundings);
    match commands::run(cli, &surroundings) {
        Ok(()) => ExitCode::Success.into(),
        Err(failure) => {
            let code = failure.exit_code();
            if code != ExitCode::Success {
                failure.report(&surroundings);
            }
            code.into()
        }
    }
}
