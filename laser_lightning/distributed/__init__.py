"""Many processes: strategies, ranks, and who waits for whom."""
