//! Files of a context are linked into layers, which steps must not notice.

use anyhow::ensure;
use cairn_tests::{Cairn, Daemon, Lab, Need};

/// The same file, copied by steps that do not know of each other, and by steps that do.
const DOCKERFILE: &str = "FROM alpine\n\
    COPY --link data /one\n\
    COPY --link data /two\n\
    COPY data /three\n\
    RUN cp /one /two && cp /two /three && cp /three /one && echo more >> /two && cat /one /two /three > /all\n\
    RUN test \"$(stat -c %h /one /two /three | sort -u)\" = 1\n";

#[test]
fn copies_of_one_file_are_files_of_their_own() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let context = lab.files("context", &[("Dockerfile", DOCKERFILE), ("data", "text\n")])?;
    let out = lab.path("out");
    let output = format!("type=local,dest={}", out.display());
    cairn.build(["-o", output.as_str(), &context.display().to_string()])?;
    let all = std::fs::read_to_string(out.join("all"))?;
    ensure!(all == "text\ntext\nmore\ntext\n", "{all:?}");
    ensure!(std::fs::read_to_string(context.join("data"))? == "text\n");
    Ok(())
}
