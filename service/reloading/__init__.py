"""Other models without a restart: what is loaded, and how all workers change it together."""
