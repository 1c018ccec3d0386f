use super::donor::Donor;
use super::old_vae::OldVae;
use crate::vae_schema::{self, PUBLISHED_WIDTH, VaeSchema};
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::state_dict::StateDict;

/// Channels of the first convolution of a published UNet, and the width of its text embedding.
const PUBLISHED_UNETS: &[(u64, u64)] = &[(320, 768), (320, 1024), (320, 2048), (384, 1280)];

/// Returns the schema of the VAE that the checkpoint needs. Its widths are those of the published VAE if the UNet has
/// the width of a published one, otherwise those of the checkpoint's own VAE if that shows them, otherwise those of the
/// donor if they are plausible.
///
/// Narrowed models exist for tests.
pub(super) fn schema(base: &StateDict, old: &OldVae<'_>, donor: &Donor<'_>) -> Result<VaeSchema> {
    let of_donor = vae_schema::measure(&|name| donor.get(name).map(|(_, tensor)| tensor.shape().dims().to_vec()));
    let of_old = || vae_schema::measure(&|name| old.get(name).map(|(_, tensor)| tensor.shape().dims().to_vec()));
    let widths = match narrowed(base) {
        Narrowed::Not => vae_schema::widths(PUBLISHED_WIDTH),
        Narrowed::By(divisor) => of_old().unwrap_or_else(|| vae_schema::widths(PUBLISHED_WIDTH / divisor)),
        Narrowed::Unevenly => match (of_old(), of_donor) {
            (Some(widths), _) => widths,
            (None, Some([first, ..])) if first <= PUBLISHED_WIDTH => vae_schema::widths(first),
            _ => vae_schema::widths(PUBLISHED_WIDTH),
        },
    };
    let schema = VaeSchema::new(widths);
    for name in donor.names() {
        let (Some((_, tensor)), Some(expected)) = (donor.get(name), schema.get(name)) else { continue };
        if !vae_schema::fits(tensor.shape().dims(), expected) {
            let found = format!("shape {}, expected {expected:?}", tensor.shape());
            return Err(Error::mismatch(found).in_tensor(donor.stored_key(name)));
        }
        if !tensor.dtype().is_float() {
            let found = format!("dtype {}, expected a floating-point dtype", tensor.dtype());
            return Err(Error::unsupported(found).in_tensor(donor.stored_key(name)));
        }
    }
    Ok(schema)
}

/// How narrow a UNet is in comparison with a published one.
enum Narrowed {
    /// It has the width of a published one.
    Not,
    /// All widths are divided by this number.
    By(u64),
    /// In another way, or unknown.
    Unevenly,
}

fn narrowed(base: &StateDict) -> Narrowed {
    let dim = |key: &str, axis: usize| {
        let dims = base.get(&format!("model.diffusion_model.{key}"))?.shape().dims();
        dims.get(axis).copied().filter(|&dim| dim > 0)
    };
    let Some(width) = dim("input_blocks.0.0.weight", 0) else { return Narrowed::Unevenly };
    if PUBLISHED_UNETS.iter().any(|&(published, _)| published == width) {
        return Narrowed::Not;
    }
    // The second resolution has cross-attention in every architecture.
    let context = dim("input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", 1);
    let divides = |&(published, text): &(u64, u64)| {
        let context = context?;
        let divisor = text.checked_div(context).filter(|_| text % context == 0)?;
        // The text width of SD v1 is no power of two, so that a multiple of it is no coincidence.
        let is_even = width * divisor == published || text == 768;
        (is_even && divisor > 0 && PUBLISHED_WIDTH % divisor == 0).then_some(divisor)
    };
    PUBLISHED_UNETS.iter().find_map(divides).map_or(Narrowed::Unevenly, Narrowed::By)
}
