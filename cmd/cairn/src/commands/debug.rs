//! `cairn debug`.

use std::io::Read as _;
use std::path::Path;

use cairn_proto::pb;
use prost::Message as _;

use crate::error::CliError;
use crate::ui;

mod llb;

/// No definition is larger.
const MAX_DEFINITION: u64 = 256 << 20;

/// Prints the operations of a definition, inputs before what uses them as in the definition itself.
pub(super) fn dump_llb(file: Option<&Path>, json: bool) -> Result<(), CliError> {
    let bytes = read(file)?;
    let malformed = |reason: String| CliError::Malformed {
        what: "a build definition".to_owned(),
        reason,
    };
    if bytes.len() as u64 > MAX_DEFINITION {
        return Err(malformed(format!("it is larger than {MAX_DEFINITION} bytes")));
    }
    let definition = pb::Definition::decode(bytes.as_slice()).map_err(|error| malformed(error.to_string()))?;
    if definition.def.is_empty() {
        return Err(malformed("it has no operations".to_owned()));
    }
    let mut text = String::new();
    for op in llb::describe(&definition).map_err(malformed)? {
        if json {
            text.push_str(&op.to_string());
            text.push('\n');
        } else {
            text.push_str(&llb::readable(&op));
        }
    }
    ui::print(&text)
}

fn read(file: Option<&Path>) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    match file.filter(|path| *path != Path::new("-")) {
        Some(path) => std::fs::File::open(path)
            .and_then(|file| file.take(MAX_DEFINITION + 1).read_to_end(&mut bytes))
            .map_err(|source| CliError::File {
                action: "read",
                path: path.to_owned(),
                source,
            })?,
        None => std::io::stdin()
            .lock()
            .take(MAX_DEFINITION + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| CliError::System {
                action: "read standard input",
                source,
            })?,
    };
    Ok(bytes)
}
