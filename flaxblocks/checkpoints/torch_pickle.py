"""A pickle machine that can build plain data and nothing else.

A pickle is a program for a small stack machine. Python's own machine imports and calls whatever the
program names, and it believes the lengths it reads: nine bytes make it allocate eight gigabytes. So
this is a machine of our own, for the opcodes of protocols 2 to 5 that torch writes. Its rules:

- `GLOBAL` goes through `torch_names.resolve`, and `REDUCE` calls only `Constructor`s from there;
- `BUILD`, which would set attributes, is heard by arrays in the making and by `Inert` objects,
  which keep the state as it is; every other object drops it;
- lists and dicts grow, nothing else can be changed;
- long texts and bytes, such as arrays are made of, stay in the file as `Text` and `Window`;
- no length is believed before the file is seen to hold as many bytes;
- nothing recurses, and no value is hashed or compared except plain keys (`torch_names.as_key`).

A pickle has no jumps, so with bounded length, opcodes and repetition it ends, and its memory is at
most a constant for each of its opcodes.
"""

import pickle
import struct
from collections.abc import Callable

from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.inert import Inert
from flaxblocks.checkpoints.numpy_array import NumpyArray, NumpyDtype
from flaxblocks.checkpoints.torch_names import Constructor, as_key, resolve
from flaxblocks.checkpoints.window import Buffer, Text, Window

__all__ = ["unpickle"]

# Without what stays in the file. A thousand tensors take about 0.15 MB and 50,000 opcodes.
MOST_BYTES = 64 * 2**20
MOST_OPCODES = 5_000_000
LONGEST_INTEGER = 255
LONG = 1024  # bytes from which on a text or a run of bytes stays in the file


def unpickle(
    data: Buffer, start: int, end: int, load_storage: Callable[[object], object]
) -> tuple[object, int]:
    """Run one pickle.

    Args:
        data: bytes that hold the pickle.
        start: where it begins.
        end: where it must have ended.
        load_storage: gives the object for a persistent id, which is how torch names a storage.

    Returns: the object (dicts, lists, tuples, plain values, `Tensor` and `Inert`) and the position
        after the pickle.
    Raises: CheckpointError if the pickle is damaged or names what no checkpoint needs.
    """
    machine = _Machine(data, start, end, load_storage)
    try:
        return machine.run(), machine.position
    except (IndexError, KeyError, UnicodeDecodeError):
        # An opcode found too little on the stack, no such memo entry, or bytes that are no text.
        raise CheckpointError(
            f"holds a damaged pickle: opcode before byte {machine.position} makes no sense"
        ) from None


