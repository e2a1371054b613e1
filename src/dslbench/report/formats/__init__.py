"""One exporter for each format, and what chooses between them."""
