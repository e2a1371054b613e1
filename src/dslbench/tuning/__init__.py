"""Settings chosen on validation: where they are searched, trials, and what was found."""
