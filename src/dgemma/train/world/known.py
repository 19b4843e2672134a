"""The table of well-known small functions: their names, what people say they do, their code, and inputs that
tell them apart.

The first wording of each is the canonical one, for docstrings and explanations; prompts are derived from all
of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from .checks import SameResults
from .words import imperative

Inputs = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Classic:
    """`does`: wordings in the third person, between " | ". `lines`: the body. `files`.

    What the program can open.
    """

    name: str
    arguments: str
    does: str
    lines: tuple[str, ...]
    inputs: Inputs
    files: dict[str, str] = field(default_factory=dict)

    @property
    def wordings(self) -> list[str]:
        return self.does.split(" | ")

    def code(self, name: str = "", doc: bool = False) -> str:
        if doc:
            lines = [f'"""{imperative(self.wordings[0])}."""']
        else:
            lines = []
        head = f"def {name or self.name}({self.arguments}):"
        return "\n".join([head, *(f"    {line}" for line in [*lines, *self.lines])])

    def check(self, name: str = "", before: str = "", after: str = "") -> SameResults:
        name = name or self.name
        return SameResults(self.code(name), name, self.inputs, before, after, files=self.files)


INPUTS: dict[str, Inputs] = {
    "pairs_of_numbers": ((3, 5), (10, 2), (-4, 4), (7, 7)),
    "numbers": ((0,), (1,), (2,), (3,), (7,), (12,), (25,)),
    "signed": ((0,), (1,), (2,), (3,), (7,), (12,), (25,), (-1,), (-6,), (-9,)),
    "lists": (([3, 1, 2, 3],), ([5, -7, 0, 12, 12],), ([4],), ([],)),
    "texts": (("level",), ("Hello big world",), ("banana",), ("a",), ("noon time now",), ("umbrella",)),
    "words": ((["tree", "a", "banana"],), (["fox", "mouse"],), (["one"],)),
    "two_lists": (([1, 2, 3], [3, 4, 1]), ([5], [6]), ([2, 2], [2, 9])),
    "files": (("one",), ("two",)),
    "power": ((2, 3), (5, 2), (3, 0)),
    "gcd": ((12, 18), (7, 5), (9, 3)),
    "fizzbuzz": ((0,), (1,), (2,), (3,), (7,), (12,), (25,), (15,), (10,), (9,)),
    "is_leap": ((2000,), (1900,), (2024,), (2023,)),
    "count_letter": (("banana", "a"), ("tree", "x")),
    "greet": (("Anna",), ("Bo",)),
    "hello": ((),),
    "flatten": (([[1], [2, 3]],), ([],)),
    "contains": (([1, 2], 2), ([3], 4)),
}
FILES = {"one": "a\nb c\n", "two": ""}

# Each block: the head and the name of its inputs, its wordings, its body.
_TABLE = """
add(a, b) pairs_of_numbers
# returns the sum of two numbers | adds two numbers | adds a and b | computes a + b | returns a plus b |
# sums two numbers
return a + b

subtract(a, b) pairs_of_numbers
# returns the difference of two numbers | subtracts two numbers | subtracts b from a | computes a - b
return a - b

multiply(a, b) pairs_of_numbers
# returns the product of two numbers | multiplies two numbers | multiplies a and b | computes a * b
return a * b

divide(a, b) pairs_of_numbers
# returns the quotient of two numbers | divides two numbers | divides a by b | computes a / b
return a / b

power(a, b) power
# returns a to the power of b | raises a to the power b | computes a ** b
return a ** b

square(n) signed
# returns the square of a number | squares a number | squares n | computes n squared
return n ** 2

cube(n) signed
# returns the cube of a number | computes the cube of n
return n ** 3

double(n) signed
# returns the double of a number | doubles a number | doubles n | returns twice a number
return n * 2

half(n) signed
# returns half of a number | halves a number | computes half of n
return n / 2

is_even(n) signed
# returns whether a number is even | checks if a number is even | tells if n is even |
# tests whether a number is even
return n % 2 == 0

