"""Families of facts known by heart and of small talk. Facts are closed.

What is not here, the model does not know.
"""

from __future__ import annotations

from . import names
from .draw import PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Norway": "Oslo",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "Austria": "Vienna",
    "Greece": "Athens",
    "Portugal": "Lisbon",
    "Germany": "Berlin",
    "Ireland": "Dublin",
    "England": "London",
    "Poland": "Warsaw",
}
OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "old": "new",
    "fast": "slow",
    "up": "down",
    "day": "night",
    "open": "closed",
    "wet": "dry",
    "light": "dark",
    "rich": "poor",
    "early": "late",
    "full": "empty",
    "good": "bad",
    "long": "short",
    "happy": "sad",
    "yes": "no",
    "black": "white",
    "left": "right",
    "high": "low",
    "clean": "dirty",
}
PLURALS = {
    "mouse": "mice",
    "child": "children",
    "foot": "feet",
    "man": "men",
    "woman": "women",
    "box": "boxes",
    "city": "cities",
    "dog": "dogs",
    "tooth": "teeth",
    "fish": "fish",
    "sheep": "sheep",
    "house": "houses",
    "cat": "cats",
    "book": "books",
}
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
MONTHS = tuple(
    "January February March April May June July August September October November December".split()
)
SOUNDS = {"cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa", "bird": "tweet"}
HUES = {
    "sky": "blue",
    "grass": "green",
    "snow": "white",
    "sun": "yellow",
    "blood": "red",
    "banana": "yellow",
    "night": "black",
}
COUNTS = {
    "days in a week": "7 days",
    "months in a year": "12 months",
    "hours in a day": "24 hours",
    "minutes in an hour": "60 minutes",
    "legs on a dog": "4 legs",
    "seconds in a minute": "60 seconds",
    "letters in the alphabet": "26 letters",
    "days in a year": "365 days",
}


def _capital(draw: Draw) -> tuple[str, str]:
    country = draw.pick(tuple(CAPITALS))
    city = CAPITALS[country]
    if draw.chance(0.2):
        said = draw.way(
            "{} is the capital of which country? | Which country has the capital {}? | "
            "Of what country is {} the capital?"
        )
        return said.replace("{}", city), f"{city} is the capital of {country}."
    said = draw.way(
        "What is the capital of {}? | Capital of {}? | What's the capital of {}? | "
        "Which city is the capital of {}? | Tell me the capital of {}. | Name the capital of {}. | "
        "What is the capital city of {}? | Do you know the capital of {}? | What is {}'s capital? | "
        "The capital of {} is?"
    )
    return said.replace("{}", country), f"The capital of {country} is {city}."


def _opposite(draw: Draw) -> tuple[str, str]:
    pair = draw.pick(tuple(OPPOSITES.items()))
    one, other = pair if draw.chance(0.6) else pair[::-1]
    said = draw.way(
        "What is the opposite of {}? | Opposite of {}? | What's the opposite of {}? | "
        "Give me the opposite of {}. | What is the antonym of {}? | Which word means the opposite of {}?"
    )
    return said.replace("{}", one), f"The opposite of {one} is {other}."


def _plural(draw: Draw) -> tuple[str, str]:
    one, many = draw.pick(tuple(PLURALS.items()))
    if draw.chance(0.2):
        said = draw.way("What is the singular of {}? | Singular of {}? | Give me the singular of {}.")
        return said.replace("{}", many), f"The singular of {many} is {one}."
    said = draw.way(
        "What is the plural of {}? | Plural of {}? | What's the plural of {}? | "
        "Give me the plural of {}. | How do you write {} in the plural?"
    )
    return said.replace("{}", one), f"The plural of {one} is {many}."


def _next(draw: Draw) -> tuple[str, str]:
    names_of = draw.pick((DAYS, MONTHS))
    place = draw.number(0, len(names_of) - 1)
    unit = "month"
    if names_of is DAYS:
        unit = "day"
    if draw.chance(0.6):
        after = names_of[(place + 1) % len(names_of)]
        said = draw.way(
            "What {u} comes after {}? | Which {u} comes after {}? | What {u} is after {}? | "
            "Which {u} follows {}?"
        )
        return said.replace("{}", names_of[place]).replace(
            "{u}", unit
        ), f"{after} comes after {names_of[place]}."
    before = names_of[place - 1]
    said = draw.way(
        "What {u} comes before {}? | Which {u} comes before {}? | What {u} is before {}? | "
        "Which {u} is just before {}?"
    )
    return said.replace("{}", names_of[place]).replace(
        "{u}", unit
    ), f"{before} comes before {names_of[place]}."


def _sound(draw: Draw) -> tuple[str, str]:
    animal, sound = draw.pick(tuple(SOUNDS.items()))
    said = draw.way(
        "What does a {} say? | What sound does a {} make? | How does a {} sound? | "
        "What does the {} say? | Which sound does the {} make?"
    )
    return said.replace("{}", animal), f"A {animal} says {sound}."


def _hue(draw: Draw) -> tuple[str, str]:
    thing, hue = draw.pick(tuple(HUES.items()))
    the = f"a {thing}" if thing == "banana" else f"the {thing}" if thing in ("sky", "sun", "night") else thing
    said = draw.way(
        "What color is {}? | Which color is {}? | What is the color of {}? | What colour is {}? | "
        "What is the colour of {}?"
    )
    return said.replace("{}", the), f"{the[0].upper()}{the[1:]} is {hue}."


