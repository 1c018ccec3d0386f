//! The opcodes by which a pickle names and calls what is outside of it. Nothing is looked up and nothing is called.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::machine::Machine;
use crate::pickle::op;
use crate::pickle::survey::Oddity;
use crate::pickle::value::{GlobalUse, Name, Node, Object, Text};

impl Machine<'_> {
    pub(super) fn global(&mut self, code: u8, offset: usize) -> Result<()> {
        let name = if code == op::GLOBAL { self.global_lines() } else { self.global_from_stack() };
        match name {
            // Python would look up a name that the pickle computes; no list knows it.
            Err(_) if code == op::STACK_GLOBAL && self.is_survey() => {
                self.note(Oddity::ComputedName, offset);
                self.push(Node::Unknown)
            }
            name => self.note_global(name?, offset),
        }
    }

    fn global_lines(&mut self) -> Result<Name> {
        let module = self.name_line("a module name")?;
        let name = self.name_line("a class name")?;
        Ok(Name { module, name })
    }

    fn name_line(&mut self, what: &str) -> Result<String> {
        if self.is_survey() {
            return Ok(lossy(self.cursor.line(limits::PICKLE_BYTES as usize, what)?));
        }
        utf8(self.cursor.line(limits::GLOBAL_NAME_BYTES, what)?)
    }

    fn global_from_stack(&mut self) -> Result<Name> {
        let parts = self.pop_many(2)?;
        let mut parts = parts.iter().map(|id| match self.nodes.get(id.0 as usize) {
            Some(Node::Str(text)) => {
                let bytes = self.text_bytes(text);
                if self.is_survey() {
                    return Ok(lossy(bytes));
                }
                if bytes.len() > limits::GLOBAL_NAME_BYTES {
                    return Err(Error::limit(format!("a name longer than {} bytes", limits::GLOBAL_NAME_BYTES)));
                }
                utf8(bytes)
            }
            _ => Err(Error::malformed("STACK_GLOBAL of values that are not strings")),
        });
        let mut part = || parts.next().unwrap_or_else(|| Err(Error::malformed("STACK_GLOBAL without names")));
        Ok(Name { module: part()?, name: part()? })
    }

    /// Notes a name where it stands, and pushes it.
    fn note_global(&mut self, name: Name, offset: usize) -> Result<()> {
        let name = match self.names.get(&name) {
            Some(known) => Arc::clone(known),
            None => {
                self.name_bytes += name.module.len() + name.name.len();
                if self.name_bytes > limits::GLOBAL_NAMES_BYTES {
                    return Err(Error::limit(format!(
                        "names of more than {} bytes in a pickle",
                        limits::GLOBAL_NAMES_BYTES
                    )));
                }
                if self.names.len() == limits::GLOBAL_NAMES {
                    return Err(Error::limit(format!("more than {} names in a pickle", limits::GLOBAL_NAMES)));
                }
                let name = Arc::new(name);
                self.names.insert(Arc::clone(&name));
                name
            }
        };
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
                let name = self.global_lines()?;
                self.note_global(name, offset)?;
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
        let is_survey = self.is_survey();
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
            let most = if self.is_survey() { limits::PICKLE_BYTES as usize } else { limits::KEY_BYTES };
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

fn utf8(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::malformed("a global name that is not UTF-8"))
}
