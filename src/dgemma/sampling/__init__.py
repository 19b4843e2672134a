"""How a canvas is decided: schedule, acceptance, pins, stopping and the step that joins them.

Pure tensors, no model.
"""
