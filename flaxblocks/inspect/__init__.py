"""What a model is made of and what it gives inside, and what is installed on this machine."""
