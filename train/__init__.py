"""Train a model of flaxblocks: `python -m train`. A program to read and to copy.

config.py       every setting, once: flags, config files and help are made from it
flags.py        that dataclass as a command line
defaults.py     what suits, where a setting was left open
recipes/        settings of papers and of torchvision, as config files
data/           images by Grain: what there is, how it is augmented, in which order it comes
build.py        the model that a config names, and how its images are prepared
model.py        the network as plain dicts of arrays: what is trained, and what is not
optimiser.py    torch.optim's update rules as optax chains
schedule.py     torch.optim.lr_scheduler's learning rates
state.py        all that a run carries from step to step
step.py         one optimiser step and one evaluation batch, as pure functions
average.py      the running average of the weights
mix.py          random erasing, mixup and cutmix, on the device
mesh.py         which device holds what; several processes
plan.py         all of this, built from a config
loop.py         the run itself
evaluation.py   measuring a network on images
checkpoints.py  saving and going on, by Orbax
arrays.py       what a checkpoint notes of its arrays
damage.py       what is known to be damage of a checkpoint, and what is not
lock.py         one run in a folder at a time
stop.py         SIGTERM and Ctrl-C between two steps
progress.py     what a run shows while it runs
records.py      metrics.jsonl, TensorBoard, curves.png
quiet.py        what Orbax need not say twice
evaluate.py     `python -m train.evaluate`
pack.py         `python -m train.pack`
"""
