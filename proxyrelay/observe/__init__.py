"""What an operator sees of the relay."""
