//! Addresses in place of paths.

use std::ffi::OsString;
use std::sync::{Arc, OnceLock};

use trinart_ckpt_remote::Network;

/// The option that allows addresses without encryption.
const PLAIN_HTTP: &str = "--plain-http";

static NETWORK: OnceLock<Arc<Network>> = OnceLock::new();

/// Prepares for addresses, and returns the arguments without the secrets in them: no error and no report can repeat those.
pub(super) fn connect(arguments: Vec<OsString>) -> Vec<OsString> {
    let network = Network::new().plain_http(arguments.iter().any(|argument| argument == PLAIN_HTTP));
    let network = NETWORK.get_or_init(|| Arc::new(network));
    let arguments = network.adopt_arguments(arguments);
    network.connect();
    arguments
}

/// Bytes of files that were received from servers.
pub(super) fn received() -> u64 {
    NETWORK.get().map_or(0, |network| network.received())
}
