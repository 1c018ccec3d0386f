use trinart_ckpt_formats::StateDict;

use crate::layout::Folder;

/// A key that every UNet in diffusers names has.
const UNET: &str = "unet.conv_in.weight";

/// Returns what precedes `unet.` in the keys of a single file in diffusers names: nothing, or a wrapper such as `model.`.
/// `None` for other files.
pub(super) fn wrapper(state_dict: &StateDict) -> Option<&str> {
    state_dict.keys().find_map(|key| key.strip_suffix(UNET).filter(|it| it.is_empty() || it.ends_with('.')))
}

/// Returns the prefix of a component's keys in a single file in diffusers names.
pub(super) fn prefix(wrapper: &str, folder: Folder) -> String {
    format!("{wrapper}{}.", folder.name())
}
