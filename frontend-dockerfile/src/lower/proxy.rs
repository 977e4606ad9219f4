//! Proxy settings, which come as build arguments but never become part of the build.

use std::collections::BTreeMap;

use cairn_solver::llb::ProxyEnv;

/// The proxies among the build arguments, if there are any. If a name is given in both cases the lower-case one wins.
pub(super) fn from_build_args(args: &BTreeMap<String, String>) -> Option<Box<ProxyEnv>> {
    let get = |name: &str| {
        let other = || {
            args.iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        };
        args.get(name).or_else(other).cloned().unwrap_or_default()
    };
    let proxy = ProxyEnv {
        http: get("http_proxy"),
        https: get("https_proxy"),
        ftp: get("ftp_proxy"),
        no: get("no_proxy"),
        all: get("all_proxy"),
    };
    (proxy != ProxyEnv::default()).then(|| Box::new(proxy))
}
