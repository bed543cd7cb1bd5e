"""A registry row, its settings and a checkpoint: a model."""
