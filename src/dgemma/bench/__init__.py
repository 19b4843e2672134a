"""Measuring: workloads, what they cost, and how near that is to what the machine could do."""
