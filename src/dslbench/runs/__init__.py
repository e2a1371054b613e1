"""Runs: one directory each, made by one process each."""
