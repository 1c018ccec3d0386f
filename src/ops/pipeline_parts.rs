use trinart_ckpt_formats::containers::diffusers::Part;
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::limits;
use trinart_ckpt_models::{Notice, NoticeCode, vocabulary};

/// Returns notices about the parts of a pipeline that a folder lacks, and about those that a cast does not reach.
pub(super) fn notices(missing: &[String], parts: &[Part], casts: bool) -> Vec<Notice> {
    let missing = missing.iter().map(|name| {
        let text = format!("left out {name}: the index names this part of the pipeline, but the folder lacks it");
        Notice::new(NoticeCode::PipelinePartDropped, text)
    });
    let kept = parts.iter().filter(|part| part.has_weights && casts).map(|part| {
        let text = format!("copied {} as it is: a cast applies to the other parts of the pipeline", part.name);
        Notice::new(NoticeCode::PipelinePartKept, text)
    });
    missing.chain(kept).collect()
}

/// Returns a notice for each part of a folder that a single file has no place for: those with weights, and tokenizers with
/// another vocabulary than CLIP's.
pub(super) fn left_out(parts: &[Part]) -> Result<Vec<Notice>> {
    let mut notices = Vec::new();
    for part in parts {
        let what = if part.has_weights {
            "a single file has no place for this part of the pipeline"
        } else if has_other_vocabulary(part)? {
            "a single file has no place for a tokenizer, and its vocabulary is not that of CLIP, which readers use"
        } else {
            continue;
        };
        notices.push(Notice::new(NoticeCode::PipelinePartDropped, format!("left out {}: {what}", part.name)));
    }
    Ok(notices)
}

/// Returns whether a part is a tokenizer with another vocabulary than CLIP's.
fn has_other_vocabulary(part: &Part) -> Result<bool> {
    for (path, file) in &part.files {
        let name = path.rsplit('/').next().unwrap_or(path);
        if part.name.starts_with("tokenizer")
            && (file.len() > limits::JSON_FILE || vocabulary::is_other(name, &file.read(0, file.len())?))
        {
            return Ok(true);
        }
    }
    Ok(false)
}
