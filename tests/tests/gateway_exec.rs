//! Clients that drive a build themselves and look into it with processes of their own.

use anyhow::{Context as _, bail, ensure};
use cairn_proto::gateway::exec_message::Input;
use cairn_proto::gateway::{
    ExecMessage, FdMessage, InitMessage, NewContainerRequest, PingRequest, ReadDirRequest, ReadFileRequest,
    ResizeMessage, Result as WireResult, ReturnRequest, SignalMessage, StatFileRequest,
};
use cairn_proto::pb;
use cairn_tests::driven::{Driven, PATIENCE};
use cairn_tests::{Daemon, Lab, Need};
use tonic::{Code, Status};

fn root(result: &str) -> Vec<pb::Mount> {
    vec![pb::Mount {
        dest: "/".to_owned(),
        result_id: result.to_owned(),
        ..pb::Mount::default()
    }]
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_talked_to_in_order() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let mut build = Driven::start(&daemon, "in-order").await?;
    let ping = build.request(PingRequest {});
    let caps = build.bridge.ping(ping).await?.into_inner().frontend_api_caps;
    ensure!(caps.iter().any(|cap| cap.id == "gateway.exec"));
    let base = build.image().await?;
    build.container("c", root(&base)).await?;
    let mut talk = build.stream().await?;

    // The first process is there until it is told to go.
    talk.start("c", "first", "read word; echo $word from $(hostname); exit 3", false)
        .await?;
    talk.start("c", "second", "cat; echo $GIVEN >&2; echo kept > /made", false)
        .await?;
    talk.write("second", "some text\n", true).await?;
    let said = talk.until_done(1).await?;
    ensure!(said.contains_key("second") && said["first"] == ["started"], "{said:?}");
    let second = &said["second"];
    ensure!(second[0] == "started", "{second:?}");
    ensure!(second.contains(&"1: some text\n".to_owned()), "{second:?}");
    ensure!(second.contains(&"2: 1\n".to_owned()), "{second:?}");
    let last: Vec<&str> = second.iter().rev().take(4).rev().map(String::as_str).collect();
    ensure!(last == ["exit 0", "end of 1", "end of 2", "done"], "{second:?}");

    // Files can be looked at, while it runs and afterwards.
    let file = |path: &str| ReadFileRequest {
        r#ref: "c".to_owned(),
        file_path: path.to_owned().into(),
        ..ReadFileRequest::default()
    };
    let request = build.request(file("/made"));
    let data = build.bridge.read_file_container(request).await?.into_inner().data;
    ensure!(&data[..] == b"kept\n");
    talk.write("first", "hello\n", false).await?;
    let said = talk.until_done(1).await?;
    ensure!(
        said["first"]
            == [
                "1: hello from looking-in\n",
                "exit 3 exit code: 3",
                "end of 1",
                "end of 2",
                "done"
            ],
        "{said:?}"
    );
    let request = build.request(StatFileRequest {
        r#ref: "c".to_owned(),
        path: "/made".into(),
        ..StatFileRequest::default()
    });
    let stat = build.bridge.stat_file_container(request).await?.into_inner().stat;
    ensure!(stat.context("no stat")?.size == 5);
    let request = build.request(ReadDirRequest {
        r#ref: "c".to_owned(),
        dir_path: "/".into(),
        include_pattern: "mad*".into(),
        ..ReadDirRequest::default()
    });
    let entries = build.bridge.read_dir_container(request).await?.into_inner().entries;
    ensure!(entries.len() == 1 && entries[0].path == b"made", "{entries:?}");

    // No further process without the first one.
    talk.start("c", "third", "true", false).await?;
    let said = talk.until_done(1).await?;
    ensure!(said["third"][1] == "exit 255 container c not found", "{said:?}");
    build.release("c").await?;
    let request = build.request(file("/made"));
    let gone = build
        .bridge
        .read_file_container(request)
        .await
        .err()
        .context("still there")?;
    ensure!(gone.message().contains("c not found"), "{gone:?}");

    // What was done in the container is in no result.
    let request = build.request(ReadFileRequest {
        r#ref: base,
        file_path: "/made".into(),
        ..ReadFileRequest::default()
    });
    let missing = build
        .bridge
        .read_file(request)
        .await
        .err()
        .context("it is in the image")?;
    ensure!(
        missing.message() == "open /made: no such file or directory",
        "{missing:?}"
    );

    let request = build.request(ReturnRequest {
        result: Some(WireResult::default()),
        error: None,
    });
    build.bridge.r#return(request).await?;
    (&mut build.solve).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_have_sizes_and_take_signals() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let mut build = Driven::start(&daemon, "terminal").await?;
    let base = build.image().await?;
    build.container("c", root(&base)).await?;
    let mut talk = build.stream().await?;
    let script = "trap 'echo asked to go; exit 5' TERM; trap 'stty size' WINCH; \
                  echo $TERM; test -t 0 && test -t 1 && echo ready; while :; do sleep 0.05; done";
    talk.start("c", "p", script, true).await?;
    let mut shown = String::new();
    let mut steps = vec!["ready", "33 77"].into_iter();
    let mut waiting_for = steps.next();
    loop {
        let message = talk.next().await?;
        match message.input {
            Some(Input::File(file)) if !file.eof => shown.push_str(&String::from_utf8_lossy(&file.data)),
            Some(Input::Exit(exit)) => {
                ensure!(exit.code == 5, "{exit:?}: {shown}");
                break;
            }
            _ => {}
        }
        if waiting_for.is_some_and(|text| shown.contains(text)) {
            waiting_for = steps.next();
            match waiting_for {
                Some(_) => {
                    talk.say("p", Input::Resize(ResizeMessage { rows: 33, cols: 77 }))
                        .await?
                }
                None => {
                    let name = "TERM".to_owned();
                    talk.say("p", Input::Signal(SignalMessage { name })).await?;
                }
            }
        }
    }
    ensure!(shown.contains("xterm\r\n") && shown.contains("asked to go"), "{shown}");
    let end = [talk.next().await?, talk.next().await?];
    ensure!(
        matches!(&end[0].input, Some(Input::File(file)) if file.eof && file.fd == 1)
            && matches!(end[1].input, Some(Input::Done(_))),
        "{end:?}"
    );
    Ok(())
}

