"""Checkpoints by name: found on this machine, fetched from the hub, listed, removed."""
