"""PyTorch twins of flaxblocks' blocks and models: same file names and arguments, NCHW tensors.

They are written from the papers' and articles' facts, not from the Flax code, so that the two can
check each other.
"""
