"""What the commands besides training call."""
