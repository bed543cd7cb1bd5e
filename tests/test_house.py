"""The package as a house: which room may import which, that each can be entered first, and that
nobody who imports it pays for what was not asked for.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import flaxblocks as fb
from flaxblocks.inspect.installation.moved import MOVED, NAMES

HOUSE = Path(fb.__file__).parent
# Room -> the rooms that it may import, each of which stands above it in this table.
ROOMS: dict[str, tuple[str, ...]] = {
    "nn": (),
    "checkpoints": (),
    "weights": ("checkpoints",),
    "blocks": ("nn",),
    "models": ("nn", "blocks"),
    "convert": ("nn", "checkpoints"),
    "create": ("nn", "checkpoints", "weights", "models", "convert"),
    "inference": ("nn", "blocks"),
    "inspect": ("nn", "weights", "blocks", "models"),
    "parity": (
        *("nn", "checkpoints", "weights", "blocks", "models"),
        *("convert", "create", "inference", "inspect"),
    ),
    "demo": ("checkpoints", "create", "inference", "parity"),
    "cli": ("weights", "models", "create", "inference", "inspect", "parity", "demo"),
}
WITHOUT_JAX = ("checkpoints", "weights")
ON_DEMAND = {"torch", "torchvision", "timm", "orbax", "grain", "datasets", "huggingface_hub"}
FILES = {
    ".".join(file.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in HOUSE.rglob("*.py")
}


def statements(node: ast.AST, of_functions: bool) -> Iterator[ast.AST]:
    """What lies below a node, but for what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if of_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from statements(child, of_functions)


def imports(source: str, of_functions: bool = True) -> set[str]:
    """The modules that a file imports, in functions too unless told otherwise."""
    found = set()
    for node in statements(ast.parse(source), of_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else str(node.module) for name in names}
    return found


def rooms(modules: set[str]) -> set[str]:
    """The rooms that modules of the package are in."""
    inside = (name.split(".") for name in modules if name.startswith("flaxblocks."))
    return {steps[1] for steps in inside}


def in_a_new_process(script: str) -> str:
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(done.stderr)
    return done.stdout


def each_first(scripts: Iterable[str]) -> list[list[str]]:
    """What each script prints in words, where no module of ours was imported before it; libraries
    that one brought are there for the next.
    """
    lines = in_a_new_process(
        "import flax.nnx, sys\n"
        "finders = [*sys.meta_path]\n"
        f"for script in {[*scripts]}:\n"
        "    for name in [*sys.modules]:\n"
        "        if name.partition('.')[0] == 'flaxblocks': del sys.modules[name]\n"
        "    sys.meta_path[:] = finders\n"
        "    exec(script, {})\n"
    ).splitlines()
    return [line.split() for line in lines]


def test_imports_are_found_wherever_they_are_but_for_those_of_type_checkers() -> None:
    source = """
import a
class C:
    def f(self):
        from flaxblocks.nn import conv
        import b
if TYPE_CHECKING:
    import c
from flaxblocks.nn.conv import Conv
"""
    assert imports(source) == {"a", "b", "flaxblocks.nn.conv"}
    assert imports(source, of_functions=False) == {"a", "flaxblocks.nn.conv"}


def test_every_file_is_in_a_room() -> None:
    doors = {"flaxblocks", "flaxblocks.__main__"}
    assert rooms(set(FILES) - doors) == set(ROOMS)
    single = {path.name for path in HOUSE.iterdir() if path.is_file()}
    assert single == {"__init__.py", "__main__.py", "inference.py", "py.typed"}


def test_the_table_points_up() -> None:
    seen: list[str] = []
    for room, others in ROOMS.items():
        assert set(others) <= set(seen), room
        seen.append(room)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for module, file in FILES.items():
        if rooms({module}) == {room}:
            wrong = rooms(imports(file.read_text())) - {room, *ROOMS[room]}
            assert not wrong, f"{module} imports {wrong}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_all_that_it_may(room: str) -> None:
    texts = [file.read_text() for module, file in FILES.items() if rooms({module}) == {room}]
    assert rooms(set().union(*map(imports, texts))) - {room} == set(ROOMS[room])


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        module: imports(file.read_text(), of_functions=False) & set(FILES)
        for module, file in FILES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def entering(room: str) -> str:
    """Imports all modules of a room, and prints what has been imported."""
    inside = sorted(module for module in FILES if rooms({module}) == {room})
    return (
        "import sys, importlib\n"
        f"for module in {inside}: importlib.import_module(module)\n"
        "print(*{module.partition('.')[0] for module in sys.modules})"
    )