def _count(draw: Draw) -> tuple[str, str]:
    what, count = draw.pick(tuple(COUNTS.items()))
    unit, rest = what.split(" ", 1)
    said = draw.way("How many {} are there {}? | How many {} are {}? | How many {} {}? | Number of {} {}?")
    return said.replace("{}", unit, 1).replace("{}", rest), f"There are {count} {rest}."


_KINDS = (_capital, _capital, _opposite, _opposite, _plural, _next, _sound, _hue, _count)


@family("facts", weight=3, holdouts=(PARAPHRASES,))
def facts(draw: Draw) -> Example:
    question, answer = draw.pick(_KINDS)(draw)
    return ask(draw.dress(question), answer)


def statement(draw: Draw) -> tuple[str, str]:
    """A fact as a sentence, and the part of it that the rest determines."""
    how = draw.number(0, 2)
    if how == 0:
        country = draw.pick(tuple(CAPITALS))
        return f"The capital of {country} is {CAPITALS[country]}.", CAPITALS[country]
    if how == 1:
        one, other = draw.pick(tuple(OPPOSITES.items()))
        return f"The opposite of {one} is {other}.", other
    place = draw.number(0, 6)
    return f"{DAYS[place - 1]} comes before {DAYS[place]}.", DAYS[place]


HELLO = "Hello! What can I do for you?"
SELF = "I am a tiny diffusion model. I write all words of an answer at once."
ABLE = (
    "I write small Python functions, edit code and text, make JSON, call tools and answer simple questions."
)
FINE = "I am fine, thank you. What can I do for you?"
BYE = "Goodbye!"
WELCOME = "You are welcome!"
MADE = "I was trained on a small world made by a program."
GLAD = "I am glad to hear that."
SORRY = "I am sorry. Please say it in other words."
_TALK = (
    (
        HELLO,
        "Hello! | Hello | Hi! | Hi | Hey | Hello there! | Hi there | Good morning! | Good evening | "
        "Good afternoon | hey there | Greetings! | Hi bot | Hello, model! | Good day!",
    ),
    (
        SELF,
        "Who are you? | What are you? | What is your name? | Are you a robot? | Are you a person? | "
        "Tell me about yourself. | What model are you? | Introduce yourself. | Are you human? | "
        "What kind of model are you? | Do you have a name? | How do you work? | Are you an AI? | "
        "Describe yourself.",
    ),
    (
        ABLE,
        "What can you do? | Help | Help me | What do you know? | How can you help me? | "
        "What are you good at? | What can I ask you? | What should I ask? | Can you help me? | "
        "What are your skills? | Show me what you can do. | What is it that you can do?",
    ),
    (
        FINE,
        "How are you? | How are you today? | How do you do? | How is it going? | Are you well? | "
        "How do you feel? | What's up? | How are you doing?",
    ),
    (
        WELCOME,
        "Thank you! | Thanks! | Thanks | Thank you very much. | Many thanks | Thanks a lot! | thx | "
        "Thank you so much | Cheers!",
    ),
    (
        BYE,
        "Goodbye! | Bye | See you! | Good night! | Bye bye | See you later | See you tomorrow | "
        "I have to go. | Farewell!",
    ),
    (
        MADE,
        "Who made you? | Who trained you? | How were you trained? | What were you trained on? | "
        "Where do you come from? | Who built you? | What is your training data? | Who created you?",
    ),
    (
        GLAD,
        "Great! | Well done! | Good job! | Nice! | That is right. | Perfect! | Good answer | "
        "I like you | You are great! | Very good!",
    ),
    (
        SORRY,
        "That is wrong. | Wrong | No, that is not right. | This is not what I asked. | You are wrong. | "
        "Bad answer | That is not correct.",
    ),
)


@family("talk", weight=3, holdouts=(WORDS, PARAPHRASES))
def talk(draw: Draw) -> Example:
    """Greetings, thanks, and who is speaking."""
    if draw.held != PARAPHRASES and (draw.held == WORDS or draw.chance(0.25)):
        who = names.person(draw)
        said, answer = draw.pick(
            (
                ("Hi, I am {}.", "Hello {}! What can I do for you?"),
                ("Hello, my name is {}.", "Hello {}! What can I do for you?"),
                ("Hi, I'm {}!", "Hello {}! What can I do for you?"),
                ("My name is {}.", "Hello {}! What can I do for you?"),
                ("I am {}.", "Hello {}! What can I do for you?"),
                ("Thanks, {} here.", "You are welcome, {}!"),
                ("Say hello to {}.", "Hello {}!"),
                ("Greet {}.", "Hello {}!"),
                ("Say hi to {}", "Hello {}!"),
                ("Say goodbye to {}.", "Goodbye {}!"),
            )
        )
        return ask(said.replace("{}", who), answer.replace("{}", who))
    answer, ways = draw.pick(_TALK)
    said = draw.way(ways)
    if draw.chance(0.3):
        said = draw.pick((said.lower(), said.rstrip(".!?"), said.lower().rstrip(".!?")))
    return ask(said, answer)
