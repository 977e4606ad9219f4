//! Build definitions by hand, well formed or not.

use cairn_proto::pb;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

/// Puts operations into a definition, each knowing the ones before it by their digests.
#[derive(Default)]
pub struct Graph {
    ops: Vec<Vec<u8>>,
}

impl Graph {
    /// Adds an operation; returns its digest.
    pub fn add(&mut self, op: &pb::Op) -> String {
        self.add_bytes(op.encode_to_vec())
    }

    /// Adds whatever is meant to be taken for an operation; returns its digest.
    pub fn add_bytes(&mut self, bytes: Vec<u8>) -> String {
        let digest = digest(&bytes);
        self.ops.push(bytes);
        digest
    }

    /// A definition that asks for output `index` of the operation `digest`.
    pub fn asking_for(mut self, digest: &str, index: i64) -> pb::Definition {
        self.add(&pb::Op {
            inputs: vec![input(digest, index)],
            ..pb::Op::default()
        });
        self.definition()
    }

    /// The definition as it is.
    pub fn definition(self) -> pb::Definition {
        pb::Definition {
            def: self.ops.into_iter().map(Into::into).collect(),
            ..pb::Definition::default()
        }
    }
}

/// An input of an operation.
pub fn input(digest: &str, index: i64) -> pb::Input {
    pb::Input {
        digest: digest.to_owned(),
        index,
    }
}

/// An operation that takes an image.
pub fn image(reference: &str) -> pb::Op {
    let source = pb::SourceOp {
        identifier: format!("docker-image://{reference}"),
        ..pb::SourceOp::default()
    };
    pb::Op {
        op: Some(pb::op::Op::Source(source)),
        platform: Some(platform()),
        ..pb::Op::default()
    }
}

/// An operation that takes any source.
pub fn source(identifier: &str, attrs: &[(&str, &str)]) -> pb::Op {
    let attrs = attrs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    let source = pb::SourceOp {
        identifier: identifier.to_owned(),
        attrs: attrs.collect(),
    };
    pb::Op {
        op: Some(pb::op::Op::Source(source)),
        ..pb::Op::default()
    }
}

/// An operation that takes a directory of the client.
pub fn local(name: &str) -> pb::Op {
    pb::Op {
        op: Some(pb::op::Op::Source(pb::SourceOp {
            identifier: format!("local://{name}"),
            ..pb::SourceOp::default()
        })),
        ..pb::Op::default()
    }
}

/// An operation that makes one file, on nothing.
pub fn make_file(path: &str, text: &str) -> pb::Op {
    change_files(Vec::new(), vec![making_file(-1, path, text)])
}

/// An operation that carries out `actions`, of which the last one's result is what it makes.
pub fn change_files(inputs: Vec<pb::Input>, mut actions: Vec<pb::FileAction>) -> pb::Op {
    if let Some(last) = actions.last_mut() {
        last.output = 0;
    }
    pb::Op {
        inputs,
        op: Some(pb::op::Op::File(pb::FileOp { actions })),
        platform: Some(platform()),
        ..pb::Op::default()
    }
}

/// An action that makes a file on `input`; -1 is nothing.
pub fn making_file(input: i64, path: &str, text: &str) -> pb::FileAction {
    let file = pb::FileActionMkFile {
        path: path.to_owned(),
        mode: 0o644,
        data: text.as_bytes().to_vec().into(),
        timestamp: -1,
        ..pb::FileActionMkFile::default()
    };
    action(input, -1, pb::file_action::Action::Mkfile(file))
}

/// An action that copies a path of `from` to a path on `input`; -1 is nothing.
pub fn copying(input: i64, from: i64, source: &str, target: &str) -> pb::FileAction {
    let copy = pb::FileActionCopy {
        src: source.to_owned(),
        dest: target.to_owned(),
        mode: -1,
        timestamp: -1,
        ..pb::FileActionCopy::default()
    };
    action(input, from, pb::file_action::Action::Copy(copy))
}

fn action(input: i64, secondary_input: i64, action: pb::file_action::Action) -> pb::FileAction {
    pb::FileAction {
        input,
        secondary_input,
        output: -1,
        action: Some(action),
    }
}

/// An operation that runs a command on the root file system `on`.
pub fn run(on: pb::Input, command: &[&str]) -> pb::Op {
    let exec = pb::ExecOp {
        meta: Some(pb::Meta {
            args: command.iter().map(|&word| word.to_owned()).collect(),
            cwd: "/".to_owned(),
            ..pb::Meta::default()
        }),
        mounts: vec![pb::Mount {
            input: 0,
            dest: "/".to_owned(),
            output: 0,
            ..pb::Mount::default()
        }],
        ..pb::ExecOp::default()
    };
    pb::Op {
        inputs: vec![on],
        op: Some(pb::op::Op::Exec(exec)),
        platform: Some(platform()),
        ..pb::Op::default()
    }
}

/// The digest by which operations are known.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn platform() -> pb::Platform {
    pb::Platform {
        os: "linux".to_owned(),
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
        ..pb::Platform::default()
    }
}
