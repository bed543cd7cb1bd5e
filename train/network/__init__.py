"""What is trained: the network as plain arrays, its optimiser, one step."""
