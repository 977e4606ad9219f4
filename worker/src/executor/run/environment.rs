//! The environment of a process.

use super::error::ExecError;
use super::request::ExecRequest;
use crate::executor::user::User;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the op says, the proxies and secrets it asks for, and what every process needs.
pub(super) fn environment(request: &ExecRequest, user: &User) -> Result<Vec<String>, ExecError> {
    let op = &request.op;
    // One without a value unsets it, and there is nothing to unset.
    let mut env: Vec<String> = op.env.iter().filter(|entry| entry.contains('=')).cloned().collect();
    let proxies = op.proxy.as_ref().map(|proxy| {
        [
            ("http_proxy", &proxy.http),
            ("https_proxy", &proxy.https),
            ("ftp_proxy", &proxy.ftp),
            ("no_proxy", &proxy.no),
            ("all_proxy", &proxy.all),
        ]
    });
    for (name, value) in proxies.into_iter().flatten().filter(|(_, value)| !value.is_empty()) {
        env.push(format!("{}={value}", name.to_uppercase()));
        env.push(format!("{name}={value}"));
    }
    if !env.iter().any(|entry| entry.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.to_owned());
    }
    for secret in &op.secret_env {
        let value = match request.grants.secrets.get(&secret.id) {
            Some(value) => std::str::from_utf8(value).map_err(|_| {
                ExecError::Invalid(format!(
                    "secret {} is not text: it cannot be in {}",
                    secret.id, secret.name
                ))
            })?,
            None if secret.optional => "",
            None => return Err(ExecError::NoSecret(secret.id.clone())),
        };
        env.push(format!("{}={value}", secret.name));
    }
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home.as_deref().unwrap_or("/")));
    }
    Ok(env)
}
