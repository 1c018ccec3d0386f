use trinart_ckpt_formats::containers::diffusers::Part;
use trinart_ckpt_models::{Notice, NoticeCode};

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

/// Returns a notice for each part of a folder with weights that a single file has no place for.
pub(super) fn left_out(parts: &[Part]) -> impl Iterator<Item = Notice> {
    parts.iter().filter(|part| part.has_weights).map(|part| {
        let text = format!("left out {}: a single file has no place for this part of the pipeline", part.name);
        Notice::new(NoticeCode::PipelinePartDropped, text)
    })
}
