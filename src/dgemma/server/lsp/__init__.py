"""The language server: LSP's `textDocument/inlineCompletion` over stdin and stdout. Start reading at
session.py.
"""
