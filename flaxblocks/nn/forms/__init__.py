"""Formulations of convolutions that compute the same result, each fastest in some case."""
