//! Bills of materials say of each file which layer of the image it is in.

use std::path::Path;

use cairn_solver::Digest;
use serde_json::{Map, Value, json};

use crate::image::Statement;
use crate::layer::{LayerError, LayerList, LayerStore};
use crate::sys::Root;
use crate::sys::root::clean;

/// Largest document that is taken apart for this; in memory it is many times as large.
const MAX_DOCUMENT: usize = 32 << 20;

/// The files of an image, layer by layer.
pub(super) struct LayerFiles<'a> {
    /// Topmost first, with their blobs.
    layers: Vec<(Root, &'a Digest)>,
}

impl<'a> LayerFiles<'a> {
    /// The files of `layers`, whose blobs are `blobs`.
    ///
    /// # Errors
    /// If the files of one are not at hand.
    pub(super) fn open(store: &LayerStore, layers: &LayerList, blobs: &'a [Digest]) -> Result<Self, LayerError> {
        let layers = layers.ids().iter().zip(blobs).rev();
        let layers = layers.map(|(id, blob)| Ok((store.layer_root(id)?, blob)));
        Ok(Self {
            layers: layers.collect::<Result<_, _>>()?,
        })
    }

    /// Adds to each file of an SPDX document a comment that says in which layer it is, where the scanner left none.
    /// What is no such document stays as it is.
    pub(super) fn note_layers(&self, statement: &mut Statement) {
        let text = statement.predicate.get();
        if text.len() > MAX_DOCUMENT {
            return;
        }
        let Ok(mut document) = serde_json::from_str::<Value>(text) else {
            return;
        };
        let Some(files) = document.get_mut("files").and_then(Value::as_array_mut) else {
            return;
        };
        for file in files.iter_mut().filter_map(Value::as_object_mut) {
            self.note_layer(file);
        }
        if let Ok(noted) = serde_json::value::to_raw_value::<Value>(&document) {
            statement.predicate = noted;
        }
    }

    fn note_layer(&self, file: &mut Map<String, Value>) {
        let has_comment = file
            .get("comment")
            .is_some_and(|comment| !comment.is_null() && comment.as_str() != Some(""));
        let name = file.get("fileName").and_then(Value::as_str);
        if !has_comment && let Some(layer) = name.and_then(|name| self.find(name)) {
            file.insert("comment".to_owned(), json!(format!("layerID: {layer}")));
        }
    }

    /// The blob of the layer that a file is in.
    fn find(&self, name: &str) -> Option<&'a Digest> {
        let path = clean(Path::new("/").join(name));
        for (root, blob) in &self.layers {
            match root.lstat(&path) {
                Ok(found) if found.is_whiteout() => return None,
                Ok(_) => return Some(blob),
                Err(_) => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_said_to_be_in_the_topmost_layer_that_has_them() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let blobs = [Digest::sha256(b"top"), Digest::sha256(b"bottom")];
        for (dir, path) in [(0, "both"), (1, "both"), (1, "etc/low"), (0, "own")] {
            let path = dirs[dir].path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let roots = dirs.iter().map(|dir| Root::open(dir.path()).unwrap());
        let files = LayerFiles {
            layers: roots.zip(&blobs).collect(),
        };
        let note = |document: Value| {
            let mut statement: Statement = serde_json::from_value(json!({
                "_type": "t", "predicateType": "p", "predicate": document,
            }))
            .unwrap();
            files.note_layers(&mut statement);
            serde_json::from_str::<Value>(statement.predicate.get()).unwrap()
        };
        let [top, bottom] = blobs.map(|blob| format!("layerID: {blob}"));
        let noted = note(json!({"name": "x", "files": [
            {"fileName": "/both"}, {"fileName": "etc/low", "comment": ""}, {"fileName": "./own", "comment": "mine"},
            {"fileName": "/gone"}, {"fileName": "a\u{0}b"}, {"fileName": "../../etc/low"}, {"fileName": 1}, 2,
        ]}));
        let want = json!({"name": "x", "files": [
            {"fileName": "/both", "comment": top}, {"fileName": "etc/low", "comment": bottom},
            {"fileName": "./own", "comment": "mine"}, {"fileName": "/gone"}, {"fileName": "a\u{0}b"},
            {"fileName": "../../etc/low", "comment": bottom}, {"fileName": 1}, 2,
        ]});
        assert_eq!(noted, want);
        for other in [json!([1]), json!({"files": {}}), json!(null)] {
            assert_eq!(note(other.clone()), other);
        }
    }
}
