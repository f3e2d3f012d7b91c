"""What `pytest -m models` runs: every model type of transformers, tiny, from loading to exports."""
