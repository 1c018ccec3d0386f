//! Textual inversions: words of a prompt that stand for vectors of a file, as in WebUI.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use crate::errors::from_candle;
use crate::files::{NetworkKind, UsedNetwork, files_under};
use crate::weights;
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::error::{Error, Result};
use trinart_ckpt_formats::io::NoProgress;
use trinart_ckpt_formats::tensor::LazyTensor;
use trinart_ckpt_models::hash::file_sha256;

/// Number of tokens between the start token and the end token of a chunk: the maximum number of vectors.
pub(super) const LENGTH: usize = 75;

/// Extensions of files with embeddings.
const EXTENSIONS: [&str; 3] = ["safetensors", "pt", "bin"];

/// Extensions of pictures that may contain an embedding.
const PICTURES: [&str; 4] = ["png", "webp", "jxl", "avif"];

/// Digits of a hash in a picture's parameters.
const HASH_DIGITS: usize = 12;

/// The names of the two tensors of an embedding for SDXL.
const SDXL: [&str; 2] = ["clip_l", "clip_g"];

/// An embedding: a name that stands for vectors.
#[derive(Debug, Clone)]
struct Embedding {
    name: String,
    path: PathBuf,
    hash: String,
    /// The vectors for a text encoder of each width, `[count, width]`.
    vectors: Vec<LazyTensor>,
    count: usize,
}

/// The embeddings that prompts name.
#[derive(Debug, Clone, Default)]
pub struct Embeddings {
    list: Vec<Embedding>,
}

impl PartialEq for Embeddings {
    fn eq(&self, other: &Self) -> bool {
        let names = |it: &Embeddings| it.list.iter().map(|it| (it.name.clone(), it.hash.clone())).collect::<Vec<_>>();
        names(self) == names(other)
    }
}

impl Embeddings {
    /// Opens the embeddings of a folder whose file names occur in one of the texts, without reading their vectors.
    ///
    /// Fails if the folder or one of these files is not readable, or if two of them have one name.
    pub fn open(folder: impl AsRef<Path>, texts: &[&str]) -> Result<Self> {
        let texts: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
        let name = |path: &Path| path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let is_named = |path: &PathBuf| {
            let name = name(path).to_lowercase();
            !name.is_empty() && texts.iter().any(|text| text.contains(&name))
        };
        let named = |extensions: &[&str]| -> Result<Vec<PathBuf>> {
            Ok(files_under(folder.as_ref(), extensions)?.into_iter().filter(is_named).collect())
        };
        let mut list: Vec<Embedding> = Vec::new();
        for path in named(&EXTENSIONS)? {
            let name = name(&path);
            if let Some(same) = list.iter().find(|other| other.name == name) {
                let message = format!("also an embedding named {name:?}: {}; rename one of them", same.path.display());
                return Err(Error::usage(message).in_file(path));
            }
            list.push(Embedding::open(name, &path)?);
        }
        // Most of them are previews of the files beside them.
        let pictures = named(&PICTURES)?;
        if let Some(path) = pictures.iter().find(|path| list.iter().all(|embedding| embedding.name != name(path))) {
            let message = "the prompt names this picture, and embeddings in pictures are not supported: convert it to \
                           safetensors, or move it";
            return Err(Error::unsupported(message).in_file(path));
        }
        Ok(Embeddings { list })
    }

    /// Whether the list of embeddings is empty.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The name of each embedding, its number of vectors, and its hash as in WebUI's `TI hashes`: twelve digits.
    pub fn iter(&self) -> impl Iterator<Item = (&str, usize, &str)> {
        self.list.iter().map(|it| (it.name.as_str(), it.count, it.hash.as_str()))
    }

    /// The embeddings as a picture's parameters name them.
    pub(crate) fn used(&self) -> impl Iterator<Item = UsedNetwork> {
        self.list.iter().map(|it| UsedNetwork {
            kind: NetworkKind::Embedding,
            name: it.name.clone(),
            hash: it.hash.clone(),
            path: it.path.clone(),
        })
    }

    /// Keeps the embeddings whose index fulfills a condition.
    pub(crate) fn retain(&mut self, keep: impl Fn(usize) -> bool) {
        let mut index = 0;
        self.list.retain(|_| {
            index += 1;
            keep(index - 1)
        });
    }

    /// Returns the vectors of all embeddings for a text encoder of this width, `[count, width]`, in F32 on the CPU. `None`
    /// if there are no embeddings.
    ///
    /// Fails if an embedding is for other text encoders.
    pub(crate) fn vectors(&self, width: usize) -> Result<Option<Tensor>> {
        let mut all = Vec::new();
        for embedding in &self.list {
            let has_width = |tensor: &&LazyTensor| tensor.shape().dims().last().copied() == Some(width as u64);
            let Some(vectors) = embedding.vectors.iter().find(has_width) else {
                let found: Vec<String> = embedding.vectors.iter().map(|vectors| vectors.shape().to_string()).collect();
                let message =
                    format!("an embedding of shape {}, the text encoder needs {width} values", found.join(", "));
                return Err(Error::mismatch(message).in_file(&embedding.path));
            };
            let vectors = weights::tensor(vectors, DType::F32, &Device::Cpu)?;
            all.push(vectors.reshape((embedding.count, width)).map_err(from_candle)?);
        }
        if all.is_empty() {
            return Ok(None);
        }
        Tensor::cat(&all, 0).map(Some).map_err(from_candle)
    }
}

impl Embedding {
    fn open(name: String, path: &Path) -> Result<Self> {
        let fail = |message: String| Err(Error::unsupported(message).in_file(path));
        let stored = StoredCheckpoint::open(path)?;
        let tensors: Vec<(&str, &LazyTensor)> = stored.state_dict().iter().collect();
        let is_sdxl = tensors.len() == SDXL.len() && SDXL.iter().all(|name| stored.state_dict().contains(name));
        if tensors.len() != 1 && !is_sdxl {
            return fail(format!("expected an embedding with one term, found {} tensors", tensors.len()));
        }
        let mut counts = Vec::new();
        for (_, tensor) in &tensors {
            match tensor.shape().dims() {
                [_] => counts.push(1),
                [count, _] if (1..=LENGTH as u64).contains(count) => counts.push(*count),
                _ => return fail(format!("shape {} is no embedding: expected 1 to {LENGTH} vectors", tensor.shape())),
            }
        }
        let count = counts.first().copied().filter(|first| counts.iter().all(|count| count == first));
        let Some(count) = count else {
            return fail("the two text encoders have different numbers of vectors".to_owned());
        };
        let [source] = stored.sources() else { return fail("expected an embedding in a single file".to_owned()) };
        let hash = file_sha256(source, &NoProgress)?.chars().take(HASH_DIGITS).collect();
        let vectors = tensors.into_iter().map(|(_, tensor)| tensor.clone()).collect();
        Ok(Embedding { name, path: path.to_owned(), hash, vectors, count: count as usize })
    }
}
