use super::*;
use crate::ui::script::{Message, moment};

const DEFINITION: &str = "[internal] load build definition from Dockerfile";
const FROM: &str = "[base 1/2] FROM docker.io/library/debian";
const FOO: &str = "[foo 1/1] RUN make foo";
const BAR: &str = "[bar 1/1] RUN make bar";

fn progress(messages: Vec<Message>) -> Progress {
    let mut progress = Progress::new();
    for message in messages {
        progress.apply(&message.event(), moment(0));
    }
    progress
}

fn frame(progress: &Progress, rows: usize, columns: usize) -> Frame<'_> {
    Frame {
        progress,
        now: moment(5000),
        elapsed: Duration::from_millis(5050),
        size: Size { rows, columns },
        theme: Theme::plain(),
    }
}

/// Two steps that run on a finished and a cached one.
fn busy() -> Progress {
    let lines: String = (0..20).map(|line| format!("line {line}\n")).collect();
    progress(vec![
        Message::default()
            .loaded(FROM)
            .loaded(FOO)
            .loaded(BAR)
            .loaded("[stage-3 1/1] COPY --from=foo"),
        Message::default().done(DEFINITION, 0, 120).part(
            DEFINITION,
            "transferring dockerfile:",
            (59, 0),
            (10, Some(20)),
        ),
        Message::default().cached(FROM, 200),
        Message::default().started(FOO, 1000).log(FOO, 1100, &lines),
        Message::default()
            .started(BAR, 1001)
            .log(BAR, 1200, "\u{1b}[31mred\u{1b}[0m\nhalf"),
    ])
}

#[test]
fn everything_is_shown_when_there_is_room() {
    insta::assert_snapshot!(frame(&busy(), 24, 60).live().join("\n"), @r"
    [+] Building 5.0s (2/5)
     => [internal] load build definition from Dockerfile    0.1s
     => => transferring dockerfile: 59B                     0.0s
     => CACHED [base 1/2] FROM docker.io/library/debian     0.0s
     => [foo 1/1] RUN make foo                              4.0s
     => => # line 14
     => => # line 15
     => => # line 16
     => => # line 17
     => => # line 18
     => => # line 19
     => [bar 1/1] RUN make bar                              4.0s
     => => # red
     => => # half
    ");
}

#[test]
fn a_small_terminal_shows_what_runs() {
    insta::assert_snapshot!(frame(&busy(), 6, 40).live().join("\n"), @r"
    [+] Building 5.0s (2/5)
     => [internal] load build definiti… 0.1s
     => CACHED [base 1/2] FROM docker.… 0.0s
     => [foo 1/1] RUN make foo          4.0s
     => [bar 1/1] RUN make bar          4.0s
    ");
    insta::assert_snapshot!(frame(&busy(), 5, 40).live().join("\n"), @r"
    [+] Building 5.0s (2/5)
     => … 2 finished steps
     => [foo 1/1] RUN make foo          4.0s
     => [bar 1/1] RUN make bar          4.0s
    ");
}

#[test]
fn a_picture_is_never_higher_than_the_terminal() {
    let mut messages = Vec::new();
    for step in 0..50 {
        let name = format!("[s{step} 1/1] RUN x");
        messages.push(Message::default().done(&name, step, step + 1));
    }
    for step in 0..30 {
        let name = format!("[r{step} 1/1] RUN x");
        let mut message = Message::default()
            .started(&name, 100 + step)
            .log(&name, 200, "a\nb\nc\n");
        for part in 0..5 {
            message = message.part(&name, &format!("part {part}"), (1, 2), (100, None));
        }
        messages.push(message);
    }
    let progress = progress(messages);
    for rows in 0..200 {
        let height = frame(&progress, rows, 80).live().len();
        assert!(height < rows.max(2), "{height} lines in {rows} rows");
    }
}

#[test]
fn the_last_picture_is_complete() {
    let progress = progress(vec![
        Message::default().loaded("[never 1/1] RUN x").cached(FROM, 200),
        Message::default()
            .failed(FOO, 1000, 3000, "exit code: 1")
            .log(FOO, 1100, "output\n"),
        Message::default().failed(BAR, 1001, 3000, "context canceled"),
    ]);
    insta::assert_snapshot!(frame(&progress, 4, 60).last().join("\n"), @r"
    [+] Building 5.0s (3/3) FAILED
     => CACHED [base 1/2] FROM docker.io/library/debian     0.0s
     => ERROR [foo 1/1] RUN make foo                        2.0s
     => CANCELED [bar 1/1] RUN make bar                     2.0s
    ");
}

#[test]
fn layers_are_shown_with_their_bytes() {
    let digest = "sha256:".to_owned() + &"0123456789abcdef".repeat(4);
    let progress = progress(vec![
        Message::default()
            .started(FROM, 0)
            .part(FROM, &digest, (12_300_000, 30_000_000), (1000, None))
            .part(FROM, &format!("extracting {digest}"), (0, 0), (500, Some(900))),
    ]);
    insta::assert_snapshot!(frame(&progress, 24, 60).live().join("\n"), @r"
    [+] Building 5.0s (0/1)
     => [base 1/2] FROM docker.io/library/debian            5.0s
     => => extracting sha256:0123456789ab                   0.4s
     => => sha256:0123456789ab 12.3MB / 30.0MB              4.0s
    ");
}
