"""The command line, one file per verb, each loaded when it is called.

All that it does can be done from Python.
"""
