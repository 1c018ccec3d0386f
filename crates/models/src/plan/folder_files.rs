//! The files of a diffusers folder besides its weights.

use serde_json::{Map, Value, json};
use trinart_ckpt_formats::containers::diffusers::{MODEL_INDEX, SEPARATOR, parse_json, write_json};
use trinart_ckpt_formats::error::{Error, Hint, Result};
use trinart_ckpt_formats::tensor::LazyTensor;
use trinart_ckpt_formats::{Metadata, StateDict};

use crate::family::{Prediction, Task};
use crate::layout::Folder;
use crate::notice::{Notice, NoticeCode};
use crate::parameterization::{Parameterization, Patch, patch_scheduler, patch_vae};
use crate::pipeline::Pipeline;
use crate::plan::carry;

/// Finds a tensor of a folder by its key in its component, with or without `text_model.`.
pub(super) fn find<'a>(tensors: &'a StateDict, folder: Folder, key: &str) -> Option<&'a LazyTensor> {
    let at = |key: &str| tensors.get(&format!("{}{SEPARATOR}{key}", folder.name()));
    at(key).or_else(|| at(key.strip_prefix("text_model.")?))
}

/// Fails if no scheduler of diffusers works with these architectures and this prediction. Returns a notice if the
/// prediction is assumed.
pub(super) fn check_prediction(wanted: &Parameterization) -> Result<Option<Notice>> {
    match wanted.prediction {
        Prediction::Unknown => {
            let text = "assumed v-prediction: neither marks nor weights of this SD v2 file show what it predicts";
            Ok(Some(Notice::new(NoticeCode::PredictionAssumed, text)))
        }
        Prediction::Flow | Prediction::Sample => {
            let found = format!(
                "no scheduler of a folder is known for this model, which predicts {}",
                wanted.prediction.text()
            );
            Err(Error::unsupported(found))
        }
        _ => Ok(None),
    }
}

/// Returns the configuration files of the folder: the input's own ones, and generated ones for the rest.
pub(super) fn files(
    pipeline: &Pipeline<'_>,
    folders: &[Folder],
    tensors: &StateDict,
    own: Vec<(String, Vec<u8>)>,
    metadata: &Metadata,
) -> Result<Vec<(String, Vec<u8>)>> {
    let dims = |folder: Folder, key: &str| find(tensors, folder, key).map(|tensor| tensor.shape().dims().to_vec());
    let is_pipeline = own.iter().any(|(path, _)| path == MODEL_INDEX);
    let recorded = if own.is_empty() { carry::recorded(metadata) } else { Map::new() };
    let (own, mut made) = if let &[only] = folders {
        let config = pipeline.config(only, &dims);
        let prefix = if is_pipeline { format!("{}{SEPARATOR}", only.name()) } else { String::new() };
        let of_component = |(path, text): (String, _)| Some((path.strip_prefix(&prefix)?.to_owned(), text));
        let own: Vec<_> = own.into_iter().filter_map(of_component).collect();
        (own, vec![("config.json".to_owned(), write_json(&config))])
    } else {
        let lacking = Folder::of(pipeline.architecture).iter().find(|folder| !folders.contains(folder));
        if let Some(lacking) = lacking {
            let (lacking, architecture) = (lacking.name(), pipeline.architecture.text());
            let found = format!("contains no {lacking}, which a folder of {architecture} needs");
            return Err(Error::missing(found).with_hint(Hint::Component));
        }
        if is_pipeline {
            // The input has all parts that its index names, but a configuration may be missing.
            (own, pipeline.configs(&dims))
        } else {
            let made = pipeline.files(&dims).ok_or_else(|| no_pipeline(pipeline))?;
            (Vec::new(), made)
        }
    };
    let own = if own.is_empty() { carry::fitting(&recorded, folders, &mut made)? } else { own };
    let own = corrected(own, pipeline, folders)?;
    let is_own = |path: &str| own.iter().any(|(own, _)| own == path);
    let made: Vec<_> =
        made.into_iter().filter(|(path, _)| !is_own(path)).map(|(path, text)| (path, text.into_bytes())).collect();
    Ok(own.into_iter().chain(made).collect())
}

/// The error for a model whose pipeline needs parts that no single file has.
fn no_pipeline(pipeline: &Pipeline<'_>) -> Error {
    let (architecture, task) = (pipeline.architecture.text(), pipeline.task.text());
    Error::unsupported(match pipeline.task {
        Task::Depth => {
            let lacks = "a depth_estimator and a feature_extractor, which this program cannot make from depth_model.*";
            format!("the {task} pipeline of {architecture} needs {lacks}")
        }
        Task::Other(channels) => {
            format!("this program knows no pipeline for a UNet of {architecture} with {channels} input channels")
        }
        _ => format!("diffusers has no {task} pipeline for {architecture}"),
    })
}

/// The configuration of the scheduler.
const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// Corrects the input's own configurations where the scheduler or the constants of the VAE are to be others.
fn corrected(
    mut own: Vec<(String, Vec<u8>)>,
    pipeline: &Pipeline<'_>,
    folders: &[Folder],
) -> Result<Vec<(String, Vec<u8>)>> {
    let wanted = pipeline.parameterization;
    let parse = |path: &str, text: &[u8]| parse_json(text).map_err(|error| error.in_record(path));
    let text = |config: &Value| write_json(config).into_bytes();
    let mut new_class = None;
    let vae_config = if folders == [Folder::Vae] { "config.json" } else { "vae/config.json" };
    for (path, content) in &mut own {
        if path == SCHEDULER {
            match patch_scheduler(&parse(path, content)?, wanted) {
                Patch::None => {}
                Patch::Fields(config) => *content = text(&config),
                Patch::Class => {
                    check_prediction(wanted)?;
                    let (class, config) = pipeline.scheduler();
                    *content = text(&config);
                    new_class = Some(class);
                }
            }
        } else if path == vae_config
            && let Some(config) = patch_vae(&parse(path, content)?, &wanted.vae)
        {
            *content = text(&config);
        }
    }
    let index = own.iter_mut().find(|(path, _)| path == MODEL_INDEX);
    if let (Some(class), Some((path, content))) = (new_class, index) {
        let mut index = parse(path, content)?;
        if let Value::Object(index) = &mut index {
            index.insert("scheduler".to_owned(), json!(["diffusers", class]));
        }
        *content = text(&index);
    }
    Ok(own)
}
