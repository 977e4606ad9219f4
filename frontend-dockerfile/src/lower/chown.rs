//! `--chown`, and the owner that `USER` stands for.

use cairn_solver::llb::{ActionInput, Chown, UserSpec};

/// Reads `user[:group]`. Names are looked up in `lookup`; without it there is nothing to look them up in.
pub(super) fn parse(text: &str, lookup: Option<ActionInput>) -> Result<Chown, String> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    Ok(Chown {
        user: Some(part(user, lookup)?),
        group: group.map(|group| part(group, lookup)).transpose()?,
    })
}

/// What stands before or behind the colon. Nothing is 0, and so is `root`, which no file needs to tell.
fn part(text: &str, lookup: Option<ActionInput>) -> Result<UserSpec, String> {
    match (text, text.parse::<u32>(), lookup) {
        ("" | "root", _, _) => Ok(UserSpec::Id(0)),
        (_, Ok(id), _) => Ok(UserSpec::Id(id)),
        (name, Err(_), Some(input)) => Ok(UserSpec::Name {
            name: name.to_owned(),
            input: Some(input),
        }),
        (_, Err(_), None) => Err("invalid user index: -1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_look_up_is_known_everywhere() {
        let id = |id| Some(UserSpec::Id(id));
        let rows = [
            ("root", id(0), None),
            ("root:root", id(0), id(0)),
            ("5:root", id(5), id(0)),
            ("5", id(5), None),
            ("5:", id(5), id(0)),
            (":6", id(0), id(6)),
            (":", id(0), id(0)),
            ("007:0", id(7), id(0)),
        ];
        for (text, user, group) in rows {
            assert_eq!(parse(text, None), Ok(Chown { user, group }), "{text}");
        }
    }

    #[test]
    fn names_are_looked_up_where_there_is_something() {
        let input = Some(ActionInput::Vertex(0));
        let name = |name: &str| UserSpec::Name {
            name: name.to_owned(),
            input,
        };
        let chown = Chown {
            user: Some(name("www-data")),
            group: Some(UserSpec::Id(0)),
        };
        assert_eq!(parse("www-data:", input), Ok(chown));
        for text in ["www-data", "5:www-data"] {
            assert_eq!(parse(text, None), Err("invalid user index: -1".to_owned()), "{text}");
        }
    }
}
