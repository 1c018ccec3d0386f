//! Opcodes that refer to things outside the pickle: global names, calls, persistent ids, extensions and buffers.
//! Nothing is imported and nothing is called.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::machine::PickleMachine;
use crate::pickle::names::NamePart;
use crate::pickle::op;
use crate::pickle::value::{Content, GlobalUse, Id, Node, Object, Oddity, Text};

impl PickleMachine<'_> {
    pub(super) fn global(&mut self, code: u8, offset: usize) -> Result<()> {
        if code == op::GLOBAL {
            return self.global_lines(offset);
        }
        let [module, name] = self.pop_array()?;
        match (self.part_of(module), self.part_of(name)) {
            (Ok(module), Ok(name)) => self.note_global(&module, &name, offset),
            // Python would import a name that the pickle computes.
            (Err(_), _) | (_, Err(_)) if self.is_lenient => {
                self.note(Oddity::ComputedName, offset);
                self.push(Node::Unknown)
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    fn global_lines(&mut self, offset: usize) -> Result<()> {
        let module = self.line_part("a module name")?;
        let name = self.line_part("a class name")?;
        self.note_global(&module, &name, offset)
    }

    fn line_part(&mut self, what: &str) -> Result<NamePart> {
        if self.is_lenient {
            let line = self.cursor.line(limits::PICKLE_BYTES as usize, what)?;
            return Ok(self.names.part(&lossy(line)));
        }
        let text = utf8(self.cursor.line(limits::GLOBAL_NAME_BYTES, what)?)?;
        Ok(self.names.part(text))
    }

    /// Interns a string on the stack as a part of a name. Decodes each value only once.
    fn part_of(&mut self, id: Id) -> Result<NamePart> {
        if let Some(part) = self.names.known(id) {
            return Ok(part);
        }
        let Node::Str(text) = self.node(id) else {
            return Err(Error::malformed("STACK_GLOBAL of values that are not strings"));
        };
        let bytes = self.cursor.text(text);
        let shown = if self.is_lenient {
            lossy(bytes)
        } else if bytes.len() > limits::GLOBAL_NAME_BYTES {
            return Err(Error::limit(format!("a name is longer than {} bytes", limits::GLOBAL_NAME_BYTES)));
        } else {
            utf8(bytes)?.to_owned()
        };
        let part = self.names.part(&shown);
        self.names.keep(id, &part);
        Ok(part)
    }

    /// Records the occurrence of a global name and pushes it.
    fn note_global(&mut self, module: &NamePart, name: &NamePart, offset: usize) -> Result<()> {
        let name = self.names.name(module, name)?;
        self.globals.push(GlobalUse { name: Arc::clone(&name), offset: offset as u64 });
        self.push(Node::Global(name))
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
        self.push(Node::Object(Box::new(Object::called(callable, args, kwargs, code, offset as u64))))
    }

    pub(super) fn build(&mut self, offset: usize) -> Result<()> {
        let state = self.pop()?;
        let target = self.top()?;
        let (is_lenient, skips_arrays) = (self.is_lenient, self.skips_arrays);
        match self.node_mut(target) {
            Node::Object(object) => {
                object.state.push(state);
                if skips_arrays {
                    self.skip_array(target, state, offset);
                }
                Ok(())
            }
            _ if is_lenient => {
                self.note(Oddity::State(target), offset);
                Ok(())
            }
            _ => Err(Error::malformed("BUILD on a value that is not the result of a call")),
        }
    }

    pub(super) fn persistent(&mut self, code: u8, offset: usize) -> Result<()> {
        let id = if code == op::PERSID {
            let most = if self.is_lenient { limits::PICKLE_BYTES as usize } else { limits::KEY_BYTES };
            let line = self.cursor.line(most, "a persistent id")?;
            let text = Text(Content::Unescaped(line.into()));
            self.alloc(Node::Str(text))?
        } else {
            self.pop()?
        };
        self.note(Oddity::Persistent(id), offset);
        self.push(Node::Persistent(id))
    }

    /// The extension registry and out-of-band buffers. Only for a lenient parse.
    pub(super) fn outside(&mut self, code: u8, offset: usize) -> Result<()> {
        let oddity = match code {
            op::EXT1 => Oddity::Extension(u32::from(self.cursor.u8()?)),
            op::EXT2 => Oddity::Extension(u32::from(u16::from_le_bytes(self.cursor.array()?))),
            op::EXT4 => Oddity::Extension(self.cursor.u32()?),
            op::NEXT_BUFFER => Oddity::Buffer,
            // READONLY_BUFFER does not change what a lenient parse sees of the buffer on the stack.
            _ => return Ok(()),
        };
        self.note(oddity, offset);
        self.push(Node::Unknown)
    }
}

/// Decodes a name for a lenient parse. Python finds no module by a name that is too long or not UTF-8, but a report must
/// show it.
fn lossy(bytes: &[u8]) -> String {
    // One byte more than allowed, so that the name is still recognized as too long.
    String::from_utf8_lossy(bytes.get(..limits::GLOBAL_NAME_BYTES + 1).unwrap_or(bytes)).into_owned()
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Error::malformed("a global name is not UTF-8"))
}
