//! Several actions in one op.

use super::*;

fn mkfile(path: &str, data: &str) -> FileActionKind {
    FileActionKind::Mkfile {
        path: path.to_owned(),
        mode: 0o644,
        data: data.to_owned().into(),
        owner: None,
        timestamp: None,
    }
}

fn action(input: Option<ActionInput>, output: Option<usize>, kind: FileActionKind) -> FileAction {
    FileAction {
        input,
        secondary: None,
        output,
        kind,
    }
}

fn copy(input: ActionInput, from: ActionInput, output: Option<usize>, copy: CopyAction) -> FileAction {
    FileAction {
        input: Some(input),
        secondary: Some(from),
        output,
        kind: FileActionKind::Copy(copy),
    }
}

use ActionInput::{Action, Vertex};

#[test]
fn a_chain_is_one_layer() {
    if !is_root_or_skip() {
        return;
    }
    let mut bench = Bench::new("base = 0", "a = 1\nb = 2").with_tree();
    let outputs = bench
        .run(vec![
            copy(Vertex(0), Vertex(1), None, dockerfile_copy("a", "/d/")),
            copy(Action(0), Vertex(1), None, dockerfile_copy("b", "/d/")),
            action(Some(Action(1)), Some(0), mkfile("/c", "3")),
        ])
        .unwrap();
    assert_eq!((bench.begun, bench.mounted), (1, 0));
    assert_eq!(outputs[0].len(), 2);
    assert_eq!(
        bench.see(&outputs[0]),
        "base = 0 644\nc = 3 644\nd/ 755\nd/a = 1 644\nd/b = 2 644"
    );
    assert_eq!(inode(&outputs[0][1].join("d/a")).1, 2, "linked, not copied");
}

#[test]
fn shared_states_are_layers_of_their_own() {
    if !is_root_or_skip() {
        return;
    }
    let mut bench = Bench::new("base = 0", "");
    let outputs = bench
        .run(vec![
            action(Some(Vertex(0)), Some(2), mkfile("/common", "x")),
            action(Some(Action(0)), Some(0), mkfile("/one", "1")),
            action(Some(Action(0)), Some(1), mkfile("/two", "2")),
        ])
        .unwrap();
    assert_eq!(bench.begun, 3);
    let seen: Vec<String> = outputs.iter().map(|layers| bench.see(layers)).collect();
    assert_eq!(
        seen,
        [
            "base = 0 644\ncommon = x 644\none = 1 644",
            "base = 0 644\ncommon = x 644\ntwo = 2 644",
            "base = 0 644\ncommon = x 644",
        ]
    );
    assert_eq!(outputs[0][1], outputs[1][1]);
}

#[test]
fn a_file_made_here_is_copied_from() {
    if !is_root_or_skip() {
        return;
    }
    // As a heredoc is lowered.
    let mut bench = Bench::new("base = 0", "");
    let outputs = bench
        .run(vec![
            action(None, None, mkfile("/script", "echo")),
            copy(Vertex(0), Action(0), Some(0), dockerfile_copy("/script", "/bin/")),
        ])
        .unwrap();
    assert_eq!(bench.see(&outputs[0]), "base = 0 644\nbin/ 755\nbin/script = echo 644");
}

