"""Tables from what is in the store; reporting never trains anything."""
