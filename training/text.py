"""Words for pictures and sentences around them: content strings, phrasings, colours, names.

Everything random comes from a `Src`, which also knows whether it makes training or held-out material:
words are split by a hash, phrasings by a leading "~", fonts by folder.
"""
import functools
import pathlib
import random
import re
import zlib

FIRST = ("Ada Alan Alice Amir Anna Ben Bella Boris Carla Chen Clara Dana David Diego Elena Emil Emma Erik Eva Felix "
         "Fiona Frank Grace Hana Hugo Ida Igor Iris Ivan Jack Jana Jonas Julia Karim Kate Lars Laura Leo Lena Liam "
         "Lucy Marco Maria Marta Max Mia Milan Nadia Nina Noah Nora Olga Oscar Paula Pedro Petra Rosa Ruth Sam Sara "
         "Sofia Tara Theo Tim Tom Uma Vera Victor Wanda Will Yara Yusuf Zoe").split()
LAST = ("Adams Baker Becker Brown Carter Clark Costa Cruz Davis Diaz Evans Fischer Ford Garcia Gray Green Hall Hansen "
        "Hill Horvat Jansen Jones Kelly Khan King Klein Kovac Kumar Lang Lee Lewis Lopez Martin Meyer Miller Moore "
        "Moreau Murphy Nagy Novak Olsen Park Patel Perez Quinn Reed Rossi Ryan Sato Scott Silva Smith Stone Tanaka "
        "Taylor Turner Vogel Walker Weber White Wilson Wolf Wong Wright Young Zhang").split()
CITY = ("Athens Austin Basel Berlin Bern Boston Bremen Cairo Chicago Cork Dallas Delhi Denver Dublin Geneva Genoa Ghent "
        "Graz Hamburg Hanoi Helsinki Houston Kyoto Lagos Leeds Lima Lisbon London Lyon Madrid Manila Miami Milan Nairobi "
        "Naples Nice Osaka Oslo Paris Porto Prague Quito Riga Rome Seattle Seoul Sofia Sydney Tallinn Tokyo Toronto "
        "Turin Utrecht Vienna Warsaw York Zagreb Zurich").split()
GOODS = ("apples bananas bread butter cheese coffee cream eggs flour grapes ham honey jam juice lemons milk mushrooms "
         "nuts oil olives onions oranges pasta pears pepper plums potatoes rice salad salt soap soup sugar tea tomatoes "
         "water wine yogurt candles paper pens batteries tape glue nails paint rope").split()
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
DAYS = "Mon Tue Wed Thu Fri Sat Sun".split()
ORDINAL = "first second third fourth fifth sixth seventh eighth".split()
CLEAR = "ACDEFHJKLMNPRTUVWXY34679"      # capitals and digits that no common face lets be mistaken
ANYCASE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
SYMBOLS = "-./:#&+%()!?,'"

# name -> sRGB; pictures jitter them a little
COLOURS = {"red": (214, 40, 40), "green": (42, 157, 60), "blue": (35, 80, 210), "yellow": (245, 215, 40),
           "orange": (245, 135, 25), "purple": (130, 50, 165), "pink": (245, 130, 185), "black": (20, 20, 22),
           "white": (248, 248, 246), "brown": (115, 70, 35)}


class Src(random.Random):
    """A random source with a side: `held` picks held-out words, phrasings and fonts; `level` in 0..1 is difficulty."""

    def __init__(self, seed, held=False, level=1.0, blank=False):
        super().__init__(seed)
        self.held, self.level, self.blank = held, level, blank

    def coin(self, p):
        return self.random() < p

    def phrase(self, options, reworded=True, **fields):
        """One phrasing out of `options`; those with a leading ~ are kept for evaluation, and never said in training."""
        kept = [o[1:] for o in options if o[0] == "~"]
        if self.held:
            return self.choice(kept or [o for o in options if "[" not in o]).format(**fields)
        while True:
            said = alternatives(self, self.choice([o for o in options if o[0] != "~"]))
            if reworded and not self.blank:
                said = reword(self, said)
            if said not in kept:
                return said.format(**fields)


