"""How a policy judges its solutions, and learns to."""
