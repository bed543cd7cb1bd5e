"""The stack machine that runs a pickle: a stack, marks on it, and a memo.

Each opcode is a method of `Machine`; `torch_pickle` holds the table of opcodes and the rules.
"""

import struct
from collections.abc import Callable

from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.inert import Inert
from flaxblocks.checkpoints.numpy_array import NumpyArray, NumpyDtype
from flaxblocks.checkpoints.pickle_bytes import PickleBytes
from flaxblocks.checkpoints.torch_names import Constructor, as_key, resolve
from flaxblocks.checkpoints.window import Buffer, Text, Window

__all__ = ["Machine"]


class Machine(PickleBytes):
    """A pickle and the state of running it.

    Args:
        data: bytes that contain the pickle.
        start: position of its first byte.
        end: position by which it must have ended.
        load_storage: returns the object for a persistent id.
    """

    def __init__(
        self,
        data: Buffer,
        start: int,
        end: int,
        load_storage: Callable[[object], object],
    ) -> None:
        super().__init__(data, start, end)
        self.load_storage = load_storage
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, object] = {}

    # Plain values.

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
        except UnicodeDecodeError:  # not text but raw bytes
            self.stack.append(raw)

    def decimal(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

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
        """Call the class and arguments since the last mark, as pickles of Python 2 do."""
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

    def since_mark(self) -> list:
        items = self.stack
        self.stack = self.marks.pop()
        return items

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
        """Keep the members of a set in a list: see EMPTY_SET."""
        items, target = self.since_mark(), self.stack[-1]
        if isinstance(target, Inert):
            target.members = target.members or []
            target.members.extend(items)

    def extend(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):  # a kind of list, whose items are dropped
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
