//! Reads checkpoints where they are: on a model hub, behind HTTPS, in S3.
//!
//! [`Network`] opens addresses for [`trinart_ckpt_formats`]: after [`Network::connect`], its functions accept addresses
//! where they accept paths.
//!
//! | address | leads to |
//! |---|---|
//! | `https://HOST/PATH` | a file |
//! | `hf://OWNER/NAME[@REVISION][/PATH]` | a file or a diffusers folder of a hub; [`hub`] describes its environment variables |
//! | `s3://BUCKET/KEY` | a file or a folder; the environment variables are those of the AWS tools |
//!
//! Only the ranges that are needed are read, in blocks of 64 KiB and pieces of up to 4 MiB. Reads that follow one another
//! are read ahead over several connections. A connection that drops is resumed where it ended. Every answer is held
//! against the length and the tag of the first one, so that a file that changes is an error.
//!
//! Secrets (user names and queries in addresses, tokens, signed addresses of redirects) stay within this crate:
//! [`Network::adopt`] turns an address into one without them, which is the one to pass on.

mod address;
mod cache;
mod client;
mod failure;
mod file;
pub mod hub;
mod listing;
mod loopback;
mod network;
mod s3;
mod upload;
mod web;

pub use network::Network;
