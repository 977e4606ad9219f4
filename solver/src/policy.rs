//! Source policies: rules that allow, deny or rewrite what a build takes from outside.
//!
//! Pure: a [`Policy`] is made of the rules that a client sent, and [`Policy::apply_all`] says what becomes of one source.
//! Who applies it is [`crate::engine`], when a definition is loaded and before metadata is asked for, so that nothing is
//! fetched before every rule was heard. What a rule wrote is then decoded, checked and keyed like anything that clients
//! send.
//!
//! # How rules are read
//! In their order. A rule counts if all its constraints hold and its selector matches. Of the rules that allow or deny,
//! the last one counts. A rule that converts ends the pass if it changes something, and the pass begins again with the
//! changed source; after [`MAX_CONVERSIONS`] of them the source is refused. Each of several policies has to let a source
//! pass.

mod pattern;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use self::pattern::Pattern;
pub use self::pattern::PatternError;
use crate::engine::SourceFacts;
use crate::{Platform, SolveError};

/// How often one source may be rewritten.
const MAX_CONVERSIONS: usize = 20;
/// Most rules of one policy.
const MAX_RULES: usize = 10_000;
/// Most regular expressions in one policy: each takes memory.
const MAX_EXPRESSIONS: usize = 256;
/// Most attributes that a rule tests or sets.
const MAX_ATTRIBUTES: usize = 64;
/// Longest text in a rule, and longest identifier that one makes.
pub const MAX_TEXT: usize = 8 << 10;

/// A source as policies see it: nothing is made of its parts yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RawSource {
    /// Scheme and name, such as `docker-image://docker.io/library/alpine:latest`.
    pub identifier: String,
    /// Attributes.
    pub attrs: BTreeMap<String, String>,
}

impl RawSource {
    fn scheme(&self) -> &str {
        self.identifier.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// Leaves out what was said of another kind of source: it means nothing here.
    fn drop_foreign_attrs(&mut self) {
        let own: &[&str] = match self.scheme() {
            "docker-image" => &["image."],
            "oci-layout" => &["oci.", "image."],
            "http" | "https" => &["http."],
            "git" => &["git.", "oci."],
            "local" => &["local."],
            "docker-image+blob" => &["http.", "image."],
            "oci-layout+blob" => &["http.", "image.", "oci."],
            _ => return,
        };
        self.attrs
            .retain(|key, _| own.iter().any(|prefix| key.starts_with(prefix)));
    }
}

/// A rule as clients write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What happens to what it matches.
    pub action: Action,
    /// What it matches.
    pub selector: Selector,
    /// For [`Action::Convert`]: what is put in place.
    pub update: Option<Update>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Takes back what earlier rules denied.
    Allow,
    /// Refuses the source.
    Deny,
    /// Rewrites the source.
    Convert,
}

/// What a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The identifier, or a pattern of identifiers. Equality always matches.
    pub identifier: String,
    /// What kind of pattern it is.
    pub kind: MatchKind,
    /// What attributes have to be like; all of these have to hold.
    pub constraints: Vec<Constraint>,
}

/// How a selector's identifier is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchKind {
    /// `*` stands for any text; nothing else is special.
    Wildcard,
    /// As it is.
    Exact,
    /// A regular expression that matches somewhere.
    Regex,
}

/// A test of one attribute; one that is not there is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// The attribute.
    pub key: String,
    /// What it is compared with.
    pub value: String,
    /// How.
    pub condition: Condition,
}

/// How an attribute is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is that text.
    Equal,
    /// It is another text.
    NotEqual,
    /// It matches that regular expression somewhere.
    Matches,
}

/// What a converting rule puts in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The new identifier, in which `$1` or `${1}` is what a group or the first `*` matched; empty for the selector's.
    pub identifier: String,
    /// Attributes to set.
    pub attrs: BTreeMap<String, String>,
}

/// Rules, ready for use.
#[derive(Debug)]
pub struct Policy(Vec<ReadyRule>);

#[derive(Debug)]
struct ReadyRule {
    rule: Rule,
    pattern: Pattern,
    /// Beside the constraints; for those that match a regular expression.
    expressions: Vec<Option<regex::Regex>>,
}

