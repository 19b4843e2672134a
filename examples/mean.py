"""A function with a fault: `dgemma edit examples/mean.py --span 8` writes its last line anew."""


def mean(values):
    total = 0
    for value in values:
        total += value
    return total / (len(values) + 1)
