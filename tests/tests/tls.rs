//! TCP addresses secured by TLS, and sockets that are opened by others: Docker's own client against this daemon.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cairn_tests::{Buildx, Daemon, Lab, Need, Program, lab};

const NEEDS: &[Need] = &[Need::Containers, Need::Sid];
const DOCKERFILE: &str = "FROM scratch\nCOPY Dockerfile /\n";

/// Certificates, made by the `openssl` program.
struct Authority {
    dir: PathBuf,
    name: &'static str,
}

impl Authority {
    fn new(lab: &Lab, name: &'static str) -> anyhow::Result<Self> {
        let dir = lab.files(name, &[])?;
        let authority = Self { dir, name };
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ])?;
        Ok(authority)
    }

    /// A key and a certificate with this extension.
    fn issue(&self, name: &str, extension: &str) -> anyhow::Result<()> {
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &key,
            "-out",
            &request,
        ])?;
        std::fs::write(self.dir.join("extension"), format!("{extension}\n"))?;
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "extension",
            "-out",
            &format!("{name}.pem"),
        ])
    }

    fn openssl(&self, args: &[&str]) -> anyhow::Result<()> {
        let program = Program::new("openssl").dir(&self.dir).args(args);
        program
            .output()
            .map(drop)
            .with_context(|| format!("authority {}", self.name))
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn option(&self, option: &str, name: &str) -> String {
        format!("{option}={}", self.path(name))
    }
}

fn build(buildx: &Buildx, context: &Path) -> anyhow::Result<Result<(), String>> {
    let finished = buildx.command(["build"])?.args([context]).run()?;
    Ok(if finished.status.success() {
        Ok(())
    } else {
        Err(finished.stderr)
    })
}

#[test]
fn only_clients_with_the_right_certificate_are_served() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else {
        return Ok(());
    };
    let (ours, other) = (Authority::new(&lab, "ours")?, Authority::new(&lab, "other")?);
    ours.issue("server", "subjectAltName=IP:127.0.0.1")?;
    ours.issue("client", "extendedKeyUsage=clientAuth")?;
    other.issue("client", "extendedKeyUsage=clientAuth")?;
    let options = [
        "--addr=tcp://127.0.0.1:0".to_owned(),
        format!("--tlscert={}", ours.path("server.pem")),
        format!("--tlskey={}", ours.path("server.key")),
        format!("--tlscacert={}", ours.path("ca.pem")),
    ];
    let options = options.each_ref().map(String::as_str);
    let mut daemon = Daemon::start_with_options(&lab, &lab.path("root"), "", &options)?;
    let address = daemon.tcp_address()?;
    let context = lab.files("context", &[("Dockerfile", DOCKERFILE)])?;

    let right = [
        ours.option("cacert", "ca.pem"),
        ours.option("cert", "client.pem"),
        ours.option("key", "client.key"),
    ];
    let buildx = Buildx::remote_at(&lab, "right", &address, &right)?;
    build(&buildx, &context)?.map_err(anyhow::Error::msg)?;

    for (name, options) in [
        ("without", vec![ours.option("cacert", "ca.pem")]),
        (
            "of-another",
            vec![
                ours.option("cacert", "ca.pem"),
                other.option("cert", "client.pem"),
                other.option("key", "client.key"),
            ],
        ),
        (
            "wrong-server",
            vec![
                other.option("cacert", "ca.pem"),
                ours.option("cert", "client.pem"),
                ours.option("key", "client.key"),
            ],
        ),
        ("plain", Vec::new()),
    ] {
        let buildx = Buildx::remote_at(&lab, name, &address, &options)?;
        let inspected = buildx.command(["inspect", "--timeout", "3s", "--bootstrap"])?.run()?;
        let text = format!("{}{}", inspected.stdout, inspected.stderr);
        ensure!(!text.contains("Status:") || !text.contains("running"), "{name}: {text}");
    }
    // What goes wrong with one client is nothing to the others.
    build(&buildx, &context)?.map_err(anyhow::Error::msg)?;
    build(&Buildx::remote(&lab, &daemon)?, &context)?.map_err(anyhow::Error::msg)?;
    ensure!(daemon.is_running());
    daemon.stop().map(drop)
}

