use std::path::Path;

use super::*;

/// A working directory with a context `app` (its own Dockerfile in it), a file `other.dockerfile` and a secret.
fn scene() -> (tempfile::TempDir, Surroundings) {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "FROM scratch\n").unwrap();
    };
    ["app/Dockerfile", "app/only-there", "other.dockerfile", "token"]
        .into_iter()
        .for_each(write);
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let surroundings = Surroundings {
        directory: dir.path().to_owned(),
        variables: [("HTTP_PROXY", "http://p"), ("TOKEN", "t")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Surroundings::default()
    };
    (dir, surroundings)
}

fn args(context: &str) -> BuildArgs {
    BuildArgs {
        context: context.into(),
        ..BuildArgs::default()
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn error_of(args: &BuildArgs, surroundings: &Surroundings) -> String {
    let error = BuildPlan::new(args, surroundings).unwrap_err();
    assert_eq!(error.exit_code(), crate::exit::ExitCode::Usage);
    error.to_string()
}

#[test]
fn the_dockerfile_is_found_as_given_and_then_in_the_context() {
    let (dir, around) = scene();
    let find = |file: Option<&str>| {
        let plan = BuildPlan::new(
            &BuildArgs {
                file: file.map(PathBuf::from),
                ..args("app")
            },
            &around,
        );
        let Dockerfile::Local { directory, name } = plan.unwrap().dockerfile else {
            panic!("not local")
        };
        directory.join(name).strip_prefix(dir.path()).unwrap().to_owned()
    };
    assert_eq!(find(None), Path::new("app/Dockerfile"));
    assert_eq!(find(Some("Dockerfile")), Path::new("app/Dockerfile"));
    assert_eq!(find(Some("app/Dockerfile")), Path::new("app/Dockerfile"));
    assert_eq!(find(Some("other.dockerfile")), Path::new("other.dockerfile"));
    assert_eq!(find(Some("only-there")), Path::new("app/only-there"));
    std::fs::write(dir.path().join("Dockerfile"), "").unwrap();
    assert_eq!(find(Some("Dockerfile")), Path::new("Dockerfile"));
    assert_eq!(find(None), Path::new("app/Dockerfile"));
}

#[test]
fn a_missing_dockerfile_is_reported_with_every_place_looked_at() {
    let (dir, around) = scene();
    let missing = error_of(
        &BuildArgs {
            file: Some("nope".into()),
            ..args("app")
        },
        &around,
    );
    let root = dir.path().display();
    assert_eq!(
        missing,
        format!("there is no Dockerfile at \"{root}/nope\", nor at \"{root}/app/nope\"")
    );
    let missing = error_of(&args("empty"), &around);
    assert_eq!(missing, format!("there is no Dockerfile in \"{root}/empty\""));
    let directory = error_of(
        &BuildArgs {
            file: Some("empty".into()),
            ..args("app")
        },
        &around,
    );
    assert_eq!(directory, "the Dockerfile \"empty\" is a directory");
}

#[test]
fn contexts_are_directories_or_remote() {
    let (_dir, around) = scene();
    for (context, reason) in [
        ("nowhere", "the build context \"nowhere\" does not exist"),
        ("token", "the build context \"token\" is not a directory"),
        ("", "the build context \"\" is not a directory"),
    ] {
        assert_eq!(error_of(&args(context), &around), reason);
    }
    let plan = BuildPlan::new(&args("https://example.org/x.git"), &around).unwrap();
    assert_eq!(plan.frontend_attrs["context"], "https://example.org/x.git");
    assert!(!plan.frontend_attrs.contains_key("filename"));
}

#[test]
fn standard_input_is_one_thing() {
    let (_dir, around) = scene();
    let with = |file: Option<&str>| BuildArgs {
        file: file.map(PathBuf::from),
        ..args("-")
    };
    let plan = BuildPlan::new(&with(None), &around).unwrap();
    assert_eq!(
        (plan.context, plan.dockerfile),
        (Context::Stdin, Dockerfile::InContext(None))
    );
    assert!(!plan.frontend_attrs.contains_key("filename"));
    let plan = BuildPlan::new(&with(Some("x/Dockerfile")), &around).unwrap();
    assert_eq!(plan.frontend_attrs["filename"], "x/Dockerfile");
    let error = error_of(&with(Some("-")), &around);
    assert_eq!(error, "can't use stdin for both build context and dockerfile");
}

#[test]
fn named_contexts_are_found_before_anything_is_asked_of_a_daemon() {
    let (dir, around) = scene();
    let digest = |c: &str| format!("sha256:{}", c.repeat(64));
    let layout = |name: &str, entries: &[(&str, &str)]| {
        let entries: Vec<_> = entries
            .iter()
            .map(|(tag, c)| {
                let annotations = serde_json::json!({"org.opencontainers.image.ref.name": tag});
                serde_json::json!({"digest": digest(c), "annotations": annotations})
            })
            .collect();
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.join("blobs")).unwrap();
        std::fs::write(
            path.join("index.json"),
            serde_json::json!({"manifests": entries}).to_string(),
        )
        .unwrap();
    };
    layout("one", &[("whatever", "1")]);
    layout("two", &[("latest", "2"), ("v1", "3")]);
    layout("bad", &[("latest", "x")]);
    let find = |context: &str| BuildArgs {
        build_contexts: vec![context.to_owned()],
        ..args("app")
    };
    for (context, key, value) in [
        ("base=empty", "context:base", "local:base"),
        ("context=empty", "context:context", "local:_context"),
        (
            "docker.io/library/alpine:latest=empty",
            "context:alpine",
            "local:alpine",
        ),
        ("x=docker-image://a/b", "context:x", "docker-image://a/b"),
        ("x=https://h/a.git#v", "context:x", "https://h/a.git#v"),
        (
            "x=oci-layout://one",
            "context:x",
            &format!("oci-layout://layout0:latest@{}", digest("1")),
        ),
        (
            "x=oci-layout://two",
            "context:x",
            &format!("oci-layout://layout0:latest@{}", digest("2")),
        ),
        (
            "x=oci-layout://two:v1",
            "context:x",
            &format!("oci-layout://layout0:v1@{}", digest("3")),
        ),
        (
            &format!("x=oci-layout://two:v7@{}", digest("4")),
            "context:x",
            &format!("oci-layout://layout0:v7@{}", digest("4")),
        ),
    ] {
        let plan = BuildPlan::new(&find(context), &around).unwrap();
        assert_eq!(plan.frontend_attrs[key], value, "{context}");
        let offered = plan.named.dirs.values().chain(plan.named.layouts.values()).count();
        assert_eq!(
            offered,
            usize::from(value.starts_with("local:") || value.starts_with("oci-")),
            "{context}"
        );
    }
    let root = dir.path().display();
    for (context, reason) in [
        ("x", "invalid context value: x, expected key=value".to_owned()),
        ("=empty", "invalid context name ".to_owned()),
        ("A=empty", "invalid context name A".to_owned()),
        ("x=nowhere", "the build context x=\"nowhere\" does not exist".to_owned()),
        ("x=token", "the build context x=\"token\" is not a directory".to_owned()),
        (
            "x=oci-layout://two:v9",
            format!("build context x: there is no image \"v9\" in \"{root}/two\""),
        ),
        (
            "x=oci-layout://two@sha256:1",
            "build context x: invalid digest \"sha256:1\"".to_owned(),
        ),
        (
            "x=oci-layout://bad",
            format!("build context x: invalid digest \"{}\"", digest("x")),
        ),
        (
            &format!("x=oci-layout://empty@{}", digest("4")),
            format!("build context x: \"{root}/empty\" is no OCI layout"),
        ),
    ] {
        assert_eq!(error_of(&find(context), &around), reason);
    }
    let missing = BuildPlan::new(&find("x=oci-layout://empty"), &around).unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!("failed to read \"{root}/empty/index.json\"")
    );
}

