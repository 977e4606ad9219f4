//! `RUN`.

use cairn_solver::llb::{CdiDevice, ExecOp, NetMode, Op, SecurityMode};

use crate::error::DockerfileError;
use crate::expand::{Expander, Variables};
use crate::instruction::{CommandLine, DeviceFlag, NetworkFlag, Run};
use crate::plan::Step;
use crate::syntax::Heredoc;

use super::env::Masked;
use super::state::StageState;
use super::{Lowering, config, proxy};

/// Where scripts of here-documents are mounted.
pub(super) const PIPES: &str = "/dev/pipes/";

impl Lowering<'_> {
    pub(super) fn run(
        &mut self,
        state: &mut StageState,
        step: &Step,
        run: &Run,
        stage: usize,
    ) -> Result<(), DockerfileError> {
        let lines = step.instruction.lines;
        if !run.devices.is_empty() && !self.around.is_labs {
            return Err(DockerfileError::at(
                lines,
                "device feature is only supported in Dockerfile frontend 1.14.0-labs or later",
            ));
        }
        let command = command(run, state.image.os() != "windows");
        let args = match &command {
            Command::Exec(args) => args.clone(),
            Command::Shell(text) => config::with_shell(state, text),
            Command::Script(heredoc) => config::with_shell(state, &format!("{PIPES}{}", heredoc.name)),
        };
        let script = match command {
            Command::Script(heredoc) => Some(self.inline_file(&heredoc.name, &heredoc.content(), 0o755)),
            _ => None,
        };
        let mounts = self.mounts(state, step, run, stage, script)?;
        if args.is_empty() {
            return Err(DockerfileError::at(
                lines,
                "failed to marshal LLB definition: arguments are required",
            ));
        }
        self.budget.charge(state.env.weight(), lines)?;
        let mut env = state.env.entries();
        if let Some(socket) = &mounts.ssh_socket
            && state.env.get("SSH_AUTH_SOCK").is_none()
        {
            env.push(format!("SSH_AUTH_SOCK={socket}"));
        }
        let shown = self.run_name(state, step, run, &mounts.secret_names())?;
        let name = state.names.next(&state.env, &shown);
        let mut metadata = state.metadata(name, &step.instruction.text);
        let options = &self.around.options.run;
        metadata.resources = options.resources.clone().map(Box::new);
        let created_by = ["RUN ", &arguments(state), &args.join(" "), " # buildkit"].concat();
        let op = ExecOp {
            args,
            env,
            cwd: state.cwd.clone(),
            user: state.image.user(),
            hostname: options.hostname.clone(),
            proxy: proxy::from_build_args(&self.around.options.build_args),
            extra_hosts: options.extra_hosts.clone(),
            ulimits: options.ulimits.clone(),
            cgroup_parent: options.cgroup_parent.clone(),
            remove_mount_stubs_recursive: true,
            mounts: mounts.mounts,
            network: match run.network {
                None | Some(NetworkFlag::Default) => options.network,
                Some(NetworkFlag::Host) => NetMode::Host,
                Some(NetworkFlag::None) => NetMode::None,
            },
            security: if run.insecure {
                SecurityMode::Insecure
            } else {
                SecurityMode::Sandbox
            },
            secret_env: mounts.secret_env,
            devices: run.devices.iter().map(device).collect(),
            ..ExecOp::default()
        };
        let platform = &self.plan.stages[stage].platform;
        state.root = Some(
            self.arena
                .add(Op::Exec(op), mounts.inputs, Some(platform), metadata, Some(lines)),
        );
        self.history(state, created_by, false, lines)
    }

    /// The command as shown: variables that have a value are filled in, but those that hold secrets are not.
    fn run_name(
        &mut self,
        state: &StageState,
        step: &Step,
        run: &Run,
        secrets: &[&str],
    ) -> Result<String, DockerfileError> {
        let env = Masked {
            env: &state.env,
            hidden: secrets,
        };
        let summary = lone_heredoc(run).map(|heredoc| {
            let body = heredoc.content();
            let mut lines = body.trim().lines();
            let first = lines.next().unwrap_or_default();
            let more = if lines.next().is_some() { "..." } else { "" };
            format!(" ({first}{more})")
        });
        let expander = Expander::display(self.around.escape);
        self.display(step, summary.as_deref().unwrap_or_default(), expander, &env)
    }
}

fn device(flag: &DeviceFlag) -> CdiDevice {
    CdiDevice {
        name: flag.name.clone(),
        optional: !flag.required,
    }
}

enum Command<'a> {
    Exec(Vec<String>),
    Shell(String),
    /// A here-document that names its own interpreter.
    Script(&'a Heredoc),
}

/// What runs; whether scripts can be run as files depends on the system.
fn command(run: &Run, has_scripts: bool) -> Command<'_> {
    let text = match &run.command {
        CommandLine::Exec(args) => return Command::Exec(args.clone()),
        CommandLine::Shell(text) => text,
    };
    if let Some(heredoc) = lone_heredoc(run) {
        let body = heredoc.content();
        return if has_scripts && body.starts_with("#!") {
            Command::Script(heredoc)
        } else {
            Command::Shell(body)
        };
    }
    let mut text = text.clone();
    for heredoc in &run.heredocs {
        text.push('\n');
        text.push_str(&heredoc.body);
        text.push_str(&heredoc.name);
    }
    Command::Shell(text)
}

/// The here-document that is all there is to the command.
fn lone_heredoc(run: &Run) -> Option<&Heredoc> {
    match (&run.command, run.heredocs.as_slice()) {
        (CommandLine::Shell(text), [heredoc]) if Heredoc::from_word(text).is_some() => Some(heredoc),
        _ => None,
    }
}

/// The arguments in force, as history shows them.
fn arguments(state: &StageState) -> String {
    let args = state.args.all();
    if args.is_empty() {
        return String::new();
    }
    let mut text = format!("|{}", args.len());
    for (name, own) in args {
        let value = state.env.get(name).or(own.as_deref()).unwrap_or_default();
        text.extend([" ", name, "=", value]);
    }
    text + " "
}
