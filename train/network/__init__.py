"""What is trained: the network as plain arrays, its optimiser, and the training step."""
