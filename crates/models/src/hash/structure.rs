use sha2::{Digest, Sha256};

use trinart_ckpt_formats::state_dict::StateDict;

/// Returns a sha256 of the keys, dtypes and shapes of a state dict, in their order. Values and their places in the file have no
/// part in it.
pub fn structure_hash(state_dict: &StateDict) -> [u8; 32] {
    let mut described = Vec::with_capacity(state_dict.len() * 128);
    let number = |described: &mut Vec<u8>, value: u64| described.extend_from_slice(&value.to_le_bytes());
    for (key, tensor) in state_dict.iter() {
        let dims = tensor.shape().dims();
        // The lengths first, so that no two state dicts are described alike.
        number(&mut described, key.len() as u64);
        described.extend_from_slice(key.as_bytes());
        number(&mut described, tensor.dtype().name().len() as u64);
        described.extend_from_slice(tensor.dtype().name().as_bytes());
        number(&mut described, dims.len() as u64);
        dims.iter().for_each(|&dim| number(&mut described, dim));
    }
    Sha256::digest(&described).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};

    fn of(tensors: &[(&str, Dtype, &[u64], u8)]) -> [u8; 32] {
        let mut state_dict = StateDict::new();
        for &(key, dtype, dims, value) in tensors {
            let shape = Shape::new(dims).unwrap();
            let bytes = vec![value; shape.bytes(dtype) as usize];
            state_dict.insert(key, LazyTensor::owned(dtype, shape, bytes).unwrap()).unwrap();
        }
        structure_hash(&state_dict)
    }

    #[test]
    fn depends_on_keys_dtypes_shapes_and_order_only() {
        let all = [
            of(&[("a", Dtype::F16, &[2, 3], 1), ("b", Dtype::F16, &[], 1)]),
            of(&[("b", Dtype::F16, &[], 1), ("a", Dtype::F16, &[2, 3], 1)]),
            of(&[("a", Dtype::F32, &[2, 3], 1), ("b", Dtype::F16, &[], 1)]),
            of(&[("a", Dtype::F16, &[3, 2], 1), ("b", Dtype::F16, &[], 1)]),
            of(&[("a", Dtype::F16, &[6], 1), ("b", Dtype::F16, &[], 1)]),
            of(&[("a", Dtype::F16, &[2, 3], 1), ("c", Dtype::F16, &[], 1)]),
            of(&[("a", Dtype::F16, &[2, 3], 1)]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all.iter().skip(index + 1).all(|other| other != one), "{index}");
        }
        assert_eq!(of(&[("a", Dtype::F16, &[2], 1)]), of(&[("a", Dtype::F16, &[2], 9)]));
    }
}
