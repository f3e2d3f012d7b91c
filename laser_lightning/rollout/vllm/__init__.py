"""The engine that decodes with vLLM."""
