//! Names of commits.

use super::error::GitError;

/// Longest name of a reference.
const MAX_NAME: usize = 1024;
/// How much of what a remote said is repeated.
const MAX_QUOTED: usize = 200;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Branch, tag, whole name or hash; empty for the default branch.
    pub(crate) reference: String,
    /// How the hash has to begin; empty for anyhow.
    pub(crate) checksum: String,
    /// Whether the commit is asked for by its hash, whatever its name means by now.
    pub(crate) by_commit: bool,
}

/// What a name stands for at the remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// Hash of what the name names: a commit or an annotated tag.
    pub(crate) object: String,
    /// Hash of the commit that it leads to.
    pub(crate) commit: String,
    /// Whole name, such as `refs/heads/main`; none if only the hash is known.
    pub(crate) name: Option<String>,
}

/// Whether this is a whole hash, of either length.
pub(crate) fn is_commit_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Wanted {
    /// Refuses what is no name or no hash (`git help check-ref-format`).
    ///
    /// # Errors
    /// [`GitError::Reference`], [`GitError::MalformedChecksum`].
    pub(super) fn check(&self) -> Result<(), GitError> {
        let name = self.reference.as_str();
        let refuse = |reason| {
            let reference = name.chars().take(MAX_QUOTED).collect();
            Err(GitError::Reference { reference, reason })
        };
        let is_forbidden = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        if name.len() > MAX_NAME {
            return refuse("it is too long");
        }
        if name.starts_with('-') {
            return refuse("it begins like an option");
        }
        if name.contains(is_forbidden) || name.contains("..") || name.contains("@{") || name.contains("//") {
            return refuse("it holds what names do not hold");
        }
        let is_bad_part = |part: &str| part.starts_with('.') || part.ends_with(".lock");
        if name.starts_with('/') || name.ends_with(['/', '.']) || name.split('/').any(is_bad_part) {
            return refuse("it begins or ends as names do not");
        }
        let sum = self.checksum.as_str();
        if sum.len() > 64 || !sum.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
            return Err(GitError::MalformedChecksum(sum.chars().take(MAX_QUOTED).collect()));
        }
        Ok(())
    }

    /// What is asked for, if that can be told without asking the remote; `is_pinned` when there is no default branch but
    /// what the checksum says.
    pub(super) fn known(&self, is_pinned: bool) -> Option<Resolved> {
        let by_commit = self.by_commit || is_pinned && self.is_default_branch();
        let hash = if is_commit_hash(&self.reference) {
            &self.reference
        } else if by_commit && is_commit_hash(&self.checksum) {
            &self.checksum
        } else {
            return None;
        };
        Some(Resolved {
            object: hash.clone(),
            commit: hash.clone(),
            name: None,
        })
    }

    pub(super) fn is_default_branch(&self) -> bool {
        matches!(self.reference.as_str(), "" | "HEAD")
    }

    /// What `git ls-remote` is to be asked for.
    pub(super) fn patterns(&self) -> Vec<String> {
        if self.is_default_branch() {
            return vec!["HEAD".to_owned()];
        }
        vec![self.reference.clone(), format!("{}^{{}}", self.reference)]
    }

    /// Finds the reference in what `git ls-remote --symref` says. Branches go before tags, as in `git checkout`.
    ///
    /// # Errors
    /// [`GitError::NoReference`] if it is not there.
    pub(super) fn find(&self, said: &str) -> Result<Resolved, GitError> {
        let found = if self.is_default_branch() {
            find_default_branch(said)
        } else {
            self.find_name(said)
        };
        found.ok_or_else(|| GitError::NoReference {
            reference: if self.reference.is_empty() {
                "HEAD".to_owned()
            } else {
                self.reference.clone()
            },
            output: said.chars().take(MAX_QUOTED).collect(),
        })
    }

    /// What the reference may be a short form of: a branch, a whole name or one without `refs`, and a tag.
    pub(super) fn names(&self) -> [String; 3] {
        let name = self.reference.as_str();
        let short = |prefix| name.strip_prefix(prefix).unwrap_or(name);
        let branch = format!("refs/heads/{}", short("refs/heads/"));
        let other = format!("refs/{}", short("refs/"));
        let tag = format!("refs/tags/{}", short("refs/tags/"));
        [branch, other, tag]
    }

    fn find_name(&self, said: &str) -> Option<Resolved> {
        self.names().into_iter().find_map(|name| {
            let object = hash_of(said, &name)?;
            let commit = hash_of(said, &format!("{name}^{{}}")).unwrap_or(object);
            Some(Resolved {
                object: object.to_owned(),
                commit: commit.to_owned(),
                name: Some(name),
            })
        })
    }

    /// Compares with the checksum.
    ///
    /// # Errors
    /// [`GitError::Checksum`] if neither the commit nor the tag begins so.
    pub(super) fn verify(&self, found: &Resolved) -> Result<(), GitError> {
        let sum = self.checksum.as_str();
        if found.commit.starts_with(sum) || found.object.starts_with(sum) {
            return Ok(());
        }
        Err(GitError::Checksum {
            expected: sum.to_owned(),
            actual: found.commit.clone(),
        })
    }
}

