"""Train a model of flaxblocks: `python -m train`. A program to read and to copy.

settings/   what a run is told, once: flags, config files and recipes are made from it
data/       images by Grain: what there is, how it is augmented, in which order it comes
network/    what is trained, as plain dicts of arrays: its optimiser, one step, the average
run/        the run itself: its plan and loop, devices, what it shows and records
saving/     checkpoints, by Orbax: saving, going on, and what is known to be damage

`python -m train.evaluate` measures a network on images, `python -m train.pack` packs images into
one file.
"""
