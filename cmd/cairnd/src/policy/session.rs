//! A client that decides about sources over a session of its own.

use async_trait::async_trait;
use cairn_proto::gateway::ResolveSourceMetaResponse;
use cairn_proto::pb;
use cairn_proto::policysession::{CheckPolicyRequest, DecisionResponse, check_policy_response};
use cairn_proto::sourcepolicy::PolicyAction;
use cairn_session::{LOOKUP_TIMEOUT, SessionManager};
use cairn_solver::engine::SourceFacts;
use cairn_solver::policy::{Judgement, MAX_TEXT};
use cairn_solver::{Platform, PolicyError, RawSource, SolveError, SourceJudge};

use crate::convert;
use crate::gateway::meta;

/// Most bytes of reasons of a denial that are passed on: they travel in a header.
const MAX_MESSAGES: usize = 4 << 10;
/// Most attributes that a client gives a source.
const MAX_ATTRIBUTES: usize = 64;

/// Asks the client behind a session.
pub(crate) struct SessionJudge {
    sessions: SessionManager,
    session: String,
}

impl std::fmt::Debug for SessionJudge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionJudge").finish_non_exhaustive()
    }
}

impl SessionJudge {
    /// Asks the session of that id.
    pub(crate) fn new(sessions: SessionManager, session: String) -> Self {
        Self { sessions, session }
    }
}

#[async_trait]
impl SourceJudge for SessionJudge {
    async fn judge(
        &self,
        source: &RawSource,
        platform: Option<&Platform>,
        facts: &SourceFacts,
        rounds: &mut usize,
    ) -> Result<Judgement, SolveError> {
        let failed = |error: cairn_session::SessionError| refuse(error.to_string());
        let session = self.sessions.get(&self.session, LOOKUP_TIMEOUT).await.map_err(failed)?;
        let mut request = CheckPolicyRequest {
            platform: platform.map(convert::platform),
            source: Some(ResolveSourceMetaResponse {
                source: Some(to_wire(source)),
                ..ResolveSourceMetaResponse::default()
            }),
            ..CheckPolicyRequest::default()
        };
        loop {
            *rounds = rounds
                .checked_sub(1)
                .ok_or_else(|| refuse("too many policy requests"))?;
            let answer = cairn_session::policy::check(&session, request.clone())
                .await
                .map_err(failed)?;
            match answer.result {
                None => return Err(refuse("no decision in policy response")),
                Some(check_policy_response::Result::Decision(decision)) => return decide(source, decision),
                Some(check_policy_response::Result::Request(asked)) => {
                    let wanted = asked.source.clone().unwrap_or_default();
                    if wanted.identifier != source.identifier {
                        return Err(refuse(format!(
                            "policy requested different source identifier: {:?} != {:?}",
                            wanted.identifier, source.identifier
                        )));
                    }
                    if wanted.attrs != source.attrs {
                        return Err(refuse("policy requested different source attrs"));
                    }
                    let found = meta::resolve(facts, asked).await;
                    let (found, _) = found.map_err(|error| {
                        let error = error.message();
                        refuse(format!("error resolving source metadata from policy request: {error}"))
                    })?;
                    request.source = Some(found);
                }
            }
        }
    }
}

fn decide(source: &RawSource, decision: DecisionResponse) -> Result<Judgement, SolveError> {
    match PolicyAction::try_from(decision.action) {
        Ok(PolicyAction::Allow) => Ok(Judgement::Allow),
        Ok(PolicyAction::Convert) => {
            let update = decision.update;
            let update = update.ok_or_else(|| refuse("convert action requires updated source"))?;
            let texts = update.attrs.iter().flat_map(|(key, value)| [key, value]);
            let is_long = texts.chain([&update.identifier]).any(|text| text.len() > MAX_TEXT);
            if is_long || update.attrs.len() > MAX_ATTRIBUTES {
                return Err(refuse("the source that a policy puts in place is too long"));
            }
            Ok(Judgement::Convert(RawSource {
                identifier: update.identifier,
                attrs: update.attrs,
            }))
        }
        Ok(PolicyAction::Deny) => {
            let mut room = MAX_MESSAGES;
            let messages = decision.deny_messages.into_iter().map(|message| message.message);
            let messages = messages.take_while(|message| match room.checked_sub(message.len()) {
                Some(left) => {
                    room = left;
                    true
                }
                None => false,
            });
            Err(SolveError::ResolvePolicy(PolicyError::Refused {
                identifier: source.identifier.clone(),
                messages: messages.collect(),
            }))
        }
        Err(_) => Err(refuse(format!(
            "source {:?} not allowed by policy: action {}",
            source.identifier, decision.action
        ))),
    }
}

fn refuse(message: impl Into<String>) -> SolveError {
    SolveError::ResolvePolicy(PolicyError::Judge(message.into()))
}

fn to_wire(source: &RawSource) -> pb::SourceOp {
    pb::SourceOp {
        identifier: source.identifier.clone(),
        attrs: source.attrs.clone(),
    }
}
