"""Images for training: what there is, how it is augmented, in which order it comes.

source.py        what a data set is: images and labels by index
digits.py        scikit-learn's handwritten digits
folder.py        folders of image files
array_record.py  ArrayRecord files
hugging_face.py  Hugging Face datasets
split.py         which images to hold out where the data does not say
open.py          which of them `--data` means
augment.py       random-resized-crop and flip
trivial.py       TrivialAugment
pieces.py        this process's share of the batches, in pieces
pipeline.py      Grain: order, reading ahead, batches
"""
