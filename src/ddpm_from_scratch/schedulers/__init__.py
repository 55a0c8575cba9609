"""The schedulers of this package, and what they share."""
