"""Distances between samples and data, and the pictures that runs draw."""
