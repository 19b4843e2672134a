"""Text in, text out: generate, chat, infill, edit. Everything here runs without a server and without a terminal."""