def alternatives(src, said):
    """Chooses in each [a|b|c]; brackets do not nest."""
    return re.sub(r"\[([^]]*)\]", lambda m: src.choice(m[1].split("|")), said)


LIKE = [("picture", "image"), ("What is", "What's", "Tell me", "Give me", "Say"), ("Which", "What"), ("see", "find", "notice"),
        ("shapes", "objects", "things", "figures"), ("shape", "object", "thing"), ("colour", "color"), ("do you see", "are there", "can you see"),
        ("shown", "displayed", "visible"), ("largest", "biggest", "greatest", "highest"), ("smallest", "lowest", "least"),
        ("How often", "How many times"), ("Count", "Tell me", "Give me"), ("appear", "show up", "come up", "are shown"), ("appears", "is shown", "shows up"),
        ("written", "printed"), ("Read", "Say", "Give", "Transcribe", "Write down"), ("comes after", "follows", "is after", "is shown after"),
        ("How much", "What"), ("video", "clip"), ("sum", "total"), ("which", "what"), ("tell", "show", "give"), ("Set", "Start"), ("Please", "Now", "Kindly"),
        ("does the", "is the", "do the"), ("move", "go", "travel"), ("direction", "way"), ("line", "row"), ("value", "number", "amount"), ("differs", "is different", "changed")]
LEAD = ["Please ", "Please, ", "Can you ", "Could you ", "Tell me: ", "Now ", "Say: ", "Next question: ", "I would like to know: ", "Hello. ", "And "]
TAIL = [" please?", ", please.", " Thanks.", "?", ".", "", " now?", " here?", " in the picture?", " in the image?"]


def reword(src, said):
    """A training phrasing, often said a little differently, so that not the sentence but its words must be understood."""
    if src.coin(0.25):
        return said
    for _ in range(src.choice([0, 1, 1, 2, 3])):
        group = src.choice(LIKE)
        here = [w for w in group if re.search(rf"(?<![\w{{]){re.escape(w)}(?![\w}}])", said)]
        if here:
            said = re.sub(rf"(?<![\w{{]){re.escape(here[0])}(?![\w}}])", src.choice(group), said, count=1)
    if src.coin(0.2):        # a word is missing
        parts = said.split(" ")
        loose = [i for i, w in enumerate(parts) if w.lower() in ("the", "a", "is", "are", "do", "does", "you", "of", "there", "please", "in")]
        if loose:
            parts.pop(src.choice(loose))
            said = " ".join(parts)
    if src.coin(0.3) and said[:1].isalpha():
        said = src.choice(LEAD) + said[0].lower() + said[1:]
    if src.coin(0.25) and said[-1:] in ".?":
        said = said[:-1] + src.choice(TAIL)
    if src.coin(0.08):
        said = re.sub(r"(?<!\{)\b[A-Z](?=[a-z])", lambda m: m[0].lower(), said)
    return said


def is_held(word):
    return zlib.crc32(word.lower().encode()) % 8 == 0


@functools.lru_cache(None)
def dictionary(held):
    lines = pathlib.Path(WORD_LIST).read_text().split()
    words = sorted({w for w in lines if w.isascii() and w.isalpha() and w.islower() and 3 <= len(w) <= 10})
    return [w for w in words if is_held(w) == held]


WORD_LIST = ".vt/words"


def blank(src):
    """Stands for content while the vocabulary is being made: digits, which are spelt one by one anyway."""
    return f"{src.randint(0, 999):03d}"


def pick(src, options):
    """A content word from a list, on the right side of the split; digits while the vocabulary is being made. Training
    takes any word as often, else the model learns the list by heart and sees no other name."""
    if src.blank:
        return blank(src)
    if not src.held and src.coin(0.5):
        return word(src, 9).capitalize()
    pool = [w for w in options if is_held(w) == src.held]
    return src.choice(pool or options)


def word(src, longest=10):
    if src.blank:
        return blank(src)
    while True:
        w = src.choice(dictionary(src.held)) if src.coin(0.8) else scramble(src)
        if len(w) <= longest:
            return w


