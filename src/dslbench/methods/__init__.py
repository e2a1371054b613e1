"""Ways of making a recommender small, one file each."""
