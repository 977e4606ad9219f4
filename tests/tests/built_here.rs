//! Images that were built here and are nowhere else.

use anyhow::ensure;
use cairn_tests::{Cairn, Daemon, Lab, Need};

/// On a port that nobody listens on.
const NAME: &str = "localhost:1/base:1";

#[test]
fn an_image_that_was_built_here_can_be_built_on() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let base = lab.files(
        "base",
        &[("Dockerfile", "FROM alpine\nRUN echo below > /below\nENV WORD=said\n")],
    )?;
    let upper = format!("FROM {NAME}\nRUN cat /below > /above && echo $WORD >> /above\n");
    let upper = lab.files("upper", &[("Dockerfile", upper.as_str())])?;
    cairn.build(["-t", NAME, &base.display().to_string()])?;
    let out = lab.path("out");
    let output = format!("type=local,dest={}", out.display());
    cairn.build(["-o", output.as_str(), &upper.display().to_string()])?;
    let above = std::fs::read_to_string(out.join("above"))?;
    ensure!(above == "below\nsaid\n", "{above:?}");
    Ok(())
}