def scramble(src):
    """A pronounceable word that no list holds: reading must not lean on a dictionary."""
    out = ""
    for _ in range(src.randint(1, 3)):
        out += src.choice("b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kn pl qu sh st th tr".split())
        out += src.choice("a e i o u y ai ea ee oo ou".split()) + src.choice(["", "", "n", "r", "s", "t", "x", "lk", "nd"])
    return out


def case(src, text):
    k = src.random()
    return text if k < 0.5 else text.capitalize() if k < 0.72 else text.upper() if k < 0.86 else text.title()


def words(src, longest, most=4):
    out = word(src, min(10, longest))
    for _ in range(src.randint(0, most - 1)):
        more = word(src)
        if len(out) + 1 + len(more) > longest:
            break
        out += " " + more
    return case(src, out)


def name(src):
    if src.blank:
        return blank(src)
    return f"{pick(src, FIRST)} {pick(src, LAST)}" if src.coin(0.8) else f"{src.choice('ABCDEFGHJKLMNPRST')}. {pick(src, LAST)}"


def price(src, top=200):
    whole = src.choice([src.randint(0, 9), src.randint(0, 40), src.randint(0, top)])
    return f"{whole}.{src.choice(['00', '50', '99', '95', '25', '75', f'{src.randint(0, 99):02d}'])}"


def date(src):
    d, m, y = src.randint(1, 28), src.randint(1, 12), src.randint(1980, 2035)
    return src.choice([f"{y}-{m:02d}-{d:02d}", f"{d}.{m}.{y}", f"{d:02d}/{m:02d}/{y}",
                       f"{d} {MONTHS[m - 1]} {y}" if not src.blank else f"{d}.{m}.{y}"])


def number(src):
    k = src.randrange(6)
    if k == 0:
        return str(src.randint(0, 99))
    if k == 1:
        return "".join(src.choice("0123456789") for _ in range(src.randint(3, 12)))
    if k == 2:
        return f"{src.randint(1, 999)},{src.randint(0, 999):03d}" + src.choice(["", f",{src.randint(0, 999):03d}"])
    if k == 3:
        return f"+{src.randint(1, 99)} {src.randint(100, 999)} {src.randint(100, 9999)} {src.randint(10, 9999)}"
    return src.choice([f"{src.randint(0, 999)}.{src.randint(0, 99)}", f"-{src.randint(1, 500)}", f"{src.randint(1, 100)}%",
                       price(src), date(src), f"{src.randint(0, 23)}:{src.randint(0, 59):02d}"])


def code(src, alphabet=CLEAR, longest=16):
    if src.blank:
        return blank(src)
    n = src.randint(3, longest)
    body = "".join(src.choice(alphabet) for _ in range(n))
    if n > 5 and src.coin(0.4):
        cut = src.randint(2, n - 2)
        body = body[:cut] + src.choice("-- ./") + body[cut:]
    return body


def mixed(src, longest):
    """Any case, confusable glyphs and marks: reported apart in the evaluation."""
    if src.blank:
        return blank(src)
    n = src.randint(3, longest)
    out = "".join(src.choice(ANYCASE) if src.coin(0.88) else src.choice(SYMBOLS) for _ in range(n))
    if n > 8 and src.coin(0.5):
        cut = src.randint(3, n - 4)
        out = out[:cut] + " " + out[cut + 1:]
    return out


def line(src, longest=24, kind=None):
    """One printed line and its kind."""
    kind = kind or src.choices(["words", "name", "number", "code", "mixed"], [42, 10, 14, 20, 14])[0]
    while True:
        text = {"words": lambda: words(src, longest), "name": lambda: name(src), "number": lambda: number(src),
                "code": lambda: code(src, longest=min(20, longest)), "mixed": lambda: mixed(src, min(20, longest))}[kind]()
        if kind == "name" and src.coin(0.2):
            text = text.upper()
        if len(text) <= longest:
            return text, kind


def join(items):
    items = list(items)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def a(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun
