"""The engine: ids in, ids out. denoise.py is the plain loop that every faster path must equal."""