#[test]
fn clients_need_no_certificate_unless_an_authority_is_named() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else {
        return Ok(());
    };
    let ours = Authority::new(&lab, "ours")?;
    ours.issue("server", "subjectAltName=DNS:builder.example")?;
    let config = format!(
        "[grpc.tls]\ncert = {:?}\nkey = {:?}\n",
        ours.path("server.pem"),
        ours.path("server.key")
    );
    let daemon = Daemon::start_with_options(&lab, &lab.path("root"), &config, &["--addr=tcp://127.0.0.1:0"])?;
    let context = lab.files("context", &[("Dockerfile", DOCKERFILE)])?;
    let options = [ours.option("cacert", "ca.pem"), "servername=builder.example".to_owned()];
    let buildx = Buildx::remote_at(&lab, "named", &daemon.tcp_address()?, &options)?;
    build(&buildx, &context)?.map_err(anyhow::Error::msg)
}

#[test]
fn wrong_files_keep_the_daemon_from_starting() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let ours = Authority::new(&lab, "ours")?;
    let (certificate, key) = (ours.option("--tlscert", "ca.pem"), ours.option("--tlskey", "ca.key"));
    let empty = lab.files("empty", &[("empty", "")])?.join("empty");
    let no_key = format!("--tlskey={}", empty.display());
    let missing = "--tlskey=/no/such/file".to_owned();
    for (options, want) in [
        (vec![&certificate], "a certificate needs its key"),
        (vec![&certificate, &no_key], "failed to set up TLS"),
        (vec![&certificate, &missing], "failed to read /no/such/file"),
        (vec![&key], "a key needs its certificate"),
    ] {
        let program = Program::new(lab::own_program("cairnd")?).args(["--addr=tcp://127.0.0.1:0", "--root"]);
        let finished = program.args([lab.path("root")]).args(options.clone()).run()?;
        ensure!(
            !finished.status.success() && finished.stderr.contains(want),
            "{options:?}: {}",
            finished.stderr
        );
    }
    Ok(())
}

#[test]
fn sockets_of_the_service_manager_are_taken_over() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else {
        return Ok(());
    };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("tcp://{}", listener.local_addr()?);
    let told = lab.path("notify.sock");
    let notices = UnixDatagram::bind(&told)?;
    notices.set_read_timeout(Some(Duration::from_secs(30)))?;
    let config = lab.files("config", &[("cairnd.toml", "")])?.join("cairnd.toml");
    // As a service manager does it: the socket is the first descriptor after the standard ones.
    let script = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#;
    let mut daemon = Command::new("bash")
        .args(["-c", script])
        .arg(lab::own_program("cairnd")?)
        .args(["--addr", "fd://", "--config"])
        .arg(config)
        .arg("--root")
        .arg(lab.path("root"))
        .env("NOTIFY_SOCKET", &told)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stderr(Stdio::null())
        .spawn()?;
    let outcome = (|| {
        let mut state = [0; 64];
        let len = notices.recv(&mut state).context("nothing was told")?;
        ensure!(&state[..len] == b"READY=1");
        let context = lab.files("context", &[("Dockerfile", DOCKERFILE)])?;
        let buildx = Buildx::remote_at(&lab, "activated", &address, &[])?;
        build(&buildx, &context)?.map_err(anyhow::Error::msg)?;
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let len = notices.recv(&mut state).context("the end was not told")?;
        ensure!(&state[..len] == b"STOPPING=1");
        Ok(())
    })();
    if outcome.is_err() {
        daemon.kill()?;
    }
    let status = daemon.wait()?;
    outcome.and_then(|()| {
        ensure!(status.success(), "{status}");
        Ok(())
    })
}
