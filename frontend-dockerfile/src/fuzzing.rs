//! What is fuzzed of this crate: each decoder of bytes from outside, as a function of any bytes. `fuzz` beside `src`
//! has a target for each; the tests below run them in every test run, so that they cannot rot.
//!
//! Whether the bytes are what they are taken for does not matter; nothing may panic, take long, or break the promise
//! that a function states.

use std::collections::BTreeMap;

use cairn_solver::Platform;

use crate::image::ImageConfig;
use crate::options::Options;

/// A decoder, and the name of its target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them, by the names of their targets; more stand in `fuzz`, for what this crate shows to others.
pub const TARGETS: &[Target] = &[("base_config", base_config), ("options", options), ("words", words)];

/// Runs the one of this name.
///
/// # Panics
/// If there is none, or a promise is broken.
pub fn run(name: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    found.expect("a target of this name").1(data);
}

/// Options of a request, one in each line.
pub fn options(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let pairs = text.lines().take(32).filter_map(|line| line.split_once('='));
    let options: BTreeMap<String, String> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let host: Platform = "linux/amd64".parse().expect("a platform");
    if let Err(error) = Options::parse(&options, &host) {
        assert!(!error.is_empty(), "refused without a word");
    }
}

/// Configs of base images: one that is taken is one afterwards.
pub fn base_config(data: &[u8]) {
    if let Ok(mut config) = ImageConfig::from_base(data) {
        config.set_env("KEY", "value");
        config.set_workdir("/x");
        drop((config.triggers(), config.weight(), config.shell(), config.platform()));
        let again = ImageConfig::from_base(&config.to_json()).expect("what was written is read");
        assert_eq!(again.workdir(), "/x");
        assert!(again.env().any(|pair| pair == ("KEY", "value")));
    }
}

/// Comma-separated values, platforms, and names of images.
pub fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    drop(crate::csv::record(&text));
    let host: Platform = "linux/amd64".parse().expect("a platform");
    drop(crate::platform::parse(&text, &host));
    if let Ok(name) = cairn_solver::Reference::parse(&text) {
        cairn_solver::Reference::parse(&name.to_string()).expect("a whole name is a name");
    }
}

#[cfg(test)]
#[path = "../../fuzz/damaged.rs"]
mod damaged;

#[cfg(test)]
mod tests {

    use super::*;

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        match name {
            "base_config" => texts(&[
                r#"{"os":"linux","architecture":"arm64","config":{"Env":["A=b","PATH=/x"],"WorkingDir":"/y","OnBuild":["RUN x"],"Shell":["sh","-c"],"ExposedPorts":{"80/tcp":{}}},"rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x"}]}"#,
            ]),
            "options" => texts(&[
                "filename=../../etc/passwd\ntarget=x\nbuild-arg:A=b\nlabel:l=m\nplatform=linux/arm64,linux/amd64\ncontext:base=docker-image://a\ncontext=https://a/b.git#c:d\nno-cache=a,b\nulimit=nofile=1:2,core=3\nadd-hosts=a=1.2.3.4,b=::1\nshm-size=67108864\ncgroup-parent=/x",
            ]),
            "words" => texts(&[
                "a,\"b\"\"c\",d",
                "linux/arm/v7",
                "docker.io/library/a:b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ]),
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_decoder_takes_any_bytes() {
        for (name, target) in TARGETS {
            damaged::try_target(name, target, seeds(name), 1500);
        }
    }

    #[test]
    fn every_decoder_has_a_target() {
        damaged::expect_targets(env!("CARGO_MANIFEST_DIR"), TARGETS.iter().map(|(name, _)| *name));
    }
}
