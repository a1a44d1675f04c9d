"""The room where a student learns: models, methods, data, and the training loop."""
