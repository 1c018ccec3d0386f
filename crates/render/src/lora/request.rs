//! What a prompt says about a LoRA.

use std::sync::Arc;

use super::file::LoraFile;
use crate::files::{NetworkKind, UsedNetwork};
use crate::prompt::Mention;
use trinart_ckpt_formats::error::{Error, Result};

/// How strongly a prompt applies a LoRA: `<lora:name:text encoder:UNet:rank>`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) name: String,
    pub(super) text_encoder: f64,
    pub(super) unet: f64,
    /// Use only this many of the ranks.
    pub(super) rank: Option<usize>,
}

/// A LoRA of a prompt.
#[derive(Debug, Clone)]
pub(crate) struct Lora {
    pub(super) request: Request,
    pub(super) file: Arc<LoraFile>,
}

impl Lora {
    /// The LoRA as a picture's parameters name it.
    pub(crate) fn used(&self) -> UsedNetwork {
        UsedNetwork {
            kind: NetworkKind::Lora,
            name: self.request.name.clone(),
            hash: self.file.hash().to_owned(),
            path: self.file.path().to_owned(),
        }
    }
}

impl Request {
    /// Reads the arguments of `<lora:…>`.
    pub(super) fn read(mention: &Mention) -> Result<Self> {
        let Mention { kind, arguments } = mention;
        let shown = format!("<{kind}:{}> in the prompt", arguments.join(":"));
        if kind != "lora" {
            return Err(Error::unsupported(format!(
                "{shown} loads a network of a kind that is not supported: remove it"
            )));
        }
        let (mut positional, mut te, mut unet, mut rank) = (Vec::new(), None, None, None);
        for argument in arguments {
            match argument.split_once('=').filter(|(_, value)| !value.contains('=')) {
                Some(("te", value)) => te = Some(value),
                Some(("unet", value)) => unet = Some(value),
                Some(("dyn", value)) => rank = Some(value),
                // WebUI ignores other names.
                Some(_) => {}
                None => positional.push(argument.as_str()),
            }
        }
        let mut positional = positional.into_iter();
        let name = positional.next().ok_or_else(|| Error::usage(format!("{shown} has no name")))?.to_owned();
        let (first, second, third) = (positional.next(), positional.next(), positional.next());
        let number = |text: &str| {
            let found = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            found.ok_or_else(|| Error::usage(format!("{shown}: expected a multiplier, found {text:?}")))
        };
        let text_encoder = te.or(first).map_or(Ok(1.0), number)?;
        let unet = unet.or(second).map_or(Ok(text_encoder), number)?;
        let count = |text: &str| {
            let found = text.trim().parse::<usize>().ok().filter(|rank| *rank > 0);
            found.ok_or_else(|| Error::usage(format!("{shown}: expected a number of ranks, found {text:?}")))
        };
        Ok(Request { name, text_encoder, unet, rank: rank.or(third).map(count).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::split_networks;

    #[test]
    fn reads_multipliers_by_position_and_by_name() {
        let read = |prompt: &str| {
            let found = Request::read(&split_networks(prompt).1[0]).unwrap();
            (found.name, found.text_encoder, found.unet, found.rank)
        };
        assert_eq!(read("<lora:a>"), ("a".into(), 1.0, 1.0, None));
        assert_eq!(read("<lora:a b:0.8>"), ("a b".into(), 0.8, 0.8, None));
        assert_eq!(read("<lora:a:0.8:-0.5>"), ("a".into(), 0.8, -0.5, None));
        assert_eq!(read("<lora:a:1:unet=0.5:dyn=4>"), ("a".into(), 1.0, 0.5, Some(4)));
        assert_eq!(read("<lora:te=0:a:1:1:8>"), ("a".into(), 0.0, 1.0, Some(8)));
        for wrong in
            ["<lora:a:x>", "<lora:a:inf>", "<lora:a:1:1:0>", "<lora:te=1>", "<lyco:a:1>", "<hypernet:a>", "<x:y>"]
        {
            assert!(Request::read(&split_networks(wrong).1[0]).is_err(), "{wrong}");
        }
    }
}
