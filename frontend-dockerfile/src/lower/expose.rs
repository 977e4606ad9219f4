//! `EXPOSE`.

use std::net::IpAddr;

use crate::gofmt::quote;

/// The ports that one word stands for, as `80/tcp`. The part for the host is checked and then dropped.
pub(super) fn ports(word: &str) -> Result<Vec<String>, String> {
    let (ports, proto) = word.split_once('/').unwrap_or((word, "tcp"));
    let proto = if proto.is_empty() {
        "tcp".to_owned()
    } else {
        proto.to_lowercase()
    };
    if !matches!(proto.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid port: {}: invalid proto: {proto}", quote(word)));
    }
    let (host, container) = ports
        .rsplit_once(':')
        .map_or(("", ports), |(host, container)| (host, container));
    if container.is_empty() {
        return Err(format!("invalid port: {}: no port specified", quote(word)));
    }
    let (ip, host) = host.rsplit_once(':').unwrap_or(("", host));
    let ip = ip.trim_start_matches('[').trim_end_matches(']');
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (first, last) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    if !host.is_empty() {
        let (from, to) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        // Many host ports for one container port mean "any of these".
        if to - from != last - first && last != first {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{proto}")).collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::ports;

    #[test]
    fn words_become_ports() {
        for (word, want) in [
            ("80", &["80/tcp"][..]),
            ("90-91/UDP", &["90/udp", "91/udp"]),
            ("81:81", &["81/tcp"]),
            ("1.2.3.4:80:81/tcp", &["81/tcp"]),
            ("[::1]:80:81", &["81/tcp"]),
        ] {
            assert_eq!(ports(word).unwrap(), want, "{word}");
        }
        for (word, want) in [
            ("80/foo", "invalid port: \"80/foo\": invalid proto: foo"),
            ("65536", "invalid containerPort: 65536"),
            (
                "80:81-82",
                "invalid ranges specified for container and host Ports: 81-82 and 80",
            ),
            ("999.1.1.1::80", "invalid IP address: 999.1.1.1"),
            ("80:", "invalid port: \"80:\": no port specified"),
            ("x:80", "invalid hostPort: x"),
            ("9-8", "invalid containerPort: 9-8"),
        ] {
            assert_eq!(ports(word).unwrap_err(), want, "{word}");
        }
    }
}