/// Why rules are no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// There are more rules, or more in a rule, than this daemon accepts.
    #[error("invalid source policy: {what}: at most {max} are accepted")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A rule holds a text that is too long.
    #[error("invalid source policy: rule {0}: a text of more than {MAX_TEXT} bytes")]
    TooLong(usize),
    /// A pattern of a rule is malformed.
    #[error("invalid source policy: rule {rule}: {source}")]
    Pattern {
        /// Its number, from 1.
        rule: usize,
        /// What is wrong.
        source: PatternError,
    },
}

/// Why a source is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Rules deny it. Clients match on this text.
    #[error("source {0:?} denied by policy: source denied by policy")]
    Denied(String),
    /// Rules convert it again and again.
    #[error("too many mutations on a single source: too many operations")]
    TooManyConversions,
    /// A rule that converts says nothing of what into.
    #[error("error mutating source policy: missing destination for convert rule")]
    NoDestination,
    /// What a rule makes of it is too long.
    #[error("error mutating source policy: the identifier made of {0:?} has more than {MAX_TEXT} bytes")]
    TooLong(String),
    /// The client denies it, and says why.
    #[error("source {identifier:?} not allowed by policy: action DENY")]
    Refused {
        /// The source.
        identifier: String,
        /// The client's reasons.
        messages: Vec<String>,
    },
    /// The client could not be asked, or its answer makes no sense.
    #[error("{0}")]
    Judge(String),
}

impl Policy {
    /// Checks rules and gets them ready. May take a while: this compiles regular expressions.
    ///
    /// # Errors
    /// If they are too many or too long, or a pattern is malformed or too complex.
    pub fn new(rules: Vec<Rule>) -> Result<Self, InvalidPolicy> {
        let too_many = |what, max| InvalidPolicy::TooMany { what, max };
        if rules.len() > MAX_RULES {
            return Err(too_many("rules", MAX_RULES));
        }
        let expressions: usize = rules.iter().map(Rule::expressions).sum();
        if expressions > MAX_EXPRESSIONS {
            return Err(too_many("regular expressions", MAX_EXPRESSIONS));
        }
        let ready = rules.into_iter().enumerate().map(|(index, rule)| {
            let number = index + 1;
            if rule.attributes() > MAX_ATTRIBUTES {
                return Err(too_many("attributes of a rule", MAX_ATTRIBUTES));
            }
            if rule.texts().any(|text| text.len() > MAX_TEXT) {
                return Err(InvalidPolicy::TooLong(number));
            }
            rule.ready()
                .map_err(|source| InvalidPolicy::Pattern { rule: number, source })
        });
        ready.collect::<Result<_, _>>().map(Self)
    }

    /// What becomes of a source under all of `policies`; `None` if it stays as it is.
    ///
    /// # Errors
    /// If it is denied, or the rules lead nowhere.
    pub fn apply_all(policies: &[Arc<Self>], source: &RawSource) -> Result<Option<RawSource>, PolicyError> {
        let mut changed = None;
        for _ in 0..=MAX_CONVERSIONS {
            let current = changed.as_ref().unwrap_or(source);
            match Self::pass(policies, current)? {
                Some(next) => changed = Some(next),
                None => {
                    if let Some(changed) = &mut changed
                        && changed.scheme() != source.scheme()
                    {
                        changed.drop_foreign_attrs();
                    }
                    return Ok(changed.filter(|changed| changed != source));
                }
            }
        }
        Err(PolicyError::TooManyConversions)
    }

    /// The first change that a policy makes.
    fn pass(policies: &[Arc<Self>], source: &RawSource) -> Result<Option<RawSource>, PolicyError> {
        for policy in policies {
            if let Some(changed) = policy.judge(source)? {
                return Ok(Some(changed));
            }
        }
        Ok(None)
    }

