"""What Lightning runs: the algorithms, and the base that trains."""