fn find_default_branch(said: &str) -> Option<Resolved> {
    let object = hash_of(said, "HEAD")?;
    let target = said.lines().find_map(|line| {
        let (target, name) = line.strip_prefix("ref: ")?.split_once('\t')?;
        (name == "HEAD").then_some(target)
    });
    // The remote chooses this name: it is checked like one of a client.
    let target = target.filter(|target| {
        let wanted = Wanted {
            reference: (*target).to_owned(),
            ..Wanted::default()
        };
        target.starts_with("refs/") && wanted.check().is_ok()
    });
    Some(Resolved {
        object: object.to_owned(),
        commit: object.to_owned(),
        name: target.map(str::to_owned),
    })
}

fn hash_of<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    said.lines().find_map(|line| {
        let (hash, of) = line.split_once('\t')?;
        (of == name && is_commit_hash(hash)).then_some(hash)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wanted(reference: &str) -> Wanted {
        Wanted {
            reference: reference.to_owned(),
            ..Wanted::default()
        }
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in [
            "",
            "main",
            "refs/heads/a",
            "v1.0",
            "feature/x-1",
            "a@b",
            "ünï",
            &"a".repeat(40),
        ] {
            wanted(name).check().unwrap();
        }
        for name in [
            "--upload-pack=x",
            "-",
            "a b",
            "a..b",
            "a~1",
            "a^{}",
            "a:b",
            "*",
            "a?",
            "a[",
            "a\\b",
            "a\n",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "a@{1}",
            &"a".repeat(2000),
        ] {
            wanted(name).check().unwrap_err();
        }
        for (sum, good) in [
            ("", true),
            ("abc", true),
            ("ABC", false),
            ("-x", false),
            (&*"a".repeat(65), false),
        ] {
            let wanted = Wanted {
                checksum: sum.to_owned(),
                ..Wanted::default()
            };
            assert_eq!(wanted.check().is_ok(), good, "{sum}");
        }
    }

    #[test]
    fn branches_go_before_tags_and_tags_lead_to_commits() {
        let [a, b, c] = ["a", "b", "c"].map(|digit| digit.repeat(40));
        let said = format!(
            "ref: refs/heads/main\tHEAD\n{a}\tHEAD\n{a}\trefs/heads/main\n{b}\trefs/tags/main\n\
             {b}\trefs/tags/v1\n{c}\trefs/tags/v1^{{}}\n{c}\trefs/pull/1/head\n"
        );
        for (name, object, commit, whole) in [
            ("", &a, &a, "refs/heads/main"),
            ("HEAD", &a, &a, "refs/heads/main"),
            ("main", &a, &a, "refs/heads/main"),
            ("refs/tags/main", &b, &b, "refs/tags/main"),
            ("v1", &b, &c, "refs/tags/v1"),
            ("tags/v1", &b, &c, "refs/tags/v1"),
            ("pull/1/head", &c, &c, "refs/pull/1/head"),
        ] {
            let found = wanted(name).find(&said).unwrap();
            let expected = Resolved {
                object: object.clone(),
                commit: commit.clone(),
                name: Some(whole.to_owned()),
            };
            assert_eq!(found, expected, "{name}");
        }
        let error = wanted("nosuch").find("").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"repository does not contain ref nosuch, output: """#
        );
        let hostile = format!("ref: refs/heads/--x/../y\tHEAD\n{a}\tHEAD\n");
        assert_eq!(wanted("").find(&hostile).unwrap().name, None);
    }

    #[test]
    fn checksums_may_be_of_the_tag_or_of_the_commit() {
        let found = Resolved {
            object: "a".repeat(40),
            commit: "b".repeat(40),
            name: None,
        };
        for (sum, good) in [("", true), ("aaa", true), ("bbb", true), ("ccc", false)] {
            let wanted = Wanted {
                checksum: sum.to_owned(),
                ..Wanted::default()
            };
            assert_eq!(wanted.verify(&found).is_ok(), good, "{sum}");
        }
        let wrong = Wanted {
            checksum: "ccc".to_owned(),
            ..Wanted::default()
        };
        assert_eq!(
            wrong.verify(&found).unwrap_err().to_string(),
            format!("expected checksum to match ccc, got {}", found.commit)
        );
    }

    #[test]
    fn hashes_need_no_remote() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(wanted(hash).known(false).unwrap().commit, hash);
        assert_eq!(wanted(&hash[1..]).known(true), None);
        let by_commit = Wanted {
            reference: "v1".to_owned(),
            checksum: hash.to_owned(),
            by_commit: true,
        };
        assert_eq!(by_commit.known(false).unwrap().object, hash);
        let pinned = Wanted {
            checksum: hash.to_owned(),
            ..Wanted::default()
        };
        assert_eq!(
            (pinned.known(true).unwrap().object.as_str(), pinned.known(false)),
            (hash, None)
        );
    }

    proptest! {
        #[test]
        fn any_answer_is_read(name in ".{0,40}", said in "\\PC{0,200}") {
            let wanted = wanted(&name);
            if wanted.check().is_ok() && let Ok(found) = wanted.find(&said) {
                prop_assert!(is_commit_hash(&found.object) && is_commit_hash(&found.commit));
            }
        }
    }
}
