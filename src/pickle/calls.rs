//! The opcodes by which a pickle names and calls what is outside of it. Nothing is looked up and nothing is called.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::machine::Machine;
use crate::pickle::names::Part;
use crate::pickle::op;
use crate::pickle::survey::Oddity;
use crate::pickle::value::{GlobalUse, Id, Node, Object, Text};

impl Machine<'_> {
    pub(super) fn global(&mut self, code: u8, offset: usize) -> Result<()> {
        if code == op::GLOBAL {
            return self.global_lines(offset);
        }
        match self.pop_many(2)?.as_slice() {
            &[module, name] => match (self.part_of(module), self.part_of(name)) {
                (Ok(module), Ok(name)) => self.note_global(&module, &name, offset),
                // Python would look up a name that the pickle computes; no list knows it.
                (Err(_), _) | (_, Err(_)) if self.is_survey => {
                    self.note(Oddity::ComputedName, offset);
                    self.push(Node::Unknown)
                }
                (Err(error), _) | (_, Err(error)) => Err(error),
            },
            _ => Err(Error::malformed("STACK_GLOBAL without names")),
        }
    }

    fn global_lines(&mut self, offset: usize) -> Result<()> {
        let module = self.line_part("a module name")?;
        let name = self.line_part("a class name")?;
        self.note_global(&module, &name, offset)
    }

    fn line_part(&mut self, what: &str) -> Result<Part> {
        if self.is_survey {
            let line = self.cursor.line(limits::PICKLE_BYTES as usize, what)?;
            return Ok(self.names.part(&lossy(line)));
        }
        let text = utf8(self.cursor.line(limits::GLOBAL_NAME_BYTES, what)?)?;
        Ok(self.names.part(text))
    }

    /// The part of a name that a string on the stack is. Read once, however often it is used.
    fn part_of(&mut self, id: Id) -> Result<Part> {
        if let Some(part) = self.names.known(id) {
            return Ok(part);
        }
        let Some(Node::Str(text)) = self.nodes.get(id.0 as usize) else {
            return Err(Error::malformed("STACK_GLOBAL of values that are not strings"));
        };
        let bytes = self.text_bytes(text);
        let shown = if self.is_survey {
            lossy(bytes)
        } else if bytes.len() > limits::GLOBAL_NAME_BYTES {
            return Err(Error::limit(format!("a name longer than {} bytes", limits::GLOBAL_NAME_BYTES)));
        } else {
            utf8(bytes)?.to_owned()
        };
        let part = self.names.part(&shown);
        self.names.keep(id, &part);
        Ok(part)
    }

    /// Notes a name where it stands, and pushes it.
    fn note_global(&mut self, module: &Part, name: &Part, offset: usize) -> Result<()> {
        let name = self.names.name(module, name)?;
        self.globals.push(GlobalUse { name: Arc::clone(&name), offset: offset as u64 });
        self.push(Node::Global(name))
    }

    pub(super) fn text_bytes<'b>(&'b self, text: &'b Text) -> &'b [u8] {
        match text {
            Text::Span { start, len } => self.cursor.at(*start as usize, *len as usize),
            Text::Owned(bytes) => bytes,
        }
    }

    pub(super) fn call(&mut self, code: u8, offset: usize) -> Result<()> {
        let (callable, args, kwargs) = match code {
            op::INST => {
                self.global_lines(offset)?;
                let callable = self.pop()?;
                let args = self.pop_mark()?;
                (callable, self.alloc(Node::Tuple(args))?, None)
            }
            op::OBJ => {
                let mut args = self.pop_mark()?;
                if args.is_empty() {
                    return Err(Error::malformed("OBJ without a class"));
                }
                let callable = args.remove(0);
                (callable, self.alloc(Node::Tuple(args))?, None)
            }
            op::NEWOBJ_EX => {
                let kwargs = self.pop()?;
                let args = self.pop()?;
                (self.pop()?, args, Some(kwargs))
            }
            _ => {
                let args = self.pop()?;
                (self.pop()?, args, None)
            }
        };
        self.push(Node::Object(Box::new(Object {
            callable,
            args,
            kwargs,
            state: Vec::new(),
            items: Vec::new(),
            pairs: Vec::new(),
            offset: offset as u64,
        })))
    }

    pub(super) fn build(&mut self, offset: usize) -> Result<()> {
        let state = self.pop()?;
        let target = self.top()?;
        let is_survey = self.is_survey;
        match self.nodes.get_mut(target.0 as usize) {
            Some(Node::Object(object)) => {
                object.state.push(state);
                Ok(())
            }
            _ if is_survey => {
                self.note(Oddity::State(target), offset);
                Ok(())
            }
            _ => Err(Error::malformed("BUILD on a value that has no state")),
        }
    }

    pub(super) fn persistent(&mut self, code: u8, offset: usize) -> Result<()> {
        let id = if code == op::PERSID {
            let most = if self.is_survey { limits::PICKLE_BYTES as usize } else { limits::KEY_BYTES };
            let line = self.cursor.line(most, "a persistent id")?;
            let text = Text::Owned(line.into());
            self.alloc(Node::Str(text))?
        } else {
            self.pop()?
        };
        self.note(Oddity::Persistent(id), offset);
        self.push(Node::Persistent(id))
    }
}

/// A name for a survey: what is not UTF-8 or too long for one is not found by Python either, but has to be shown.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..bytes.len().min(limits::GLOBAL_NAME_BYTES + 1)).unwrap_or_default())
        .into_owned()
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Error::malformed("a global name that is not UTF-8"))
}
