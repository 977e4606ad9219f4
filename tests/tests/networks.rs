//! Networks of steps that plugins set up.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cairn_tests::lab::CNI_PLUGINS;
use cairn_tests::{Cairn, Daemon, Lab, Need, Outcome, Program};

const NEEDS: &[Need] = &[Need::Containers, Need::Bases, Need::Cni];
/// Where the plugin that gives addresses away keeps those of all bridges of this kind.
const ADDRESSES: &str = "/var/lib/cni/networks/buildkit";

/// A bridge and a subnet that no other test has. The bridge is gone with it.
struct Place {
    bridge: String,
    subnet: String,
    /// Held by whoever has the number.
    _claim: UnixListener,
}

impl Place {
    fn claim() -> anyhow::Result<Self> {
        let claimed = (0..=u8::MAX).find_map(|number| {
            let name = SocketAddr::from_abstract_name(format!("cairn-test-subnet-{number}")).ok()?;
            Some((number, UnixListener::bind_addr(&name).ok()?))
        });
        let (number, claim) = claimed.context("all subnets are taken")?;
        Ok(Self {
            bridge: format!("cairn-t{number}"),
            subnet: format!("10.213.{number}"),
            _claim: claim,
        })
    }

    fn has_bridge(&self) -> bool {
        self.interface().exists()
    }

    /// How many are connected to the bridge.
    fn ports(&self) -> usize {
        std::fs::read_dir(self.interface().join("brif")).map_or(0, Iterator::count)
    }

    fn interface(&self) -> PathBuf {
        Path::new("/sys/class/net").join(&self.bridge)
    }

    /// Rules of the firewall that are about the subnet.
    fn rules(&self) -> anyhow::Result<usize> {
        let mut rules = String::new();
        for table in ["nat", "filter"] {
            rules += &Program::new("iptables").args(["-w", "-t", table, "-S"]).output()?;
        }
        Ok(rules.matches(&format!("{}.", self.subnet)).count())
    }

    /// Addresses of the subnet that are given away, in a directory.
    fn addresses(&self, dir: &Path) -> usize {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(&self.subnet)).count()
    }
}

/// Takes down what the plugin `firewall` leaves there for good: its chains, or of chains that others need the rules about a
/// bridge. Gone with this.
struct FirewallChains<'a> {
    bridge: &'a str,
    were_there: bool,
}

impl<'a> FirewallChains<'a> {
    const SAME_BRIDGE: &'static str = "CNI firewall plugin rules (ingressPolicy: same-bridge)";
    const FIRST: &'static str = "CNI-ISOLATION-STAGE-1";
    const SECOND: &'static str = "CNI-ISOLATION-STAGE-2";

    fn look(bridge: &'a str) -> anyhow::Result<Self> {
        let rules = Program::new("iptables").args(["-w", "-S"]).output()?;
        Ok(Self {
            bridge,
            were_there: rules.contains("CNI-"),
        })
    }

    /// Of a rule that is not there, nothing has to be removed.
    fn change(args: &[&str]) {
        let _changed = Program::new("iptables").args(["-w"]).args(args).run();
    }

    fn remove(chain: &str, rule: &[&str], comment: &str, target: &str) {
        let rule = [
            &["-D", chain],
            rule,
            &["-m", "comment", "--comment", comment, "-j", target],
        ]
        .concat();
        Self::change(&rule);
    }
}

