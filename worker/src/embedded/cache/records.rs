//! Records as they are written down.

use cairn_solver::imported::CacheRecord;
use cairn_solver::worker::{Ref, WorkerError};

use crate::embedded::results::Content;
use crate::embedded::{EmbeddedWorker, failed};
use crate::layer::LayerList;
use crate::remote_cache::{Contents, Input, OwnPart, Record, Tip};

/// The results of a record as layers; scratch has none.
pub(super) type Outputs = Vec<Option<LayerList>>;

impl EmbeddedWorker {
    /// The layers of a record's results; `None` if it has none, or they are no layers. Blocks.
    pub(super) fn record_layers(&self, record: &CacheRecord) -> Result<Option<Outputs>, WorkerError> {
        let Some(outputs) = &record.outputs else {
            return Ok(None);
        };
        let layers = outputs.iter().map(|output| self.result_layers(output.as_ref()));
        layers.collect()
    }

    fn result_layers(&self, result: Option<&Ref>) -> Result<Option<Option<LayerList>>, WorkerError> {
        let Some(result) = result else {
            return Ok(Some(None));
        };
        match self.content(result.id())? {
            Some(Content::Layers(list)) => Ok(Some(Some(list))),
            // A client's files are the client's.
            Some(Content::Tree(_)) | None => Ok(None),
        }
    }
}

/// Writes records down whose results end with the layers `tips`. Those that say nothing are left out.
pub(super) fn write_records(records: &[CacheRecord], tips: &[Option<Vec<i64>>]) -> Vec<Record> {
    let is_kept: Vec<bool> = records
        .iter()
        .zip(tips)
        .map(|(record, tips)| tips.is_some() || !record.contents.is_empty())
        .collect();
    let places: Vec<usize> = is_kept
        .iter()
        .scan(0, |next, &is_kept| {
            let place = *next;
            *next += usize::from(is_kept);
            Some(place)
        })
        .collect();
    let kept = records.iter().zip(tips).zip(&is_kept).filter(|(_, is_kept)| **is_kept);
    kept.map(|((record, tips), _)| {
        let top = tips.as_ref().and_then(|tips| usize::try_from(*tips.first()?).ok());
        let inputs = record.inputs.iter().filter(|input| is_kept[input.record]);
        let inputs = inputs.map(|input| {
            let selector = input.selector.map(|selector| selector.to_string());
            vec![Input {
                selector: selector.unwrap_or_default(),
                link: places[input.record],
            }]
        });
        let contents = record.contents.iter().map(|content| Contents {
            output: content.output,
            selector: content.selector,
            digest: content.digest,
        });
        Record {
            digest: record.digest.to_string(),
            layers: top
                .map(|layer| Tip {
                    layer,
                    created_at: None,
                })
                .into_iter()
                .collect(),
            inputs: inputs.collect(),
            cairn: Some(OwnPart {
                outputs: tips.clone(),
                contents: contents.collect(),
            }),
        }
    })
    .collect()
}

/// The records that an image of the layers `list` can carry, as JSON. Blocks.
pub(in crate::embedded) fn inline_records(
    worker: &EmbeddedWorker,
    records: &[CacheRecord],
    list: &LayerList,
) -> Result<Vec<u8>, WorkerError> {
    let tips = records.iter().map(|record| {
        let Some(outputs) = worker.record_layers(record)? else {
            return Ok(None);
        };
        let tip = |output: &Option<LayerList>| match output {
            None => Some(-1),
            Some(layers) if list.ids().starts_with(layers.ids()) => {
                i64::try_from(layers.ids().len()).ok()?.checked_sub(1)
            }
            Some(_) => None,
        };
        Ok(outputs.iter().map(tip).collect())
    });
    let tips: Vec<Option<Vec<i64>>> = tips.collect::<Result<_, WorkerError>>()?;
    serde_json::to_vec(&write_records(records, &tips)).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use cairn_solver::Digest;
    use cairn_solver::imported::{InputLink, SelectedContent};

    use super::*;

    #[test]
    fn what_says_nothing_is_left_out_and_links_follow() {
        let digest = |n: u8| Digest::sha256(&[n]);
        let content = SelectedContent {
            output: 0,
            selector: digest(10),
            digest: digest(11),
        };
        let record = |n: u8, contents: Vec<SelectedContent>, inputs: &[usize]| CacheRecord {
            digest: digest(n),
            outputs: None,
            contents,
            inputs: inputs
                .iter()
                .map(|&record| InputLink { record, selector: None })
                .collect(),
        };
        let records = [
            record(0, vec![], &[]),
            record(1, vec![content], &[0]),
            record(2, vec![], &[0, 1]),
        ];
        let written = write_records(&records, &[None, None, Some(vec![4, -1])]);
        assert_eq!(written.len(), 2);
        assert_eq!(written[0].digest, digest(1).to_string());
        assert_eq!(written[0].inputs, Vec::<Vec<Input>>::new());
        assert_eq!(
            written[1].inputs,
            [vec![Input {
                selector: String::new(),
                link: 0
            }]]
        );
        assert_eq!(written[1].layers.len(), 1);
        assert_eq!(written[1].layers[0].layer, 4);
        assert_eq!(written[1].cairn.as_ref().unwrap().outputs, Some(vec![4, -1]));
    }
}
