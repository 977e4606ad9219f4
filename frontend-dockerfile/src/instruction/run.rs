//! `RUN` and its mounts.

use crate::csv;
use crate::flags::{FlagKind, FlagSpec};
use crate::gofmt;
use crate::suggest::suggestion;
use crate::syntax::{Args, Heredoc, Node};

use super::config::{CommandLine, command};

/// A `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What runs. The shell form of a single heredoc is the heredoc's word.
    pub command: CommandLine,
    /// Here-documents, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<MountFlag>,
    /// `--network`
    pub network: Option<NetworkFlag>,
    /// Whether `--security=insecure` was given.
    pub insecure: bool,
    /// `--device`, in order; only some editions of the language have it.
    pub devices: Vec<DeviceFlag>,
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkFlag {
    /// As the stage has it.
    Default,
    /// The host's.
    Host,
    /// None.
    None,
}

/// A `--device`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceFlag {
    /// Its name in the Container Device Interface, such as `vendor.com/class=name`.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

/// A `--mount` as written, split into its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    /// The fields, unexpanded.
    pub fields: Vec<String>,
    /// `from`, which is never expanded.
    pub from: Option<String>,
}

/// A `--mount`, understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountSpec {
    /// `bind`, `cache`, `tmpfs`, `secret` or `ssh`.
    pub kind: &'static str,
    /// `target`
    pub target: String,
    /// `source`
    pub source: String,
    /// `from`
    pub from: Option<String>,
    /// Whether it can only be read; `None` is the kind's default.
    pub readonly: Option<bool>,
    /// `id`
    pub id: String,
    /// `sharing`
    pub sharing: Option<CacheMode>,
    /// `size` in bytes.
    pub size: u64,
    /// `mode`
    pub mode: Option<u32>,
    /// `uid`
    pub uid: Option<u32>,
    /// `gid`
    pub gid: Option<u32>,
    /// `required`
    pub required: bool,
    /// `env`
    pub env: Option<String>,
}

/// `sharing` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// By everyone at once.
    Shared,
    /// Not at all.
    Private,
    /// By one after the other.
    Locked,
}

const FLAGS: &FlagSpec = &[
    ("mount", FlagKind::List),
    ("device", FlagKind::List),
    ("network", FlagKind::Text),
    ("security", FlagKind::Text),
];

const KINDS: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

pub(super) fn run(node: &Node, args: Args) -> Result<Run, String> {
    let flags = super::flags(node, FLAGS)?;
    let mounts = flags.list("mount").map(mount_flag).collect::<Result<_, _>>()?;
    let network = match flags.given("network") {
        None => None,
        Some("default") => Some(NetworkFlag::Default),
        Some("host") => Some(NetworkFlag::Host),
        Some("none") => Some(NetworkFlag::None),
        Some(other) => return Err(format!("invalid network mode {}", gofmt::quote(other))),
    };
    let insecure = match flags.given("security") {
        None | Some("sandbox") => false,
        Some("insecure") => true,
        Some(other) => return Err(format!("security {} is not valid", gofmt::quote(other))),
    };
    Ok(Run {
        devices: flags.list("device").map(device).collect::<Result<_, _>>()?,
        command: command(args),
        heredocs: node.heredocs.clone(),
        mounts,
        network,
        insecure,
    })
}

/// The first field that is nothing else is the name, which may contain `=` itself.
fn device(value: &str) -> Result<DeviceFlag, String> {
    let fields = csv::record(value).map_err(|cause| format!("failed to parse csv devices: {cause}"))?;
    let mut device = DeviceFlag::default();
    for field in fields {
        let (key, value) = field
            .split_once('=')
            .map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let lower = key.to_lowercase();
        match (lower.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required =
                    gofmt::parse_bool(value).ok_or_else(|| format!("invalid value for {lower}: {value}"))?;
            }
            ("name", Some(_)) if !device.name.is_empty() => {
                return Err(format!("device name already set to {}", device.name));
            }
            ("name", Some(value)) => device.name = value.to_owned(),
            _ if device.name.is_empty() => device.name = field,
            (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair")),
            (_, Some(_)) => return Err(format!("unexpected key '{lower}' in '{field}'")),
        }
    }
    Ok(device)
}

