//! File operations that make no sense.

use super::*;

#[test]
fn files() {
    refused(&file(vec![]), "invalid file op with no actions (%)");
    refused(
        &file(vec![action(|_| {}); 10_001]),
        "invalid file op %: 10001 actions: at most 10000 are accepted",
    );
    refused(
        &file(vec![action(|action| action.action = None)]),
        "invalid file op %: action 0: nothing to do",
    );
    refused(
        &file(vec![action(|action| action.input = 1)]),
        "invalid file op %: action 0: loop from index 1",
    );
    refused(
        &file(vec![
            action(|action| action.input = 2),
            action(|action| action.output = 1),
        ]),
        "invalid file op %: action 0: missing input 2, or one that comes later",
    );
    refused(
        &file(vec![action(|action| action.input = -2)]),
        "invalid file op %: action 0: input -2",
    );
    refused(
        &file(vec![action(|action| action.output = -2)]),
        "invalid file op %: action 0: output -2",
    );
    refused(
        &file(vec![action(|action| action.output = -1)]),
        "invalid file op %: no outputs specified",
    );
    refused(
        &file(vec![action(|action| action.output = 1)]),
        "invalid file op %: missing output index 0",
    );
    refused(
        &file(vec![action(|_| {}), action(|_| {})]),
        "invalid file op %: duplicate output 0",
    );
    refused(&mkdir(|mkdir| mkdir.mode = -1), "invalid file op %: action 0: mode -1");
    refused(
        &mkdir(|mkdir| mkdir.path = "a\0b".to_owned()),
        "invalid file op %: action 0: a NUL byte in path \"a\\0b\"",
    );
    for input in [-1, -2] {
        let named = mkdir(|mkdir| {
            mkdir.owner = Some(pb::ChownOpt {
                user: Some(pb::UserOpt {
                    user: Some(pb::user_opt::User::ByName(pb::NamedUserOpt {
                        name: "u".to_owned(),
                        input,
                    })),
                }),
                group: None,
            });
        });
        let want = match input {
            -1 => "invalid missing user mount".to_owned(),
            other => format!("input {other}"),
        };
        refused(&named, &format!("invalid file op %: action 0: {want}"));
    }
    let copy = action(|action| {
        action.secondary_input = 7;
        action.action = Some(pb::file_action::Action::Copy(pb::FileActionCopy::default()));
    });
    refused(
        &file(vec![copy]),
        "invalid file op %: action 0: missing input 7, or one that comes later",
    );
}
