//! Which checks count.

use crate::gofmt;

/// What was said about checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CheckConfig {
    pub(crate) skip: Selection,
    pub(crate) experimental: Selection,
    /// Whether a finding fails the build.
    pub(crate) error: bool,
}

/// Some rules, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection(Vec<String>);

impl Selection {
    pub(crate) fn covers(&self, rule: &str) -> bool {
        self.0.iter().any(|name| name == rule || name == "all")
    }
}

impl CheckConfig {
    /// Reads `skip=A,B;error=true;experimental=all`. Of more than three parts the rest belongs to the third.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for part in text.splitn(3, ';').filter(|_| !text.trim().is_empty()) {
            let part = part.trim();
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("invalid check option {}", gofmt::quote(part)));
            };
            let names = || Selection(value.split(',').map(|name| name.trim().to_owned()).collect());
            match key.trim() {
                "skip" => config.skip = names(),
                "experimental" => config.experimental = names(),
                "error" => {
                    let value = value.trim();
                    config.error = gofmt::parse_bool(value).ok_or_else(|| {
                        let value = gofmt::quote(value);
                        format!(
                            "failed to parse check option {}: strconv.ParseBool: parsing {value}: invalid syntax",
                            gofmt::quote(part)
                        )
                    })?;
                }
                key => return Err(format!("invalid check option {}", gofmt::quote(key))),
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_or_refused() {
        let config = CheckConfig::parse("skip=A, B ; error = true").unwrap();
        assert!(config.skip.covers("B") && config.error && !config.skip.covers("C"));
        assert!(CheckConfig::parse("skip=all").unwrap().skip.covers("X"));
        assert_eq!(CheckConfig::parse("").unwrap(), CheckConfig::default());
        assert_eq!(CheckConfig::parse("foo").unwrap_err(), "invalid check option \"foo\"");
        assert_eq!(
            CheckConfig::parse("error=maybe").unwrap_err(),
            "failed to parse check option \"error=maybe\": strconv.ParseBool: parsing \"maybe\": invalid syntax"
        );
    }
}