fn mount_flag(value: &str) -> Result<MountFlag, String> {
    let fields = csv::record(value).map_err(|cause| format!("failed to parse csv mounts: {cause}"))?;
    let from = fields.iter().rev().find_map(|field| {
        let (key, value) = field.split_once('=')?;
        key.eq_ignore_ascii_case("from").then(|| value.to_owned())
    });
    // A `$` at the very end is no variable.
    if from
        .as_deref()
        .is_some_and(|from| from.char_indices().any(|(at, c)| c == '$' && at + 1 < from.len()))
    {
        return Err("'from' doesn't support variable expansion, define alias stage instead".to_owned());
    }
    Ok(MountFlag {
        fields,
        from: from.filter(|from| !from.is_empty()),
    })
}

/// Understands a mount, expanding its values.
///
/// # Errors
/// The first field that is wrong.
pub fn parse_mount(
    flag: &MountFlag,
    mut expand: impl FnMut(&str) -> Result<String, String>,
) -> Result<MountSpec, String> {
    let mut spec = MountSpec {
        kind: "bind",
        ..MountSpec::default()
    };
    for field in &flag.fields {
        let (key, written) = field
            .split_once('=')
            .map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let lower = key.to_lowercase();
        let Some(written) = written else {
            switch(&mut spec, &lower, field)?;
            continue;
        };
        let value = if lower == "from" {
            written.to_owned()
        } else {
            expand(written)?
        };
        assign(&mut spec, &lower, &value, field)?;
    }
    check(spec)
}

/// A field without `=`.
fn switch(spec: &mut MountSpec, key: &str, field: &str) -> Result<(), String> {
    match key {
        "readonly" | "ro" => spec.readonly = Some(true),
        "readwrite" | "rw" => spec.readonly = Some(false),
        "required" if matches!(spec.kind, "secret" | "ssh") => spec.required = true,
        "required" => return Err(format!("unexpected key 'required' for mount type '{}'", spec.kind)),
        _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
    }
    Ok(())
}

fn assign(spec: &mut MountSpec, key: &str, value: &str, field: &str) -> Result<(), String> {
    let boolean = || gofmt::parse_bool(value).ok_or_else(|| format!("invalid value for {key}: {value}"));
    let number = |radix| u32::from_str_radix(value, radix).map_err(|_| format!("invalid value {value} for {key}"));
    match key {
        "type" => {
            let kind = value.to_lowercase();
            spec.kind = KINDS.into_iter().find(|known| *known == kind).ok_or_else(|| {
                format!(
                    "unsupported mount type {}{}",
                    gofmt::quote(value),
                    suggestion(&kind, KINDS)
                )
            })?;
        }
        "from" => spec.from = Some(value.to_owned()).filter(|from| !from.is_empty()),
        "source" | "src" => spec.source = value.to_owned(),
        "target" | "dst" | "destination" => spec.target = value.to_owned(),
        "readonly" | "ro" => spec.readonly = Some(boolean()?),
        "readwrite" | "rw" => spec.readonly = Some(!boolean()?),
        "required" if matches!(spec.kind, "secret" | "ssh") => spec.required = boolean()?,
        "required" => return Err(format!("unexpected key 'required' for mount type '{}'", spec.kind)),
        "size" if spec.kind == "tmpfs" => {
            spec.size = size(value).ok_or_else(|| format!("invalid value for {key}: {value}"))?
        }
        "size" => return Err(format!("unexpected key 'size' for mount type '{}'", spec.kind)),
        "id" => spec.id = value.to_owned(),
        "sharing" => spec.sharing = Some(sharing(value)?),
        "mode" => spec.mode = Some(number(8)?),
        "uid" => spec.uid = Some(number(10)?),
        "gid" => spec.gid = Some(number(10)?),
        "env" => spec.env = Some(value.to_owned()),
        _ => {
            return Err(format!("unexpected key '{key}' in '{field}'{}", suggestion(key, KEYS)));
        }
    }
    Ok(())
}

/// What can only be told when all fields are known.
fn check(mut spec: MountSpec) -> Result<MountSpec, String> {
    let given = [
        ("mode", spec.mode.is_some()),
        ("uid", spec.uid.is_some()),
        ("gid", spec.gid.is_some()),
    ];
    if !matches!(spec.kind, "cache" | "secret" | "ssh")
        && let Some((key, _)) = given.into_iter().find(|(_, is_given)| *is_given)
    {
        return Err(format!("{key} not allowed for {} type mounts", gofmt::quote(spec.kind)));
    }
    if spec.sharing.is_some() && spec.kind != "cache" {
        return Err(match spec.kind {
            "secret" if spec.from.is_some() => "secret mount should not have a from".to_owned(),
            "secret" => "secret mount should not define sharing".to_owned(),
            kind => format!("invalid cache sharing set for {kind} mount"),
        });
    }
    if spec.kind == "secret" {
        if spec.from.is_some() {
            return Err("secret mount should not have a from".to_owned());
        }
        if !spec.source.is_empty() && !spec.id.is_empty() {
            return Err("both source and id can't be set".to_owned());
        }
        if spec.source.is_empty() && spec.id.is_empty() && spec.target.is_empty() {
            return Err("invalid secret mount. one of source, target required".to_owned());
        }
        if spec.id.is_empty() {
            spec.id = std::mem::take(&mut spec.source);
        }
    }
    if spec.kind == "ssh" && !spec.source.is_empty() {
        return Err("ssh does not support source".to_owned());
    }
    Ok(spec)
}

