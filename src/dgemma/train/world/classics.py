"""Families of well-known small functions: written on request, explained, and known by their names alone.

Each is one line of the table: its name, what people say it does, its code and inputs that tell it from others. The first wording is
the canonical one. Prompts are derived from the wordings; a function may be asked for under another name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import names
from .checks import SameResults
from .code_write import EXPLAIN
from .draw import PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family
from .words import imperative

Inputs = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Classic:
    """`does`: wordings in the third person, between " | ". `lines`: the body. `files`: what the program can open."""

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
        lines = [f'"""{imperative(self.wordings[0])}."""'] if doc else []
        head = f"def {name or self.name}({self.arguments}):"
        return "\n".join([head, *(f"    {line}" for line in [*lines, *self.lines])])

    def check(self, name: str = "", before: str = "", after: str = "") -> SameResults:
        name = name or self.name
        return SameResults(self.code(name), name, self.inputs, before, after, files=self.files)


_PAIRS_OF_NUMBERS: Inputs = ((3, 5), (10, 2), (-4, 4), (7, 7))
_NUMBERS: Inputs = ((0,), (1,), (2,), (3,), (7,), (12,), (25,))
_SIGNED: Inputs = (*_NUMBERS, (-1,), (-6,), (-9,))
_LISTS: Inputs = (([3, 1, 2, 3],), ([5, -7, 0, 12, 12],), ([4],), ([],))
_TEXTS: Inputs = (("level",), ("Hello big world",), ("banana",), ("a",), ("noon time now",), ("umbrella",))
_WORDS: Inputs = ((["tree", "a", "banana"],), (["fox", "mouse"],), (["one"],))
_TWO_LISTS: Inputs = (([1, 2, 3], [3, 4, 1]), ([5], [6]), ([2, 2], [2, 9]))


def _classic(name: str, arguments: str, does: str, body: str, inputs: Inputs, **files: str) -> Classic:
    return Classic(name, arguments, does, tuple(body.split("\n")), inputs, files)


CLASSICS: tuple[Classic, ...] = (
    _classic("add", "a, b", "returns the sum of two numbers | adds two numbers | adds a and b | computes a + b | returns a plus b | sums two numbers",
             "return a + b", _PAIRS_OF_NUMBERS),
    _classic("subtract", "a, b", "returns the difference of two numbers | subtracts two numbers | subtracts b from a | computes a - b",
             "return a - b", _PAIRS_OF_NUMBERS),
    _classic("multiply", "a, b", "returns the product of two numbers | multiplies two numbers | multiplies a and b | computes a * b",
             "return a * b", _PAIRS_OF_NUMBERS),
    _classic("divide", "a, b", "returns the quotient of two numbers | divides two numbers | divides a by b | computes a / b",
             "return a / b", _PAIRS_OF_NUMBERS),
    _classic("power", "a, b", "returns a to the power of b | raises a to the power b | computes a ** b", "return a ** b", ((2, 3), (5, 2), (3, 0))),
    _classic("square", "n", "returns the square of a number | squares a number | squares n | computes n squared", "return n ** 2", _SIGNED),
    _classic("cube", "n", "returns the cube of a number | computes the cube of n", "return n ** 3", _SIGNED),
    _classic("double", "n", "returns the double of a number | doubles a number | doubles n | returns twice a number", "return n * 2", _SIGNED),
    _classic("half", "n", "returns half of a number | halves a number | computes half of n", "return n / 2", _SIGNED),
    _classic("is_even", "n", "returns whether a number is even | checks if a number is even | tells if n is even | tests whether a number is even",
             "return n % 2 == 0", _SIGNED),
    _classic("is_odd", "n", "returns whether a number is odd | checks if a number is odd | tells if n is odd | tests whether a number is odd",
             "return n % 2 == 1", _SIGNED),
    _classic("is_positive", "n", "returns whether a number is positive | checks if a number is positive | tells if n is positive", "return n > 0", _SIGNED),
    _classic("absolute", "n", "returns the absolute value of a number | computes the absolute value of n", "return abs(n)", _SIGNED),
    _classic("larger", "a, b", "returns the larger of two numbers | finds the larger of two numbers | returns the maximum of two numbers | returns the bigger number",
             "return max(a, b)", _PAIRS_OF_NUMBERS),
    _classic("smaller", "a, b", "returns the smaller of two numbers | finds the smaller of two numbers | returns the minimum of two numbers",
             "return min(a, b)", _PAIRS_OF_NUMBERS),
    _classic("factorial", "n", "returns the factorial of a number | computes the factorial of n | calculates the factorial | computes n!",
             "result = 1\nfor i in range(2, n + 1):\n    result *= i\nreturn result", _NUMBERS),
    _classic("fibonacci", "n", "returns the first n Fibonacci numbers | computes Fibonacci numbers | returns the Fibonacci sequence | "
             "gives the first n numbers of the Fibonacci sequence",
             "result = []\na, b = 0, 1\nfor i in range(n):\n    result.append(a)\n    a, b = b, a + b\nreturn result", _NUMBERS),
    _classic("is_prime", "n", "returns whether a number is prime | checks if a number is prime | tells if n is a prime number | tests for primes",
             "if n < 2:\n    return False\nfor i in range(2, n):\n    if n % i == 0:\n        return False\nreturn True", _NUMBERS),
    _classic("gcd", "a, b", "returns the greatest common divisor of two numbers | computes the greatest common divisor | finds the gcd of a and b",
             "while b:\n    a, b = b, a % b\nreturn a", ((12, 18), (7, 5), (9, 3))),
    _classic("sum_to", "n", "returns the sum of the numbers from 1 to n | sums the numbers from 1 to n | adds the numbers from 1 to n",
             "return sum(range(1, n + 1))", _NUMBERS),
    _classic("count_to", "n", "returns the numbers from 1 to n | counts from 1 to n | returns a list of the numbers from 1 to n",
             "return list(range(1, n + 1))", _NUMBERS),
    _classic("countdown", "n", "returns the numbers from n down to 1 | counts down from n | counts down to 1", "return list(range(n, 0, -1))", _NUMBERS),
    _classic("sum_digits", "n", "returns the sum of the digits of a number | adds the digits of a number | sums the digits of n",
             "return sum(int(digit) for digit in str(n))", _NUMBERS),
    _classic("fizzbuzz", "n", "returns the FizzBuzz word of a number | does FizzBuzz | plays FizzBuzz",
             'if n % 15 == 0:\n    return "FizzBuzz"\nif n % 3 == 0:\n    return "Fizz"\nif n % 5 == 0:\n    return "Buzz"\nreturn str(n)',
             (*_NUMBERS, (15,), (10,), (9,))),
    _classic("is_leap", "year", "returns whether a year is a leap year | checks if a year is a leap year | tests for leap years",
             "return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)", ((2000,), (1900,), (2024,), (2023,))),
    _classic("to_fahrenheit", "celsius", "converts Celsius to Fahrenheit | turns Celsius into Fahrenheit | converts a temperature to Fahrenheit",
             "return celsius * 9 / 5 + 32", _NUMBERS),
    _classic("to_celsius", "fahrenheit", "converts Fahrenheit to Celsius | turns Fahrenheit into Celsius | converts a temperature to Celsius",
             "return (fahrenheit - 32) * 5 / 9", _NUMBERS),
    _classic("area", "width, height", "returns the area of a rectangle | computes the area of a rectangle | calculates the area of a rectangle",
             "return width * height", _PAIRS_OF_NUMBERS),
    _classic("reverse", "text", "returns the text reversed | reverses a string | reverses a text | reverses a word", "return text[::-1]", _TEXTS),
    _classic("is_palindrome", "text", "returns whether the text is a palindrome | checks if a word is a palindrome | checks whether a string is a palindrome | "
             "tests for palindromes", "return text == text[::-1]", _TEXTS),
    _classic("count_vowels", "text", "returns the number of vowels in a text | counts the vowels in a string | counts vowels | counts the vowels of a word",
             'return sum(1 for letter in text if letter in "aeiou")', _TEXTS),
    _classic("count_words", "text", "returns the number of words in a text | counts the words in a text | counts words in a sentence | counts the words of a string",
             "return len(text.split())", _TEXTS),
    _classic("count_letter", "text, letter", "returns how often a letter is in a text | counts a letter in a text | counts how often a letter occurs",
             "return text.count(letter)", (("banana", "a"), ("tree", "x"))),
    _classic("first_word", "text", "returns the first word of a text | finds the first word of a sentence | gets the first word", "return text.split()[0]", _TEXTS),
    _classic("shout", "text", "returns the text in upper case | turns a text into upper case | makes a string uppercase | converts a string to capitals",
             "return text.upper()", _TEXTS),
    _classic("greet", "name", "returns a greeting | greets a person | says hello to somebody | greets somebody by name",
             'return "Hello, " + name + "!"', (("Anna",), ("Bo",))),
    _classic("hello", "", "prints Hello, world! | prints hello world | says hello | prints 'Hello, world!'", 'print("Hello, world!")', ((),)),
    _classic("mean", "numbers", "returns the mean of a list of numbers | computes the average of a list | returns the average of the numbers | calculates the mean",
             "return sum(numbers) / len(numbers)", _LISTS),
    _classic("median", "numbers", "returns the median of a list of numbers | computes the median of a list | finds the median",
             "ordered = sorted(numbers)\nmiddle = len(ordered) // 2\nif len(ordered) % 2 == 1:\n    return ordered[middle]\n"
             "return (ordered[middle - 1] + ordered[middle]) / 2", _LISTS),
    _classic("reverse_list", "items", "returns a list in reverse order | reverses a list | returns the reversed list | turns a list around",
             "return items[::-1]", _LISTS),
    _classic("unique", "items", "returns the items of a list without duplicates | removes duplicates from a list | removes the duplicates of a list | "
             "gets the unique items of a list", "return list(dict.fromkeys(items))", _LISTS),
    _classic("length", "items", "returns the length of a list | counts the items of a list | gets the length of a list | finds how long a list is",
             "return len(items)", _LISTS),
    _classic("first", "items", "returns the first item of a list | gets the first element of a list | finds the first item", "return items[0]", _LISTS),
    _classic("last", "items", "returns the last item of a list | gets the last element of a list | finds the last item", "return items[-1]", _LISTS),
    _classic("is_empty", "items", "returns whether a list is empty | checks if a list is empty | tests if a list is empty", "return len(items) == 0", _LISTS),
    _classic("min_max", "numbers", "returns the smallest and the largest number | finds the minimum and maximum of a list | returns minimum and maximum",
             "return min(numbers), max(numbers)", _LISTS),
    _classic("second_largest", "numbers", "returns the second largest number | finds the second largest number of a list", "return sorted(set(numbers))[-2]", _LISTS),
    _classic("longest", "words", "returns the longest word | finds the longest word of a list | gets the longest word in a list", "return max(words, key=len)", _WORDS),
    _classic("shortest", "words", "returns the shortest word | finds the shortest word of a list | gets the shortest word in a list",
             "return min(words, key=len)", _WORDS),
    _classic("merge", "a, b", "returns two lists as one | merges two lists | joins two lists | concatenates two lists", "return a + b", _TWO_LISTS),
    _classic("common", "a, b", "returns the common items of two lists | finds the common items of two lists | finds what two lists have in common",
             "return [item for item in a if item in b]", _TWO_LISTS),
    _classic("flatten", "rows", "returns a list of lists as one list | flattens a list of lists | flattens a nested list",
             "return [item for row in rows for item in row]", (([[1], [2, 3]],), ([],))),
    _classic("contains", "items, item", "returns whether an item is in a list | checks if a list contains an item | tests if an item is in a list",
             "return item in items", (([1, 2], 2), ([3], 4))),
    _classic("counts", "items", "returns how often each item occurs | counts each item of a list | counts how often each item occurs in a list",
             "result = {}\nfor item in items:\n    result[item] = result.get(item, 0) + 1\nreturn result", _LISTS),
    _classic("read_lines", "path", "returns the lines of a file | reads the lines of a file | reads a file line by line | reads a file into a list",
             "with open(path) as file:\n    return file.read().splitlines()", (("one",), ("two",)), one="a\nb c\n", two=""),
    _classic("count_lines", "path", "returns the number of lines of a file | counts the lines of a file | counts lines in a file",
             "with open(path) as file:\n    return len(file.readlines())", (("one",), ("two",)), one="a\nb c\n", two=""),
    _classic("read_text", "path", "returns the text of a file | reads a file | reads the text of a file | reads a text file",
             "with open(path) as file:\n    return file.read()", (("one",), ("two",)), one="a\nb c\n", two=""),
)  # fmt: skip


@family("classic", weight=4, holdouts=(WORDS, PARAPHRASES))
def classic(draw: Draw) -> Example:
    """Written from what it does, or from its name alone."""
    made = draw.pick(CLASSICS)
    doc = draw.chance(0.15)
    name, argued = made.name, f"{made.name}({made.arguments})"
    if draw.held != WORDS and draw.chance(0.2):
        said = draw.way(
            "Write a function {h}. | Write {n} in Python. | Write a function {n}. | Implement {n}. | Write {h}. | Define {h}. | {n} in Python | "
            "Write a Python function called {n}."
        )
    else:
        if draw.held == WORDS or draw.chance(0.25):
            name = names.identifier(draw)
            argued = f"{name}({made.arguments})"
            said = draw.way("Write a function {n} that {d}. | Write a function {h} that {d}. | Write {h}, which {d}. | Write a function called {n} that {d}.")
        else:
            said = draw.way(
                "Write a function that {d}. | Write a Python function that {d}. | Write a function to {i}. | I need a function that {d}. | "
                "Write code to {i}. | Give me a function that {d}. | Python function to {i} | How do I {i} in Python? | {I}. | Write a function which {d}. | "
                "Create a function that {d}. | Write Python code that {d}. | Show me a function that {d}."
            )
    does = draw.pick(made.wordings)
    command = imperative(does)
    said = said.replace("{d}", does).replace("{I}", f"{command} in Python").replace("{i}", command[0].lower() + command[1:])
    said = draw.dress(said).replace("{h}", argued).replace("{n}", name)
    return ask(said + (draw.pick((" Add a docstring.", " With a docstring.")) if doc else ""), made.code(name, doc), made.check(name))


@family("explain_classic", weight=1, holdouts=(WORDS, PARAPHRASES))
def explain_classic(draw: Draw) -> Example:
    """What a well-known function does, with its own name or another."""
    made = draw.pick(CLASSICS)
    name = names.identifier(draw) if draw.held == WORDS or draw.chance(0.5) else made.name
    return ask(draw.below(draw.dress(draw.way(EXPLAIN)), made.code(name)), f"It {made.wordings[0]}.")
