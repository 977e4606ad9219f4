//! `--secret`.

use std::path::PathBuf;

use crate::csv;
use crate::error::CliError;
use crate::surroundings::Surroundings;

/// A secret that steps may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretPlan {
    /// The name by which steps ask.
    pub(crate) id: String,
    /// Where its value is.
    pub(crate) origin: SecretOrigin,
}

/// Where the value of a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretOrigin {
    /// The content of a file.
    File(PathBuf),
    /// The value of an environment variable.
    Variable(String),
}

impl SecretPlan {
    pub(super) fn parse(text: &str, surroundings: &Surroundings) -> Result<Self, CliError> {
        let invalid = |reason: &str| CliError::usage(format!("invalid --secret {text:?}: {reason}"));
        let (mut id, mut kind, mut file, mut variable) = (None, None, None, None);
        for (key, value) in csv::pairs("--secret", text)? {
            let value = value.filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| invalid(&format!("{key} has no value")))?;
            match key.as_str() {
                "id" => id = Some(value),
                "type" => kind = Some(value),
                "src" | "source" => file = Some(value),
                "env" => variable = Some(value),
                _ => return Err(invalid(&format!("{key:?} is none of id, type, src, env"))),
            }
        }
        if file.is_some() && variable.is_some() {
            return Err(invalid("src and env exclude each other"));
        }
        let (file, variable) = match kind.as_deref() {
            None => (file, variable),
            Some("file") if variable.is_none() => (file.or_else(|| id.clone()), None),
            // With this type docker takes a source for the variable's name.
            Some("env") => (None, variable.or(file).or_else(|| id.clone())),
            Some("file") => return Err(invalid("env is not a file")),
            Some(_) => return Err(invalid("type is file or env")),
        };
        let id = id.or_else(|| file.clone()).or_else(|| variable.clone());
        let id = id.ok_or_else(|| invalid("it has no id"))?;
        let origin = match (file, variable) {
            (Some(path), _) => Self::file(&path, surroundings)?,
            (None, Some(name)) => Self::variable(name, surroundings)?,
            (None, None) if surroundings.variables.contains_key(&id) => SecretOrigin::Variable(id.clone()),
            (None, None) => Self::file(&id, surroundings)?,
        };
        Ok(Self { id, origin })
    }

    fn file(path: &str, surroundings: &Surroundings) -> Result<SecretOrigin, CliError> {
        let path = surroundings.path(path);
        if path.is_file() {
            Ok(SecretOrigin::File(path))
        } else {
            Err(CliError::usage(format!("the secret file {path:?} does not exist")))
        }
    }

    fn variable(name: String, surroundings: &Surroundings) -> Result<SecretOrigin, CliError> {
        if surroundings.variables.contains_key(&name) {
            Ok(SecretOrigin::Variable(name))
        } else {
            Err(CliError::usage(format!(
                "the environment variable {name} of a secret is not set"
            )))
        }
    }
}

/// Refuses two secrets of one name.
pub(super) fn distinct(secrets: Vec<SecretPlan>) -> Result<Vec<SecretPlan>, CliError> {
    for (index, secret) in secrets.iter().enumerate() {
        if secrets[..index].iter().any(|other| other.id == secret.id) {
            return Err(CliError::usage(format!("two secrets have the id {:?}", secret.id)));
        }
    }
    Ok(secrets)
}
