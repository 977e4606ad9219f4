use super::*;
use crate::ui::script::{Message, moment};

/// Shows messages, each with the moment of its arrival.
fn show(messages: Vec<(u64, Message)>) -> String {
    let mut progress = Progress::new();
    let mut out = Vec::new();
    let mut view = PlainView::new(&mut out);
    let mut end = 0;
    for (at, message) in messages {
        end = at;
        let event = message.event();
        let changes = progress.apply(&event, moment(at));
        view.update(&progress, &event, &changes, moment(at)).unwrap();
    }
    view.finish(&progress, moment(end)).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_build_reads_in_order() {
    let definition = "[internal] load build definition from Dockerfile";
    let (from, run) = ("[1/2] FROM debian", "[2/2] RUN make");
    let shown = show(vec![
        (0, Message::default().loaded(from).loaded(run).started(definition, 0)),
        (
            100,
            Message::default().done(definition, 0, 90).part(
                definition,
                "transferring dockerfile:",
                (59, 0),
                (10, Some(40)),
            ),
        ),
        (200, Message::default().cached(from, 150).started(run, 160)),
        (300, Message::default().log(run, 283, "gcc -o bin1\nhalf a")),
        (1500, Message::default().log(run, 1400, " line\n").done(run, 160, 1460)),
    ]);
    insta::assert_snapshot!(shown, @r"
    #1 [internal] load build definition from Dockerfile
    #1 transferring dockerfile: 59B 0.0s done
    #1 DONE 0.1s

    #2 [1/2] FROM debian
    #2 CACHED

    #3 [2/2] RUN make
    #3 0.123 gcc -o bin1
    #3 0.123 half a line
    #3 DONE 1.3s
    ");
}

#[test]
fn two_that_talk_take_turns() {
    let (foo, bar) = ("[foo 1/1] RUN foo", "[bar 1/1] RUN bar");
    let both = |at: u64| Message::default().log(foo, at, "foo\n").log(bar, at, "bar\n");
    let shown = show(vec![
        (0, Message::default().started(foo, 0).started(bar, 0)),
        (100, both(100)),
        (200, both(200)),
        (1800, both(1800)),
        (2300, both(2300)),
        (2400, both(2400)),
        (
            2500,
            Message::default()
                .done(foo, 0, 2500)
                .failed(bar, 0, 2500, "exit code: 2"),
        ),
    ]);
    insta::assert_snapshot!(shown, @r"
    #1 [foo 1/1] RUN foo
    #1 0.100 foo
    #1 0.200 foo
    #1 1.800 foo
    #1 2.300 foo
    #1 ...

    #2 [bar 1/1] RUN bar
    #2 0.100 bar
    #2 0.200 bar
    #2 1.800 bar
    #2 2.300 bar
    #2 2.400 bar
    #2 ERROR: exit code: 2

    #1 [foo 1/1] RUN foo
    #1 2.400 foo
    #1 DONE 2.5s
    ");
}

#[test]
fn long_transfers_are_mentioned_now_and_then() {
    let from = "[1/1] FROM debian";
    let part = |at: u64, bytes, end| {
        (
            at,
            Message::default().part(from, "sha256:abc", (bytes, 50_000_000), (0, end)),
        )
    };
    let shown = show(vec![
        (0, Message::default().started(from, 0)),
        part(10, 1, None),
        part(1000, 10_000_000, None),
        part(6000, 20_000_000, None),
        part(7000, 30_000_000, None),
        part(8000, 50_000_000, Some(8000)),
        part(8100, 50_000_000, Some(8000)),
        (8200, Message::default().done(from, 0, 8200)),
    ]);
    insta::assert_snapshot!(shown, @r"
    #1 [1/1] FROM debian
    #1 sha256:abc 20.0MB / 50.0MB 6.0s
    #1 sha256:abc 50.0MB / 50.0MB 8.0s done
    #1 DONE 8.2s
    ");
}

#[test]
fn a_second_start_is_reported_again_and_repeats_are_not() {
    let export = "exporting to image";
    let shown = show(vec![
        (0, Message::default().done(export, 0, 100)),
        (100, Message::default().done(export, 0, 100)),
        (200, Message::default().started(export, 200)),
        (300, Message::default().done(export, 200, 300)),
    ]);
    insta::assert_snapshot!(shown, @r"
    #1 exporting to image
    #1 DONE 0.1s

    #1 exporting to image
    #1 DONE 0.2s
    ");
}

#[test]
fn hostile_output_stays_in_its_lines() {
    let run = "[1/1] RUN \u{1b}[2Jx";
    let shown = show(vec![
        (0, Message::default().started(run, 0)),
        (10, Message::default().log(run, 10, "\u{1b}[1A\u{1b}]0;t\u{7}#9 DONE\n")),
        (
            20,
            Message::default().failed(run, 0, 20, "a\nb\u{1b}[0m: context canceled"),
        ),
    ]);
    insta::assert_snapshot!(shown, @r"
    #1 [1/1] RUN x
    #1 0.010 #9 DONE
    #1 CANCELED
    ");
}
