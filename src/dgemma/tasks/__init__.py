"""Text in, text out: generate, chat, infill, edit, decide.

Everything here runs without a server and without a terminal.
"""
