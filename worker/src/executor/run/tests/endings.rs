//! How runs end, and what they leave.

use super::*;

#[tokio::test]
async fn cancelling_kills_everything() {
    let Some(f) = fixture().await else { return };
    let sink = Arc::new(Collected::default());
    let cancel = CancellationToken::new();
    let request = f.request(script("(sleep 1000 &); echo started; sleep 1000"));
    let run = f.runner.run(request, sink.clone(), &cancel);
    let stop = async {
        sink.seen.notified().await;
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(run, stop);
    assert!(matches!(outcome, Err(failure) if matches!(failure.error, ExecError::Cancelled)));
    let early = CancellationToken::new();
    early.cancel();
    let outcome = f.runner.run(f.request(script("true")), sink, &early).await;
    assert!(matches!(outcome, Err(failure) if matches!(failure.error, ExecError::Cancelled)));
}

#[tokio::test]
async fn cancelling_at_any_stage_leaves_nothing() {
    let Some(f) = fixture().await else { return };
    for millis in [1, 5, 10, 20, 30, 50] {
        let cancel = CancellationToken::new();
        let run = f
            .runner
            .run(f.request(script("sleep 1000")), Arc::new(Collected::default()), &cancel);
        let stop = async {
            tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(run, stop);
        assert!(
            matches!(outcome, Err(failure) if matches!(failure.error, ExecError::Cancelled)),
            "{millis}"
        );
    }
}

#[tokio::test]
async fn output_is_not_held_up_by_what_the_process_leaves_behind() {
    let Some(f) = fixture().await else { return };
    let (text, _) = f.ok(script("sleep 1000 & echo done")).await;
    assert_eq!(text, "done\n");
}

#[tokio::test]
async fn concurrent_runs_do_not_mix() {
    let Some(f) = fixture().await else { return };
    let runs = (0..4).map(|n| {
        let op = script(&format!("echo {n}; touch /f{n}"));
        let f = &f;
        async move { (n, f.ok(op).await) }
    });
    for (n, (text, lists)) in futures_util::future::join_all(runs).await {
        assert_eq!(text, format!("{n}\n"));
        assert_eq!(
            f.changed(&lists[0])
                .into_iter()
                .filter(|name| name != "etc")
                .collect::<Vec<_>>(),
            [format!("f{n}")]
        );
    }
}

#[tokio::test]
async fn running_out_of_memory_is_told() {
    let Some(f) = fixture().await else { return };
    let mut request = f.request(script("dd if=/dev/zero of=/dev/null bs=200M count=1"));
    request.resources.memory = 32 << 20;
    request.resources.memory_swap = 32 << 20;
    let error = f.run_request(request).await.0.unwrap_err();
    match error {
        ExecError::Exit {
            code: 137,
            out_of_memory,
            ..
        } => assert!(out_of_memory),
        // Some kernels let the allocation fail instead.
        ExecError::Exit { code, .. } => {
            assert_ne!(code, 0)
        }
        other => panic!("{other}"),
    }
}
