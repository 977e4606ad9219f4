//! Platforms as written in Dockerfiles and options.

use cairn_solver::Platform;

use crate::gofmt;

/// Parses `os[(version)][/arch[/variant]]`, or an architecture alone.
///
/// # Errors
/// The text that users know: `"foo": unknown operating system or architecture: invalid argument`.
pub(crate) fn parse(text: &str, default: &Platform) -> Result<Platform, String> {
    let fail = |cause: &str| Err(format!("{}: {cause}: invalid argument", gofmt::quote(text)));
    if text == "local" {
        return Ok(default.clone());
    }
    let (head, tail) = text
        .split_once('/')
        .map_or((text, None), |(head, tail)| (head, Some(tail)));
    let (system, version) = match head.split_once('(') {
        Some((system, version)) => match version.strip_suffix(')') {
            Some(version) => (system, version),
            None => return fail("cannot parse platform specifier"),
        },
        None => (head, ""),
    };
    let lower = system.to_ascii_lowercase();
    let mut platform = match tail {
        None if Platform::is_known_os(&lower) => Platform::new(&lower, &default.architecture, ""),
        None if Platform::is_known_architecture(&lower) => Platform::new(&default.os, &lower, ""),
        None => return fail("unknown operating system or architecture"),
        Some(tail) => match format!("{lower}/{tail}").parse::<Platform>() {
            Ok(platform) => platform.normalized(),
            Err(_) => {
                // At most four parts are told apart.
                let mut parts = text.splitn(4, '/');
                return match parts.nth(3).filter(|part| part.contains('/')) {
                    Some(part) => Err(format!(
                        "{} is an invalid component of {}: platform specifier component must match \
                         \"^[A-Za-z0-9_.-]+$\": invalid argument",
                        gofmt::quote(part),
                        gofmt::quote(text)
                    )),
                    None => fail("cannot parse platform specifier"),
                };
            }
        },
    };
    let (version, features) = version
        .split_once('+')
        .map_or((version, None), |(version, features)| (version, Some(features)));
    platform.os_version = version.to_owned();
    platform.os_features = features
        .map(|features| features.split('+').map(str::to_owned).collect())
        .unwrap_or_default();
    Ok(platform)
}

/// The automatic arguments of one side, `BUILD…` or `TARGET…`.
pub(crate) fn arguments(prefix: &str, platform: &Platform) -> [(String, String); 5] {
    let whole = match (prefix, platform.os_version.as_str()) {
        ("TARGET", version) if !version.is_empty() => {
            let rest = platform.to_string();
            let rest = rest.strip_prefix(&platform.os).unwrap_or_default().to_owned();
            format!("{}({version}){rest}", platform.os)
        }
        _ => platform.to_string(),
    };
    [
        (format!("{prefix}PLATFORM"), whole),
        (format!("{prefix}OS"), platform.os.clone()),
        (format!("{prefix}OSVERSION"), platform.os_version.clone()),
        (format!("{prefix}ARCH"), platform.architecture.clone()),
        (format!("{prefix}VARIANT"), platform.variant.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_understood_or_refused() {
        let host = Platform::new("linux", "amd64", "");
        for (text, want) in [
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("linux", "linux/amd64"),
            ("local", "linux/amd64"),
            ("windows(10.0.1)/amd64", "windows/amd64"),
            ("Linux/X86_64", "linux/amd64"),
        ] {
            assert_eq!(parse(text, &host).unwrap().to_string(), want, "{text}");
        }
        assert_eq!(parse("windows(10.0.1)/amd64", &host).unwrap().os_version, "10.0.1");
        assert_eq!(
            parse("foo", &host).unwrap_err(),
            "\"foo\": unknown operating system or architecture: invalid argument"
        );
        assert_eq!(
            parse("a/b/c/d", &host).unwrap_err(),
            "\"a/b/c/d\": cannot parse platform specifier: invalid argument"
        );
    }
}
