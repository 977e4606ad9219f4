//! Who a process runs as: `name|uid[:group|gid]`, looked up in the root file system it runs in.
//!
//! The account files come from an image: they are read as regular files inside the root, up to a limit, and lines that
//! do not parse name nobody. A field of digits is always a number, never a name, and one that is out of range is an
//! error rather than another user.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};

use crate::sys::Root;

/// Longest account file that is read.
const ACCOUNTS_MAX: u64 = 10 << 20;
/// Largest id, as the kernel reserves the one above for "leave as is" and older tools the upper half.
const ID_MAX: u32 = i32::MAX as u32;
/// Most supplementary groups the kernel takes.
const GROUPS_MAX: usize = 65536;

/// Why a user could not be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name is in no line of `/etc/passwd`.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// The name is in no line of `/etc/group`.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number that is no id.
    #[error("user or group id {0}: uids and gids must be in range 0-{ID_MAX}")]
    OutOfRange(String),
    /// An account file could not be read.
    #[error("failed to read {file} of the root file system")]
    Read {
        /// Which.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A user is in more groups than a process can be.
    #[error("user {0} is in more than {GROUPS_MAX} groups")]
    TooManyGroups(String),
}

/// Ids of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, ascending, the primary one among them: a process that drops it must not gain access by that.
    pub groups: Vec<u32>,
    /// Home directory, if the user has an entry that names one.
    pub home: Option<String>,
}

/// A line of `/etc/passwd`.
struct PasswdEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// A line of `/etc/group`.
struct GroupEntry {
    name: String,
    gid: u32,
    members: String,
}

/// Looks `spec` up. Empty is root; an explicit group is the only one; a number needs no entry.
pub fn lookup(root: &Root, spec: &str) -> Result<User, UserError> {
    let (user_part, group_part) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (spec, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let wanted = id(user_part)?;
    let entry = find(root, PASSWD, parse_passwd, |e| match wanted {
        Some(uid) => e.uid == uid,
        None => e.name == user_part,
    })?;
    let mut user = match (&entry, wanted) {
        (Some(e), _) => User {
            uid: e.uid,
            gid: e.gid,
            groups: Vec::new(),
            home: Some(e.home.clone()).filter(|h| h.starts_with('/')),
        },
        (None, Some(uid)) => User { uid, ..User::default() },
        (None, None) => return Err(UserError::NoUser(user_part.to_owned())),
    };
    match (group_part, entry) {
        (Some(group), _) => user.gid = explicit_group(root, group)?,
        (None, Some(entry)) => user.groups = groups_of(root, &entry.name)?,
        (None, None) => {}
    }
    user.groups.push(user.gid);
    user.groups.sort_unstable();
    user.groups.dedup();
    if user.groups.len() > GROUPS_MAX {
        return Err(UserError::TooManyGroups(user_part.to_owned()));
    }
    Ok(user)
}

/// User and primary group of a name; `None` if it has no entry.
///
/// This is how file operations name owners: digits are a name like any other, for clients say when they mean a number.
pub fn find_user(root: &Root, name: &str) -> Result<Option<(u32, u32)>, UserError> {
    Ok(find(root, PASSWD, parse_passwd, |e| e.name == name)?.map(|e| (e.uid, e.gid)))
}

/// Id of a group by its name; `None` if it has no entry.
pub fn find_group(root: &Root, name: &str) -> Result<Option<u32>, UserError> {
    Ok(find(root, GROUP, parse_group, |e| e.name == name)?.map(|e| e.gid))
}

fn explicit_group(root: &Root, name: &str) -> Result<u32, UserError> {
    match id(name)? {
        Some(gid) => Ok(gid),
        None => find_group(root, name)?.ok_or_else(|| UserError::NoGroup(name.to_owned())),
    }
}

fn groups_of(root: &Root, name: &str) -> Result<Vec<u32>, UserError> {
    let mut groups = Vec::new();
    each(root, GROUP, parse_group, |e| {
        if e.members.split(',').any(|member| member == name) {
            groups.push(e.gid);
        }
        groups.len() <= GROUPS_MAX
    })?;
    Ok(groups)
}

/// The number that `text` is, if it is one.
fn id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= ID_MAX => Ok(Some(id)),
        _ => Err(UserError::OutOfRange(text.chars().take(32).collect())),
    }
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

fn parse_passwd(line: &str) -> Option<PasswdEntry> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty())?.to_owned();
    let uid = id(fields.nth(1)?).ok()??;
    let gid = id(fields.next()?).ok()??;
    let home = fields.nth(1).unwrap_or_default().to_owned();
    Some(PasswdEntry { name, uid, gid, home })
}

fn parse_group(line: &str) -> Option<GroupEntry> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty())?.to_owned();
    let gid = id(fields.nth(1)?).ok()??;
    let members = fields.next().unwrap_or_default().to_owned();
    Some(GroupEntry { name, gid, members })
}

