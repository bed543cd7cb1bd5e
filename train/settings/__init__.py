"""All settings of a run, defined once; flags, config files and recipes are derived from them."""
