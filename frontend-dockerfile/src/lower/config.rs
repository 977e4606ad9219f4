//! Instructions that change nothing but the image config.

use crate::checks::{EXPOSE_INVALID_FORMAT, EXPOSE_PROTO_CASING, JSON_ARGS_RECOMMENDED, LEGACY_KEY_VALUE_FORMAT};
use crate::error::DockerfileError;
use crate::expand::Expander;
use crate::gofmt;
use crate::instruction::{CommandLine, Healthcheck, Kind, Pair};
use crate::location::Lines;
use crate::plan::Step;

use super::state::StageState;
use super::{Lowering, expose, signal};

impl Lowering<'_> {
    pub(super) fn config_only(&mut self, state: &mut StageState, step: &Step) -> Result<(), DockerfileError> {
        let lines = step.instruction.lines;
        let created_by = match &step.instruction.kind {
            Kind::Env(pairs) => {
                let pairs = self.pairs(state, pairs, lines)?;
                self.check_pairs(step);
                self.env(state, &pairs, lines)?
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(state, pairs, lines)?;
                self.check_pairs(step);
                pairs.iter().for_each(|(key, value)| state.image.set_label(key, value));
                show("LABEL", &pairs)
            }
            Kind::Cmd(command) => {
                let argv = argv(state, command);
                state.image.set_cmd(&argv);
                self.only_last(state.commands.cmd.replace(lines), step.instruction.word());
                self.check_form(state, step, command);
                format!("CMD {}", gofmt::quoted_list(&argv))
            }
            Kind::Entrypoint(command) => {
                let argv = argv(state, command);
                state.image.set_entrypoint(&argv);
                self.only_last(state.commands.entrypoint.replace(lines), step.instruction.word());
                self.check_form(state, step, command);
                if state.commands.cmd.is_none() {
                    state.image.clear_cmd();
                }
                format!("ENTRYPOINT {}", gofmt::quoted_list(&argv))
            }
            Kind::Expose(words) => self.expose(state, words, lines)?,
            Kind::User(user) => {
                let user = self.expand(state, user, lines)?;
                state.image.set_user(&user);
                format!("USER {user}")
            }
            Kind::Volume(paths) => {
                let paths = paths
                    .iter()
                    .map(|path| self.expand(state, path, lines))
                    .collect::<Result<Vec<_>, _>>()?;
                if paths.iter().any(String::is_empty) {
                    return Err(DockerfileError::at(
                        lines,
                        "VOLUME specified can not be an empty string",
                    ));
                }
                paths.iter().for_each(|path| state.image.add_volume(path));
                format!("VOLUME [{}]", paths.join(" "))
            }
            Kind::Shell(shell) => {
                state.image.set_shell(shell);
                format!("SHELL [{}]", shell.join(" "))
            }
            Kind::StopSignal(written) => {
                let name = self.expand(state, written, lines)?;
                if !signal::is_valid(&name) {
                    return Err(DockerfileError::at(lines, format!("invalid signal: {name}")));
                }
                state.image.set_stop_signal(&name);
                format!("STOPSIGNAL {name}")
            }
            Kind::Healthcheck(check) => {
                self.only_last(state.commands.healthcheck.replace(lines), step.instruction.word());
                state.image.set_healthcheck(check);
                show_healthcheck(check)
            }
            Kind::Maintainer(author) => {
                state.image.set_author(author);
                format!("MAINTAINER {author}")
            }
            Kind::Onbuild(trigger) => {
                state.image.add_trigger(trigger);
                return Ok(());
            }
            Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_) | Kind::Arg(_) | Kind::From(_) => {
                return Ok(());
            }
        };
        self.history(state, created_by, true, lines)
    }

    fn check_pairs(&mut self, step: &Step) {
        if step.instruction.legacy_form {
            let word = step.instruction.word();
            let message = format!("\"{word} key=value\" should be used instead of legacy \"{word} key value\" format");
            self.find(&LEGACY_KEY_VALUE_FORMAT, step.instruction.lines, message);
        }
    }

    /// All words see the variables as they were before the instruction.
    fn pairs(
        &mut self,
        state: &StageState,
        pairs: &[Pair],
        lines: Lines,
    ) -> Result<Vec<(String, String)>, DockerfileError> {
        let mut expanded = Vec::with_capacity(pairs.len());
        for pair in pairs {
            expanded.push((
                self.expand(state, &pair.key, lines)?,
                self.expand(state, &pair.value, lines)?,
            ));
        }
        Ok(expanded)
    }

    fn env(
        &mut self,
        state: &mut StageState,
        pairs: &[(String, String)],
        lines: Lines,
    ) -> Result<String, DockerfileError> {
        for (key, value) in pairs {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                return Err(DockerfileError::at(
                    lines,
                    format!("invalid environment variable {}", gofmt::quote(key)),
                ));
            }
            self.check_secret("ENV", key, lines);
            state.env.set(key, value);
            state.image.set_env(key, value);
        }
        Ok(show("ENV", pairs))
    }

    fn expose(&mut self, state: &mut StageState, words: &[String], lines: Lines) -> Result<String, DockerfileError> {
        let mut all = Vec::new();
        for written in words {
            let words = Expander::new(self.around.escape).words(written, &state.env);
            let words = words.map_err(|error| DockerfileError::at(lines, error.to_string()))?;
            for word in &words {
                self.check_port(word, lines);
                let ports = expose::ports(word).map_err(|message| DockerfileError::at(lines, message))?;
                self.budget.charge(ports.len() * 32, lines)?;
                all.extend(ports);
            }
        }
        all.iter().for_each(|port| state.image.expose(port));
        Ok(format!("EXPOSE [{}]", all.join(" ")))
    }
}

