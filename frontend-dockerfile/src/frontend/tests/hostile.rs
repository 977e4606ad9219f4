//! Whole requests that are as large as they may be, or larger. Where something grows faster than the request these would
//! not end.

use cairn_solver::frontend::{FrontendRefs, FrontendResult};
use cairn_solver::llb::decode;

use crate::testing::{ALPINE, FakeBridge, build, render};

/// How many vertices a build comes to.
fn vertices(result: &FrontendResult) -> usize {
    match &result.refs {
        FrontendRefs::Single(Some(reference)) => {
            let graph = decode(&reference.definition).expect("it is a graph");
            graph.map_or(0, |graph| graph.topological().count())
        }
        _ => 0,
    }
}

/// Builds a Dockerfile on an image with `triggers`; says how many vertices there are, or the first line of the error.
fn outcome(dockerfile: &str, triggers: &[String]) -> Result<usize, String> {
    let triggers = serde_json::to_string(triggers).expect("they are text");
    let config = ALPINE.replace("\"Cmd\"", &format!("\"OnBuild\":{triggers},\"Cmd\""));
    let bridge = FakeBridge::new(dockerfile).image("docker.io/library/busy:latest", &config);
    let result = build(bridge, &[]);
    result.as_ref().map(vertices).map_err(|_| {
        let text = render(&result);
        let line = text.lines().next().unwrap_or_default();
        line.trim_start_matches("error: ").chars().take(120).collect()
    })
}

fn on_alpine(rest: &str) -> Result<usize, String> {
    outcome(&format!("FROM alpine\n{rest}"), &[])
}

const TOO_MUCH: &str = "variables, triggers and inherited settings come to more than 256 MiB";

#[test]
fn long_files_are_built() {
    assert_eq!(on_alpine(&"RUN a\n".repeat(20_000)), Ok(20_001));
    assert_eq!(on_alpine(&"ENV a=b\nLABEL c=d\n".repeat(20_000)), Ok(1));
    let names: String = (0..20_000).map(|n| format!("ENV N{n}=v\nARG A{n}=$N{n}\n")).collect();
    assert_eq!(on_alpine(&names), Ok(1));
    let body = "echo something that is long enough\n".repeat(300_000);
    assert_eq!(on_alpine(&format!("RUN <<E\n{body}E\n")), Ok(2));
    assert_eq!(on_alpine(&format!("COPY <<E /f\n{body}E\n")), Ok(3));
}

#[test]
fn long_lines_are_refused() {
    let line = format!("RUN {}\n", "x".repeat(1 << 20));
    let want = "dockerfile line greater than max allowed size of 65535";
    assert_eq!(on_alpine(&line), Err(want.to_owned()));
}

#[test]
fn many_stages_are_built() {
    let chain: String = (1..10_000)
        .map(|n| format!("FROM s{} AS s{n}\nRUN {n}\n", n - 1))
        .collect();
    assert_eq!(outcome(&format!("FROM alpine AS s0\n{chain}"), &[]), Ok(10_000));
    let alone: String = (0..10_000).map(|n| format!("FROM alpine AS s{n}\nRUN {n}\n")).collect();
    let copies: String = (0..10_000).map(|n| format!("COPY --from=s{n} /a /{n}\n")).collect();
    assert_eq!(outcome(&format!("{alone}FROM alpine\n{copies}"), &[]), Ok(20_001));
    let forks: String = (0..10_000).map(|n| format!("FROM base AS f{n}\nRUN {n}\n")).collect();
    let base = "FROM alpine AS base\n".to_owned() + &"CMD a\n".repeat(1_000);
    assert_eq!(outcome(&format!("{base}{forks}"), &[]), Ok(2));
}

