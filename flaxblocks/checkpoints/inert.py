"""What stands in a checkpoint for an object of a class that is no tensor: a name and no life.

A training program saves its options, its callbacks and sometimes the whole model. Their classes are
never imported; what the pickle would have given to them is kept as plain data, for a whole model
lies in there (`module_tree.py`).
"""

__all__ = ["Inert"]


class Inert:
    """An object of the class, or the result of the function, called `name` in the file.

    Attributes:
        name: dotted.
        arguments: what it was called with.
        state: what the object's attributes were to be set from; None if that was not said.
        items: keys and values set on it, if it was a kind of dict.
        members: of a set.
    """

    __slots__ = ("arguments", "items", "members", "name", "state")

    def __init__(self, name: str, arguments: tuple = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.state: object = None
        self.items: dict | None = None
        self.members: list | None = None

    def set_state(self, state: object) -> None:
        """What `BUILD` asks for; nothing runs."""
        self.state = state
