"""From a gradient to new weights, on one process or many."""