#[test]
fn cycles_of_any_length_are_found() {
    let ring: String = (0..10_000)
        .map(|n| format!("FROM scratch AS s{n}\nCOPY --from=s{} /a /a\n", (n + 1) % 10_000))
        .collect();
    let want = "circular dependency detected on stage: s0";
    assert_eq!(outcome(&ring, &[]), Err(want.to_owned()));
    let mounts = "FROM alpine AS s0\nRUN --mount=from=s1,target=/m x\nFROM s0 AS s1\nONBUILD COPY --from=s2 / /\nFROM s1 AS s2\n";
    assert!(outcome(mounts, &[]).is_err());
    // What needs itself through its base alone is an image of that name.
    assert!(outcome("FROM s0 AS s0\n", &[]).is_err());
}

#[test]
fn triggers_fire_within_reason() {
    let many = vec!["RUN x".to_owned(); 20_000];
    assert_eq!(outcome("FROM busy\n", &many), Ok(20_001));
    let stages: String = (0..50).map(|n| format!("FROM busy AS b{n}\n")).collect();
    let copies: String = (0..50).map(|n| format!("COPY --from=b{n} /a /\n")).collect();
    assert_eq!(
        outcome(&format!("{stages}FROM scratch\n{copies}"), &many),
        Err(TOO_MUCH.to_owned())
    );
    let huge = [format!("RUN {}", "x \\\n".repeat(1 << 20))];
    assert_eq!(outcome("FROM busy\n", &huge), Ok(2));
    let file = format!("FROM scratch AS a\n{}", "ONBUILD RUN x\n".repeat(20_000));
    assert_eq!(
        outcome(&format!("{file}{}", "FROM a\n".repeat(50)), &[]),
        Err(TOO_MUCH.to_owned())
    );
}

#[test]
fn what_blows_up_is_refused() {
    let double = "ENV a=$a$a$a$a$a$a$a$a\n".repeat(20_000);
    assert!(on_alpine(&format!("ENV a=x\n{double}")).is_err());
    let large = format!("ENV a={}\n", "x".repeat(60_000));
    assert_eq!(
        on_alpine(&format!("{large}{}", "RUN $a\n".repeat(20_000))),
        Err(TOO_MUCH.to_owned())
    );
    let globals: String = (0..20_000).map(|n| format!("ARG b{n}=$a\n")).collect();
    let globals = format!("ARG a={}\n{globals}FROM alpine\n", "x".repeat(60_000));
    assert_eq!(outcome(&globals, &[]), Err(TOO_MUCH.to_owned()));
    let effort = "variables and patterns in substitutions take too long to be expanded";
    let looks = format!("{large}{}", "LABEL b=${a:+x}\n".repeat(20_000));
    assert_eq!(on_alpine(&looks), Err(effort.to_owned()));
    let urls = format!("ADD {}/d/\n", "http://a/b \\\n".repeat(20_000));
    assert_eq!(on_alpine(&urls), Err(TOO_MUCH.to_owned()));
}

#[test]
fn advice_is_limited() {
    let bridge = std::sync::Arc::new(FakeBridge::new(&format!(
        "FROM alpine\n{}",
        "LABEL a=$b$c$d\n".repeat(10_000)
    )));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(crate::testing::solve(&bridge, &[])).unwrap();
    let log = bridge.log.lock().unwrap();
    let told: Vec<&String> = log.iter().filter(|entry| entry.starts_with("W ")).collect();
    assert_eq!(told.len(), 1_001);
    assert_eq!(told[1_000], "W and 9000 more findings of build checks");
}

#[test]
fn ignore_files_are_bounded() {
    let outcome = |rules: &str| {
        let bridge = FakeBridge::new("FROM scratch\nCOPY a /\n").file("context", ".dockerignore", rules);
        render(&build(bridge, &[]))
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        outcome(&"x".repeat(1 << 20)),
        "error: pattern of 1048576 bytes is longer than the 4096 allowed"
    );
    let many: String = (0..100_000).map(|n| format!("p{n}\n")).collect();
    assert_eq!(
        outcome(&many),
        "error: failed to parse .dockerignore: pattern list exceeds the limit of 50000 patterns"
    );
    let wild: String = (0..20_000).map(|n| format!("**/*{n}*\n")).collect();
    assert!(outcome(&wild).contains("pattern list exceeds the limit of"));
    assert!(outcome("!\n").contains("illegal exclusion pattern: \"!\""));
}