fn sharing(value: &str) -> Result<CacheMode, String> {
    match value.to_lowercase().as_str() {
        "shared" => Ok(CacheMode::Shared),
        "private" => Ok(CacheMode::Private),
        "locked" => Ok(CacheMode::Locked),
        lower => {
            let near = suggestion(lower, ["shared", "private", "locked"]);
            Err(format!("unsupported sharing value {}{near}", gofmt::quote(value)))
        }
    }
}

/// Bytes with a binary unit: `1m`, `2g`, `1.5k`, `64MiB`.
fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit = unit.trim_start();
    let prefix = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(unit);
    let shift = match prefix {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * (1_u64 << shift) as f64;
    (0.0..=i64::MAX as f64).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<MountSpec, String> {
        parse_mount(&mount_flag(value)?, |value| Ok(value.replace("$ty", "cache")))
    }

    #[test]
    fn wrong_mounts_say_why() {
        for (value, want) in [
            (
                "type=cach,target=/m",
                "unsupported mount type \"cach\" (did you mean cache?)",
            ),
            (
                "sorce=bar,target=/m",
                "unexpected key 'sorce' in 'sorce=bar' (did you mean source?)",
            ),
            ("foo,target=/m", "invalid field 'foo' must be a key=value pair"),
            ("target=/m,", "invalid field '' must be a key=value pair"),
            ("target=/m,ro=maybe", "invalid value for ro: maybe"),
            ("target=/m,size=1", "unexpected key 'size' for mount type 'bind'"),
            ("target=/m,uid=1", "uid not allowed for \"bind\" type mounts"),
            ("target=/m,sharing=locked", "invalid cache sharing set for bind mount"),
            ("", "failed to parse csv mounts: EOF"),
            (
                "type=cache,target=/c,sharing=lockd",
                "unsupported sharing value \"lockd\" (did you mean locked?)",
            ),
            ("type=cache,target=/c,mode=999", "invalid value 999 for mode"),
            (
                "type=secret,env=X",
                "invalid secret mount. one of source, target required",
            ),
            ("type=secret,id=a,source=b", "both source and id can't be set"),
            (
                "required,type=secret,id=a",
                "unexpected key 'required' for mount type 'bind'",
            ),
            ("type=ssh,source=x", "ssh does not support source"),
            (
                "from=$X,target=/m",
                "'from' doesn't support variable expansion, define alias stage instead",
            ),
        ] {
            assert_eq!(parse(value).unwrap_err(), want, "{value}");
        }
    }

    #[test]
    fn devices_have_a_name_and_may_be_required() {
        for (value, want) in [
            ("vendor.com/gpu=all", Ok(("vendor.com/gpu=all", false))),
            ("name=x,required", Ok(("x", true))),
            ("required=0,x", Ok(("x", false))),
            ("x,name=y", Err("device name already set to x")),
            ("x,required=maybe", Err("invalid value for required: maybe")),
            ("x,y", Err("invalid field 'y' must be a key=value pair")),
            ("x,Y=z", Err("unexpected key 'y' in 'Y=z'")),
            ("", Err("failed to parse csv devices: EOF")),
        ] {
            let found = device(value);
            let found = found.as_ref().map(|device| (device.name.as_str(), device.required));
            assert_eq!(found.map_err(String::as_str), want, "{value}");
        }
    }

    #[test]
    fn keys_and_types_are_case_insensitive_and_values_expand() {
        let spec = parse("TYPE=$ty,Target=/m,id=x,sharing=Locked,mode=0700,uid=5").unwrap();
        assert_eq!(
            (spec.kind, spec.target.as_str(), spec.sharing),
            ("cache", "/m", Some(CacheMode::Locked))
        );
        assert_eq!((spec.mode, spec.uid), (Some(0o700), Some(5)));
        assert_eq!(parse("type=tmpfs,target=/t,size=1m").unwrap().size, 1 << 20);
        assert_eq!(size("1.5GiB"), Some(3 << 29));
        assert_eq!(size("x"), None);
    }
}
