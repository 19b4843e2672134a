"""Arithmetic and number formats; nothing here knows the model.

ops/      one file per operation: its contract, the torch reference, and the choice of the form that runs
triton/   the same operations for cards; imported where select.py chooses them
c/        the same for processors with AVX-512
quant/    number formats: what codes mean, and products that decode them
"""
