"""One run in a process of its own: trained, packed, judged as it is packed, and recorded."""
