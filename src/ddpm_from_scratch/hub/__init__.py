"""Saved folders that load everywhere, and the way to the Hub."""
