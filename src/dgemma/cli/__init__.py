"""The command line, one file per verb, each loaded when it is called. Everything it does can be done from Python too."""