#[test]
fn nothing_writes_to_a_stored_file() {
    if !is_root_or_skip() {
        return;
    }
    let stored = |bench: &Bench| {
        let mut contents: Vec<String> = Vec::new();
        for shard in fs::read_dir(bench.path("store/v1/files")).unwrap() {
            for file in fs::read_dir(shard.unwrap().path()).unwrap() {
                contents.push(fs::read_to_string(file.unwrap().path()).unwrap());
            }
        }
        contents.sort();
        contents
    };
    let add = CopyAction {
        attempt_unpack: true,
        ..dockerfile_copy("t", "/d")
    };
    let changes = [
        (
            "mkfile over a copied file",
            action(Some(Action(0)), Some(0), mkfile("/d/x", "new")),
            "d/x = new 644",
        ),
        (
            "extracting over a copied file",
            copy(Action(0), Vertex(1), Some(0), add.clone()),
            "d/x = extracted 644",
        ),
    ];
    for (what, change, want) in changes {
        for base in [Some(Vertex(0)), None] {
            let mut bench = Bench::new("", "s/\ns/x = old\ns/y == s/x\nt = TAR:x").with_tree();
            let before = stored(&bench);
            let first = FileAction {
                input: base,
                ..copy(Vertex(0), Vertex(1), None, dockerfile_copy("s", "/d"))
            };
            let outputs = bench.run(vec![first, change.clone()]).unwrap();
            assert_eq!(stored(&bench), before, "{what}");
            let seen = bench.see(&outputs[0]);
            assert!(seen.lines().any(|line| line == want), "{what}: {seen}");
        }
    }
}

#[test]
fn removed_and_made_again() {
    if !is_root_or_skip() {
        return;
    }
    let mut bench = Bench::new("d/\nd/old = 1\nd/e/\nd/e/f = 2", "a = 1").with_tree();
    let outputs = bench
        .run(vec![
            copy(Vertex(0), Vertex(1), None, dockerfile_copy("a", "/d/")),
            action(Some(Action(0)), None, rm("/d")),
            copy(Action(1), Vertex(1), Some(0), dockerfile_copy("a", "/d/")),
        ])
        .unwrap();
    assert_eq!((bench.begun, bench.mounted), (1, 1));
    assert_eq!(bench.see(&outputs[0]), "d/ 755\nd/a = 1 644");
}

#[test]
fn files_of_two_layers_do_not_look_like_hard_links() {
    if !is_root_or_skip() {
        return;
    }
    let mut bench = Bench::new("", "f = 1\ng = 2").with_tree();
    let first = bench
        .run(vec![copy(Vertex(0), Vertex(1), Some(0), dockerfile_copy("f", "/a"))])
        .unwrap();
    // The same op again, on what the first one made.
    fs::remove_dir(bench.path("in0")).unwrap();
    let lower = first[0].last().unwrap();
    let store = bench.tree.as_ref().unwrap().store();
    let links = store.links_of([lower.to_str().unwrap()]).unwrap();
    assert_eq!(links.len(), 1);
    store
        .record_links(
            bench.path("in0").to_str().unwrap(),
            &links.into_iter().collect::<Vec<_>>(),
        )
        .unwrap();
    fs::rename(lower, bench.path("in0")).unwrap();
    let second = bench
        .run(vec![copy(Vertex(0), Vertex(1), Some(0), dockerfile_copy("/", "/b/"))])
        .unwrap();
    let target = bench.fresh("merged");
    let mounted = mount(&second[0], None, &target);
    let (one, other) = (inode(&target.join("a")), inode(&target.join("b/f")));
    let linked = inode(&target.join("b/g"));
    mounted.unmount().unwrap();
    assert_ne!(one.0, other.0);
    assert_eq!(
        (one.1, other.1, linked.1),
        (2, 1, 2),
        "only what is not below is linked"
    );
    let store = bench.tree.as_ref().unwrap().store();
    store.retain_links(|_| false).unwrap();
    assert!(store.links_of([second[0][1].to_str().unwrap()]).unwrap().is_empty());
}

#[test]
fn cancelled_work_stops() {
    if !is_root_or_skip() {
        return;
    }
    let mut bench = Bench::new("", "s/\ns/a = 1\ns/b = 2");
    let asked = std::cell::Cell::new(0);
    let op = FileOp {
        actions: vec![copy(Vertex(0), Vertex(1), Some(0), dockerfile_copy("s", "/d"))],
    };
    let result = apply(&op, &mut bench, &FakeTar, &|| asked.replace(asked.get() + 1) > 2);
    assert!(matches!(result, Err(FileOpError::Cancelled)));
}
