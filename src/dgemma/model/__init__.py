"""DiffusionGemma as one stack of weights with two calls: encode() and denoise(). See dgemma.py."""
