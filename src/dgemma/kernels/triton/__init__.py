"""The operations in Triton, beside their references in ops/; imported only where select.py chooses them."""