#[test]
fn a_dockerfile_from_standard_input_stays_local_for_remote_contexts() {
    let (_dir, around) = scene();
    let stdin = |context| BuildArgs {
        file: Some("-".into()),
        ..args(context)
    };
    let plan = BuildPlan::new(&stdin("app"), &around).unwrap();
    assert_eq!(plan.dockerfile, Dockerfile::Stdin);
    assert_eq!(plan.frontend_attrs.get("dockerfilekey"), None);
    let plan = BuildPlan::new(&stdin("https://example.org/x.git"), &around).unwrap();
    assert_eq!(plan.frontend_attrs["dockerfilekey"], "dockerfile");
}

#[test]
fn options_become_attributes_of_the_frontend() {
    let (_dir, around) = scene();
    let args = BuildArgs {
        build_args: strings(&["A=1=2", "HTTP_PROXY", "UNSET", "EMPTY="]),
        labels: strings(&["l=v", "bare"]),
        target: Some("foo".into()),
        platforms: strings(&["linux/amd64,linux/arm64", "linux/arm/v7"]),
        no_cache: true,
        ..args("app")
    };
    let attrs = BuildPlan::new(&args, &around).unwrap().frontend_attrs;
    let attrs: Vec<(&str, &str)> = attrs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        attrs,
        [
            ("build-arg:A", "1=2"),
            ("build-arg:EMPTY", ""),
            ("build-arg:HTTP_PROXY", "http://p"),
            ("filename", "Dockerfile"),
            ("label:bare", ""),
            ("label:l", "v"),
            ("no-cache", ""),
            ("platform", "linux/amd64,linux/arm64,linux/arm/v7"),
            ("target", "foo"),
        ]
    );
}

