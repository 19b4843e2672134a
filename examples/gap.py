"""A file with a gap: `dgemma fill examples/gap.py` writes what belongs at the marker."""


def mean(values):
    total = 0
    for value in values:
        <fill>
    return total / len(values)
