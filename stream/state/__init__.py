"""What is kept per person and per partition in Redis."""
