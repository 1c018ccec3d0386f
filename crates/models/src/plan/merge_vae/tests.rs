//! Every key of a VAE, broken or missing in every state of the checkpoint, under every layout of the donor.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::*;
use crate::layout;
use crate::ledger::Disposition;
use trinart_ckpt_formats::state_dict::StateDict;
use trinart_ckpt_formats::tensor::Dtype;

/// Keys and shapes.
type Shapes = Vec<(String, Vec<u64>)>;

const PARTS_AROUND: [&str; 2] = ["model.diffusion_model.", "cond_stage_model."];

/// Writes the header of a safetensors file, and a hole for its tensors: plans read no data.
fn write(folder: &Path, name: &str, tensors: &Shapes, dtype: &str) -> PathBuf {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (key, dims) in tensors {
        let begin = end;
        end += dims.iter().product::<u64>() * if dtype == "F16" { 2 } else { 4 };
        let entry = serde_json::json!({ "dtype": dtype, "shape": dims, "data_offsets": [begin, end] });
        assert!(header.insert(key.clone(), entry).is_none(), "{key} twice");
    }
    let header = serde_json::to_vec(&header).unwrap();
    let path = folder.join(name);
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
    path
}

/// The tensors of a narrow VAE under bare keys in LDM names.
fn ldm() -> Shapes {
    let schema = VaeSchema::new(vae_schema::widths(4));
    schema.keys().map(|key| (key.to_owned(), schema.get(key).unwrap().to_vec())).collect()
}

fn is_attention(key: &str) -> bool {
    key.contains(".mid.attn_1.") && !key.contains(".norm.")
}

/// In diffusers names: `newer` is `to_q`, otherwise `query`.
fn diffusers(newer: bool) -> Shapes {
    let pairs = layout::vae_pairs(vae_schema::widths(4));
    let key = |pair: &layout::Pair| {
        let mut names = pair.diffusers_spellings();
        let key = if newer { names.next() } else { names.last() };
        key.unwrap().to_owned()
    };
    pairs.iter().map(|pair| (key(pair), pair.diffusers.dims.clone())).collect()
}

fn flat((key, dims): (String, Vec<u64>)) -> (String, Vec<u64>) {
    let is_square = matches!(dims.as_slice(), [_, _, 1, 1]) && is_attention(&key);
    let dims = if is_square { dims[..2].to_vec() } else { dims };
    (key, dims)
}

fn prefixed(prefix: &str, tensors: Shapes) -> Shapes {
    tensors.into_iter().map(|(key, dims)| (format!("{prefix}{key}"), dims)).collect()
}

/// The layouts of donors that people have, each with its spelling of a key in LDM names.
fn donors() -> Vec<(&'static str, Shapes)> {
    let convolutions = |tensors: Shapes| -> Shapes {
        let grown = |(key, dims): (String, Vec<u64>)| match dims.as_slice() {
            &[rows, columns] => (key, vec![rows, columns, 1, 1]),
            _ => (key, dims),
        };
        tensors.into_iter().map(grown).collect()
    };
    let columns = |(key, dims): (String, Vec<u64>)| match dims.as_slice() {
        &[rows] if is_attention(&key) => (key, vec![rows, 1, 1]),
        _ => (key, dims),
    };
    vec![
        ("bare", ldm()),
        ("checkpoint", prefixed("first_stage_model.", ldm())),
        ("trainer", prefixed("model.first_stage_model.", ldm())),
        ("vae", prefixed("vae.", ldm())),
        ("linear", ldm().into_iter().map(flat).collect()),
        ("columns", ldm().into_iter().map(columns).collect()),
        ("diffusers", diffusers(true)),
        ("older diffusers", diffusers(false)),
        ("older diffusers, convolutions", convolutions(diffusers(false))),
        ("diffusers in a pipeline", prefixed("vae.", diffusers(true))),
        ("half renamed", broken_names(ldm(), "to_")),
        ("twice renamed", broken_names(ldm(), "to_to_").into_iter().map(flat).collect()),
    ]
}

fn broken_names(tensors: Shapes, start: &str) -> Shapes {
    let rename = |(key, dims): (String, Vec<u64>)| match key.rsplitn(3, '.').collect::<Vec<_>>().as_slice() {
        [leaf, "proj_out", block] if is_attention(&key) => (format!("{block}.{start}out.0.{leaf}"), dims),
        [leaf, name, block] if is_attention(&key) => (format!("{block}.{start}{name}.{leaf}"), dims),
        _ => (key, dims),
    };
    tensors.into_iter().map(rename).collect()
}

