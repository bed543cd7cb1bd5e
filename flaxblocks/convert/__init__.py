"""Names and axes: the variables of a module, and what PyTorch calls them. Knows no rows."""
