"""The engine that lets servers of vLLM decode, and the client that talks to one of them."""
