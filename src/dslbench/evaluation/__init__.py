"""Rank all items for each user, and judge the lists."""