    fn judge(&self, source: &RawSource) -> Result<Option<RawSource>, PolicyError> {
        let mut is_denied = false;
        for ready in self.0.iter().filter(|ready| ready.matches(source)) {
            match ready.rule.action {
                Action::Allow => is_denied = false,
                Action::Deny => is_denied = true,
                Action::Convert => {
                    if let Some(changed) = ready.convert(source)? {
                        return Ok(Some(changed));
                    }
                }
            }
        }
        if is_denied {
            return Err(PolicyError::Denied(source.identifier.clone()));
        }
        Ok(None)
    }
}

impl Rule {
    fn expressions(&self) -> usize {
        let constraints = self.selector.constraints.iter();
        constraints
            .filter(|constraint| constraint.condition == Condition::Matches)
            .count()
            + usize::from(self.selector.kind == MatchKind::Regex)
    }

    fn attributes(&self) -> usize {
        let set = self.update.as_ref().map_or(0, |update| update.attrs.len());
        self.selector.constraints.len().max(set)
    }

    fn texts(&self) -> impl Iterator<Item = &String> {
        let tested = self.selector.constraints.iter();
        let tested = tested.flat_map(|constraint| [&constraint.key, &constraint.value]);
        let set = self.update.iter().flat_map(|update| {
            let attrs = update.attrs.iter().flat_map(|(key, value)| [key, value]);
            attrs.chain([&update.identifier])
        });
        tested.chain(set).chain([&self.selector.identifier])
    }

    fn ready(self) -> Result<ReadyRule, PatternError> {
        let expressions = self.selector.constraints.iter().map(|constraint| {
            let is_expression = constraint.condition == Condition::Matches;
            is_expression
                .then(|| pattern::expression(&constraint.value))
                .transpose()
        });
        Ok(ReadyRule {
            expressions: expressions.collect::<Result<_, _>>()?,
            pattern: Pattern::new(&self.selector)?,
            rule: self,
        })
    }
}

impl ReadyRule {
    fn matches(&self, source: &RawSource) -> bool {
        let selector = &self.rule.selector;
        let mut constraints = selector.constraints.iter().zip(&self.expressions);
        let holds = constraints.all(|(constraint, expression)| {
            let value = source.attrs.get(&constraint.key).map_or("", String::as_str);
            match constraint.condition {
                Condition::Equal => value == constraint.value,
                Condition::NotEqual => value != constraint.value,
                Condition::Matches => expression.as_ref().is_some_and(|regex| regex.is_match(value)),
            }
        });
        holds && (selector.identifier == source.identifier || self.pattern.matches(&source.identifier))
    }

    /// The source as this rule wants it; `None` if it is so already.
    fn convert(&self, source: &RawSource) -> Result<Option<RawSource>, PolicyError> {
        let update = self.rule.update.as_ref().ok_or(PolicyError::NoDestination)?;
        let template = Some(&update.identifier).filter(|identifier| !identifier.is_empty());
        let template = template.unwrap_or(&self.rule.selector.identifier);
        let identifier = self.pattern.replace(&source.identifier, template);
        let identifier = identifier.ok_or_else(|| PolicyError::TooLong(source.identifier.clone()))?;
        let mut changed = source.clone();
        if !identifier.is_empty() {
            changed.identifier = identifier;
        }
        let attrs = update.attrs.iter();
        changed
            .attrs
            .extend(attrs.map(|(key, value)| (key.clone(), value.clone())));
        Ok((changed != *source).then_some(changed))
    }
}

/// Has the last word about sources: whoever the client says decides while the build runs.
#[async_trait]
pub trait SourceJudge: std::fmt::Debug + Send + Sync + 'static {
    /// Decides about a source that all rules let pass. `rounds` is how often whoever decides may still be asked about
    /// it, which this counts down.
    ///
    /// # Errors
    /// [`SolveError::Policy`] if it is refused or nobody could decide; the build's if it fails on the way.
    async fn judge(
        &self,
        source: &RawSource,
        platform: Option<&Platform>,
        facts: &SourceFacts,
        rounds: &mut usize,
    ) -> Result<Judgement, SolveError>;
}

/// What a [`SourceJudge`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The source may be used.
    Allow,
    /// This is to be used in its place; it is looked at from the beginning.
    Convert(RawSource),
}
