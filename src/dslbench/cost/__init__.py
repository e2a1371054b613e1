"""What a run costs: counted and measured, never one dressed as the other."""
