"""What is installed and set on this machine, what is wrong or missing, and what to do about it."""
