"""Names that make a pickle be refused: those that run code, and those of unsupported tensors.

Any other unknown name becomes an `Inert` placeholder and runs nothing either. These are refused
because a file that refers to one is an attack, or because its tensors cannot be read.
"""

from flaxblocks.checkpoints.error import CheckpointError, quoted

__all__ = ["refuse_by_name"]

# Whole modules and everything below them.
MODULES = (
    "os posix nt subprocess commands popen2 pty sys shutil socket importlib imp runpy pkgutil "
    "pickle _pickle cPickle dill cloudpickle marshal shelve ctypes _ctypes code codeop codecs pdb "
    "bdb timeit cProfile profile webbrowser tempfile http ftplib smtplib ssl pip asyncio site "
    "distutils setuptools antigravity flaxblocks"
)
BELOW = (
    "torch.serialization",
    "torch.hub",
    "torch.jit",
    "torch.package",
    "torch.utils.cpp_extension",
    "numpy.f2py",
    "numpy.testing",
    "numpy.distutils",
    "urllib.request",
)
NAMES: dict[str, str] = {
    "builtins": "eval exec compile open getattr setattr delattr globals locals vars input "
    "breakpoint exit quit apply execfile file reload",
    "io": "open open_code FileIO",
    "_io": "open open_code FileIO",
    "types": "FunctionType CodeType LambdaType",
    "platform": "popen",
    "operator": "attrgetter methodcaller",
    "_operator": "attrgetter methodcaller",
    "numpy": "load loads fromfile memmap",
    "torch": "load save",
    "joblib": "load",
    "torch.storage": "_load_from_bytes",
}

QUANTISED = (
    "QInt8Storage QUInt8Storage QInt32Storage QUInt4x2Storage QUInt2x4Storage "
    "qint8 quint8 qint32 quint4x2 quint2x4"
)
NOT_IN_NUMPY = (
    "complex32 ComplexHalfStorage float4_e2m1fn_x2 bits8 bits16 bits1x8 bits2x4 bits4x2 "
    "int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7"
)
FLOAT = "save the float model's `state_dict()`, before quantisation"
FULL = (
    "save full tensors: `get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True))`"
)

# What a name stands for, and what to do instead, if there is a way.
TENSORS: dict[tuple[str, str], tuple[str, str]] = {
    ("torch._utils", "_rebuild_qtensor"): ("a quantised tensor", FLOAT),
    ("torch._utils", "_rebuild_sparse_tensor"): ("a sparse tensor", ""),
    ("torch._utils", "_rebuild_sparse_csr_tensor"): ("a sparse tensor", ""),
    ("torch._utils", "_rebuild_nested_tensor"): ("a nested tensor", ""),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): ("a meta tensor, which has no data", ""),
    ("torch._utils", "_rebuild_wrapper_subclass"): (
        "a wrapper subclass of a tensor, such as DTensor",
        FULL,
    ),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): (
        "a tensor of a special device",
        "",
    ),
    ("torch._utils", "_rebuild_xla_tensor"): ("a tensor of a special device", ""),
    **{("torch", name): ("quantised values", FLOAT) for name in QUANTISED.split()},
    **{
        ("torch", name): ("values of a dtype that NumPy lacks", "") for name in NOT_IN_NUMPY.split()
    },
}


def refuse_by_name(module: str, name: str) -> None:
    """Raise CheckpointError, naming it, for a name that is refused."""
    shown = f"`{quoted(f'{module}.{name}')[1:-1]}`"
    if (module, name) in TENSORS:
        what, way_out = TENSORS[module, name]
        raise CheckpointError(
            f"holds {what} ({shown}), which cannot be read" + (way_out and f": {way_out}")
        )
    if not _runs(module, name):
        return
    hint = ""
    if name == "_load_from_bytes":
        hint = "; save tensors with `torch.save`, not with pickle"
    raise CheckpointError(
        f"refers to {shown}, which no checkpoint needs: refused, nothing was run{hint}"
    )


def _runs(module: str, name: str) -> bool:
    """Whether a name can run code; one with a dot reaches any attribute of an object."""
    return (
        "." in name
        or (name.startswith("__") and name.endswith("__"))
        or module.partition(".")[0] in MODULES.split()
        or name in NAMES.get(module, "").split()
        or any(module == below or module.startswith(f"{below}.") for below in BELOW)
        or not all(part.isidentifier() for part in module.split("."))
    )
