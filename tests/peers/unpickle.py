"""Runs Python's unpicklers on pickles without importing, calling or constructing real objects.

    unpickle.py < PICKLES

PICKLES are consecutive pickles, each preceded by its length as four little-endian bytes. Prints one line of JSON for each:

    names   module and name of each import of the C unpickler, in order
    plain   the same for the unpickler written in Python, which continues where the other one needs real classes
    value   a description of the result of the latter (see `describe`), or null if it failed
    error   why it failed

Needs only the standard library.
"""

import io
import json
import pickle
import resource
import struct
import sys

# A memo index of four billion makes the C unpickler allocate that many entries; this limit makes it fail.
MOST_MEMORY = 1 << 29


class Name:
    """Stands in for an imported name. Records calls."""

    def __init__(self, module, name):
        self.module, self.name = module, name
        # NEWOBJ looks this attribute up in the class, and a Name is not a class.
        self.__dict__["__new__"] = lambda cls, *args, **kwargs: Call(cls, args, kwargs)

    def __call__(self, *args, **kwargs):
        return Call(self, args, kwargs)


class Call:
    """Stands in for the result of a call and accepts every operation."""

    def __init__(self, callable_, args, kwargs):
        self.callable, self.args, self.kwargs = callable_, args, kwargs
        self.items, self.pairs, self.state = [], [], []

    def __call__(self, *args, **kwargs):
        return Call(self, args, kwargs)

    def append(self, item):
        self.items.append(item)

    add = append

    def extend(self, items):
        self.items.extend(items)

    def __setitem__(self, key, value):
        self.pairs.append((key, value))

    def __setstate__(self, state):
        self.state.append(state)


class Dict(list):
    """A dict that accepts any keys, also repeated ones."""

    def __setitem__(self, key, value):
        list.append(self, (key, value))


class Set(list):
    """A set that accepts any items."""

    add = list.append


class Persistent:
    def __init__(self, target):
        self.target = target


class Whole(io.BytesIO):
    """Raises an error as soon as the data ends, like the C unpickler."""

    def read(self, size=-1):
        found = super().read(size)
        if size > len(found):
            raise EOFError
        return found

    def readline(self, size=-1):
        found = super().readline(size)
        if not found.endswith(b"\n"):
            raise EOFError
        return found


class Recorder:
    """Replaces the lookup of names and persistent ids in both unpicklers."""

    def find_class(self, module, name):
        self.names.append([module, name])
        return Name(module, name)

    def persistent_load(self, pid):
        return Persistent(pid)


class Fast(Recorder, pickle.Unpickler):
    def __init__(self, bytes_):
        super().__init__(io.BytesIO(bytes_), encoding="utf-8", errors="surrogateescape")
        self.names = []


class Plain(Recorder, pickle._Unpickler):
    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, bytes_):
        super().__init__(Whole(bytes_), encoding="utf-8", errors="surrogateescape")
        self.names = []

    def load_empty_dict(self):
        self.append(Dict())

    def load_dict(self):
        items = self.pop_mark()
        made = Dict()
        for index in range(0, len(items), 2):
            made[items[index]] = items[index + 1]
        self.append(made)

    def load_empty_set(self):
        self.append(Set())

    def load_frozenset(self):
        self.append(Set(self.pop_mark()))

    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dict
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.EMPTY_SET[0]] = load_empty_set
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def text(value):
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def describe(root):
    """Describes a value. A container appears in full once, and then as a reference to its number."""
    words, numbers, pending = [], {}, [root]
    while pending:
        value = pending.pop()
        kind = type(value)
        if value is None:
            words.append("N")
        elif kind is bool:
            words.append("T" if value else "F")
        elif kind is int:
            words.append(f"i{value}" if -(2**63) <= value < 2**63 else "I")
        elif kind is float:
            words.append("fnan" if value != value else "f" + struct.pack(">d", value).hex())
        elif kind is str:
            words.append("s" + text(value).hex())
        elif kind in (bytes, bytearray):
            words.append("b" + value.hex())
        elif value == ():
            words.append("t0")
        elif id(value) in numbers:
            words.append(f"@{numbers[id(value)]}")
        elif kind is Name:
            words.append(f"g{text(value.module).hex()}.{text(value.name).hex()}")
        else:
            numbers[id(value)] = len(numbers)
            if kind is tuple:
                parts, word = list(value), "t"
            elif kind is Dict:
                parts, word = [part for pair in value for part in pair], "d"
            elif kind is Set:
                parts, word = list(value), "e"
            elif kind is list:
                parts, word = value, "l"
            elif kind is Persistent:
                parts, word = [value.target], "p"
            elif kind is Call:
                pairs = [part for pair in value.pairs for part in pair]
                word = f"o{len(value.args)},{len(value.items)},{len(value.pairs)},"
                parts = [value.callable, *value.args, *value.items, *pairs, *value.state]
            else:
                raise TypeError(kind)
            words.append(f"{word}{len(parts)}")
            pending.extend(reversed(parts))
    return " ".join(words)


def look(bytes_):
    fast = Fast(bytes_)
    try:
        fast.load()
    except Exception:  # After an exception, the names up to that point are the result.
        pass
    plain = Plain(bytes_)
    value = error = None
    try:
        value = describe(plain.load())
    except Exception as found:
        error = f"{type(found).__name__}: {found}"
    return {"names": fast.names, "plain": plain.names, "value": value, "error": error}


def main():
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    while length := sys.stdin.buffer.read(4):
        found = look(sys.stdin.buffer.read(int.from_bytes(length, "little")))
        # json.dumps escapes lone surrogates in names; the test replaces them.
        print(json.dumps(found))


if __name__ == "__main__":
    main()
