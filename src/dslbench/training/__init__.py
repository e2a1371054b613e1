"""The training loop, what methods do in it, and what it remembers."""
