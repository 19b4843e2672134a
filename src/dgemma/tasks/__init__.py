"""Text in, text out: generate, chat, infill. Everything here runs without a server and without a terminal."""
