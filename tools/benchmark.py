"""How fast a model runs here, in JAX and in PyTorch, in one run: medians and ratios.

    python tools/benchmark.py mobilenet_v2 --batch 1 8

Each row is a process of its own, so that two thread pools never share the cores, and the rows take
turns over several rounds, so that a noisy minute falls on all of them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

SIZE = 224
SECONDS = 2.0  # of timed calls in each process


def jax_compiled(name: str, batch: int) -> Callable[[], object]:
    """`compile_inference`."""
    import jax

    import flaxblocks as fb

    run = fb.compile_inference(fb.create_model(name))
    x = jax.random.normal(jax.random.key(0), (batch, SIZE, SIZE, 3))
    return lambda: run(x).block_until_ready()


def jax_tutorial(name: str, batch: int) -> Callable[[], object]:
    """The model under `nnx.jit`, as tutorials show it, with XLA's own convolution throughout."""
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
    """PyTorch as it stands."""
    import torch

    import flaxblocks.models  # noqa: F401
    from flaxblocks.oracle import make_oracle
    from flaxblocks.registry import find_model

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = make_oracle(find_model(name), 1000, 3, {}).to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(batch, 3, SIZE, SIZE).to(memory_format=layout)

    def run() -> object:
        with torch.inference_mode():
            return model(x)

    return run


def torch_channels_last(name: str, batch: int) -> Callable[[], object]:
    """PyTorch with channels last."""
    return torch_eager(name, batch, channels_last=True)


WAYS = {way.__name__: way for way in (jax_compiled, jax_tutorial, torch_eager, torch_channels_last)}


def measure(way: str, name: str, batch: int) -> dict[str, float]:
    """Milliseconds of a call: the median, and the first, which compiles."""
    run = WAYS[way](name, batch)
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    times = []
    while sum(times) < SECONDS or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return {"median": 1e3 * statistics.median(times), "first": 1e3 * first}


def main() -> None:
    """Parse the arguments, run every way in turn, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="mobilenet_v2")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, batch = options.one
        print(json.dumps(measure(way, options.model, int(batch))))
        return
    print(f"{options.model} at {SIZE}x{SIZE}, float32: ms a call, and times compile_inference's")
    for batch in options.batch:
        results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, runs in results.items():
                command = [sys.executable, __file__, options.model, "--one", way, str(batch)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                runs.append(json.loads(output.splitlines()[-1]))
        medians = {
            way: statistics.median(r["median"] for r in runs) for way, runs in results.items()
        }
        for way, median in medians.items():
            first = statistics.median(r["first"] for r in results[way]) / 1e3
            ratio = median / medians["jax_compiled"]
            cells = f"{median:8.1f} {ratio:6.2f}x  first call {first:.1f} s"
            print(f"batch {batch:3}  {way:20} {cells}")


if __name__ == "__main__":
    main()
