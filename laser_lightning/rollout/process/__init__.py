"""Any engine in a process of its own."""
