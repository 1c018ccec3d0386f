//! Parses pickles for reading: fails on everything that is invalid or ambiguous.

use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::machine::{PickleMachine, too_many_opcodes};
use crate::pickle::value::{Id, Pickle};

/// Parses the pickle at the start of `bytes`, up to its STOP. Ignores the bytes behind it.
///
/// Accepts all opcodes of protocols 0 to 5 except the extension registry and out-of-band buffers. Stricter than Python
/// where readers disagree: fails if a frame nests, straddles another or extends past the end, or if values are left on
/// the stack.
pub fn parse(bytes: &[u8]) -> Result<Pickle> {
    let (machine, root) = run(bytes)?;
    Ok(machine.into_pickle(root))
}

/// Parses as [`parse`] does, but keeps the bytes instead of copying them.
pub(crate) fn parse_vec(mut bytes: Vec<u8>) -> Result<Pickle> {
    let (machine, root) = run(&bytes)?;
    let end = machine.cursor.position();
    let PickleMachine { nodes, globals, oddities, .. } = machine;
    bytes.truncate(end);
    Ok(Pickle { bytes, nodes, root, globals, oddities })
}

fn run(bytes: &[u8]) -> Result<(PickleMachine<'_>, Id)> {
    let mut machine = PickleMachine::new(bytes);
    let root = machine.run().map_err(|(offset, error)| machine.explain(offset, error, bytes))?;
    Ok((machine, root))
}

impl PickleMachine<'_> {
    /// Runs to STOP. Returns an error with the offset of the opcode that failed.
    fn run(&mut self) -> Result<Id, (usize, Error)> {
        for _ in 0..limits::PICKLE_OPCODES {
            let offset = self.cursor.position();
            match self.step(offset) {
                Ok(None) => {}
                Ok(Some(root)) => return Ok(root),
                Err(error) => return Err((offset, error)),
            }
        }
        Err((self.cursor.position(), too_many_opcodes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::op;
    use crate::pickle::value::Node;

    fn error(bytes: &[u8]) -> String {
        parse(bytes).unwrap_err().to_string()
    }

    #[test]
    fn memo_references_share_one_value() {
        // d = {'a': [1]}; (d, d)
        let pickle = parse(b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01]q\x02K\x01ash\x00\x86q\x03.").unwrap();
        let items = pickle.tuple(pickle.root()).unwrap();
        assert_eq!(items[0], items[1]);
        let Node::Dict(pairs) = pickle.node(items[0]) else { panic!("not a dict") };
        assert_eq!(pickle.str(pairs[0].0), Some("a"));
    }

    #[test]
    fn an_object_keeps_its_call_and_later_changes() {
        // d = OrderedDict(); d['k'] = None; d.__setstate__(5), in protocol 0.
        let pickle = parse(b"ccollections\nOrderedDict\n(tR(S'k'\nNuI5\nb.").unwrap();
        let (name, args, object) = pickle.call(pickle.root()).unwrap();
        assert!(name.is("collections", "OrderedDict"));
        assert!(args.is_empty());
        assert_eq!(pickle.str(object.pairs[0].0), Some("k"));
        assert_eq!(pickle.int(object.state[0]), Some(5));
        assert_eq!(pickle.globals()[0].offset, 0);
    }

    #[test]
    fn records_a_call_whose_result_is_popped() {
        let pickle = parse(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R0N.").unwrap();
        assert!(pickle.globals()[0].name.is("os", "system"));
        assert!(matches!(pickle.node(pickle.root()), Node::None));
        assert!(pickle.nodes().iter().any(|node| matches!(node, Node::Object(_))));
    }

    #[test]
    fn rejects_frames_that_nest_straddle_or_exceed_the_end() {
        assert!(parse(b"\x80\x04\x95\x02\0\0\0\0\0\0\0N.").is_ok());
        assert!(error(b"\x80\x04\x95\x03\0\0\0\0\0\0\0N.").contains("past the end"));
        assert!(error(b"\x80\x04\x95\x0d\0\0\0\0\0\0\0\x95\x02\0\0\0\0\0\0\0N.xx").contains("within another frame"));
        assert!(error(b"\x80\x04\x95\x02\0\0\0\0\0\0\0\x8c\x01a.").contains("straddles"));
    }

    #[test]
    fn errors_have_the_offset_of_the_opcode() {
        for (bytes, found, offset) in [
            (&b"\x80\x02"[..], "cut short", 2),
            (b"\x80\x02X\xff\xff\xff\xffab", "cut short", 2),
            (b"\x80\x02h\x07.", "does not exist", 2),
            (b"\x80\x02.", "stack", 2),
            (b"\x80\x02NN.", "left on the stack", 4),
            (b"\x80\x02(N.", "left on the stack", 4),
            (b"\x80\x02\x82\x01.", "EXT1", 2),
            (b"\x80\x09.", "protocol 9", 0),
            (b"\x80\x02\xff.", "0xff is not", 2),
            (b"\x80\x02K\x01K\x02a.", "takes no items", 6),
            (b"\x80\x02}(K\x01u.", "without its value", 6),
            (b"\x80\x02\x8b\xff\xff\xff\xff.", "negative length", 2),
            (b"cos\n", "does not end", 0),
        ] {
            let error = parse(bytes).unwrap_err();
            assert!(error.to_string().contains(found), "{bytes:?}: {error}");
            assert_eq!(error.offset(), Some(offset), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn nesting_and_bombs_cost_one_node_per_opcode() {
        // The most nested tuples allowed.
        let mut deep = b"\x80\x02)".to_vec();
        deep.extend(std::iter::repeat_n(op::TUPLE1, limits::PICKLE_NODES - 1));
        deep.push(op::STOP);
        assert_eq!(parse(&deep).unwrap().nodes().len(), limits::PICKLE_NODES);
        deep.insert(3, op::TUPLE1);
        assert!(error(&deep).contains("values in a pickle"));
        // A tuple doubled forty times unfolds to 2^40 values but has 41 nodes.
        let mut bomb = b"\x80\x02)".to_vec();
        bomb.extend([op::DUP, op::TUPLE2].repeat(40));
        bomb.push(op::STOP);
        assert_eq!(parse(&bomb).unwrap().nodes().len(), 41);
        let marks = [op::MARK].repeat(limits::PICKLE_MARKS + 1);
        assert!(error(&marks).contains("open marks"));
    }
}
