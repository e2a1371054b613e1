"""Recommendation models, one file each, built from tables and op modules."""
