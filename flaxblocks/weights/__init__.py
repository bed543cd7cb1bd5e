"""Published weights as data: where a file lies, its hash, and the images it was trained for."""

from flaxblocks.weights.entry import WeightEntry, find_weights, list_weights
from flaxblocks.weights.fetch import WeightsError, cache_folder, fetch_weights

__all__ = [
    "WeightEntry",
    "WeightsError",
    "cache_folder",
    "fetch_weights",
    "find_weights",
    "list_weights",
]
