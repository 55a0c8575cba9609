"""Training data: by name, from folders, from the Hub; in which order."""
