//! What the values of a pickle are, as far as the tables of vouched names tell, and whether they match a pattern.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::allowed::Allowed;
use super::bomb::child;
use super::vouched::{Args, Entry, Is, Kind, entry};
use crate::limits;
use crate::pickle::{Id, Name, Node, Object, Pickle};

/// Longest string that [`Is::Str`] accepts, in bytes.
pub(super) const LONGEST_TEXT: usize = 4096;

/// Largest number that [`Is::Count`] accepts: no storage has more elements.
const LARGEST_COUNT: i64 = 1 << 40;

/// What a container holds, directly or in other containers.
const NOTHING: u8 = 0;
/// A name that the tables do not vouch for, a class or function, or an unknown value. Also the container itself.
const CALLABLE: u8 = 1;
/// A class of plain values.
const PLAIN_CLASS: u8 = 2;

/// Why a value must not be a key of a dict or a member of a set.
#[derive(Debug, Clone)]
pub(super) enum BadKey {
    /// It is what a call of this name returned.
    Object(Arc<Name>),
    /// It is something else whose hash runs code or takes long.
    Other,
}

/// Who vouches for a name.
#[derive(Clone)]
struct Known {
    entry: Option<&'static Entry>,
    /// The user's pattern.
    pattern: Option<Arc<str>>,
}

/// The values of a pickle.
pub(super) struct Values<'a> {
    pub(super) pickle: &'a Pickle,
    /// Who vouches for each name, by the address of the name: the pickle interns names.
    names: HashMap<*const Name, Known>,
    /// What each value holds, by id.
    holds: Vec<u8>,
    /// Results of patterns whose cost depends on the size of a container. A pickle can refer to one many times.
    matched: RefCell<HashMap<(Costly, Id), bool>>,
    /// Whether tuples may be keys.
    pub(super) keys: RefCell<HashMap<Id, Option<BadKey>>>,
}

/// The patterns to remember results of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Costly {
    Keys,
    Pairs,
    Attributes,
    TypedAttributes,
}

impl<'a> Values<'a> {
    pub(super) fn new(pickle: &'a Pickle, allowed: &'a Allowed) -> Self {
        let mut names = HashMap::new();
        for global in pickle.globals() {
            let name = &global.name;
            names
                .entry(Arc::as_ptr(name))
                .or_insert_with(|| Known { entry: entry(name), pattern: allowed.permits(name).cloned() });
        }
        let mut values =
            Values { pickle, names, holds: Vec::new(), matched: RefCell::default(), keys: RefCell::default() };
        values.holds = values.find_holds();
        values
    }

