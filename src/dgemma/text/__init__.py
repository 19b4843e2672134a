"""Tokens, turns, channels, streams: everything between text and token ids. Never imports torch."""