impl Drop for FirewallChains<'_> {
    fn drop(&mut self) {
        let bridge = self.bridge;
        Self::remove(
            Self::FIRST,
            &["-i", bridge, "!", "-o", bridge],
            Self::SAME_BRIDGE,
            Self::SECOND,
        );
        Self::remove(Self::SECOND, &["-o", bridge], Self::SAME_BRIDGE, "DROP");
        if self.were_there {
            return;
        }
        Self::remove("FORWARD", &[], Self::SAME_BRIDGE, Self::FIRST);
        Self::remove("FORWARD", &[], "CNI firewall plugin rules", "CNI-FORWARD");
        for change in ["-F", "-X"] {
            for chain in [Self::FIRST, Self::SECOND, "CNI-FORWARD", "CNI-ADMIN"] {
                Self::change(&[change, chain]);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.has_bridge() {
            let _removed = Program::new("ip").args(["link", "del", &self.bridge]).run();
        }
    }
}

struct Bench {
    // The daemon goes before its place and its lab.
    daemon: Daemon,
    cairn: Cairn,
    place: Place,
    lab: Lab,
}

impl Bench {
    /// A daemon whose steps are in the network of a file.
    fn open(more: &str) -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(NEEDS)? else {
            return Ok(None);
        };
        let place = Place::claim()?;
        let file = lab.path("cni.json");
        let text = format!(
            r#"{{"cniVersion": "1.0.0", "name": "{0}", "type": "bridge", "bridge": "{0}", "isDefaultGateway": true,
                "ipMasq": true, "ipam": {{"type": "host-local", "dataDir": "{2}",
                "ranges": [[{{"subnet": "{1}.0/24"}}]]}}}}"#,
            place.bridge,
            place.subnet,
            lab.path("addresses").display(),
        );
        std::fs::write(&file, text)?;
        // Without a mode: the file is there.
        let config = format!(
            "insecure-entitlements = [\"network.host\", \"security.insecure\"]\n[worker.oci]\ncniConfigPath = {file:?}\n\
             cniBinaryPath = \"{CNI_PLUGINS}\"\n{more}"
        );
        let daemon = Daemon::start_configured(&lab, &config)?;
        Ok(Some(Self {
            cairn: Cairn::with(&lab, &daemon),
            daemon,
            place,
            lab,
        }))
    }

    /// Builds on a base that says what it sees, without what is known.
    fn build(&self, steps: &str, options: &[&str]) -> anyhow::Result<Outcome> {
        let context = self
            .lab
            .files("context", &[("Dockerfile", &format!("FROM alpine\n{steps}"))])?;
        let context = context.display().to_string();
        self.cairn
            .build(["--no-cache"].iter().chain(options).chain([&&*context]))
    }

    /// What one step says.
    fn log(&self, run: &str, options: &[&str]) -> anyhow::Result<String> {
        let outcome = self.build(&format!("RUN {run}\n"), options)?;
        Ok(outcome.progress.vertex("RUN").log.clone())
    }

    fn given_away(&self) -> usize {
        let dir = self.lab.path("addresses").join(&self.place.bridge);
        self.place.addresses(&dir)
    }

    /// Stops the daemon, after which nothing is left but the bridge, which is the plugin's.
    fn close(mut self) -> anyhow::Result<()> {
        self.daemon.stop()?;
        ensure!(
            self.daemon.leftovers() == Default::default(),
            "{:?}",
            self.daemon.leftovers()
        );
        ensure!(self.place.ports() == 0, "something is still connected");
        ensure!(self.given_away() == 0, "addresses are still given away");
        ensure!(self.place.rules()? == 0, "the firewall still has rules");
        Ok(())
    }
}

#[test]
fn steps_are_in_the_network_that_a_file_describes() -> anyhow::Result<()> {
    let Some(bench) = Bench::open("")? else { return Ok(()) };
    let subnet = &bench.place.subnet;
    let seen = bench.log(
        "ip -o addr; ip route; cat /etc/resolv.conf /etc/hosts; ls /sys/class/net",
        &[],
    )?;
    for want in [
        "inet 127.0.0.1/8",
        &format!("eth0    inet {subnet}."),
        &format!("default via {subnet}.1 dev eth0"),
        "nameserver ",
        "127.0.0.1\tlocalhost buildkitsandbox",
        "\neth0\nlo\n",
    ] {
        ensure!(seen.contains(want), "no {want:?}:\n{seen}");
    }
    ensure!(!seen.contains("nameserver 127."), "{seen}");

    // The gateway is the host, whose loopback interface is another one than the step's.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let visit = format!(
        "ping -c1 -W5 {subnet}.1 >/dev/null && ! nc -w5 127.0.0.1 {port} </dev/null 2>/dev/null && echo refused"
    );
    let seen = bench.log(&visit, &[])?;
    ensure!(seen.trim() == "refused", "{seen}");
    let visited = std::thread::spawn(move || listener.accept().map(drop));
    let visit = format!("--network=host nc -w5 127.0.0.1 {port} </dev/null && ls /sys/class/net");
    let seen = bench.log(&visit, &["--allow", "network.host"])?;
    ensure!(seen.contains(&bench.place.bridge), "{seen}");
    visited.join().ok().context("the listener panicked")??;
    let seen = bench.log("--network=none ls /sys/class/net", &[])?;
    ensure!(seen.trim() == "lo", "{seen}");
    bench.close()
}

