"""Placeholders for pickled objects of classes that are not tensors.

A training program saves its options, its callbacks and sometimes the whole model. Their classes are
never imported. What the pickle would have passed to them is kept as plain data, because it may
contain a whole model (`module_tree.py`).
"""

__all__ = ["Inert"]


class Inert:
    """A placeholder for an object of the class, or a result of the function, `name` in the file.

    Attributes:
        name: dotted name of the class or function.
        arguments: the arguments of the call.
        state: the state from which its attributes would have been set; None if it has none.
        items: the items set on it, if it is a kind of dict.
        members: the members added to it, if it is a set.
    """

    __slots__ = ("arguments", "items", "members", "name", "state")

    def __init__(self, name: str, arguments: tuple = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.state: object = None
        self.items: dict | None = None
        self.members: list | None = None

    def set_state(self, state: object) -> None:
        """Keep the state that the opcode `BUILD` passes; nothing runs."""
        self.state = state
