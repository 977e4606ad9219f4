//! Steps and paths of Windows.

use super::*;

#[test]
fn windows_has_another_shell_and_no_path() {
    let options = [("platform", "windows/amd64")];
    let dockerfile = "FROM scratch\nENV Path=x\nENV PATH=y\nRUN dir\nRUN <<S\n#!/bin/cat\nS\nCMD dir\nSHELL [\"powershell\"]\nRUN dir";
    let text = lowered(dockerfile, &options);
    for command in [
        "exec [\"cmd\", \"/S\", \"/C\", \"dir\"]",
        "exec [\"cmd\", \"/S\", \"/C\", \"#!/bin/cat\\n\"]",
        "exec [\"powershell\", \"dir\"]",
    ] {
        assert!(text.contains(command), "no {command} in {text}");
    }
    assert!(!text.contains("/dev/pipes"), "{text}");
    let result = build(FakeBridge::new(dockerfile), &options).unwrap();
    let config = config(&result);
    assert_eq!(config["config"]["Env"], serde_json::json!(["Path=x", "PATH=y"]));
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["cmd", "/S", "/C", "dir"]));
    assert_eq!(config["config"]["WorkingDir"], "\\");
}

#[test]
fn windows_copies_between_paths_with_backslashes() {
    let options = [("platform", "windows/amd64")];
    let copied = |instruction: &str| {
        let text = format!("# escape=`\nFROM scratch\nWORKDIR C:\\app\n{instruction}");
        render(&build(FakeBridge::new(&text), &options))
    };
    for (instruction, want) in [
        ("COPY a b\\c", "/a => /app/b/c "),
        ("COPY a .\\", "/a => /app/ "),
        ("COPY a c:z", "/a => /app/z "),
        ("COPY a \\abs\\.", "/a => /abs/. "),
        ("COPY a C:/fwd/", "/a => /fwd/ "),
        ("COPY a C:\\", "/a => / "),
        ("COPY a ..\\..\\q", "/a => /q "),
        ("ADD d\\e C:\\x\\", "/d/e => /x/ "),
        ("COPY --parents d\\.\\s\\u x", "/d => /app/x/ "),
        ("COPY <<E C:\\here\\\nx\nE", "/E => /here/ "),
    ] {
        let text = copied(instruction);
        assert!(text.contains(want), "{instruction}: {text}");
    }
    assert!(
        copied("COPY d\\e x").contains("follow=[\"d/e\"]"),
        "{}",
        copied("COPY d\\e x")
    );
    for (instruction, want) in [
        ("COPY a d:\\x", "The specified path is not on the system drive (C:)"),
        ("COPY d:a x", "The specified path is not on the system drive (C:)"),
        ("COPY a C:", "no relative path specified in \"C:\""),
        ("ADD a \\\\host\\share", "UNC paths are not supported"),
    ] {
        let text = copied(instruction);
        let want = format!("error: removing drive letter: {want}");
        assert!(text.starts_with(&want), "{instruction}: {text}");
    }
    // What is no Windows has names with backslashes.
    let linux = lowered("# escape=`\nFROM scratch\nCOPY a\\b c\\d\\", &[]);
    assert!(linux.contains("/a\\b => /c\\d\\ "), "{linux}");
}

#[test]
fn windows_has_backslashes_and_one_drive() {
    let base = r#"{"architecture":"amd64","os":"windows","os.version":"10.0.1","os.features":["win32k"],
        "config":{"WorkingDir":"C:\\app"},"rootfs":{"type":"layers","diff_ids":["sha256:00"]}}"#;
    let options = [("platform", "windows/amd64")];
    let built = |text: &str| {
        build(
            FakeBridge::new(text).image("docker.io/library/nano:latest", base),
            &options,
        )
    };
    let result = built("FROM nano\nWORKDIR b\nWORKDIR C:/x/../y\nWORKDIR z\nCOPY a .").unwrap();
    let image = config(&result);
    assert_eq!(image["config"]["WorkingDir"], "\\y\\z");
    assert_eq!(image["history"][0]["created_by"], "WORKDIR /app/b");
    assert_eq!(
        (&image["os.version"], &image["os.features"][0]),
        (&"10.0.1".into(), &"win32k".into())
    );
    let platforms: serde_json::Value = serde_json::from_slice(&result.metadata["refs.platforms"]).unwrap();
    assert_eq!(platforms["Platforms"][0]["Platform"]["os.version"], "10.0.1");
    let text = render(&Ok(result));
    assert!(text.contains("mkdir /app/b ") && text.contains("=> /y/z/ "), "{text}");
    let text = render(&built("FROM nano\nWORKDIR d:\\x"));
    assert!(
        text.starts_with("error: The specified path is not on the system drive (C:)"),
        "{text}"
    );
}
