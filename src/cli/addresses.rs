//! Addresses in place of paths.

use std::ffi::OsString;

use trinart_ckpt_remote::Network;

/// The option that allows addresses without encryption.
const PLAIN_HTTP: &str = "--plain-http";

/// Prepares for addresses, and returns the arguments without the secrets in them: no error and no report can repeat those.
pub(super) fn connect(arguments: Vec<OsString>) -> Vec<OsString> {
    let network = Network::new().plain_http(arguments.iter().any(|argument| argument == PLAIN_HTTP));
    let arguments = network.adopt_arguments(arguments);
    network.connect();
    arguments
}
