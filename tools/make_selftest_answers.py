"""Compute PyTorch's results for the cases of `flaxblocks selftest`, and store them in the package.

    python tools/make_selftest_answers.py

Weights and images come from `flaxblocks.parity.hashed`, the models from torchvision and timm, and
the blocks from torch_ref. The running statistics of each batch norm are near the mean and variance
of its input, which are measured here layer by layer. Needs torch, torchvision and timm.
"""

import argparse
import copy
import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import flaxblocks.parity as parity
from flaxblocks.checkpoints.atomic_file import replacing
from flaxblocks.convert.keymap import key_map
from flaxblocks.models.registry import find_model
from flaxblocks.parity.answers import FILE, departures, digest, digests
from flaxblocks.parity.cases import CASES, CLASSES, Case
from flaxblocks.parity.hashed import hashed, hashed_state
from flaxblocks.parity.oracle import make_oracle

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `torch_ref` is not part of the installed package
KEPT = 8  # bits kept of a mean or a variance
LIBRARIES = ("torch", "torchvision", "timm")

Tensors = Mapping[str, np.ndarray]


def main() -> None:
    """Compute PyTorch's results for the cases of the self-test, and write them to the package."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    torch.manual_seed(0)
    stored: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for case in CASES:
        truth, about[case.key] = answer(case)
        stored |= {f"{case.key}|{what}": numbers for what, numbers in truth.items()}
        print(case.key, about[case.key]["float32"], about[case.key]["bfloat16"], flush=True)
    heading = {"versions": {name: version(name) for name in LIBRARIES}, "cases": about}
    target = Path(parity.__file__).parent / FILE
    with replacing(target) as file:
        np.savez_compressed(file, about=np.array(json.dumps(heading)), **stored)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")


def answer(case: Case) -> tuple[Tensors, dict[str, Any]]:
    """The float64 results of a case, and its norms and PyTorch's own errors."""
    model = original(case)
    images = hashed(f"{case.key}/images", (case.batch, *case.size, case.in_channels))
    norms = fill(model, case, images)
    exact = run(model, case, images, torch.float64)
    truth = {what: digested(what, tensors) for what, tensors in exact.items()}
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        narrow = run(model, case, images, dtype)
        errors[str(dtype).removeprefix("torch.")] = {
            what: own_error(what, narrow[what], exact[what]) for what in exact
        }
    return truth, {"norms": norms, **errors}


def original(case: Case) -> Any:
    """The PyTorch network of a case."""
    if not case.is_block:
        return make_oracle(find_model(case.name), CLASSES, 3, {})
    import torch_ref.blocks

    return getattr(torch_ref.blocks, case.name)(*case.widths, **dict(case.options)).eval()


def fill(model: Any, case: Case, images: np.ndarray) -> dict[str, tuple[float, float]]:
    """Give a network its hashed weights. Returns the mean and variance of each norm's input,
    rounded to few bits, so that JSON stores them exactly.
    """
    norms: dict[str, tuple[float, float]] = {}
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    load(model, hashed_state(shapes, case.network, norms))
    model.double().eval()

    def measure(path: str):
        def hook(norm: Any, inputs: Any) -> None:
            (x,) = inputs
            norms[path] = rounded(x.mean().item()), rounded(x.var(correction=0).item())
            own = {f"{path}.{k}": tuple(v.shape) for k, v in norm.state_dict().items()}
            load(norm, strip(hashed_state(own, case.network, norms), path))

        return hook

    hooks = [
        module.register_forward_pre_hook(measure(path))
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model(torch.from_numpy(images).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()
    load(model, hashed_state(shapes, case.network, norms))
    return norms


def load(model: Any, arrays: Tensors) -> None:
    """Load arrays for all keys of a module."""
    model.load_state_dict({key: torch.from_numpy(np.array(a)) for key, a in arrays.items()})


def strip(arrays: Tensors, path: str) -> dict[str, np.ndarray]:
    """The arrays with `path` removed from their names."""
    return {key.removeprefix(f"{path}."): array for key, array in arrays.items()}


def rounded(number: float) -> float:
    """`number` rounded to `KEPT` bits."""
    mantissa, exponent = np.frexp(number)
    return float(np.ldexp(np.round(mantissa * 2**KEPT), exponent - KEPT))


def run(model: Any, case: Case, images: np.ndarray, dtype: torch.dtype) -> dict[str, Tensors]:
    """Run a case in one precision. Returns quantity -> name -> array in Flax's layout."""
    network = copy.deepcopy(model).to(dtype).train(case.train)
    for module in network.modules():
        if "Drop" in type(module).__name__ or "StochasticDepth" in type(module).__name__:
            module.eval()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(dtype)
    entries = key_map(case.abstract(), case.layout).by_foreign
    if not case.train:
        with torch.no_grad():
            found: dict[str, Tensors] = {"output": {"output": native(network(x))}}
            if hasattr(network, "forward_features"):
                found["features"] = {"features": native(network.forward_features(x))}
            return found
    y = network(x)
    cotangent = hashed(f"{case.key}/cotangent", native(y).shape)
    if y.ndim == 4:
        cotangent = cotangent.transpose(0, 3, 1, 2)
    (y * torch.from_numpy(cotangent).to(dtype)).sum().backward()

    def named(tensors: Any) -> Tensors:
        return {key: entries[key].to_native(array(t)) for key, t in tensors}

    found: dict[str, Tensors] = {
        "output": {"output": native(y)},
        "buffers": named(network.named_buffers()),
        "gradients": named((key, p.grad) for key, p in network.named_parameters()),
    }
    return {what: tensors for what, tensors in found.items() if tensors}


def array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as a float64 array, in PyTorch's layout."""
    return tensor.detach().double().numpy()


def native(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as a float64 array, in Flax's layout."""
    return array(tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor)


def digested(what: str, tensors: Tensors) -> np.ndarray:
    """The digest of a quantity, which is what is stored."""
    return digest(what, tensors[what]) if what in tensors else digests(tensors)


def own_error(what: str, narrow: Tensors, exact: Tensors) -> float:
    """PyTorch's own error: the largest one for an output, the median over variables otherwise."""
    if what in exact:
        return parity.relative_error(narrow[what], exact[what])
    return float(np.median(departures(digests(narrow), digests(exact))))


if __name__ == "__main__":
    main()
