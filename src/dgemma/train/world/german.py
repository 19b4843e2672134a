"""Family of English <-> German: one grammar that writes both languages at once."""

from __future__ import annotations

from dataclasses import dataclass

from .draw import PAIRS, PARAPHRASES, Draw
from .example import Example, ask
from .families import family

NOUNS = {
    "cat": ("die", "Katze"),
    "dog": ("der", "Hund"),
    "horse": ("das", "Pferd"),
    "bird": ("der", "Vogel"),
    "mouse": ("die", "Maus"),
    "house": ("das", "Haus"),
    "book": ("das", "Buch"),
    "ball": ("der", "Ball"),
    "man": ("der", "Mann"),
    "woman": ("die", "Frau"),
    "child": ("das", "Kind"),
    "teacher": ("der", "Lehrer"),
    "apple": ("der", "Apfel"),
    "car": ("das", "Auto"),
    "flower": ("die", "Blume"),
    "tree": ("der", "Baum"),
    "friend": ("der", "Freund"),
    "city": ("die", "Stadt"),
}
ADJECTIVES = {
    "big": "groß",
    "small": "klein",
    "red": "rot",
    "old": "alt",
    "young": "jung",
    "good": "gut",
    "new": "neu",
    "black": "schwarz",
    "white": "weiß",
    "green": "grün",
    "blue": "blau",
    "beautiful": "schön",
    "long": "lang",
}
VERBS = {
    "sees": ("sieht", "see", "sehe"),
    "likes": ("mag", "like", "mag"),
    "finds": ("findet", "find", "finde"),
    "buys": ("kauft", "buy", "kaufe"),
    "has": ("hat", "have", "habe"),
}
WHERE = {
    "in the garden": "im Garten",
    "in the house": "im Haus",
    "today": "heute",
    "every day": "jeden Tag",
    "in the park": "im Park",
    "here": "hier",
}
PHRASES = {
    "Good morning!": "Guten Morgen!",
    "Good night!": "Gute Nacht!",
    "Good evening!": "Guten Abend!",
    "Thank you!": "Danke!",
    "Hello!": "Hallo!",
    "Please": "Bitte",
    "Yes": "Ja",
    "No": "Nein",
    "How are you?": "Wie geht es dir?",
    "Goodbye!": "Auf Wiedersehen!",
    "I love you.": "Ich liebe dich.",
    "My name is Anna.": "Ich heiße Anna.",
    "See you tomorrow!": "Bis morgen!",
    "I am happy.": "Ich bin glücklich.",
    "Welcome!": "Willkommen!",
}


@dataclass(frozen=True)
class Pair:
    """The same in both languages."""

    english: str
    german: str

    def sentence(self, end: str = ".") -> Pair:
        return Pair(
            self.english[0].upper() + self.english[1:] + end, self.german[0].upper() + self.german[1:] + end
        )


def noun_phrase(draw: Draw, accusative: bool = False, adjective: float = 0.6) -> Pair:
    """The (adjective) noun; a pair of both that is held out never shows on the train side."""

    def make() -> tuple[str, str]:
        return draw.pick(tuple(ADJECTIVES)), draw.pick(tuple(NOUNS))

    if draw.held == PAIRS or draw.chance(adjective):
        word, noun = draw.one_of(PAIRS, make, " ".join)
    else:
        word = ""
        noun = draw.pick(tuple(NOUNS))
    article, german = NOUNS[noun]
    ending = "e"
    if accusative and article == "der":
        article = "den"
        ending = "en"
    if not word:
        return Pair(f"the {noun}", f"{article} {german}")
    return Pair(f"the {word} {noun}", f"{article} {ADJECTIVES[word]}{ending} {german}")


def sentence(draw: Draw) -> Pair:
    how = draw.number(0, 9)
    if how < 3:
        subject = noun_phrase(draw, adjective=0.4)
        word = draw.pick(tuple(ADJECTIVES))
        return Pair(f"{subject.english} is {word}", f"{subject.german} ist {ADJECTIVES[word]}").sentence()
    if how < 5:
        verb = draw.pick(tuple(VERBS))
        object_ = noun_phrase(draw, accusative=True)
        return Pair(
            f"I {VERBS[verb][1]} {object_.english}", f"Ich {VERBS[verb][2]} {object_.german}"
        ).sentence()
    if how == 5:
        subject, (where, wo) = noun_phrase(draw), draw.pick(tuple(WHERE.items()))
        return Pair(f"{subject.english} is {where}", f"{subject.german} ist {wo}").sentence()
    if how == 6:
        subject = noun_phrase(draw)
        return Pair(f"where is {subject.english}", f"wo ist {subject.german}").sentence("?")
    subject = noun_phrase(draw, adjective=0.4)
    object_ = noun_phrase(draw, accusative=True)
    verb = draw.pick(tuple(VERBS))
    if how == 7:
        where, wo = draw.pick(tuple(WHERE.items()))
        return Pair(
            f"{subject.english} {verb} {object_.english} {where}",
            f"{subject.german} {VERBS[verb][0]} {object_.german} {wo}",
        ).sentence()
    return Pair(
        f"{subject.english} {verb} {object_.english}", f"{subject.german} {VERBS[verb][0]} {object_.german}"
    ).sentence()


def _text(draw: Draw) -> Pair:
    share = 1.0
    if draw.held != PAIRS:
        share = draw.rng.random()
    if share < 0.1:
        return Pair(*draw.pick(tuple(PHRASES.items())))
    if share < 0.2:
        english, (article, german) = draw.pick(tuple(NOUNS.items()))
        if draw.chance(0.5):
            return Pair(english, german)
        return Pair(f"the {english}", f"{article} {german}")
    if share < 0.26:
        return Pair(*draw.pick(tuple(ADJECTIVES.items())))
    if share < 0.9:
        return sentence(draw)
    return noun_phrase(draw, adjective=1.0)


@family("translate", weight=4, holdouts=(PAIRS, PARAPHRASES))
def translate(draw: Draw) -> Example:
    pair = _text(draw)
    target = "English"
    if draw.chance(0.65):
        target = "German"
    shown, answer = (pair.english, pair.german) if target == "German" else (pair.german, pair.english)
    if draw.chance(0.25):
        quoted = draw.pick((f"'{shown}'", f'"{shown}"', shown.rstrip(".!?")))
        said = draw.way(
            "How do you say {} in {t}? | What is {} in {t}? | Translate {} to {t}. | Say {} in {t}. | "
            "How would you say {} in {t}?"
        )
        return ask(
            draw.dress(said.replace("{t}", target)).replace("{}", quoted),
            answer if quoted[-1] in "'\"" else answer.rstrip(".!?"),
        )
    said = draw.way(
        "Translate to {t} | Translate to {t} | In {t} | Translate into {t} | Translate this to {t} | "
        "Translate this sentence into {t} | Say this in {t} | Put this into {t} | To {t} | "
        "Translate the following to {t} | Write this in {t} | {t} translation of"
    )
    return ask(draw.put(draw.dress(said.replace("{t}", target)), shown), answer)
