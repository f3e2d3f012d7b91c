"""Packaged run configurations, found by name: ``--config quickstart``."""
