"""What can be seen of a domain without training on it."""
