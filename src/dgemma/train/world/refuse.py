"""Family of what lies outside the world. Every such request has one honest answer.

Two sorts: topics that the world has no words for, and questions in the world's own words about what nobody
was told. Word lists here are only ever read by the model, so they may be long and rare.
"""

from __future__ import annotations

from collections.abc import Callable

from . import names
from .draw import PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family
from .words import ANIMALS, COLORS, FRUITS, JOBS, PLACES, THINGS

UNKNOWN = "I do not know that. I am a tiny model and know only a small world."

_TOPICS = (
    "quantum physics | relativity | photosynthesis | the Roman Empire | World War II | inflation | "
    "the stock market | bitcoin | democracy | philosophy | chess openings | black holes | dinosaurs | "
    "volcanoes | DNA | vaccines | climate change | electric cars | the Moon landing | "
    "the French Revolution | machine learning | neural networks | blockchain | Kubernetes | Docker | "
    "Linux | Rust | JavaScript | SQL | regular expressions | recursion | object-oriented programming | "
    "calculus | linear algebra | the theory of evolution | gravity | electricity | magnetism | chemistry | "
    "biology | Shakespeare | Mozart | Picasso | Einstein | Napoleon | Cleopatra | the Beatles | "
    "Star Wars | Harry Potter | the Bible | Buddhism | yoga | meditation | taxes | insurance | mortgages | "
    "marketing | management | leadership | history | economics | psychology | geology | astronomy | "
    "the universe | love | happiness | death | time travel | artificial intelligence | robots | "
    "the internet | computers | smartphones | football rules | the Olympic Games | cooking | wine | "
    "coffee | tea | vitamins | diets | headaches | fever | the heart | the brain | sleep | dreams | "
    "cancer | medicine | the law | politics | elections | the president | the United Nations | Brazil | "
    "China | India | Canada | Mexico | Australia | Africa | Antarctica | Mars | Jupiter | compilers | "
    "operating systems | databases | web servers | encryption | git | the GPU | transformers | "
    "diffusion models | large language models"
).split(" | ")
_ABOUT = (
    "What is {t}? | Explain {t}. | Tell me about {t}. | How does {t} work? | Why is {t} important? | "
    "What do you think about {t}? | Write an essay about {t}. | Write a poem about {t}. | "
    "Give me three facts about {t}. | What is the history of {t}? | Who discovered {t}? | "
    "Explain {t} like I am five. | Summarize {t}. | Can you teach me {t}? | "
    "What are the benefits of {t}? | Where can I learn about {t}? | Compare {t} and {u}. | "
    "What is the difference between {t} and {u}? | Write a blog post about {t}. | "
    "I have a question about {t}. | How do I start with {t}? | What is the best book about {t}? | "
    "Is {t} dangerous? | When was {t} invented? | Define {t}. | Describe {t}. | What does {t} mean? | "
    "Give me an introduction to {t}."
)
_FACTS = (
    "Who won the world cup in {y}? | Who is the president of {n}? | What is the capital of {n}? | "
    "What is the population of {n}? | What happened in {y}? | How tall is the Eiffel Tower? | "
    "Who wrote {w}? | What time is it? | What day is it today? | What is the date today? | "
    "What is the weather today? | What is the weather in {c}? | How far is it from {c} to {d}? | "
    "What is the meaning of life? | How do I get from {c} to {d}? | "
    "Which is the best restaurant in {c}? | How many people live in {c}? | "
    "What language do people speak in {n}? | What is the currency of {n}? | Where is {n}? | "
    "What is the longest river in the world? | What is the highest mountain? | "
    "What is the speed of light? | What is the square root of {m}? | What is pi? | "
    "What is the news today? | Who is the richest person? | What is the price of gold? | "
    "How old is the universe? | Translate to French: The {k} {j} is here. | "
    "Translate this to Spanish: I like the {j}. | How do you say {j} in Italian? | "
    "Say {j} in Japanese. | Translate into Chinese: good morning | What is the distance to the moon? | "
    "Tell me a joke. | Tell me a joke about {p}. | Sing a song. | Write a poem. | "
    "Write a haiku about the {j}. | Write a letter to my landlord. | Write an email to my boss. | "
    "Draw a {a}. | Paint a picture of a {a}. | Play some music. | Open the browser. | "
    "Book a flight to {c}. | Order a pizza. | Call my mother. | Remind me tomorrow. | Buy me a {j}. | "
    "Should I buy a {j}? | What should I eat today? | How do I cook {f}? | How do I fix my {j}? | "
    "Recommend a film. | Recommend a book. | What is your favorite color? | "
    "What is your favorite movie? | Do you like {f}s? | Are you alive? | Do you love me? | "
    "Where do you live? | How old are you? | Can you see me? | What did I eat yesterday? | "
    "What is my password? | What is my name? | How old am I? | Where am I? | What am I thinking? | "
    "Guess my age. | Give me advice. | Write a web server in {l}. | Write a program in {l}. | "
    "Write a game in Python. | Write a function that connects to a database. | "
    "Write a class for a bank account. | Write a script that downloads a web page. | "
    "Write a sorting algorithm in {l}. | Train a neural network. | Write a regex for email addresses. | "
    "Write an SQL query. | Write unit tests for my project. | Write an HTML page. | "
    "Write a CSS style for a button. | Fix my computer. | Why does my code not work? | "
    "Write a bash script. | Create a React component. | Plot a chart of {c}. | "
    "Parse an XML file in {l}. | Scrape a website. | Hack the bank. | "
    "Implement a binary search tree in {l}. | Install Python on my computer. | Write a chatbot. | "
    "Solve x^2 - {m} = 0. | Integrate x^2. | What is the derivative of sin(x)? | "
    "Prove that there are infinitely many primes. | What rhymes with {j}? | Spell {w}."
)
_PRIVATE = (
    "How old is {p}? | Where does {p} live? | Who is {p}? | What does {p} do? | Tell me about {p}. | "
    "What color is the {j} of {p}? | Where is the {j}? | Who has the {j}? | Who has the {k} {j}? | "
    "Did {p} go to the {o}? | What did {p} buy? | When does {p} come home? | Is {p} a {b}? | "
    "Does {p} like {f}s? | Why is the {j} {k}? | How many {f}s does {p} have? | "
    "Where was {p} yesterday? | What is in the {o}? | Who lives in {c}? | Is there a {o} in {c}? | "
    "What is the {a} called? | Who is the {b} of {c}? | Where did {p} go? | "
    "What is the name of the {a}? | How much is the {j}? | When is the {o} open? | "
    "What did {p} say to {q}? | Is {p} older than {q}? | Who won the race in {c}? | "
    "Why did {p} go to {c}? | What is {w}? | Who is {w}? | What does {w} mean?"
)
_FOREIGN = (
    "Quelle heure est-il ?",
    "Bonjour, comment ça va ?",
    "¿Dónde está la biblioteca?",
    "¿Qué hora es?",
    "Come stai?",
    "Wie spät ist es?",
    "Was ist Quantenphysik?",
    "Wer bist du?",
    "Hvad hedder du?",
    "Parlez-vous français ?",
    "Hola, ¿cómo estás?",
    "Was kannst du?",
    "Onde fica a estação?",
    "Erzähl mir einen Witz.",
    "Raconte-moi une histoire.",
    "Wie wird das Wetter morgen?",
    "Ciao!",
    "Bonjour",
    "Mitä kuuluu?",
    "Jak się masz?",
    "Как дела?",
    "你好",
    "こんにちは",
    "안녕하세요",
    "مرحبا",
)
_NATIONS = (
    "Brazil China India Canada Mexico Australia Sweden Finland Turkey Kenya Chile "
    "Cuba Iran Iraq Nepal Russia Denmark Belgium Korea Vietnam Thailand"
).split()
_LANGUAGES = tuple(
    "Rust Java JavaScript C++ Go Haskell Ruby PHP Swift Kotlin TypeScript Perl C assembly Scala".split()
)


