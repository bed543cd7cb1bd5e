"""Train a flaxblocks model with `python -m train`: a program to use, read and copy.

settings/   all settings of a run, from which flags, config files and recipes are derived
data/       input pipeline, with Grain: data sets, augmentation, order of images
network/    what is trained, as plain dicts of arrays: optimiser, training step, weight average
run/        the run itself: its plan and loop, devices, progress, records
saving/     checkpoints, with Orbax: saving, resuming, detecting damage

`python -m train.evaluate` measures a network's accuracy on images, `python -m train.pack` packs a
folder of images into ArrayRecord files.
"""
