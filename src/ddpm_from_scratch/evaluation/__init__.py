"""How good a saved pipeline is, on held-out data."""
