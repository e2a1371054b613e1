"""Models that no loop trains: closed forms, neighbours and linear models, one file each."""