class _Machine:
    def __init__(
        self,
        data: Buffer,
        start: int,
        end: int,
        load_storage: Callable[[object], object],
    ) -> None:
        self.data = data
        self.position = start
        self.end = min(end, start + MOST_BYTES)
        self.last = end
        self.load_storage = load_storage
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        data, known = self.data, OPCODES.get
        for _ in range(MOST_OPCODES):
            position = self.position  # `self.byte()` written out: a third of the loop's time
            if position >= self.end:
                raise self.cut_short()
            opcode = data[position]
            self.position = position + 1
            execute = known(opcode)
            if execute is not None:
                execute(self)
            elif opcode == pickle.STOP[0]:
                return self.stack.pop()
            else:
                raise CheckpointError(f"uses the pickle opcode {opcode:#04x}, which torch does not")
        raise CheckpointError(f"holds a pickle of more than {MOST_OPCODES} opcodes")

    # Reading.

    def byte(self) -> int:
        position = self.position
        if position >= self.end:
            raise self.cut_short()
        self.position = position + 1
        return self.data[position]

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if self.position > self.end:
            raise self.cut_short()
        return self.data[start : self.position]

    def cut_short(self) -> CheckpointError:
        if self.end < self.last:
            return CheckpointError(f"holds a pickle of more than {MOST_BYTES} bytes")
        return CheckpointError("is truncated or damaged: its pickle is cut short")

    def unsigned(self, width: int) -> int:
        start, stop = self.position, self.position + width  # `self.take(width)` written out too
        if stop > self.end:
            raise self.cut_short()
        self.position = stop
        return int.from_bytes(self.data[start:stop], "little")

    def counted(self, width: int) -> bytes | Window:
        """Bytes preceded by their count, which takes `width` bytes itself."""
        count = self.unsigned(width)
        return self.take(count) if count < LONG else self.passed_over(count)

    def passed_over(self, count: int) -> Window:
        """Bytes that stay where they are and do not count towards `MOST_BYTES`."""
        start = self.position
        if start + count > self.last:
            self.end = self.last
            raise self.cut_short()
        self.position = start + count
        self.end = min(self.end + count, self.last)
        return Window(self.data, start, count)

    def raw_bytes(self, width: int) -> None:
        self.stack.append(self.counted(width))

    def text(self, width: int) -> None:
        raw = self.counted(width)
        self.stack.append(
            Text(raw) if isinstance(raw, Window) else raw.decode("utf-8", "surrogatepass")
        )

    def python2_text(self, width: int) -> None:
        raw = self.counted(width)
        try:
            self.stack.append(raw if isinstance(raw, Window) else raw.decode())
        except UnicodeDecodeError:  # not text but the raw bytes of some value
            self.stack.append(raw)

    def number(self, count: int) -> None:
        if count > LONGEST_INTEGER:
            raise CheckpointError(f"holds an integer of {count} bytes")
        self.stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def decimal(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.end)
        if end < 0:
            raise self.cut_short()
        return self.take(end + 1 - self.position)[:-1].decode()

    def since_mark(self) -> list:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    # The memo.

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    # Names and calls.

    def global_name(self) -> None:
        self.stack.append(resolve(self.line(), self.line()))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise CheckpointError("refers to a name that is not text")
        self.stack.append(resolve(module, name))

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Constructor):
            raise CheckpointError(f"calls a {type(function).__name__}, which is not callable")
        self.stack.append(function(arguments))

    def call_with_keywords(self) -> None:
        self.stack.pop()
        self.call()

    def call_marked(self) -> None:
        """Python 2's objects: a mark, the class, its arguments."""
        function, *arguments = self.since_mark() or [None]
        self.stack += [function, tuple(arguments)]
        self.call()

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert | NumpyArray | NumpyDtype):
            target.set_state(state)

    def persistent_id(self) -> None:
        self.stack.append(self.load_storage(self.stack.pop()))

    # Containers.

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def make_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def push_marked(self, make: Callable[[list], object]) -> None:
        items = self.since_mark()
        self.stack.append(make(items))

    def last_pair(self) -> list:
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]

    def add_items(self) -> None:
        """A set's members are kept in a list: see EMPTY_SET."""
        items, target = self.since_mark(), self.stack[-1]
        if isinstance(target, Inert):
            target.members = target.members or []
            target.members.extend(items)

    def extend(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):  # a kind of list
            return
        if not isinstance(target, list):
            raise CheckpointError(f"appends to a {type(target).__name__}")
        target.extend(items)

    def set_items(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):  # a kind of dict
            target.items = {} if target.items is None else target.items
            target = target.items
        if not isinstance(target, dict) or len(items) % 2:
            raise CheckpointError(f"sets {len(items)} keys and values of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[as_key(key)] = value


def _push(make: Callable[[], object]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(make())


OPCODES: dict[int, Callable[[_Machine], None]] = {
    opcode[0]: execute
    for opcode, execute in {
        pickle.PROTO: lambda machine: machine.take(1),
        pickle.FRAME: lambda machine: machine.take(8),
        pickle.MARK: _Machine.mark,
        pickle.POP: lambda machine: machine.stack.pop(),
        pickle.POP_MARK: _Machine.since_mark,
        pickle.DUP: lambda machine: machine.stack.append(machine.stack[-1]),
        # Plain values.
        pickle.NONE: _push(lambda: None),
        pickle.NEWTRUE: _push(lambda: True),
        pickle.NEWFALSE: _push(lambda: False),
        pickle.BININT: lambda machine: machine.number(4),
        pickle.BININT1: lambda machine: machine.stack.append(machine.byte()),
        pickle.BININT2: lambda machine: machine.stack.append(machine.unsigned(2)),
        pickle.LONG1: lambda machine: machine.number(machine.byte()),
        pickle.LONG4: lambda machine: machine.number(machine.unsigned(4)),
        pickle.BINFLOAT: _Machine.decimal,
        pickle.SHORT_BINSTRING: lambda machine: machine.python2_text(1),
        pickle.BINSTRING: lambda machine: machine.python2_text(4),
        pickle.SHORT_BINUNICODE: lambda machine: machine.text(1),
        pickle.BINUNICODE: lambda machine: machine.text(4),
        pickle.BINUNICODE8: lambda machine: machine.text(8),
        pickle.SHORT_BINBYTES: lambda machine: machine.raw_bytes(1),
        pickle.BINBYTES: lambda machine: machine.raw_bytes(4),
        pickle.BINBYTES8: lambda machine: machine.raw_bytes(8),
        pickle.BYTEARRAY8: lambda machine: machine.raw_bytes(8),
        # Containers.
        pickle.EMPTY_TUPLE: _push(tuple),
        pickle.TUPLE1: lambda machine: machine.make_tuple(1),
        pickle.TUPLE2: lambda machine: machine.make_tuple(2),
        pickle.TUPLE3: lambda machine: machine.make_tuple(3),
        pickle.TUPLE: lambda machine: machine.push_marked(tuple),
        pickle.EMPTY_LIST: _push(list),
        pickle.APPEND: lambda machine: machine.extend([machine.stack.pop()]),
        pickle.APPENDS: lambda machine: machine.extend(machine.since_mark()),
        pickle.EMPTY_DICT: _push(dict),
        pickle.SETITEM: lambda machine: machine.set_items(machine.last_pair()),
        pickle.SETITEMS: lambda machine: machine.set_items(machine.since_mark()),
        # A set's members would have to be hashed, and no set holds weights.
        pickle.EMPTY_SET: _push(lambda: Inert("set")),
        pickle.ADDITEMS: _Machine.add_items,
        pickle.FROZENSET: lambda machine: machine.push_marked(lambda _: Inert("frozenset")),
        # The memo.
        pickle.MEMOIZE: lambda machine: machine.put(len(machine.memo)),
        pickle.BINPUT: lambda machine: machine.put(machine.byte()),
        pickle.LONG_BINPUT: lambda machine: machine.put(machine.unsigned(4)),
        pickle.BINGET: lambda machine: machine.get(machine.byte()),
        pickle.LONG_BINGET: lambda machine: machine.get(machine.unsigned(4)),
        # Names, calls and storages.
        pickle.GLOBAL: _Machine.global_name,
        pickle.STACK_GLOBAL: _Machine.stack_global,
        pickle.REDUCE: _Machine.call,
        pickle.NEWOBJ: _Machine.call,
        pickle.NEWOBJ_EX: _Machine.call_with_keywords,
        pickle.OBJ: _Machine.call_marked,
        pickle.BUILD: _Machine.build,
        pickle.BINPERSID: _Machine.persistent_id,
    }.items()
}
