"""How a command runs: errors, random streams, storage, signals."""
