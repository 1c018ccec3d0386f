use super::{identify, parsed};
use crate::file_kind::Model;

#[test]
fn names_networks_of_lycoris() {
    let networks = parsed(include_str!("../../../../../fixtures/kinds/lycoris.txt"));
    assert!(networks.len() >= 36, "{}", networks.len());
    for network in networks {
        let identity = identify(&network.tensors, "");
        assert_eq!(identity.kind.name(), network.kind, "{}", network.name);
        // Only the matrices of a LoRA show the width of the text.
        assert!(matches!(identity.model, Some(Model::Sd1 | Model::Sd1Or2)), "{}: {:?}", network.name, identity.model);
        let is_decomposed = network.name.contains("DoRA") && network.kind != "dora";
        assert_eq!(identity.details, if is_decomposed { vec!["DoRA"] } else { vec![] }, "{}", network.name);
    }
}
