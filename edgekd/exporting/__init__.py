"""A student into the form that a runtime loads, with its parity and accuracy. Imports no other room."""