is_odd(n) signed
# returns whether a number is odd | checks if a number is odd | tells if n is odd |
# tests whether a number is odd
return n % 2 == 1

is_positive(n) signed
# returns whether a number is positive | checks if a number is positive | tells if n is positive
return n > 0

absolute(n) signed
# returns the absolute value of a number | computes the absolute value of n
return abs(n)

larger(a, b) pairs_of_numbers
# returns the larger of two numbers | finds the larger of two numbers |
# returns the maximum of two numbers | returns the bigger number
return max(a, b)

smaller(a, b) pairs_of_numbers
# returns the smaller of two numbers | finds the smaller of two numbers |
# returns the minimum of two numbers
return min(a, b)

factorial(n) numbers
# returns the factorial of a number | computes the factorial of n | calculates the factorial |
# computes n!
result = 1
for i in range(2, n + 1):
    result *= i
return result

fibonacci(n) numbers
# returns the first n Fibonacci numbers | computes Fibonacci numbers | returns the Fibonacci sequence |
# gives the first n numbers of the Fibonacci sequence
result = []
a, b = 0, 1
for i in range(n):
    result.append(a)
    a, b = b, a + b
return result

is_prime(n) numbers
# returns whether a number is prime | checks if a number is prime | tells if n is a prime number |
# tests for primes
if n < 2:
    return False
for i in range(2, n):
    if n % i == 0:
        return False
return True

gcd(a, b) gcd
# returns the greatest common divisor of two numbers | computes the greatest common divisor |
# finds the gcd of a and b
while b:
    a, b = b, a % b
return a

sum_to(n) numbers
# returns the sum of the numbers from 1 to n | sums the numbers from 1 to n |
# adds the numbers from 1 to n
return sum(range(1, n + 1))

count_to(n) numbers
# returns the numbers from 1 to n | counts from 1 to n | returns a list of the numbers from 1 to n
return list(range(1, n + 1))

countdown(n) numbers
# returns the numbers from n down to 1 | counts down from n | counts down to 1
return list(range(n, 0, -1))

sum_digits(n) numbers
# returns the sum of the digits of a number | adds the digits of a number | sums the digits of n
return sum(int(digit) for digit in str(n))

fizzbuzz(n) fizzbuzz
# returns the FizzBuzz word of a number | does FizzBuzz | plays FizzBuzz
if n % 15 == 0:
    return "FizzBuzz"
if n % 3 == 0:
    return "Fizz"
if n % 5 == 0:
    return "Buzz"
return str(n)

is_leap(year) is_leap
# returns whether a year is a leap year | checks if a year is a leap year | tests for leap years
return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)

to_fahrenheit(celsius) numbers
# converts Celsius to Fahrenheit | turns Celsius into Fahrenheit | converts a temperature to Fahrenheit
return celsius * 9 / 5 + 32

to_celsius(fahrenheit) numbers
# converts Fahrenheit to Celsius | turns Fahrenheit into Celsius | converts a temperature to Celsius
return (fahrenheit - 32) * 5 / 9

area(width, height) pairs_of_numbers
# returns the area of a rectangle | computes the area of a rectangle | calculates the area of a rectangle
return width * height

reverse(text) texts
# returns the text reversed | reverses a string | reverses a text | reverses a word
return text[::-1]

is_palindrome(text) texts
# returns whether the text is a palindrome | checks if a word is a palindrome |
# checks whether a string is a palindrome | tests for palindromes
return text == text[::-1]

count_vowels(text) texts
# returns the number of vowels in a text | counts the vowels in a string | counts vowels |
# counts the vowels of a word
return sum(1 for letter in text if letter in "aeiou")

count_words(text) texts
# returns the number of words in a text | counts the words in a text | counts words in a sentence |
# counts the words of a string
return len(text.split())

count_letter(text, letter) count_letter
# returns how often a letter is in a text | counts a letter in a text | counts how often a letter occurs
return text.count(letter)

