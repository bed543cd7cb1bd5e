"""Images for training: data sets, augmentation, and the order of images.

source.py        the interface of a data set: images and labels by index
digits.py        scikit-learn's handwritten digits
folder.py        folders of image files
array_record.py  ArrayRecord files
hugging_face.py  Hugging Face datasets
split.py         the choice of held-out images if the data has no validation part
open.py          the data set that `--data` names
augment.py       random resized crop and flip
trivial.py       TrivialAugment
pieces.py        this process's share of the batches, in pieces
pipeline.py      the Grain pipeline: order, prefetching, batches
"""
