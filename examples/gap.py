def even_numbers(numbers):
    """Return the even numbers in numbers."""
<fill>


print(even_numbers([1, 2, 3, 4]))
