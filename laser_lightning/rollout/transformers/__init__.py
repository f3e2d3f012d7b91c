"""The engine that decodes with transformers."""