impl Lowering<'_> {
    fn check_form(&mut self, state: &StageState, step: &Step, command: &CommandLine) {
        if matches!(command, CommandLine::Shell(_)) && state.image.shell().is_none() {
            let word = step.instruction.word();
            let message =
                format!("JSON arguments recommended for {word} to prevent unintended behavior related to OS signals");
            self.find(&JSON_ARGS_RECOMMENDED, step.instruction.lines, message);
        }
    }

    fn check_port(&mut self, word: &str, lines: Lines) {
        let (ports, proto) = word.split_once('/').unwrap_or((word, ""));
        if proto.chars().any(char::is_uppercase) {
            let message = format!("Defined protocol '{word}' in EXPOSE instruction should be lowercase");
            self.find(&EXPOSE_PROTO_CASING, lines, message);
        }
        if ports.contains(':') {
            let message =
                format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'");
            self.find(&EXPOSE_INVALID_FORMAT, lines, message);
        }
    }
}

/// The command of a shell or exec form.
pub(super) fn argv(state: &StageState, command: &CommandLine) -> Vec<String> {
    match command {
        CommandLine::Exec(argv) => argv.clone(),
        CommandLine::Shell(text) => with_shell(state, text),
    }
}

/// `text` as an argument of the shell in force.
pub(super) fn with_shell(state: &StageState, text: &str) -> Vec<String> {
    let usual = || match state.image.os() {
        "windows" => ["cmd", "/S", "/C"].map(str::to_owned).to_vec(),
        _ => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
    };
    let mut argv = state.image.shell().unwrap_or_else(usual);
    argv.push(text.to_owned());
    argv
}

fn show(word: &str, pairs: &[(String, String)]) -> String {
    let length = pairs
        .iter()
        .map(|(key, value)| key.len() + value.len() + 2)
        .sum::<usize>();
    let mut text = String::with_capacity(word.len() + length);
    text.push_str(word);
    for (key, value) in pairs {
        text.extend([" ", key, "=", value]);
    }
    text
}

fn show_healthcheck(check: &Healthcheck) -> String {
    format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        check.test.join(" "),
        gofmt::duration(check.interval),
        gofmt::duration(check.timeout),
        gofmt::duration(check.start_period),
        gofmt::duration(check.start_interval),
        check.retries
    )
}