@pytest.mark.parametrize("room", WITHOUT_JAX)
def test_a_room_without_jax_imports_none(room: str) -> None:
    loaded = set(in_a_new_process(entering(room)).split())
    assert "flaxblocks" in loaded
    assert not loaded & {"jax", "flax", *ON_DEMAND}


def test_each_room_can_be_entered_first_and_brings_nothing_dear() -> None:
    others = [room for room in ROOMS if room not in WITHOUT_JAX]
    for room, loaded in zip(others, each_first(map(entering, others)), strict=True):
        assert "flaxblocks" in loaded, room
        assert not ON_DEMAND.intersection(loaded), room


def test_nothing_imports_optax_but_flax() -> None:
    for module, file in FILES.items():
        assert not any(name.partition(".")[0] == "optax" for name in imports(file.read_text())), (
            module
        )


def test_the_package_alone_is_next_to_nothing() -> None:
    loaded = set(in_a_new_process("import flaxblocks, sys; print(*sys.modules)").split())
    assert not loaded & {"jax", "flax", "numpy", "click", *ON_DEMAND}
    assert {module for module in loaded if module.startswith("flaxblocks.")} == {
        "flaxblocks.inspect",
        "flaxblocks.inspect.installation",
        "flaxblocks.inspect.installation.known_bad",
        "flaxblocks.inspect.installation.moved",
    }


def test_every_public_name_has_a_home_that_type_checkers_know() -> None:
    packages = {name for name in fb.__all__ if f"flaxblocks.{name}" in FILES}
    assert set(fb.HOMES) == set(fb.__all__) - packages
    block = next(
        node for node in ast.parse(FILES["flaxblocks"].read_text()).body if isinstance(node, ast.If)
    )
    told = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == {**fb.HOMES, **dict.fromkeys(packages, "flaxblocks")}
    assert set(fb.__all__) <= set(dir(fb))
    for name, home in fb.HOMES.items():
        assert getattr(fb, name) is getattr(import_module(home), name)


def test_packages_and_files_are_attributes_and_nothing_else_is() -> None:
    script = "import flaxblocks as fb; print(fb.weights.__name__, fb.inference.__name__)"
    assert in_a_new_process(script) == "flaxblocks.weights flaxblocks.inference\n"
    with pytest.raises(AttributeError, match="module 'flaxblocks' has no attribute 'wieghts'"):
        fb.wieghts  # noqa: B018
    assert not hasattr(fb, "__wrapped__")


def test_a_module_that_is_missing_inside_is_no_missing_attribute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(vars(fb), "demo", raising=False)
    monkeypatch.delitem(sys.modules, "flaxblocks.demo", raising=False)

    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'jax'", name="jax")

    monkeypatch.setattr(fb, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="jax"):
        fb.demo  # noqa: B018


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_module_itself(old: str) -> None:
    assert old not in FILES
    assert import_module(old) is import_module(MOVED[old])
    spec = find_spec(MOVED[old])
    assert spec is not None
    assert import_module(old).__spec__ == spec


def test_an_old_name_works_first() -> None:
    script = "from flaxblocks.oracle import import_torchvision as f; print(f.__module__)"
    assert in_a_new_process(script) == "flaxblocks.parity.oracle\n"


@pytest.mark.parametrize("old", NAMES)
def test_an_old_name_in_a_module_is_the_one_of_today(old: str) -> None:
    module, _, name = old.rpartition(".")
    home, _, today = NAMES[old].rpartition(".")
    assert home in FILES
    assert module not in MOVED
    scope: dict[str, object] = {}
    exec(f"from {module} import {name}", scope)
    assert scope[name] is getattr(import_module(home), today)
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'wieghts'"):
        import_module(module).wieghts  # noqa: B018


def test_old_names_in_modules_work_first_and_all_together() -> None:
    scripts = {
        "import flaxblocks.convert.convert as m; print(m.to_torch.__module__)": "create.save",
        "from flaxblocks.convert.convert import *; print(to_torch.__module__)": "create.save",
        "from flaxblocks.convert import *; print(load_torch.__module__)": "create.load",
        "from flaxblocks.convert import convert as m; print(m.to_torch.__module__)": "create.save",
        "from flaxblocks.doctor.finding import Finding as F; print(F.__module__)": (
            "inspect.installation.finding"
        ),
        "import flaxblocks.convert.keymap as k, inspect; inspect.getsource(k); print(k.__name__)": (
            "convert.keymap"
        ),
    }
    printed = [[f"flaxblocks.{module}"] for module in scripts.values()]
    assert each_first(scripts) == printed
