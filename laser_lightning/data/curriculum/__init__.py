"""Which problems a training step gets, and what is learned from the solutions to them."""