#[test]
fn nameless_options_are_refused() {
    let (_dir, around) = scene();
    for bad in [
        BuildArgs {
            build_args: strings(&["=x"]),
            ..args("app")
        },
        BuildArgs {
            labels: strings(&["=x"]),
            ..args("app")
        },
        BuildArgs {
            target: Some(String::new()),
            ..args("app")
        },
        BuildArgs {
            platforms: strings(&["linux/amd64,"]),
            ..args("app")
        },
        BuildArgs {
            tags: strings(&["a,b"]),
            ..args("app")
        },
        BuildArgs {
            tags: strings(&[""]),
            ..args("app")
        },
    ] {
        error_of(&bad, &around);
    }
}

fn outputs(texts: &[&str], tags: &[&str], push: bool, around: &Surroundings) -> Result<Vec<String>, CliError> {
    let outputs = output::resolve(&strings(texts), &strings(tags), push, around)?;
    let shown = outputs.into_iter().map(|output| {
        let destination = match &output.destination {
            Destination::Daemon => "daemon".to_owned(),
            Destination::Stdout => "stdout".to_owned(),
            Destination::Directory(path) => format!("dir {}", path.file_name().unwrap().display()),
            Destination::File(path) => format!("file {}", path.file_name().unwrap().display()),
        };
        let attrs: Vec<String> = output.attrs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        format!("{} [{}] {destination}", output.kind, attrs.join(" "))
    });
    Ok(shown.collect())
}

