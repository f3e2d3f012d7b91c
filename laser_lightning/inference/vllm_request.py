"""The word by which a request asks a server with this project's plugin for its score."""

ASKED = "self_reward"
"""Key of ``vllm_xargs`` (``extra_args`` inside vLLM); any value but 0 asks."""