/// The states of a checkpoint's VAE.
fn states() -> Vec<(&'static str, Shapes)> {
    let own = |tensors: Shapes| prefixed("first_stage_model.", tensors);
    let half = own(ldm()).into_iter().enumerate().filter(|(index, _)| index % 2 == 0).map(|(_, it)| it).collect();
    vec![
        ("intact", own(ldm())),
        ("broken names", own(broken_names(ldm(), "to_to_"))),
        ("broken ranks", own(ldm().into_iter().map(flat).collect())),
        ("half missing", half),
        ("missing", Vec::new()),
        ("diffusers names", own(diffusers(true))),
        ("diffusers names under vae.", prefixed("vae.", diffusers(false))),
    ]
}

/// A checkpoint around a VAE.
fn base(vae: Shapes) -> Shapes {
    let unet =
        ["input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight", "output_blocks.0.0.out_layers.0.weight"];
    let mut tensors = prefixed("model.diffusion_model.", unet.map(|key| (key.to_owned(), vec![4, 4, 3, 3])).into());
    tensors.extend(vae);
    tensors.push(("first_stage_model.loss.logvar".to_owned(), vec![1]));
    tensors.push(("cond_stage_model.transformer.text_model.final_layer_norm.weight".to_owned(), vec![8]));
    tensors
}

/// The rules of `load_state_dict(strict=True)`: exactly these keys and shapes. Around the VAE everything is as before.
fn assert_loads(resolved: &Resolved, before: &Checkpoint, case: &str) {
    let of_vae = resolved.state_dict.iter().filter(|(key, _)| vae::is_checkpoint_key(key));
    let found: BTreeMap<&str, &[u64]> =
        of_vae.clone().map(|(key, tensor)| (&key["first_stage_model.".len()..], tensor.shape().dims())).collect();
    let schema = ldm();
    let expected: BTreeMap<&str, &[u64]> = schema.iter().map(|(key, dims)| (key.as_str(), dims.as_slice())).collect();
    assert_eq!(found, expected, "{case}");
    assert!(of_vae.map(|(_, tensor)| tensor.dtype()).all(|dtype| dtype == Dtype::F16), "{case}");
    let rest = |state_dict: &StateDict| -> Vec<String> {
        let is_rest = |key: &&str| PARTS_AROUND.iter().any(|part| key.starts_with(part)) || key.contains(".loss.");
        state_dict.keys().filter(is_rest).map(str::to_owned).collect()
    };
    assert_eq!(rest(&resolved.state_dict), rest(before.state_dict()), "{case}");
    assert_eq!(resolved.state_dict.len(), 248 + rest(before.state_dict()).len(), "{case}");
    let lines = resolved.ledger.lines();
    let mut inputs: Vec<_> =
        lines.iter().filter(|line| line.from == Origin::Checkpoint).map(|line| &line.input).collect();
    inputs.sort();
    let mut keys: Vec<_> = before.state_dict().keys().collect();
    keys.sort_unstable();
    assert!(inputs.into_iter().eq(keys), "{case}: the ledger has not one line for each key");
    let written = lines.iter().filter(|line| matches!(line.disposition, Disposition::Written { .. })).count();
    assert_eq!(written, resolved.state_dict.len(), "{case}");
}

#[test]
fn a_complete_vae_repairs_every_key_in_every_state() {
    let folder = tempfile::tempdir().unwrap();
    let donors: Vec<(&str, Checkpoint)> = donors()
        .into_iter()
        .map(|(name, tensors)| (name, Checkpoint::open(write(folder.path(), "donor", &tensors, "F16")).unwrap()))
        .collect();
    let keys = ldm();
    for (state_index, (state, tensors)) in states().into_iter().enumerate() {
        for (index, (name, _)) in keys.iter().enumerate() {
            let mut tensors = tensors.clone();
            // What the checkpoint has of this key is missing, of another shape, or under a key that no VAE has.
            let spelled = |key: &str| old_vae::name_of(key) == Some(vae_schema::ldm_key(name));
            if let Some(at) = tensors.iter().position(|(key, _)| spelled(key)) {
                match index % 3 {
                    0 => drop(tensors.remove(at)),
                    1 if index % 2 == 0 => tensors[at].1 = vec![7, 5],
                    1 => tensors[at].1 = vec![9, 9, 3, 3],
                    _ => tensors[at].0.push_str("_old"),
                }
                tensors.push(("first_stage_model.stray.weight".to_owned(), vec![4]));
            }
            let before = Checkpoint::open(write(folder.path(), "base", &base(tensors), "F32")).unwrap();
            let (layout, donor) = &donors[(index + state_index) % donors.len()];
            let case = format!("{state}, {name}, {layout}");
            let resolved =
                plan(&before, donor, &MergeVaeOptions::default()).unwrap_or_else(|it| panic!("{case}: {it}"));
            assert_loads(&resolved, &before, &case);
            let codes: Vec<NoticeCode> = resolved.notices.iter().map(|notice| notice.code).collect();
            let expected = if state == "missing" { NoticeCode::VaeInserted } else { NoticeCode::OldVaeBroken };
            assert_eq!(codes, [expected], "{case}");
        }
    }
}

