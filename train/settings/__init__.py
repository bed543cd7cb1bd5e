"""What a run is told: every setting, once; flags, config files and recipes are made from it."""
