"""The records that flow through a step: solutions, micro-batches, rounds."""
