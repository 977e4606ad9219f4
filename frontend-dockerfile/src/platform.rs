//! Platforms as written in Dockerfiles and options.

use cairn_solver::Platform;

use crate::gofmt;

/// A platform with all that is known of it: `windows(10.0.1+win32k)/amd64`.
pub(crate) fn full(platform: &Platform) -> String {
    let mut features: Vec<&str> = platform.os_features.iter().map(String::as_str).collect();
    features.retain(|feature| !feature.is_empty());
    features.sort_unstable();
    features.dedup();
    let short = platform.to_string();
    let Some(rest) = short.strip_prefix(&platform.os) else {
        return short;
    };
    if platform.os_version.is_empty() && features.is_empty() {
        return short;
    }
    let features: String = features.iter().map(|feature| format!("+{feature}")).collect();
    format!("{}({}{features}){rest}", platform.os, platform.os_version)
}

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
            None => return Err(bad_system(head, text)),
        },
        None => (head, ""),
    };
    let is_named = |text: &str, more: &[char]| text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c));
    if system.is_empty() || !is_named(system, &['_', '-']) || !is_named(version, &['_', '.', '%', '-', '+']) {
        return Err(bad_system(head, text));
    }
    // At most four parts are told apart.
    let mut parts = text.splitn(4, '/').skip(1);
    if let Some(part) = parts.find(|part| part.is_empty() || !is_named(part, &['_', '.', '-'])) {
        return Err(format!(
            "{} is an invalid component of {}: platform specifier component must match \
             \"^[A-Za-z0-9_.-]+$\": invalid argument",
            gofmt::quote(part),
            gofmt::quote(text)
        ));
    }
    let lower = system.to_ascii_lowercase();
    let mut platform = match tail {
        None if Platform::is_known_os(&lower) => Platform::new(&lower, &default.architecture, ""),
        None if Platform::is_known_architecture(&lower) => Platform::new(&default.os, &lower, ""),
        None => return fail("unknown operating system or architecture"),
        Some(tail) => match format!("{lower}/{tail}").parse::<Platform>() {
            Ok(platform) => platform.normalized(),
            Err(_) => return fail("cannot parse platform specifier"),
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

fn bad_system(head: &str, text: &str) -> String {
    // The pattern is Go's way of writing it, inside of a literal.
    let pattern = r"^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+[A-Za-z0-9_.%-]+)*)\\))?$";
    format!(
        "{} is an invalid OS component of {}: OSAndVersion specifier component must match \"{pattern}\": invalid argument",
        gofmt::quote(head),
        gofmt::quote(text)
    )
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
        let described = Platform {
            os_version: "10.0.1".to_owned(),
            os_features: vec!["win32k".to_owned(), "a".to_owned(), "a".to_owned()],
            ..Platform::new("windows", "amd64", "")
        };
        assert_eq!(full(&described), "windows(10.0.1+a+win32k)/amd64");
        assert_eq!(full(&host), "linux/amd64");
        assert_eq!(
            parse("linux/", &host).unwrap_err(),
            "\"\" is an invalid component of \"linux/\": platform specifier component must match \
             \"^[A-Za-z0-9_.-]+$\": invalid argument"
        );
        for text in ["", "linux(", "l(1", "é/amd64", "linux(/)/amd64"] {
            assert!(
                parse(text, &host)
                    .unwrap_err()
                    .contains("is an invalid OS component of"),
                "{text}"
            );
        }
        assert_eq!(
            parse("a/b/c/d", &host).unwrap_err(),
            "\"a/b/c/d\": cannot parse platform specifier: invalid argument"
        );
    }
}