#[test]
fn steps_at_the_same_time_do_not_hear_each_other() -> anyhow::Result<()> {
    let Some(bench) = Bench::open("")? else { return Ok(()) };
    // Each listens on the same port of its loopback interface, and ends when the other has tried its own.
    let side = |own: &str, other: &str| {
        format!(
            "FROM alpine AS {own}\nRUN --mount=type=cache,target=/c,id=meet \\\n    \
             (nc -l -p 4711 -e echo {own} &) && touch /c/{own} && \\\n    \
             until test -e /c/{other}; do sleep 0.01; done && \\\n    \
             until nc -w5 127.0.0.1 4711 </dev/null >/heard; do sleep 0.01; done; \\\n    \
             ip -o addr show eth0 | grep -o 'inet [0-9.]*' >>/heard; touch /c/{own}-done && \\\n    \
             until test -e /c/{other}-done; do sleep 0.01; done; cat /heard\n"
        )
    };
    let dockerfile = format!(
        "{}{}FROM scratch\nCOPY --from=one /heard /one\nCOPY --from=other /heard /other\n",
        side("one", "other"),
        side("other", "one")
    );
    let context = bench.lab.files("pair", &[("Dockerfile", &dockerfile)])?;
    let outcome = bench.cairn.build([&context])?;
    let mut heard = Vec::new();
    for own in ["one", "other"] {
        let log = &outcome.progress.vertex(&format!("[{own} 2/2]")).log;
        ensure!(log.starts_with(&format!("{own}\n")), "{own} heard {log:?}");
        heard.push(log.lines().nth(1).unwrap_or_default().to_owned());
    }
    ensure!(heard[0] != heard[1] && heard[0].starts_with("inet "), "{heard:?}");
    bench.close()
}

#[test]
fn a_killed_daemon_leaves_no_network_to_the_next() -> anyhow::Result<()> {
    let Some(mut bench) = Bench::open("cniPoolSize = 2\n")? else {
        return Ok(());
    };
    let context = bench.lab.files(
        "waiting",
        &[("Dockerfile", "FROM alpine\nRUN echo waiting; sleep 1000\n")],
    )?;
    let build = bench.cairn.start_build([&context])?;
    build.wait_for_output("waiting")?;
    bench.daemon.kill()?;
    drop(build);
    ensure!(bench.place.ports() > 0 && bench.given_away() > 0 && bench.place.rules()? > 0);

    // Whatever the next one does itself.
    bench
        .daemon
        .use_configuration("[worker.oci]\nnetworkMode = \"none\"\n")?;
    bench.daemon.start_again()?;
    ensure!(bench.place.ports() == 0 && bench.given_away() == 0 && bench.place.rules()? == 0);
    let left = bench.daemon.leftovers();
    ensure!(!left.mounts.iter().any(|mount| mount.ends_with("net")), "{left:?}");
    bench.close()
}

#[test]
fn a_pool_is_kept_full_and_what_was_tampered_with_stays_out_of_it() -> anyhow::Result<()> {
    let Some(bench) = Bench::open("cniPoolSize = 2\n")? else {
        return Ok(());
    };
    let address = "ip -o addr show eth0 | grep -o 'inet [0-9.]*'";
    let seen = bench.log(address, &[])?;
    ensure!(bench.log(address, &[])? == seen, "the namespace is not used again");
    let steps = format!(
        "RUN --security=insecure ip addr add 10.214.0.1/32 dev lo && {address}\nRUN ip -o addr show lo && {address}\n"
    );
    let outcome = bench.build(&steps, &["--allow", "security.insecure"])?;
    let tampered = &outcome.progress.vertex("security=insecure").log;
    ensure!(*tampered == seen, "{tampered}");
    let after = &outcome.progress.vertex("RUN ip -o addr show lo").log;
    ensure!(!after.contains("10.214.0.1") && !after.contains(seen.trim()), "{after}");
    bench.close()
}

