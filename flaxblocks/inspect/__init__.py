"""The structure and inner outputs of a model, and a diagnosis of the installation."""
