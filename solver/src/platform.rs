//! Platforms: what an op runs on and what an image is for.

use std::fmt;
use std::str::FromStr;

/// An operating system and architecture, normalised.
///
/// `arm64` has no variant when it is `v8` and `arm` always has one, so equal platforms compare equal. Follows the
/// OCI image index specification ("platform") and the names of Go's `GOOS`/`GOARCH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
pub struct Platform {
    /// CPU architecture, such as `amd64`.
    pub architecture: String,
    /// Operating system, such as `linux`.
    pub os: String,
    /// CPU variant, such as `v7`; empty when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Operating system version; empty when unspecified.
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Operating system features.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// Text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// It is not made as the names of platforms are.
    #[error("{0:?} is an invalid OS component of {0:?}: platform specifier must be OS/ARCH or OS/ARCH/VARIANT")]
    Malformed(String),
    /// One word, which nothing is called.
    #[error("{0:?}: unknown operating system or architecture: invalid argument")]
    Unknown(String),
}

/// Operating systems by the names that stand for a whole platform.
const SYSTEMS: [&str; 14] = [
    "linux",
    "windows",
    "darwin",
    "macos",
    "freebsd",
    "openbsd",
    "netbsd",
    "dragonfly",
    "solaris",
    "illumos",
    "aix",
    "android",
    "plan9",
    "wasip1",
];
/// The same of architectures, with other names that they have.
const ARCHITECTURES: [&str; 24] = [
    "amd64", "x86_64", "x86-64", "386", "i386", "arm", "armhf", "armel", "arm64", "aarch64", "armbe", "arm64be",
    "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le", "riscv64", "s390x", "sparc64", "wasm",
    "riscv",
];

impl Platform {
    /// Makes a normalised platform from its three usual parts; `variant` may be empty.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os {
            "" => "linux",
            "macos" => "darwin",
            os => os,
        };
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("i386" | "i486" | "i586" | "i686", _) => ("386", ""),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            other => other,
        };
        Self {
            architecture: architecture.to_owned(),
            os: os.to_ascii_lowercase(),
            variant: variant.to_owned(),
            ..Self::default()
        }
    }

    /// The platform this program was built for.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, "")
    }

    /// Whether a lower-case word is the name of an operating system.
    pub fn is_known_os(word: &str) -> bool {
        SYSTEMS.contains(&word)
    }

    /// Whether a lower-case word is the name of an architecture.
    pub fn is_known_architecture(word: &str) -> bool {
        ARCHITECTURES.contains(&word)
    }

    /// The same platform with names and variant normalised.
    #[must_use]
    pub fn normalized(&self) -> Self {
        Self {
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            ..Self::new(
                &self.os,
                &self.architecture.to_ascii_lowercase(),
                &self.variant.to_ascii_lowercase(),
            )
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Parses `os/arch[/variant]`, or `arch` alone for Linux.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.len() <= 64
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| valid(part)) {
            return Err(PlatformError::Malformed(text.chars().take(128).collect()));
        }
        let lower: Vec<String> = parts.iter().map(|part| part.to_ascii_lowercase()).collect();
        match lower.as_slice() {
            [os] if Self::is_known_os(os) => Ok(Self::new(os, std::env::consts::ARCH, "")),
            [arch] if Self::is_known_architecture(arch) => Ok(Self::new("linux", arch, "")),
            [other] => Err(PlatformError::Unknown(other.clone())),
            [os, arch] => Ok(Self::new(os, arch, "")),
            [os, arch, variant] => Ok(Self::new(os, arch, variant)),
            _ => Err(PlatformError::Malformed(text.chars().take(128).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("arm64", "linux/arm64"),
            ("Linux/AMD64", "linux/amd64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), want, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "/", "linux/", "a/b/c/d", "linux/am d64", "../x"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        assert_eq!(
            "amd46".parse::<Platform>().unwrap_err().to_string(),
            "\"amd46\": unknown operating system or architecture: invalid argument"
        );
    }
}
