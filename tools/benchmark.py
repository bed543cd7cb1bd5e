"""Measure how fast a model runs on this machine in JAX and in PyTorch: medians and ratios.

python -m tools.benchmark mobilenet_v2 --batch 1 8
"""

import argparse
import json
from collections.abc import Callable

from tools.timing import Way, compare, measure

SIZE = 224


def jax_compiled(name: str, batch: int) -> Callable[[], object]:
    """The model compiled by `compile_inference`."""
    import jax

    import flaxblocks as fb

    run = fb.compile_inference(fb.create_model(name))
    x = jax.random.normal(jax.random.key(0), (batch, SIZE, SIZE, 3))
    return lambda: run(x).block_until_ready()


def jax_tutorial(name: str, batch: int) -> Callable[[], object]:
    """The model under `nnx.jit`, as in tutorials, with XLA's own convolutions only."""
    import jax
    from flax import nnx

    import flaxblocks as fb
    from flaxblocks.nn import conv

    conv._cpu_formulation = lambda *_, **__: None
    model = fb.create_model(name)
    model.eval()
    run = nnx.jit(lambda model, x: model(x))
    x = jax.random.normal(jax.random.key(0), (batch, SIZE, SIZE, 3))
    return lambda: run(model, x).block_until_ready()


def torch_eager(name: str, batch: int, channels_last: bool = False) -> Callable[[], object]:
    """The PyTorch original, in eager mode."""
    import torch

    import flaxblocks.models  # noqa: F401
    from flaxblocks.models.registry import find_model
    from flaxblocks.parity.oracle import make_oracle

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = make_oracle(find_model(name), 1000, 3, {}).to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(batch, 3, SIZE, SIZE).to(memory_format=layout)

    def run() -> object:
        with torch.inference_mode():
            return model(x)

    return run


def torch_channels_last(name: str, batch: int) -> Callable[[], object]:
    """The PyTorch original, in eager mode with the channels-last memory format."""
    return torch_eager(name, batch, channels_last=True)


WAYS: dict[str, Way] = {
    way.__name__: way for way in (jax_compiled, jax_tutorial, torch_eager, torch_channels_last)
}


def main() -> None:
    """Parse the arguments, run all ways in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="mobilenet_v2")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, batch = options.one
        print(json.dumps(measure(WAYS[way], options.model, int(batch))))
        return
    print(f"{options.model} at {SIZE}x{SIZE}, float32: ms per call, and ratio to jax_compiled")
    for batch in options.batch:
        compare(
            ["-m", "tools.benchmark", options.model], WAYS, "jax_compiled", batch, options.rounds
        )


if __name__ == "__main__":
    main()
