//! `--chown`, and the owner that `USER` stands for.

use cairn_solver::llb::{ActionInput, Chown, UserSpec};

/// Reads `user[:group]`. Names are looked up in `lookup`; without it there is nothing to look them up in.
pub(super) fn parse(text: &str, lookup: Option<ActionInput>) -> Result<Chown, String> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    Ok(Chown {
        user: part(user, lookup)?,
        group: part(group.unwrap_or_default(), lookup)?,
    })
}

fn part(text: &str, lookup: Option<ActionInput>) -> Result<Option<UserSpec>, String> {
    match (text, text.parse::<u32>(), lookup) {
        ("", _, _) => Ok(None),
        (_, Ok(id), _) => Ok(Some(UserSpec::Id(id))),
        (name, Err(_), Some(input)) => Ok(Some(UserSpec::Name {
            name: name.to_owned(),
            input: Some(input),
        })),
        (_, Err(_), None) => Err("invalid user index: -1".to_owned()),
    }
}
