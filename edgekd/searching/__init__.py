"""Find a student before training it."""