#[tokio::test]
async fn a_bridge_of_its_own_is_made_and_removed() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else { return Ok(()) };
    let place = Place::claim()?;
    let was_there = Path::new(ADDRESSES).exists();
    let chains = FirewallChains::look(&place.bridge)?;
    let config = format!(
        "[worker.oci]\nbridgeName = \"{}\"\nbridgeSubnet = \"{}.0/24\"\n",
        place.bridge, place.subnet
    );
    let config = format!(
        "{config}\n{}",
        cairn_tests::lab::mirror_config(&cairn_tests::lab::base_registry()?)
    );
    let directory = format!("--oci-cni-binary-dir={CNI_PLUGINS}");
    let options = ["--oci-worker-net=bridge", &directory];
    let mut daemon = Daemon::start_with_options(&lab, &lab.path("root"), &config, &options)?;
    ensure!(place.has_bridge() && place.ports() == 1);
    let workers = daemon.connect().await?.list_workers(Vec::new()).await?;
    let network = workers[0].labels.get("org.mobyproject.buildkit.worker.network");
    ensure!(network.is_some_and(|network| network == "cni"), "{network:?}");

    let dockerfile = "FROM alpine\nRUN ip -o addr show eth0; ip route\n";
    let context = lab.files("context", &[("Dockerfile", dockerfile)])?;
    let cairn = Cairn::with(&lab, &daemon);
    let log = cairn.build([&context])?.progress.vertex("RUN").log.clone();
    ensure!(log.contains(&format!("inet {}.", place.subnet)), "{log}");
    ensure!(log.contains(&format!("default via {}.1", place.subnet)), "{log}");

    daemon.kill()?;
    ensure!(place.has_bridge());
    daemon.start_again()?;
    ensure!(place.has_bridge() && place.ports() == 1);
    daemon.stop()?;
    ensure!(!place.has_bridge(), "the bridge is still there");
    ensure!(place.rules()? == 0 && place.addresses(Path::new(ADDRESSES)) == 0);
    if !was_there {
        std::fs::remove_dir_all(ADDRESSES)?;
    }
    drop(chains);
    let rules = Program::new("iptables").args(["-w", "-S"]).output()?;
    ensure!(!rules.contains(&place.bridge), "{rules}");
    Ok(())
}

#[test]
fn a_daemon_without_its_plugins_says_what_it_misses() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let root = lab.path("root");
    let list = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "no-such-plugin"}]}"#;
    let files = lab.files(
        "cni",
        &[
            ("n.conflist", list),
            ("broken.json", "{"),
            ("bin/loopback", "#!/bin/sh\nexit 3"),
        ],
    )?;
    Program::new("chmod")
        .args(["+x", "cni/bin/loopback"])
        .dir(lab.dir())
        .output()?;
    let at = |name: &str| files.join(name).display().to_string();
    for (file, plugins, want) in [
        (
            at("none.json"),
            at("bin"),
            format!(
                "failed to read cni config {:?}: no such file or directory",
                at("none.json")
            ),
        ),
        (
            at("broken.json"),
            at("bin"),
            format!("invalid cni config {:?}", at("broken.json")),
        ),
        (
            at("n.conflist"),
            at("none"),
            format!("failed to read cni binary dir {:?}", at("none")),
        ),
        (
            at("n.conflist"),
            at("bin"),
            format!(
                "failed to find cni plugin \"no-such-plugin\", which {:?} needs",
                at("n.conflist")
            ),
        ),
    ] {
        let text =
            format!("[worker.oci]\nnetworkMode = \"cni\"\ncniConfigPath = {file:?}\ncniBinaryPath = {plugins:?}\n");
        let started = Daemon::start_with(&lab, &root, &text);
        let error = started.err().context("it started")?.to_string();
        // In the log, quotes are quoted.
        ensure!(error.replace('\\', "").contains(&want), "no {want}: {error}");
    }
    Ok(())
}