/// The first entry that `wanted` accepts.
fn find<T>(
    root: &Root,
    file: &'static str,
    parse: impl Fn(&str) -> Option<T>,
    wanted: impl Fn(&T) -> bool,
) -> Result<Option<T>, UserError> {
    let mut found = None;
    each(root, file, parse, |entry| {
        if wanted(&entry) {
            found = Some(entry);
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Hands every entry to `visit` until it returns false. A missing file has none.
fn each<T>(
    root: &Root,
    file: &'static str,
    parse: impl Fn(&str) -> Option<T>,
    mut visit: impl FnMut(T) -> bool,
) -> Result<(), UserError> {
    let failed = |source| UserError::Read { file, source };
    let (opened, metadata) = match root.open_regular(OsStr::new(file)) {
        Ok(opened) => opened,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if metadata.size > ACCOUNTS_MAX {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {ACCOUNTS_MAX} bytes"),
        )));
    }
    let mut reader = BufReader::new(opened.take(ACCOUNTS_MAX));
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        // The fields that count are text; what stands in the others, such as real names, need not be.
        let text = String::from_utf8_lossy(&line);
        let text = Some(text.trim()).filter(|text| !text.is_empty() && !text.starts_with('#'));
        if let Some(entry) = text.and_then(&parse)
            && !visit(entry)
        {
            break;
        }
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(passwd: impl AsRef<[u8]>, group: impl AsRef<[u8]>) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), group).unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn example() -> (tempfile::TempDir, Root) {
        root(
            "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nbob:x:1000:1001::/home/bob:/bin/sh\nnohome:x:5:6\n",
            "root:x:0:\nstaff:x:50:bob,eve\naudio:x:29:eve,bob\nbob:x:1001:\n",
        )
    }

    #[test]
    fn real_names_need_not_be_text() {
        let (_dir, root) = root(
            b"rene:x:1000:1001:Ren\xe9:/home/rene:/bin/sh\neve:x:7:8\n",
            b"\xe9:x:50:rene\n",
        );
        let user = lookup(&root, "rene").unwrap();
        let home = user.home.as_deref();
        assert_eq!((user.uid, user.gid, home), (1000, 1001, Some("/home/rene")));
        assert_eq!(user.groups, [50, 1001]);
        assert_eq!(lookup(&root, "eve").unwrap().uid, 7);
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let (_dir, root) = example();
        for (spec, uid, gid, groups, home) in [
            ("", 0, 0, vec![0], Some("/root")),
            ("root", 0, 0, vec![0], Some("/root")),
            ("bob", 1000, 1001, vec![29, 50, 1001], Some("/home/bob")),
            ("1000", 1000, 1001, vec![29, 50, 1001], Some("/home/bob")),
            ("bob:staff", 1000, 50, vec![50], Some("/home/bob")),
            ("bob:77", 1000, 77, vec![77], Some("/home/bob")),
            ("4000", 4000, 0, vec![0], None),
            ("4000:4001", 4000, 4001, vec![4001], None),
            (":50", 0, 50, vec![50], Some("/root")),
            ("nohome", 5, 6, vec![6], None),
        ] {
            let home = home.map(str::to_owned);
            assert_eq!(
                lookup(&root, spec).unwrap(),
                User { uid, gid, groups, home },
                "{spec:?}"
            );
        }
        assert!(matches!(lookup(&root, "nobody"), Err(UserError::NoUser(_))));
        assert!(matches!(lookup(&root, "bob:none"), Err(UserError::NoGroup(_))));
        assert!(matches!(lookup(&root, "-1"), Err(UserError::NoUser(_))));
    }

    #[test]
    fn owners_of_files_are_found() {
        let (_dir, root) = example();
        assert_eq!(find_user(&root, "bob").unwrap(), Some((1000, 1001)));
        assert_eq!(find_user(&root, "7").unwrap(), None);
        assert_eq!(find_group(&root, "7").unwrap(), None);
        assert_eq!(find_user(&root, "nobody").unwrap(), None);
        assert_eq!(find_group(&root, "staff").unwrap(), Some(50));
        assert_eq!(find_group(&root, "nobody").unwrap(), None);
    }

    #[test]
    fn cve_2024_40635_ids_out_of_range_are_errors() {
        let (_dir, root) = root("big:x:4294967296:0::/:\nneg:x:-1:0::/:\n99999999999:x:0:0::/:\n", "");
        for spec in ["4294967296", "2147483648", "99999999999", "0:4294967296"] {
            assert!(matches!(lookup(&root, spec), Err(UserError::OutOfRange(_))), "{spec}");
        }
        for spec in ["big", "neg"] {
            assert!(matches!(lookup(&root, spec), Err(UserError::NoUser(_))), "{spec}");
        }
    }

    #[test]
    fn cve_2026_46680_lines_that_do_not_parse_are_nobody() {
        let (_dir, root) = root("evil:x:zero:0::/:\nevil2:x::0::/:\nevil3\n:x:0:0::/:\n", "");
        for spec in ["evil", "evil2", "evil3"] {
            assert!(matches!(lookup(&root, spec), Err(UserError::NoUser(_))), "{spec}");
        }
    }

    #[test]
    fn cve_2026_47262_account_files_are_bounded() {
        let (dir, root) = root("", "");
        let path = dir.path().join("etc/passwd");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(ACCOUNTS_MAX + 1).unwrap();
        assert!(matches!(lookup(&root, "bob"), Err(UserError::Read { .. })));
        std::fs::remove_file(&path).unwrap();
        root.mknod("etc/passwd", libc::S_IFIFO | 0o644, (0, 0)).unwrap();
        assert!(matches!(lookup(&root, "bob"), Err(UserError::Read { .. })));
    }

    #[test]
    fn cve_2024_9676_account_files_are_read_inside_the_root() {
        let (dir, root) = root("", "");
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), "bob:x:0:0::/:\n").unwrap();
        let path = dir.path().join("etc/passwd");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(outside.path(), &path).unwrap();
        assert!(matches!(lookup(&root, "bob"), Err(UserError::NoUser(_))));
    }

    #[test]
    fn cve_2022_2990_the_primary_group_is_among_the_supplementary_ones() {
        let (_dir, root) = example();
        for (spec, primary) in [("bob", 1001), ("", 0), ("nohome", 6), ("bob:staff", 50), ("4000", 0)] {
            assert!(lookup(&root, spec).unwrap().groups.contains(&primary), "{spec:?}");
        }
    }
}