    /// The entry of a name.
    pub(super) fn entry(&self, name: &Arc<Name>) -> Option<&'static Entry> {
        self.names.get(&Arc::as_ptr(name))?.entry
    }

    /// The user's pattern that vouches for a name.
    pub(super) fn pattern(&self, name: &Arc<Name>) -> Option<&Arc<str>> {
        self.names.get(&Arc::as_ptr(name))?.pattern.as_ref()
    }

    /// The entry of a global name.
    pub(super) fn global(&self, id: Id) -> Option<&'static Entry> {
        self.entry(self.name(id)?)
    }

    /// Returns the name of a value that is called. Old files refer to a module class by the persistent id
    /// `('module', class, file, source)`.
    pub(super) fn name(&self, id: Id) -> Option<&'a Arc<Name>> {
        match self.pickle.node(id) {
            Node::Global(name) => Some(name),
            Node::Persistent(target) => {
                let &[tag, class, ..] = self.pickle.tuple(*target)? else { return None };
                match self.pickle.node(class) {
                    Node::Global(name) if self.pickle.word(tag) == Some("module") => Some(name),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether the user vouches for a name, or for the callable of a call.
    pub(super) fn is_allowed(&self, id: Id) -> bool {
        let name = match self.pickle.node(id) {
            Node::Object(object) => self.name(object.callable),
            _ => self.name(id),
        };
        name.is_some_and(|name| self.pattern(name).is_some())
    }

    /// What a value is. Does not check the arguments of its call, which have findings of their own.
    pub(super) fn kind(&self, id: Id) -> Option<Kind> {
        match self.pickle.node(id) {
            Node::Global(_) => self.global(id).map(|entry| entry.is),
            Node::Object(object) => self.global(object.callable)?.call.map(|call| call.gives),
            Node::Persistent(target) if self.is_storage(*target) => Some(Kind::Storage),
            Node::Persistent(_) => self.global(id).map(|entry| entry.is),
            Node::Bytes(_) => Some(Kind::Bytes),
            _ => None,
        }
    }

    /// Whether a persistent id refers to a storage as `torch.save` writes it: `('storage', class, key, location, number
    /// of elements)`, in older files with a sixth part for views. Files older than PyTorch 0.2 have an integer.
    pub(super) fn is_storage(&self, target: Id) -> bool {
        let Some(parts) = self.pickle.tuple(target) else { return self.pickle.int(target).is_some() };
        let &[tag, class, key, location, count, ref view @ ..] = parts else { return false };
        let has_view = match view {
            [] => true,
            &[view] => self.matches(&Is::Either(&[Is::None, Is::Tuple(&[Is::Str, Is::Count, Is::Count])]), view),
            _ => false,
        };
        self.pickle.word(tag) == Some("storage")
            && self.matches(&Is::A(Kind::StorageClass), class)
            && self.matches(&Is::Str, key)
            && self.matches(&Is::Str, location)
            && self.matches(&Is::Count, count)
            && has_view
    }

    /// Whether a persistent id refers to a class as `torch.save` writes it for modules: `('module', class, file, source)`.
    pub(super) fn is_module(&self, target: Id) -> bool {
        matches!(self.pickle.tuple(target), Some(&[tag, class, file, source])
            if self.pickle.word(tag) == Some("module")
                && (self.global(class).is_some_and(|entry| entry.call.is_some()) || self.is_allowed(class))
                && self.matches(&Is::Str, file)
                && self.matches(&Is::Text, source))
    }

    /// Whether arguments match one of the patterns.
    pub(super) fn accepts(&self, patterns: &[Args], args: &[Id]) -> bool {
        patterns.iter().any(|pattern| match pattern {
            Args::Exactly(patterns) => self.are(patterns, args),
            Args::Each(pattern) => args.iter().all(|&id| self.matches(pattern, id)),
        })
    }

    fn are(&self, patterns: &[Is], ids: &[Id]) -> bool {
        patterns.len() == ids.len() && patterns.iter().zip(ids).all(|(pattern, &id)| self.matches(pattern, id))
    }

    /// Whether a value matches a pattern.
    pub(super) fn matches(&self, pattern: &Is, id: Id) -> bool {
        let node = self.pickle.node(id);
        match pattern {
            Is::Any => true,
            Is::None => matches!(node, Node::None),
            Is::Bool => matches!(node, Node::Bool(_)),
            Is::Int => matches!(node, Node::Int(_)),
            Is::AnyInt => matches!(node, Node::Int(_) | Node::BigInt { .. }),
            Is::Count => matches!(node, Node::Int(0..=LARGEST_COUNT)),
            Is::Number => matches!(node, Node::Int(_) | Node::Float(_)),
            Is::Str => matches!(node, Node::Str(text) if self.pickle.text(text).len() <= LONGEST_TEXT),
            Is::Text => matches!(node, Node::Str(_)),
            Is::Word(accepts) => self.pickle.word(id).is_some_and(accepts),
            Is::Bytes => self.kind(id) == Some(Kind::Bytes),
            Is::A(kind) => self.kind(id) == Some(*kind) || self.is_allowed(id),
            Is::Ints => self.ints(id).is_some(),
            Is::NoHooks => match node {
                Node::None => true,
                Node::Dict(pairs) => pairs.is_empty(),
                Node::Object(object) => {
                    let has_no_arguments = self.pickle.tuple(object.args).is_some_and(<[Id]>::is_empty);
                    self.kind(id) == Some(Kind::OrderedDict)
                        && has_no_arguments
                        && object.pairs.is_empty()
                        && object.state.is_empty()
                }
                _ => false,
            },
            Is::Tuple(patterns) => self.pickle.tuple(id).is_some_and(|items| self.are(patterns, items)),
            Is::Keys => self.remember(Costly::Keys, id, || {
                self.items(id).is_some_and(|items| items.iter().all(|&item| self.bad_key(item).is_none()))
            }),
            Is::Pairs => self.remember(Costly::Pairs, id, || {
                let is_pair = |&item: &Id| matches!(self.items(item), Some(&[key, _]) if self.bad_key(key).is_none());
                self.items(id).is_some_and(|items| items.iter().all(is_pair))
            }),
            Is::List => matches!(node, Node::List(_) | Node::Tuple(_)),
            Is::Dict => matches!(node, Node::Dict(_)),
            Is::Attributes => self.remember(Costly::Attributes, id, || self.has_attributes(id, NOTHING)),
            Is::TypedAttributes => self.remember(Costly::TypedAttributes, id, || self.has_attributes(id, PLAIN_CLASS)),
            Is::Either(patterns) => patterns.iter().any(|pattern| self.matches(pattern, id)),
        }
    }

    fn remember(&self, costly: Costly, id: Id, find: impl FnOnce() -> bool) -> bool {
        if let Some(&known) = self.matched.borrow().get(&(costly, id)) {
            return known;
        }
        let found = find();
        self.matched.borrow_mut().insert((costly, id), found);
        found
    }

    /// The items of a tuple, list or set.
    pub(super) fn items(&self, id: Id) -> Option<&'a [Id]> {
        match self.pickle.node(id) {
            Node::Tuple(items) | Node::List(items) | Node::Set(items) => Some(items),
            _ => None,
        }
    }

    /// Whether a value is a dict of attributes that hold nothing but what is given.
    fn has_attributes(&self, id: Id, allowed: u8) -> bool {
        let Node::Dict(pairs) = self.pickle.node(id) else { return false };
        pairs.iter().all(|&(key, value)| self.matches(&Is::Str, key) && self.held(value) & !allowed == NOTHING)
    }

    /// The numbers of a tuple or `torch.Size` of at most [`limits::RANK`] integers.
    pub(super) fn ints(&self, id: Id) -> Option<Vec<i64>> {
        let items = match self.pickle.node(id) {
            Node::Tuple(items) => items,
            Node::Object(object) if self.kind(id) == Some(Kind::Size) => {
                let &[inner] = self.pickle.tuple(object.args)? else { return None };
                self.pickle.tuple(inner)?
            }
            _ => return None,
        };
        if items.len() > limits::RANK {
            return None;
        }
        items.iter().map(|&item| self.pickle.int(item)).collect()
    }

    fn held(&self, id: Id) -> u8 {
        self.holds.get(id.index()).copied().unwrap_or(CALLABLE)
    }

    /// Finds what each value holds. A container within itself counts as callable.
    fn find_holds(&self) -> Vec<u8> {
        let mut found = Found(vec![None; self.pickle.nodes().len()]);
        // Containers that are being traversed, each with the index of its next child and what those before it hold.
        let mut pending: Vec<(Id, usize, u8)> = Vec::new();
        for root in self.pickle.ids() {
            if found.get(root).is_none() {
                self.enter(root, &mut found, &mut pending);
            }
            while let Some((id, next, held)) = pending.pop() {
                let Some(inner) = child(self.pickle, id, next) else {
                    found.set(id, held);
                    continue;
                };
                match found.get(inner) {
                    Some(holds) => pending.push((id, next + 1, held | holds)),
                    None => {
                        pending.push((id, next, held));
                        self.enter(inner, &mut found, &mut pending);
                    }
                }
            }
        }
        found.0.into_iter().map(|holds| holds.unwrap_or(CALLABLE)).collect()
    }

    /// Sets what a value holds, or begins to traverse it if it is a container.
    fn enter(&self, id: Id, found: &mut Found, pending: &mut Vec<(Id, usize, u8)>) {
        if let Node::Tuple(_) | Node::List(_) | Node::Set(_) | Node::Dict(_) = self.pickle.node(id) {
            found.set(id, CALLABLE);
            pending.push((id, 0, NOTHING));
        } else {
            found.set(id, self.held_by_leaf(id));
        }
    }

    fn held_by_leaf(&self, id: Id) -> u8 {
        if self.is_allowed(id) {
            return NOTHING;
        }
        match self.pickle.node(id) {
            Node::Global(_) | Node::Object(_) | Node::Persistent(_) => match self.kind(id) {
                Some(Kind::PlainClass | Kind::AnyType) => PLAIN_CLASS,
                Some(kind) if !kind.is_callable() => NOTHING,
                _ => CALLABLE,
            },
            Node::Unknown => CALLABLE,
            _ => NOTHING,
        }
    }
}

/// What values hold, by id. `None` for those that were not entered.
struct Found(Vec<Option<u8>>);

#[expect(clippy::indexing_slicing, reason = "there is one element for each id of the pickle")]
impl Found {
    fn get(&self, id: Id) -> Option<u8> {
        self.0[id.index()]
    }

    fn set(&mut self, id: Id, holds: u8) {
        self.0[id.index()] = Some(holds);
    }
}

/// The positional arguments of a call, empty if they are not a tuple.
pub(super) fn arguments<'a>(pickle: &'a Pickle, object: &Object) -> &'a [Id] {
    pickle.tuple(object.args).unwrap_or_default()
}