#[test]
fn outputs_are_understood_in_all_their_forms() {
    let (_dir, around) = scene();
    type Row<'a> = (&'a [&'a str], &'a [&'a str], bool, &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        (&[], &[], false, &[]),
        (&[], &["a:1", "b"], false, &["image [name=a:1,b] daemon"]),
        (&[], &["a"], true, &["image [name=a push=true] daemon"]),
        (
            &["type=image,name=x,push=true"],
            &["a"],
            false,
            &["image [name=x push=true] daemon"],
        ),
        (
            &["type=image,\"name=x,y\",push"],
            &[],
            false,
            &["image [name=x,y push=true] daemon"],
        ),
        (&["type=registry"], &["a"], false, &["image [name=a push=true] daemon"]),
        (&["type=oci,dest=f.tar"], &["a"], false, &["oci [name=a] file f.tar"]),
        (&["type=docker,dest=-"], &["a"], false, &["docker [name=a] stdout"]),
        (&["type=tar"], &["a"], false, &["tar [] stdout"]),
        (&["-"], &[], false, &["tar [] stdout"]),
        (&["out"], &["a"], false, &["local [] dir out"]),
        (
            &["type=local,dest=out,mode=delete"],
            &[],
            false,
            &["local [mode=delete] dir out"],
        ),
        (&["type=cacheonly"], &["a"], false, &[]),
        (
            &["type=image", "type=oci,dest=f"],
            &["a"],
            true,
            &["image [name=a push=true] daemon", "oci [name=a] file f"],
        ),
    ];
    for (texts, tags, push, expected) in rows {
        assert_eq!(
            &outputs(texts, tags, *push, &around).unwrap(),
            expected,
            "{texts:?} {tags:?}"
        );
    }
}

#[test]
fn outputs_that_make_no_sense_say_why() {
    let (_dir, around) = scene();
    let rows: &[(&[&str], bool, &str)] = &[
        (&[""], false, "it is empty"),
        (&["dest=x"], false, "it has no type"),
        (&["type=x"], false, "none of image"),
        (&["type=local"], false, "needs dest"),
        (&["type=local,dest=-"], false, "cannot go to standard output"),
        (&["type=local,dest=token"], false, "is not a directory"),
        (&["type=oci,dest=app"], false, "is a directory"),
        (&["type=oci,dest=nosuch/f.tar"], false, "there is no directory"),
        (&["type=oci,dest="], false, "dest is empty"),
        (&["type=oci,dest=x,tar=false"], false, "tar=false is not supported"),
        (&["type=image,dest=x"], false, "has no dest"),
        (&["type=image,\"x"], false, "quote that is not closed"),
        (&["-", "type=oci"], false, "only one output"),
        (&["out"], true, "--push needs an image"),
        (&[], true, "without a name"),
        (&["type=registry"], false, "without a name"),
    ];
    for (texts, push, reason) in rows {
        let error = outputs(texts, &[], *push, &around).unwrap_err().to_string();
        assert!(error.contains(reason), "{texts:?}: {error}");
    }
    let on_terminal = Surroundings {
        stdout_is_terminal: true,
        ..around
    };
    for text in ["-", "type=oci", "type=docker,dest=-"] {
        let error = outputs(&[text], &[], false, &on_terminal).unwrap_err().to_string();
        assert!(error.contains("not written to a terminal"), "{text}: {error}");
    }
}

#[test]
fn secrets_come_from_files_and_variables() {
    let (dir, around) = scene();
    let file = SecretOrigin::File(dir.path().join("token"));
    let variable = SecretOrigin::Variable("TOKEN".to_owned());
    for (text, id, origin) in [
        ("id=a,src=token", "a", &file),
        ("type=file,id=a,source=token", "a", &file),
        ("id=token", "token", &file),
        ("src=token", "token", &file),
        ("id=a,env=TOKEN", "a", &variable),
        ("id=a,type=env,src=TOKEN", "a", &variable),
        ("id=TOKEN", "TOKEN", &variable),
    ] {
        let secret = SecretPlan::parse(text, &around).unwrap();
        assert_eq!((secret.id.as_str(), &secret.origin), (id, origin), "{text}");
    }
    for text in [
        "",
        "id=",
        "src",
        "id=a,src=none",
        "id=a,env=NONE",
        "id=a,x=y",
        "id=a,src=token,env=TOKEN",
        "type=x,id=token",
    ] {
        assert!(SecretPlan::parse(text, &around).is_err(), "{text}");
    }
    let twice = BuildArgs {
        secrets: strings(&["id=a,src=token", "id=a,env=TOKEN"]),
        ..args("app")
    };
    assert_eq!(error_of(&twice, &around), "two secrets have the id \"a\"");
}

#[test]
fn agents_are_sockets() {
    let (dir, mut around) = scene();
    let socket = dir.path().join("agent");
    let _agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let agents = |texts: &[&str], around: &Surroundings| ssh::agents(&strings(texts), around);
    let error = agents(&["default"], &around).unwrap_err().to_string();
    assert!(error.contains("SSH_AUTH_SOCK is not set"), "{error}");
    around
        .variables
        .insert("SSH_AUTH_SOCK".to_owned(), socket.display().to_string());
    for texts in [&["default"][..], &["default="], &["default=agent"]] {
        let expected = [("default".to_owned(), socket.clone())].into();
        assert_eq!(agents(texts, &around).unwrap(), expected, "{texts:?}");
    }
    assert_eq!(agents(&["default", "other=agent"], &around).unwrap().len(), 2);
    for texts in [&[""][..], &["=agent"], &["a=token"], &["a=none"], &["a", "a=agent"]] {
        assert!(agents(texts, &around).is_err(), "{texts:?}");
    }
}

#[test]
fn the_view_fits_the_terminal() {
    let (_dir, around) = scene();
    let mode = |asked, terminal, term: &str| {
        let mut around = around.clone();
        around.stderr_is_terminal = terminal;
        around.variables.insert("TERM".to_owned(), term.to_owned());
        progress_mode(asked, &around)
    };
    assert_eq!(mode(ProgressMode::Auto, true, "xterm").unwrap(), ProgressMode::Tty);
    assert_eq!(mode(ProgressMode::Auto, true, "dumb").unwrap(), ProgressMode::Plain);
    assert_eq!(mode(ProgressMode::Auto, false, "xterm").unwrap(), ProgressMode::Plain);
    assert_eq!(mode(ProgressMode::Quiet, false, "xterm").unwrap(), ProgressMode::Quiet);
    assert!(mode(ProgressMode::Tty, false, "xterm").is_err());
}
