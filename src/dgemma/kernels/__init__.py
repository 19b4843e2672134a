"""Arithmetic: one file per operation, holding its contract and the torch reference. Nothing here knows the model."""