// Several threads: waiting for a process blocks one, while the connection has to be closed.
#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let mut build = Driven::start(&daemon, "refused").await?;
    let mut other = Driven::start(&daemon, "other").await?;
    let base = build.image().await?;
    let theirs = other.image().await?;
    build.container("c", root(&base)).await?;

    let refused = |outcome: Result<(), Status>| outcome.err().context("it was taken");
    let again = refused(build.container("c", root(&base)).await)?;
    ensure!(again.code() == Code::AlreadyExists && again.message() == "Container c already exists");
    // What another build named means nothing here, not even to its daemon.
    let forged = refused(build.container("d", root(&theirs)).await)?;
    ensure!(forged.message().starts_with("failed to find ref"), "{forged:?}");
    let nameless = refused(build.container("", root(&base)).await)?;
    ensure!(nameless.code() == Code::InvalidArgument, "{nameless:?}");
    refused(build.container("e", Vec::new()).await)?;
    let mut host = root(&base);
    host[0].mount_type = 77;
    refused(build.container("e", host).await)?;
    let request = build.request(NewContainerRequest {
        container_id: "e".to_owned(),
        mounts: root(&base),
        network: pb::NetMode::Host.into(),
        ..NewContainerRequest::default()
    });
    let host = refused(build.bridge.new_container(request).await.map(drop))?;
    ensure!(host.message().contains("network.host is not allowed"), "{host:?}");
    let unknown = refused(build.release("nobody").await)?;
    ensure!(
        unknown.message() == "container details for nobody not found",
        "{unknown:?}"
    );

    // Each of these ends its stream.
    let init = |container: &str, id: &str| ExecMessage {
        process_id: id.to_owned(),
        input: Some(Input::Init(InitMessage {
            container_id: container.to_owned(),
            meta: Some(pb::Meta {
                args: ["sleep", "1000"].map(str::to_owned).to_vec(),
                ..pb::Meta::default()
            }),
            ..InitMessage::default()
        })),
    };
    let signal = |id: &str, name: &str| ExecMessage {
        process_id: id.to_owned(),
        input: Some(Input::Signal(SignalMessage { name: name.to_owned() })),
    };
    let file = |id: &str, fd| ExecMessage {
        process_id: id.to_owned(),
        input: Some(Input::File(FdMessage {
            fd,
            ..FdMessage::default()
        })),
    };
    for (name, messages, code) in [
        ("no id", vec![init("c", "")], Code::InvalidArgument),
        ("endless id", vec![init("c", &"p".repeat(1000))], Code::InvalidArgument),
        ("no container", vec![init("x", "p")], Code::NotFound),
        ("no process", vec![signal("p", "TERM")], Code::NotFound),
        ("nothing", vec![ExecMessage::default()], Code::InvalidArgument),
        (
            "unknown signal",
            vec![init("c", "p"), signal("p", "NONE")],
            Code::InvalidArgument,
        ),
        ("closed input", vec![init("c", "p"), file("p", 0)], Code::OutOfRange),
        ("output", vec![init("c", "p"), file("p", 1)], Code::OutOfRange),
        ("twice", vec![init("c", "p"), init("c", "p")], Code::AlreadyExists),
    ] {
        let mut talk = build.stream().await?;
        for message in messages {
            // The stream may have been ended by the one before.
            let _sent = talk.sender.send(message).await;
        }
        let status = loop {
            match tokio::time::timeout(PATIENCE, talk.incoming.message()).await? {
                Ok(Some(_)) => {}
                Ok(None) => bail!("{name}: taken"),
                Err(status) => break status,
            }
        };
        ensure!(status.code() == code, "{name}: {status:?}");
    }
    ensure!(!daemon.log().contains("panicked"), "{}", daemon.log());

    // A client that goes leaves nothing.
    build.container("left", root(&base)).await?;
    let mut talk = build.stream().await?;
    talk.start("left", "p", "echo $GIVEN; sleep 1000", false).await?;
    loop {
        if matches!(talk.next().await?.input, Some(Input::File(_))) {
            break;
        }
    }
    let processes = cairn_tests::processes_with_variable("GIVEN=1");
    ensure!(!processes.is_empty());
    drop((talk, build, other));
    for process in processes {
        ensure!(
            cairn_tests::wait_for_exit(process, PATIENCE)?,
            "process {process} still runs"
        );
    }
    daemon.stop()?;
    ensure!(daemon.leftovers() == Default::default(), "{:?}", daemon.leftovers());
    Ok(())
}