#[test]
fn every_donor_replaces_every_state_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    for (state, tensors) in states() {
        let before = Checkpoint::open(write(folder.path(), "base", &base(tensors), "F32")).unwrap();
        for (layout, tensors) in donors() {
            let donor = Checkpoint::open(write(folder.path(), "donor", &tensors, "F16")).unwrap();
            let case = format!("{state}, {layout}");
            let resolved =
                plan(&before, &donor, &MergeVaeOptions::default()).unwrap_or_else(|it| panic!("{case}: {it}"));
            assert_loads(&resolved, &before, &case);
            if state == "intact" {
                assert!(resolved.state_dict.keys().eq(before.state_dict().keys()), "{case}");
                assert_eq!(resolved.notices, [], "{case}");
            }
        }
    }
}

#[test]
fn a_donor_that_lacks_a_key_is_an_error_that_names_it_as_the_file_does() {
    let folder = tempfile::tempdir().unwrap();
    let bases: Vec<Checkpoint> = ["intact", "missing"]
        .into_iter()
        .map(|wanted| {
            let (_, tensors) = states().into_iter().find(|(state, _)| *state == wanted).unwrap();
            Checkpoint::open(write(folder.path(), wanted, &base(tensors), "F16")).unwrap()
        })
        .collect();
    let [intact, headless] = bases.as_slice() else { unreachable!() };
    for (layout, tensors) in donors().into_iter().filter(|(layout, _)| ["bare", "vae", "diffusers"].contains(layout)) {
        for lacking in 0..tensors.len() {
            let mut tensors = tensors.clone();
            let (key, _) = tensors.remove(lacking);
            let donor = Checkpoint::open(write(folder.path(), "donor", &tensors, "F16")).unwrap();
            let error = plan(intact, &donor, &MergeVaeOptions::default()).unwrap_err();
            assert_eq!(error.tensor(), Some(key.as_str()), "{layout}: {error}");
            assert_eq!((error.hint(), error.file()), (Some(Hint::Partial), Some(donor.path())), "{layout}: {error}");
            assert!(error.to_string().contains("intact"), "{error}");
            let partial = MergeVaeOptions::default().partial(true);
            let resolved = plan(intact, &donor, &partial).unwrap();
            assert_loads(&resolved, intact, &format!("{layout} without {key}"));
            assert_eq!(resolved.notices.iter().map(|it| it.code).collect::<Vec<_>>(), [NoticeCode::OwnVaeKept]);
            for options in [MergeVaeOptions::default(), partial] {
                let error = plan(headless, &donor, &options).unwrap_err();
                assert_eq!((error.tensor(), error.hint()), (Some(key.as_str()), None), "{layout}: {error}");
            }
        }
    }
}

#[test]
fn refuses_vaes_that_webui_cannot_load() {
    let folder = tempfile::tempdir().unwrap();
    let change = |key: &str, dims: &[u64]| {
        let mut tensors = ldm();
        tensors.iter_mut().find(|(found, _)| found == key).unwrap().1 = dims.to_vec();
        tensors
    };
    let with = |key: &str| [ldm(), vec![(key.to_owned(), vec![4])]].concat();
    let wide: Shapes = {
        let schema = VaeSchema::new(vae_schema::widths(8));
        schema.keys().map(|key| (key.to_owned(), schema.get(key).unwrap().to_vec())).collect()
    };
    let cases = [
        ("16 latent channels", change("decoder.conv_in.weight", &[16, 16, 3, 3])),
        ("shape [9], expected [4]", change("encoder.conv_in.bias", &[9])),
        ("shape [4, 4, 3, 3], expected [4, 3, 3, 3]", change("encoder.conv_in.weight", &[4, 4, 3, 3])),
        ("unknown key", with("encoder.down.4.block.0.conv1.weight")),
        ("twice", with("encoder.mid.attn_1.to_q.weight")),
        ("2 VAEs", [ldm(), prefixed("vae.", ldm())].concat()),
        ("expected [8]", wide),
        ("no VAE", prefixed("model.diffusion_model.", ldm())),
    ];
    for (state, tensors) in states() {
        let mut tensors = base(tensors);
        // The width of SD v1's text, divided by 32, as the widths of this VAE.
        let context = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight";
        tensors.push((context.to_owned(), vec![4, 24]));
        let before = Checkpoint::open(write(folder.path(), "base", &tensors, "F32")).unwrap();
        for (words, donor) in &cases {
            let donor = Checkpoint::open(write(folder.path(), "donor", donor, "F16")).unwrap();
            let error = plan(&before, &donor, &MergeVaeOptions::default()).unwrap_err().to_string();
            let words = if *words == "expected [8]" { "expected [" } else { words };
            assert!(error.contains(words), "{state}: {error}");
            assert!(error.contains("donor: ") && error.ends_with("base"), "{state}: {error}");
        }
    }
}