first_word(text) texts
# returns the first word of a text | finds the first word of a sentence | gets the first word
return text.split()[0]

shout(text) texts
# returns the text in upper case | turns a text into upper case | makes a string uppercase |
# converts a string to capitals
return text.upper()

greet(name) greet
# returns a greeting | greets a person | says hello to somebody | greets somebody by name
return "Hello, " + name + "!"

hello() hello
# prints Hello, world! | prints hello world | says hello | prints 'Hello, world!'
print("Hello, world!")

mean(numbers) lists
# returns the mean of a list of numbers | computes the average of a list |
# returns the average of the numbers | calculates the mean
return sum(numbers) / len(numbers)

median(numbers) lists
# returns the median of a list of numbers | computes the median of a list | finds the median
ordered = sorted(numbers)
middle = len(ordered) // 2
if len(ordered) % 2 == 1:
    return ordered[middle]
return (ordered[middle - 1] + ordered[middle]) / 2

reverse_list(items) lists
# returns a list in reverse order | reverses a list | returns the reversed list | turns a list around
return items[::-1]

unique(items) lists
# returns the items of a list without duplicates | removes duplicates from a list |
# removes the duplicates of a list | gets the unique items of a list
return list(dict.fromkeys(items))

length(items) lists
# returns the length of a list | counts the items of a list | gets the length of a list |
# finds how long a list is
return len(items)

first(items) lists
# returns the first item of a list | gets the first element of a list | finds the first item
return items[0]

last(items) lists
# returns the last item of a list | gets the last element of a list | finds the last item
return items[-1]

is_empty(items) lists
# returns whether a list is empty | checks if a list is empty | tests if a list is empty
return len(items) == 0

min_max(numbers) lists
# returns the smallest and the largest number | finds the minimum and maximum of a list |
# returns minimum and maximum
return min(numbers), max(numbers)

second_largest(numbers) lists
# returns the second largest number | finds the second largest number of a list
return sorted(set(numbers))[-2]

longest(words) words
# returns the longest word | finds the longest word of a list | gets the longest word in a list
return max(words, key=len)

shortest(words) words
# returns the shortest word | finds the shortest word of a list | gets the shortest word in a list
return min(words, key=len)

merge(a, b) two_lists
# returns two lists as one | merges two lists | joins two lists | concatenates two lists
return a + b

common(a, b) two_lists
# returns the common items of two lists | finds the common items of two lists |
# finds what two lists have in common
return [item for item in a if item in b]

flatten(rows) flatten
# returns a list of lists as one list | flattens a list of lists | flattens a nested list
return [item for row in rows for item in row]

contains(items, item) contains
# returns whether an item is in a list | checks if a list contains an item |
# tests if an item is in a list
return item in items

counts(items) lists
# returns how often each item occurs | counts each item of a list |
# counts how often each item occurs in a list
result = {}
for item in items:
    result[item] = result.get(item, 0) + 1
return result

read_lines(path) files
# returns the lines of a file | reads the lines of a file | reads a file line by line |
# reads a file into a list
with open(path) as file:
    return file.read().splitlines()

count_lines(path) files
# returns the number of lines of a file | counts the lines of a file | counts lines in a file
with open(path) as file:
    return len(file.readlines())

read_text(path) files
# returns the text of a file | reads a file | reads the text of a file | reads a text file
with open(path) as file:
    return file.read()
"""


def _read(block: str) -> Classic:
    """One block of the table."""
    head, *lines = block.split("\n")
    match = re.fullmatch(r"(\w+)\((.*)\) (\w+)", head)
    if match is None:
        raise ValueError(f"the table's block begins with {head!r}; it must read: name(arguments) inputs")
    name, arguments, inputs = match.groups()
    does = " ".join(line[2:] for line in lines if line.startswith("# "))
    body = tuple(line for line in lines if not line.startswith("# "))
    return Classic(name, arguments, does, body, INPUTS[inputs], FILES if inputs == "files" else {})


CLASSICS = tuple(map(_read, _TABLE.strip().split("\n\n")))
