"""Published weights as data: the location of each file, its hash, and its preprocessing."""

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