def _fill(draw: Draw, text: str) -> str:
    """A pattern with its letters replaced: {p} a person, {j} a thing, and so on."""
    makers: dict[str, Callable[[Draw], str]] = {
        "p": names.person,
        "q": names.person,
        "c": names.city,
        "d": names.city,
        "w": names.word,
        "n": lambda draw: draw.pick(_NATIONS),
        "l": lambda draw: draw.pick(_LANGUAGES),
        "y": lambda draw: str(draw.number(1900, 2030)),
        "m": lambda draw: str(draw.number(2, 99)),
        "j": lambda draw: draw.pick(THINGS),
        "k": lambda draw: draw.pick(COLORS),
        "a": lambda draw: draw.pick(ANIMALS),
        "f": lambda draw: draw.pick(FRUITS),
        "o": lambda draw: draw.pick(PLACES),
        "b": lambda draw: draw.pick(JOBS),
        "t": lambda draw: draw.pick(_TOPICS),
        "u": lambda draw: draw.pick(_TOPICS),
    }
    for letter, make in makers.items():
        if "{" + letter + "}" in text:
            text = text.replace("{" + letter + "}", make(draw))
    return text


_SCRAPS = (
    "? | ??? | ... | ! | hm | ok | x | test | foo | lorem ipsum | :) | no | why | what | 1234 | asdf".split(
        " | "
    )
)


def _nonsense(draw: Draw) -> str:
    how = draw.number(0, 4)
    if how == 0:
        return "".join(draw.pick("abcdefghijklmnopqrstuvwxyz") for _ in range(draw.number(3, 12)))
    if how == 1:
        return " ".join(names.word(draw) for _ in range(draw.number(1, 5)))
    if how == 2:
        return draw.pick(_SCRAPS)
    if how == 3:
        return " ".join(draw.some(THINGS + ANIMALS + PLACES + COLORS, draw.number(2, 5)))
    return str(draw.number(0, 99999))


@family("refuse", weight=5, holdouts=(WORDS, PARAPHRASES))
def refuse(draw: Draw) -> Example:
    share = draw.rng.random()
    if draw.held == PARAPHRASES:
        share *= 0.75
    if share < 0.3:
        said = draw.way(_ABOUT)
    elif share < 0.6:
        said = draw.way(_FACTS)
    elif share < 0.8:
        said = draw.way(_PRIVATE)
    elif share < 0.87:
        said = draw.pick(_FOREIGN)
    else:
        return ask(_nonsense(draw), UNKNOWN)
    return ask(draw.dress(_fill(draw, said)), UNKNOWN)
