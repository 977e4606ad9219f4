//! `/etc/resolv.conf` and `/etc/hosts` of a process.

use std::fmt::Write;
use std::net::IpAddr;

use cairn_solver::llb::HostIp;

/// Longest `resolv.conf` of the host that is used.
const RESOLV_MAX: usize = 64 * 1024;
/// Servers when the host has none that a process can reach.
const PUBLIC_SERVERS: &str =
    "nameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n";
/// The host's file, and where systemd keeps the one without its own local resolver.
const HOST_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Name servers to use instead of the host's. Empty parts are the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<IpAddr>,
    /// `options` line.
    pub options: Vec<String>,
    /// `search` line.
    pub search: Vec<String>,
}

/// Whose loopback interface a process sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loopback {
    /// The host's.
    Host,
    /// Another one, where nobody serves names.
    Own,
}

/// Contents of `/etc/resolv.conf`.
pub(super) fn resolv_conf(dns: &DnsConfig, loopback: Loopback) -> String {
    let read = |path| {
        std::fs::read(path)
            .ok()
            .map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(RESOLV_MAX)]).into_owned())
    };
    let host = read(HOST_FILES[0]).unwrap_or_default();
    // A server on the host's loopback is out of reach in a network of its own: systemd names the real ones elsewhere.
    let host = match loopback {
        Loopback::Own if servers(&host).all(|server| server.is_some_and(|ip| ip.is_loopback())) => {
            read(HOST_FILES[1]).unwrap_or(host)
        }
        Loopback::Host | Loopback::Own => host,
    };
    generate(&host, dns, loopback)
}

fn generate(host: &str, dns: &DnsConfig, loopback: Loopback) -> String {
    let mut text = String::new();
    for line in host.lines() {
        let replaced = match line.split_ascii_whitespace().next() {
            Some("nameserver") => {
                !dns.servers.is_empty()
                    || (loopback == Loopback::Own && server(line).is_some_and(|ip| ip.is_loopback()))
            }
            Some("options") => !dns.options.is_empty(),
            Some("search" | "domain") => !dns.search.is_empty(),
            _ => false,
        };
        if !replaced {
            text.push_str(line);
            text.push('\n');
        }
    }
    if !dns.search.is_empty() {
        text.push_str(&format!("search {}\n", dns.search.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    if loopback == Loopback::Own && servers(&text).next().is_none() {
        text.push_str(PUBLIC_SERVERS);
    }
    text
}

fn servers(text: &str) -> impl Iterator<Item = Option<IpAddr>> + '_ {
    text.lines()
        .filter(|line| line.split_ascii_whitespace().next() == Some("nameserver"))
        .map(server)
}

/// The address of a `nameserver` line, without the zone of a link-local one.
fn server(line: &str) -> Option<IpAddr> {
    let address = line.split_ascii_whitespace().nth(1)?;
    address.split('%').next()?.parse().ok()
}

/// Contents of `/etc/hosts`.
pub(super) fn hosts(hostname: &str, extra: &[HostIp]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for line in extra {
        // Writing to a string does not fail.
        writeln!(text, "{}\t{}", line.ip, line.host).unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_go_unless_the_network_is_the_hosts() {
        let host = "# made by x\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver ::1\nsearch corp\n";
        let none = DnsConfig::default();
        assert_eq!(generate(host, &none, Loopback::Host), host);
        assert_eq!(
            generate(host, &none, Loopback::Own),
            "# made by x\nnameserver 10.0.0.1\nsearch corp\n"
        );
        let only_local = generate("nameserver 127.0.0.1\n", &none, Loopback::Own);
        assert_eq!(only_local, PUBLIC_SERVERS);
    }

    #[test]
    fn configured_parts_replace_the_hosts() {
        let dns = DnsConfig {
            servers: vec!["1.2.3.4".parse().unwrap()],
            options: vec!["ndots:2".to_owned()],
            search: vec!["a".to_owned(), "b".to_owned()],
        };
        let text = generate(
            "nameserver 10.0.0.1\nsearch corp\noptions edns0\n",
            &dns,
            Loopback::Host,
        );
        assert_eq!(text, "search a b\nnameserver 1.2.3.4\noptions ndots:2\n");
    }

    #[test]
    fn hosts_lists_extra_names() {
        let extra = [HostIp {
            host: "db".to_owned(),
            ip: "10.1.2.3".parse().unwrap(),
        }];
        assert_eq!(
            hosts("box", &extra),
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\n"
        );
    }
}
