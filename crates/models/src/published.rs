//! The published TrinArt files, by size and sha256.
//!
//! Sizes and hashes from the model repositories (naclbit/trinart_characters_19.2m_stable_diffusion_v1,
//! naclbit/trinart_derrida_characters_v2_stable_diffusion, naclbit/trinart_stable_diffusion_v2).

use serde::Serialize;
use trinart_ckpt_formats::io::Progress;
use trinart_ckpt_formats::{Result, StoredCheckpoint};

use crate::family::Architecture;
use crate::hash::file_sha256;

/// A published file.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PublishedFile {
    /// The file name in the model repository.
    pub name: &'static str,
    /// The size in bytes.
    #[serde(skip)]
    pub bytes: u64,
    /// The sha256, lower-case hexadecimal.
    #[serde(skip)]
    pub sha256: &'static str,
    /// Why the file was withdrawn, and what replaces it; `None` for files in use.
    pub withdrawn: Option<&'static str>,
}

impl PublishedFile {
    /// The name for people, with a warning if the file was withdrawn.
    pub fn to_text(&self) -> String {
        match self.withdrawn {
            Some(reason) => format!("{} (WITHDRAWN: {reason})", self.name),
            None => self.name.to_owned(),
        }
    }
}

/// The files whose exact size is known, so that other files need not be hashed.
const PUBLISHED: &[PublishedFile] = &[
    PublishedFile {
        name: "autoencoder_fix_kl-f8-trinart_characters.ckpt",
        bytes: 404_661_793,
        sha256: "2453b80bc1716bc3f94496d4e56be891e267051dc43c5144f384b66a73ac8295",
        withdrawn: None,
    },
    PublishedFile {
        name: "autoencoder_kl-f8-trinart_characters.ckpt",
        bytes: 404_661_793,
        sha256: "d2dd1c82220e31a72bd9958dda249ed7f94faf875d5123ae3aab7a1950a82a8f",
        withdrawn: Some(
            "uploaded by mistake and withdrawn on 5 November 2022; replaced by \
             autoencoder_fix_kl-f8-trinart_characters.ckpt, \
             sha256 2453b80bc1716bc3f94496d4e56be891e267051dc43c5144f384b66a73ac8295",
        ),
    },
    PublishedFile {
        name: "derrida_final.ckpt",
        bytes: 4_265_481_056,
        sha256: "42d3f359b02c944cb2e8f666b10bda05015792f10bfd4e9deee44bb66969ce3d",
        withdrawn: None,
    },
    PublishedFile {
        name: "trinart2_step95000.ckpt",
        bytes: 2_132_888_288,
        sha256: "c1799d22a355ba25c9ceeb6e3c91fc61788c8e274b73508ae8a15877c5dbcf63",
        withdrawn: None,
    },
    PublishedFile {
        name: "trinart2_step115000.ckpt",
        bytes: 2_132_888_288,
        sha256: "776af18775dfccf29725a994df855e7d8f7b8ea525013e3a466f210ec15c8fd4",
        withdrawn: None,
    },
];

/// Widely used VAEs by sha256, and an architecture that they belong to. The hashes are those of the model repositories.
const VAES: &[(&str, Architecture)] = &[
    // vae-ft-mse-840000-ema-pruned, .safetensors and .ckpt
    ("735e4c3a447a3255760d7f86845f09f937809baa529c17370d83e4c3758f3c75", Architecture::Sd1),
    ("c6a580b13a5bc05a5e16e4dbb80608ff2ec251a162311590c1f34c013d7f3dab", Architecture::Sd1),
    // Anything-V3.0.vae.pt, the VAE of NovelAI's leak under many names
    ("f921fb3f29891d2a77a6571e56b8b5052420d2884129517a333c60b1b4816cdf", Architecture::Sd1),
    // sdxl_vae.safetensors
    ("63aeecb90ff7bc1c115395962d3e803571385b61938377bc7089b36e81e92e2e", Architecture::SdxlBase),
    // sdxl-vae-fp16-fix, sdxl.vae.safetensors
    ("235745af8d86bf4a4c1b5b4f529868b37019a10f7c0b2e79ad0abca3a22bc6e1", Architecture::SdxlBase),
];

/// Returns an architecture that the VAE in a known file belongs to, by the sha256 of the file (lower-case hexadecimal).
pub fn vae_architecture(sha256: &str) -> Option<Architecture> {
    // All TrinArt models are SD v1.
    let is_trinart = PUBLISHED.iter().any(|published| published.sha256 == sha256);
    let known = || VAES.iter().find(|(known, _)| *known == sha256).map(|&(_, architecture)| architecture);
    if is_trinart { Some(Architecture::Sd1) } else { known() }
}

/// Returns the published file that an opened checkpoint is. Hashes it only if a published file has its size; of one behind
/// an address, takes the sha256 that the server states.
pub fn find(checkpoint: &StoredCheckpoint, progress: &dyn Progress) -> Result<Option<&'static PublishedFile>> {
    match checkpoint.sources() {
        [source] if may_be(source.len()) => match source.stated_sha256() {
            Some(stated) => Ok(identify(source.len(), stated)),
            // Fetching all of it would cost more than a name is worth.
            None if source.is_remote() => Ok(None),
            None => Ok(identify(source.len(), &file_sha256(source, progress)?)),
        },
        _ => Ok(None),
    }
}

/// Returns whether a published file has this size, so that hashing can identify it.
fn may_be(bytes: u64) -> bool {
    PUBLISHED.iter().any(|published| published.bytes == bytes)
}

/// Returns the published file with this size in bytes and sha256 (lower-case hexadecimal).
pub fn identify(bytes: u64, sha256: &str) -> Option<&'static PublishedFile> {
    PUBLISHED.iter().find(|published| published.bytes == bytes && published.sha256 == sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinguishes_the_withdrawn_vae_from_its_replacement_by_hash() {
        let right = identify(404_661_793, "2453b80bc1716bc3f94496d4e56be891e267051dc43c5144f384b66a73ac8295").unwrap();
        let wrong = identify(404_661_793, "d2dd1c82220e31a72bd9958dda249ed7f94faf875d5123ae3aab7a1950a82a8f").unwrap();
        assert_eq!(right.withdrawn, None);
        assert!(wrong.withdrawn.unwrap().contains(right.sha256));
        assert!(wrong.withdrawn.unwrap().contains(right.name));
        assert!(may_be(404_661_793) && !may_be(404_661_792));
        assert_eq!(identify(404_661_793, "00"), None);
    }

    #[test]
    fn hashes_are_lower_case_sha256() {
        for sha256 in PUBLISHED.iter().map(|published| published.sha256).chain(VAES.iter().map(|(sha256, _)| *sha256)) {
            assert_eq!(sha256.len(), 64);
            assert!(sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        }
    }

    #[test]
    fn knows_the_architecture_of_widely_used_vaes() {
        let sdxl = "63aeecb90ff7bc1c115395962d3e803571385b61938377bc7089b36e81e92e2e";
        assert_eq!(vae_architecture(sdxl), Some(Architecture::SdxlBase));
        let trinart = "2453b80bc1716bc3f94496d4e56be891e267051dc43c5144f384b66a73ac8295";
        assert_eq!(vae_architecture(trinart), Some(Architecture::Sd1));
        assert_eq!(vae_architecture("00"), None);
    }
}
