"""Networks by name, and one evaluation of a network."""
