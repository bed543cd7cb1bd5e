"""Diagnosis of the installation: what is installed and set, what is wrong, and remedies."""
