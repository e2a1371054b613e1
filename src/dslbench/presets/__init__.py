"""Hyper-parameters per backbone and data set, each recipe with its source."""
