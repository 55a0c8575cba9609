"""Weights of other code bases, and pickled weights of diffusers, as saved pipelines."""
