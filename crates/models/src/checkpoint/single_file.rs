//! Translates a single file in diffusers names (`unet.…`, `vae.…`, `text_encoder.…`), as some trainers write it, into
//! LDM names. No WebUI reads the diffusers names.

use trinart_ckpt_formats::{StateDict, StoredCheckpoint};

use super::prefixes::{prefix, wrapper};
use super::translate::{FolderTensor, Translation, translate};
use crate::detection::detect_by;
use crate::layout::{Folder, Layout};
use crate::notice::{Notice, NoticeCode};
use crate::vae;

/// Translates a file in diffusers names. Tensors of no component follow unchanged. `None` if the file has other names, if
/// its architecture is unknown, or if a key or a shape has no place in it; the VAE may be in any state.
pub(super) fn to_ldm(stored: &StoredCheckpoint) -> Option<(StateDict, Translation)> {
    let state_dict = stored.state_dict();
    let wrapper = wrapper(state_dict)?;
    let unet = prefix(wrapper, Folder::Unet);
    let dims = |key: &str| state_dict.get(&format!("{unet}{key}")).map(|tensor| tensor.shape().dims().to_vec());
    let layout = Layout::of(detect_by(&dims).architecture()?);
    let prefixes: Vec<_> = Folder::ALL.iter().map(|&folder| (folder, prefix(wrapper, folder))).collect();
    let mut known: Vec<FolderTensor<'_>> = Vec::new();
    let mut others = Vec::new();
    for (key, tensor) in state_dict.iter() {
        let part = prefixes.iter().find_map(|(folder, prefix)| Some((*folder, key.strip_prefix(prefix.as_str())?)));
        match part {
            Some((Folder::Vae, name)) if !is_sound(layout, name, tensor.shape().dims()) => {
                others.push((format!("{}{name}", vae::PREFIX), key, tensor));
            }
            Some((folder, name)) => known.push((folder, name, key, tensor)),
            None => others.push((key.to_owned(), key, tensor)),
        }
    }
    let (mut translated, mut translation) = translate(layout, &known).ok()?;
    let mut renamed = known.len();
    for (name, key, tensor) in others {
        translated.insert(name.as_str(), tensor.clone()).ok()?;
        if name != key {
            translation.renamed(key, &name);
            renamed += 1;
        }
    }
    let text = format!("renamed {renamed} keys from diffusers to LDM names, which WebUI reads");
    translation.note_single_file(Notice::new(NoticeCode::DiffusersNames, text));
    Some((translated, translation))
}

/// Returns whether a tensor of the VAE has a key and a rank of diffusers. Others are left to the merge of a VAE.
fn is_sound(layout: &Layout, name: &str, dims: &[u64]) -> bool {
    layout.to_ldm(Folder::Vae, name).is_some_and(|mapped| mapped.fit(dims).is_some())
}
