"""A trained model in use, without the trainer."""
