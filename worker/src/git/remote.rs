//! Where to fetch from.

use cairn_session::Secret;
use url::Url;

use super::error::GitError;

/// How a remote is spoken to. Others are not: they lead to files and programs of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `http://`, `https://`.
    Http,
    /// `ssh://`, `user@host:path`.
    Ssh,
    /// `git://`.
    Git,
}

/// A remote repository. What is shown of it and handed to git holds no password.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    url: String,
    protocol: Protocol,
    /// `scheme://host[:port]/` of one that is reached by HTTP.
    base: String,
    /// Host, and port if it is given.
    authority: String,
    login: Option<(String, Secret)>,
}

impl Remote {
    /// Parses a URL, or `user@host:path`.
    ///
    /// # Errors
    /// [`GitError::Remote`] for anything that git must not be given.
    pub(crate) fn parse(text: &str) -> Result<Self, GitError> {
        let refuse = |reason: &str| GitError::Remote {
            url: without_password(text),
            reason: reason.to_owned(),
        };
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(refuse("it holds blanks or control characters"));
        }
        match text.split_once("://") {
            Some((scheme, _)) => Self::of_url(scheme, text, refuse),
            None => Self::of_scp(text).ok_or_else(|| refuse("it is neither a URL nor user@host:path")),
        }
    }

    fn of_url(scheme: &str, text: &str, refuse: impl Fn(&str) -> GitError) -> Result<Self, GitError> {
        let protocol = match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Protocol::Http,
            "ssh" => Protocol::Ssh,
            "git" => Protocol::Git,
            other => return Err(refuse(&format!("protocol {other:?} is not allowed"))),
        };
        let mut url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        if host.is_empty() || host.starts_with('-') || url.username().starts_with('-') {
            return Err(refuse("it names no host"));
        }
        if url.path().trim_matches('/').is_empty() {
            return Err(refuse("it names no repository"));
        }
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host,
        };
        let login = (!url.username().is_empty() || url.password().is_some()).then(|| {
            let decode = |text: &str| percent_decode(text);
            let password = url.password().map(decode).unwrap_or_default();
            (
                String::from_utf8_lossy(&decode(url.username())).into_owned(),
                Secret::new(password),
            )
        });
        // Cannot fail for a URL with a host.
        let mut strip = || -> Result<(), ()> {
            url.set_password(None)?;
            if protocol != Protocol::Ssh {
                url.set_username("")?;
            }
            Ok(())
        };
        strip().map_err(|()| refuse("its credentials cannot be told from the rest"))?;
        url.set_fragment(None);
        Ok(Self {
            base: format!("{}://{authority}/", url.scheme()),
            url: url.into(),
            protocol,
            authority,
            login: login.filter(|_| protocol == Protocol::Http),
        })
    }

    fn of_scp(text: &str) -> Option<Self> {
        let (user, rest) = text.split_once('@')?;
        let (host, path) = rest.split_once(':')?;
        let is_name = |name: &str, marks: &[u8]| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || marks.contains(&byte);
            !name.is_empty() && !name.starts_with('-') && name.bytes().all(fits)
        };
        let fits = is_name(user, b"-_") && is_name(host, b"-.") && !path.is_empty() && !path.starts_with('-');
        fits.then(|| Self {
            url: text.to_owned(),
            protocol: Protocol::Ssh,
            base: String::new(),
            authority: host.to_owned(),
            login: None,
        })
    }

    /// The remote without credentials, for git and for people.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// How it is spoken to.
    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Its host, and its port if that is given: who credentials are for.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// `scheme://host[:port]/`, for one that is reached by HTTP.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// User and password that the URL held, for HTTP.
    pub(crate) fn login(&self) -> Option<&(String, Secret)> {
        self.login.as_ref()
    }
}

/// The text with everything that could be a password left out, for messages about what does not parse.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://xxxxx{}", &rest[at..]),
        None => text.to_owned(),
    }
}

/// Undoes `%41`.
fn percent_decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let decoded = (first == b'%')
            .then(|| others.get(..2))
            .flatten()
            .and_then(|digits| hex::decode(digits).ok());
        match decoded {
            Some(decoded) => {
                bytes.extend(decoded);
                rest = &others[2..];
            }
            None => {
                bytes.push(first);
                rest = others;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_are_parsed_and_lose_their_credentials() {
        for (text, url, authority) in [
            (
                "https://example.com/a/b.git",
                "https://example.com/a/b.git",
                "example.com",
            ),
            (
                "https://u:p%40ss@example.com:8443/b.git#x",
                "https://example.com:8443/b.git",
                "example.com:8443",
            ),
            ("http://token@127.0.0.1:80/r", "http://127.0.0.1/r", "127.0.0.1"),
            (
                "ssh://git:pw@example.com:2222/a.git",
                "ssh://git@example.com:2222/a.git",
                "example.com:2222",
            ),
            ("git://[::1]:9418/a", "git://[::1]:9418/a", "[::1]:9418"),
            ("git@github.com:a/b.git", "git@github.com:a/b.git", "github.com"),
        ] {
            let remote = Remote::parse(text).unwrap();
            assert_eq!((remote.url(), remote.authority()), (url, authority), "{text}");
            assert!(!format!("{remote:?}").contains("p@ss"), "{text}");
        }
        let login = Remote::parse("https://u:p%40ss@example.com/b.git").unwrap();
        let (user, password) = login.login().unwrap();
        assert_eq!((user.as_str(), password.expose()), ("u", &b"p@ss"[..]));
        assert!(Remote::parse("ssh://git@example.com/a").unwrap().login().is_none());
    }

    #[test]
    fn what_leads_to_this_machine_or_into_options_is_refused() {
        for text in [
            "file:///etc",
            "ext::sh -c true",
            "ext::sh%20-c%20true://x",
            "/etc/passwd",
            "./repo",
            "--upload-pack=touch",
            "-x@host:path",
            "git@-oProxyCommand=x:path",
            "git@host:-path",
            "git@host:",
            "ssh://-oProxyCommand=x/a",
            "ssh://-l@host/a",
            "https:///a",
            "https://host",
            "https://host/",
            "https://host/a\n[core]",
            "https://host/a b",
            "fd::3",
            "fd://3/x",
            "",
        ] {
            Remote::parse(text).unwrap_err();
        }
        let error = Remote::parse("gopher://u:hunter2@host/a").unwrap_err().to_string();
        assert_eq!(
            error,
            r#"invalid git remote "gopher://xxxxx@host/a": protocol "gopher" is not allowed"#
        );
    }
}
