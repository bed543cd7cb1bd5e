"""Unpickling on a machine that can build plain data and nothing else.

A pickle is a program for a small stack machine. Python's own machine imports and calls whatever the
program names, and trusts the lengths that it reads: nine bytes make it allocate eight gigabytes. So
this package has its own (`pickle_machine.py`, which reads through `pickle_bytes.py`), for the
opcodes of protocols 2 to 5 that torch writes. Its rules:

- `GLOBAL` uses `torch_names.resolve`, and `REDUCE` calls only `Constructor`s from there;
- `BUILD`, which would set attributes, passes its state to `NumpyArray`, `NumpyDtype` and `Inert`
  objects, which store it; for any other object the state is dropped;
- only lists, dicts and `Inert` objects can grow;
- long texts and bytes, such as the content of arrays, stay in the file as `Text` and `Window`;
- no length is trusted until the file is known to hold as many bytes;
- nothing recurses, and no value is hashed or compared except plain keys (`torch_names.as_key`).

A pickle has no jumps, so with a bounded number of bytes and opcodes it ends, and it uses at most a
constant amount of memory per opcode.
"""

import pickle
from collections.abc import Callable

from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.inert import Inert
from flaxblocks.checkpoints.pickle_machine import Machine
from flaxblocks.checkpoints.window import Buffer

__all__ = ["OPCODES", "unpickle"]

MOST_OPCODES = 5_000_000


def unpickle(
    data: Buffer, start: int, end: int, load_storage: Callable[[object], object]
) -> tuple[object, int]:
    """Run one pickle.

    Args:
        data: bytes that contain the pickle.
        start: position of its first byte.
        end: position by which it must have ended.
        load_storage: returns the object for a persistent id, by which torch refers to a storage.

    Returns: the object (of dicts, lists, tuples, plain values, `Tensor`, `NumpyArray` and `Inert`)
        and the position after the pickle.
    Raises: CheckpointError if the pickle is damaged or refers to a name that is refused.
    """
    machine = Machine(data, start, end, load_storage)
    try:
        return _run(machine), machine.position
    except (IndexError, KeyError, UnicodeDecodeError):
        # An opcode found too few values on the stack, no such memo entry, or undecodable text.
        raise CheckpointError(
            f"holds a damaged pickle: the opcode before byte {machine.position} is invalid"
        ) from None


def _run(machine: Machine) -> object:
    data, known = machine.data, OPCODES.get
    for _ in range(MOST_OPCODES):
        position = machine.position  # `machine.byte()` inlined: a third of the loop's time
        if position >= machine.end:
            raise machine.cut_short()
        opcode = data[position]
        machine.position = position + 1
        execute = known(opcode)
        if execute is not None:
            execute(machine)
        elif opcode == pickle.STOP[0]:
            return machine.stack.pop()
        else:
            raise CheckpointError(f"uses the pickle opcode {opcode:#04x}, which torch never does")
    raise CheckpointError(f"holds a pickle of more than {MOST_OPCODES} opcodes")


def _push(make: Callable[[], object]) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(make())


OPCODES: dict[int, Callable[[Machine], None]] = {
    opcode[0]: execute
    for opcode, execute in {
        pickle.PROTO: lambda machine: machine.take(1),
        pickle.FRAME: lambda machine: machine.take(8),
        pickle.MARK: Machine.mark,
        pickle.POP: lambda machine: machine.stack.pop(),
        pickle.POP_MARK: Machine.since_mark,
        pickle.DUP: lambda machine: machine.stack.append(machine.stack[-1]),
        # Plain values.
        pickle.NONE: _push(lambda: None),
        pickle.NEWTRUE: _push(lambda: True),
        pickle.NEWFALSE: _push(lambda: False),
        pickle.BININT: lambda machine: machine.stack.append(machine.number(4)),
        pickle.BININT1: lambda machine: machine.stack.append(machine.byte()),
        pickle.BININT2: lambda machine: machine.stack.append(machine.unsigned(2)),
        pickle.LONG1: lambda machine: machine.stack.append(machine.number(machine.byte())),
        pickle.LONG4: lambda machine: machine.stack.append(machine.number(machine.unsigned(4))),
        pickle.BINFLOAT: Machine.decimal,
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
        # The members of a real set would have to be hashed, and no set holds weights.
        pickle.EMPTY_SET: _push(lambda: Inert("set")),
        pickle.ADDITEMS: Machine.add_items,
        pickle.FROZENSET: lambda machine: machine.push_marked(lambda _: Inert("frozenset")),
        # The memo.
        pickle.MEMOIZE: lambda machine: machine.put(len(machine.memo)),
        pickle.BINPUT: lambda machine: machine.put(machine.byte()),
        pickle.LONG_BINPUT: lambda machine: machine.put(machine.unsigned(4)),
        pickle.BINGET: lambda machine: machine.get(machine.byte()),
        pickle.LONG_BINGET: lambda machine: machine.get(machine.unsigned(4)),
        # Names, calls and storages.
        pickle.GLOBAL: Machine.global_name,
        pickle.STACK_GLOBAL: Machine.stack_global,
        pickle.REDUCE: Machine.call,
        pickle.NEWOBJ: Machine.call,
        pickle.NEWOBJ_EX: Machine.call_with_keywords,
        pickle.OBJ: Machine.call_marked,
        pickle.BUILD: Machine.build,
        pickle.BINPERSID: Machine.persistent_id,
    }.items()
}