#[test]
fn checks_the_roles_and_offers_the_other_order() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, tensors: &Shapes| Checkpoint::open(write(folder.path(), name, tensors, "F16")).unwrap();
    let vae = open("vae", &ldm());
    let checkpoint = open("checkpoint", &base(Vec::new()));
    let lora = open("lora", &vec![("lora_unet_mid.lora_down.weight".to_owned(), vec![4, 8])]);
    let error = plan(&vae, &checkpoint, &MergeVaeOptions::default()).unwrap_err();
    assert_eq!((error.hint(), error.file()), (Some(Hint::SwapInputs), Some(vae.path())));
    let with_video_vae =
        open("video-vae", &vec![("decoder.mid.block_1.time_stack.in_layers.0.weight".to_owned(), vec![4])]);
    // In the other order, the VAE would be refused.
    for base in [&lora, &with_video_vae] {
        let error = plan(base, &checkpoint, &MergeVaeOptions::default()).unwrap_err();
        assert_eq!(error.hint(), None);
        assert!(error.to_string().contains("expected a checkpoint with a Stable Diffusion UNet"), "{error}");
    }
    for (base, found) in [(&lora, "found: LoRA (kohya)"), (&vae, "found: VAE")] {
        let error = plan(base, &vae, &MergeVaeOptions::default()).unwrap_err();
        assert_eq!(error.hint(), None);
        assert!(error.to_string().contains(found), "{error}");
    }
    let mut upscaler = base(Vec::new());
    upscaler[0].1 = vec![4, 7, 3, 3];
    let mut video = base(Vec::new());
    video.push(("model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight".to_owned(), vec![4]));
    for (tensors, found) in [(upscaler, "7 input channels"), (video, "found: Stable Video Diffusion")] {
        let error = plan(&open("other", &tensors), &vae, &MergeVaeOptions::default()).unwrap_err().to_string();
        assert!(error.contains(found), "{error}");
    }
    let error = plan(&checkpoint, &lora, &MergeVaeOptions::default()).unwrap_err().to_string();
    assert!(error.contains("found LoRA (kohya)") && error.contains("checkpoint"), "{error}");
}

#[test]
fn replaces_an_unusable_tensor_of_the_same_name_only_once() {
    let folder = tempfile::tempdir().unwrap();
    // A converter's bug: the VAE stays, and stray keys without prefix are added.
    let tensors = base([prefixed("first_stage_model.", ldm()), ldm()].concat());
    let before = Checkpoint::open(write(folder.path(), "base", &tensors, "F32")).unwrap();
    let donor = Checkpoint::open(write(folder.path(), "donor", &ldm(), "F16")).unwrap();
    let resolved = plan(&before, &donor, &MergeVaeOptions::default()).unwrap();
    assert_loads(&resolved, &before, "strays");
    let dropped = resolved
        .ledger
        .lines()
        .iter()
        .filter(|line| matches!(line.disposition, Disposition::Dropped { reason: DropReason::OldVae }));
    assert_eq!(dropped.count(), 248);
}

#[test]
fn compares_the_family_of_known_vaes() {
    use crate::family::Architecture;
    let base = Checkpoint::open("../../fixtures/tiny-sd1.ckpt").unwrap();
    assert_eq!(check_published(&base, Architecture::Sd2, false).unwrap(), None);
    let error = check_published(&base, Architecture::SdxlBase, false).unwrap_err();
    assert_eq!(error.hint(), Some(Hint::AllowFamilyMismatch));
    assert!(error.to_string().contains("SDXL base") && error.to_string().contains("tiny-sd1.ckpt"), "{error}");
    let notice = check_published(&base, Architecture::SdxlBase, true).unwrap().unwrap();
    assert_eq!(notice.code, NoticeCode::VaeFamilyMismatch);
}

#[test]
fn matches_the_dtype_of_a_vae_that_lacks_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let (_, half) = states().into_iter().find(|(state, _)| *state == "half missing").unwrap();
    let before = Checkpoint::open(write(folder.path(), "base", &base(half), "F32")).unwrap();
    let donor = Checkpoint::open(write(folder.path(), "donor", &ldm(), "F16")).unwrap();
    let resolved = plan(&before, &donor, &MergeVaeOptions::default().vae_dtype(VaeDtype::Match)).unwrap();
    let mut vae = resolved.state_dict.iter().filter(|(key, _)| vae::is_checkpoint_key(key));
    assert!(vae.all(|(_, tensor)| tensor.dtype() == Dtype::F32));
}
