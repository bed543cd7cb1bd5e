"""Train a model of flaxblocks: `python -m train`. A program to read and to copy.

config.py       every setting, once: flags, config files and help are made from it
flags.py        that dataclass as a command line
data/           images by Grain: what there is, how it is augmented, in which order it comes
model.py        the network, what of it is trained, and its state as plain dicts of arrays
optimiser.py    torch.optim's update rules as optax chains
schedule.py     torch.optim.lr_scheduler's learning rates
step.py         one optimiser step and one evaluation batch, as pure functions
average.py      the running average of the weights
mix.py          random erasing, mixup and cutmix, on the device
mesh.py         which device holds what; several processes
checkpoints.py  saving and going on, by Orbax
records.py      metrics.jsonl, TensorBoard, curves.png
loop.py         the run
evaluate.py     `python -m train.evaluate`
"""
