"""English sentences to speak: a small grammar over everyday words, and public-domain clauses.

The grammar is ours. ``kjv.txt.gz`` holds 20,000 clauses of the King James Bible (1611, public domain), cut at its
punctuation to 4-25 words. The grammar gives modern words, numbers, names and questions; the clauses give thousands of
rare words and names.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator
from importlib.resources import files

_NAMES = """Alice Arthur Bella Brian Carlos Chloe Daniel Diana Edward Elena Felix Fiona George Grace Hannah Henry
Irene Isaac James Julia Kevin Laura Leonard Lucy Marcus Martha Nathan Nora Oliver Olivia Peter Priya Quentin Rachel
Rosa Samuel Sophie Thomas Theodore Ursula Victor Violet Walter Wendy Xavier Yusuf Yvonne Zachary Zoe Amara Boris
Ahmed Ingrid Joyce Kenji Mei Pablo Ravi Sven Tariq Wei Beatrice Clifford Dorothy Geoffrey Judith Philip Sheila"""
_SURNAMES = """Anderson Baker Chapman Dawson Edwards Fletcher Gallagher Hughes Ibrahim Johnson Kowalski Lawrence
Mitchell Nakamura O'Brien Patel Quinn Roberts Schmidt Taylor Underwood Vaughan Williams Young Zimmerman Bradshaw
Cooper Douglas Ferguson Hawthorne Jefferson Montgomery Oswald Pemberton Rutherford Thackeray Whitfield"""
_PLACES = """London Paris Chicago Vienna Tokyo Dublin Cairo Boston Lisbon Sydney Bombay Geneva Moscow Naples Oxford
Quebec Seville Toronto Utrecht Warsaw Yorkshire Zurich Bristol Denver Helsinki Jakarta Kenya Liverpool Madrid Norway
Portugal Rome Scotland Texas Virginia Wales Brazil Canada Egypt Florida Greece Hungary Iceland Jamaica Manchester"""
_PEOPLE = """teacher doctor farmer soldier lawyer painter nurse sailor baker writer engineer driver singer judge
neighbour grandmother uncle stranger captain butcher journalist librarian mechanic plumber scientist student waiter
actor widow child boy girl woman man king queen thief clerk musician surgeon gardener colonel professor shopkeeper
architect detective dentist carpenter fisherman hunter cousin nephew daughter brother sister father mother pilot
volunteer chairman secretary photographer poet refugee tourist president minister officer blacksmith tailor"""
_THINGS = """book letter window garden bridge engine bottle ladder kettle mirror pencil basket bicycle blanket
candle carpet chair clock coat cup curtain desk diamond door drum envelope feather flag flower fork glove guitar
hammer handle jacket jar jewel kitchen knife lamp lantern leaf lock machine map medicine necklace needle newspaper
notebook oven package painting parcel pebble photograph piano picture pillow plate pocket purse puzzle quilt radio
razor ribbon ring rope saddle scarf shirt shoe shovel spoon stamp statue suitcase sweater table telephone ticket
towel toy treasure trumpet trunk umbrella vase violin wagon watch wheel whistle yacht zipper apple biscuit bread
butter cabbage cake carrot cheese cherry chocolate coffee cucumber egg fish grape honey lemon mushroom onion orange
pepper potato pudding salad sandwich sausage soup sugar tomato vegetable vinegar yoghurt report contract budget
message question answer speech story photograph ship boat aeroplane lorry tractor hospital church castle cottage
factory museum palace prison station theatre tower village university cathedral warehouse laboratory bakery"""
_ANIMALS = """dog cat horse sheep goat rabbit squirrel elephant giraffe tiger lion wolf bear fox mouse eagle owl
sparrow crow duck goose chicken turkey dolphin whale shark salmon frog snake lizard turtle spider beetle butterfly
donkey camel monkey zebra hedgehog badger otter pigeon swan penguin kangaroo leopard"""
_ADJECTIVES = """old young small large heavy bright dark quiet noisy gentle angry clever foolish wooden golden broken
empty yellow purple green blue crimson pale smooth rough sharp narrow wide ancient modern cheap expensive beautiful
ugly strange familiar curious dusty clean muddy frozen warm cool bitter sweet thick thin hollow fragile rusty shiny
tall short round square lonely cheerful nervous patient hungry thirsty sleepy generous selfish honest famous ordinary
peculiar enormous tiny precious useless valuable wretched splendid faithful jealous humble vague obvious awkward"""
_PLACES_IN = """in the garden|near the river|behind the church|under the table|on the roof|beside the road|at the
station|in the middle of the forest|across the valley|on the other side of the bridge|along the beach|above the
clouds|outside the museum|inside the old barn|by the fireplace|at the edge of the village|on the top shelf|between
the two hills|through the narrow gate|around the corner|down in the cellar|over the mountain|within the city walls"""
_TIMES = """this morning|yesterday|last night|on Monday|on Tuesday|on Wednesday|on Thursday|on Friday|on Saturday|on
Sunday|in January|in February|in March|in April|in May|in June|in July|in August|in September|in October|in
November|in December|before breakfast|after lunch|at midnight|every summer|once a year|a long time ago|next week|two
days later|at the weekend|during the storm|in the afternoon|just before dawn|all winter|for the first time|as usual"""
_PAST = """found|carried|sold|bought|painted|noticed|dropped|borrowed|repaired|watched|measured|hid|stole|ignored|
examined|described|admired|followed|washed|photographed|discovered|polished|wrapped|touched|recognised|destroyed|
delivered|chose|brought|caught|chased|judged|pushed|pulled|lifted|threw away|showed us|forgot|remembered|
wanted|needed|loved|hated|feared|drew|shook|opened|closed|moved|covered|emptied|exchanged|guarded|visited|praised"""
_VERBS = """find|carry|sell|buy|paint|notice|drop|borrow|repair|watch|measure|hide|steal|ignore|examine|describe|
admire|follow|wash|discover|polish|wrap|touch|recognise|destroy|deliver|choose|bring|catch|chase|push|pull|lift|throw
away|forget|remember|want|need|love|draw|shake|open|close|move|cover|empty|exchange|guard|visit|enjoy|use|join"""
_WENT = """walked|ran|travelled|drove|sailed|cycled|hurried|wandered|climbed|marched|crawled|galloped|strolled|swam|
stumbled|returned|jumped|escaped|vanished|slept|laughed|cried|sang|danced|whispered|shouted|worked|waited|rested"""
_ADVERBS = """slowly quickly quietly suddenly carefully bravely gladly sadly rarely often always usually nearly
perfectly politely proudly secretly sharply softly strangely thoroughly unexpectedly urgently wisely eagerly"""
_ABSTRACT = """courage patience justice freedom knowledge silence happiness sorrow pleasure danger wisdom friendship
beauty weather music science history language education electricity agriculture technology philosophy geography
religion medicine poverty wealth hunger peace thunder measurement imagination responsibility opportunity"""
_SAID = """Yes.|No.|Hello.|Good morning.|Good night.|Good evening.|Thank you.|Thanks.|Please.|Why?|Where?|When?|
Who?|What?|How?|I see.|Of course.|Come here.|Come in.|Go on.|Sit down.|Stop!|Wait.|Look!|Listen.|Hello there.|
Goodbye.|Sorry.|I know.|Not now.|Where is it?|What is that?|Who are you?|How are you?|Very well.|All right.|
Never.|Always.|Maybe.|Perhaps.|Not yet.|Really?|Right.|Wrong.|Quite so.|Indeed.|My turn.|Your turn.|Over there.|
Right here.|So what?|I think so.|I do not know.|It is late.|It is time.|We are here.|He is gone.|She said no.|
Let us go.|Come back soon.|Try again.|Be quiet.|Be careful.|Good luck.|Well done.|Once more.|Never mind.|
Excuse me.|No, thank you.|Yes, please."""
_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


def _words(text: str) -> list[str]:
    return text.split()


def _phrases(text: str) -> list[str]:
    return [" ".join(p.split()) for p in text.split("|")]


def spell(number: int) -> str:
    """0..999,999 in English words."""
    if number < 20:
        return _words(_ONES)[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _words(_TENS)[tens - 2] + (f"-{spell(ones)}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{spell(hundreds)} hundred" + (f" and {spell(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    return f"{spell(thousands)} thousand" + (f" {spell(rest)}" if rest else "")


_LISTS: dict[str, list[str]] = {
    "name": _words(_NAMES),
    "surname": _words(_SURNAMES),
    "city": _words(_PLACES),
    "person": _words(_PEOPLE),
    "thing": _words(_THINGS),
    "animal": _words(_ANIMALS),
    "adj": _words(_ADJECTIVES),
    "where": _phrases(_PLACES_IN),
    "when": _phrases(_TIMES),
    "past": _phrases(_PAST),
    "verb": _phrases(_VERBS),
    "went": _phrases(_WENT),
    "adverb": _words(_ADVERBS),
    "abstract": _words(_ABSTRACT),
    "said": _phrases(_SAID),
}

_TEMPLATES = """{who} {past} {what}.|{who} {past} {what} {where}.|{when:C}, {who} {past} {what}.|
{who} {went} {where} {when}.|{who} {adverb} {past} {what} {when}.|Did {who} {verb} {what} {when}?|
Where did {who} {verb} {what}?|Why would {who} {verb} {what} {where}?|Can you {verb} {what} for {who}?|
How many {thing}s did {who} {verb} in {city}?|There were {number} {thing}s {where}.|
{who} paid {number} dollars for {what}.|The train to {city} leaves at {hour} {minute} {when}.|
{who} and {who} {went} {where}, but {who} {past} {what}.|When {who} {went} {where}, {who} {past} {what}.|
{abstract:C} is more important than {abstract}.|Nobody in {city} {past} {what} {when}.|
If you {verb} {what}, {who} will {verb} {what}.|Please {verb} {what} before {who} {went} {where}.|
I think that {who} {past} {what} because of the {adj} {animal}.|{who} said that {abstract} and {abstract} matter.|
Do not {verb} {what} without asking {who}.|It was {adj} and {adj} {where} {when}.|{who} lives in {city}.|
The {adj} {animal} {went} {where}.|A {adj}, {adj} {animal} {past} {what}.|{number:C} people from {city} {went} {where}.|
We will {verb} {what} {where}, and then {verb} {what} {when}.|Have you ever seen {what} {where}?|
{who} never {past} {what}, although {who} {adverb} {past} {what}.|What a {adj} {thing} you have!|
In {year}, {who} {past} {what} in {city}.|My {person} has {number} {thing}s and {number} {animal}s.|
Who {past} {what} {when}?|Is {what} still {where}?|Tell {who} about the {thing}, the {thing} and the {thing}.|
{city:C}, {city} and {city} are {adj} cities.|You should {verb} {what} as {adverb} as you can.|
She could not {verb} {what}.|They {adverb} {past} {what} {where}.|He {went} {adverb} {where}.|
Their {thing} was {adj}, yet our {thing} was {adj}."""


_SHORT_TEMPLATES = """{said}|{said} {said}|{thing:C}.|{animal:C}?|{adj:C}.|{name}.|{name}!|{number:C}.|
{city:C}.|{adverb:C}.|The {thing}.|A {animal}.|My {person}.|{adj:C} {thing}.|{name} {surname}.|
Doctor {surname}?|{name} {went}.|He {went}.|She {went}.|They {past} it.|I {past} it.|We {verb} it.|{verb:C} it.|
{verb:C} that {thing}.|Not {adverb}.|{name}, {said}|{when:C}.|{where:C}.|The {adj} {animal}.|
{number:C} {thing}s.|Very {adj}.|In {city}.|Who {went}?|Your {thing}?|It is {adj}.|He is {adj}.|{abstract:C}.|
The {animal} {went}.|I see {name}.|Is it {adj}?|Thank you, {name}."""


class _Grammar:
    """Expands templates, with one random generator for an instance."""

    def __init__(self, rng: random.Random, templates: str = _TEMPLATES) -> None:
        self._rng = rng
        self._templates = _phrases(templates)
        self._makers: dict[str, Callable[[], str]] = {
            "who": self._who,
            "what": self._what,
            "number": lambda: spell(rng.choice([rng.randint(2, 20), rng.randint(21, 999), rng.randint(1000, 99999)])),
            "hour": lambda: spell(rng.randint(1, 12)),
            "minute": lambda: spell(rng.randint(10, 59)),
            "year": lambda: f"{spell(rng.randint(15, 20))} {spell(rng.randint(10, 99))}",
        }

    def _pick(self, slot: str) -> str:
        return self._rng.choice(_LISTS[slot])

    def _who(self) -> str:
        kind = self._rng.random()
        if kind < 0.25:
            return self._pick("name")
        if kind < 0.4:
            return f"{self._pick('name')} {self._pick('surname')}"
        if kind < 0.5:
            return f"{self._rng.choice(['Mister', 'Missus', 'Doctor', 'Captain'])} {self._pick('surname')}"
        return f"{self._rng.choice(['the', 'a', 'my', 'your', 'this'])} {self._maybe_adjective()}{self._pick('person')}"

    def _what(self) -> str:
        owner = self._rng.choice(["the", "the", "my", "her", "his", "that", "our", f"{self._pick('name')}'s"])
        return f"{owner} {self._maybe_adjective()}{self._pick(self._rng.choice(['thing', 'thing', 'animal']))}"

    def _maybe_adjective(self) -> str:
        return f"{self._pick('adj')} " if self._rng.random() < 0.4 else ""

    def sentence(self) -> str:
        out = []
        for part in self._rng.choice(self._templates).replace("}", "{").split("{"):
            slot = part.split(":")[0]
            if slot in self._makers:
                part = self._makers[slot]()
            elif slot in _LISTS:
                part = self._pick(slot)
            out.append(part)
        text = "".join(out)
        return text[0].upper() + text[1:]


def clauses() -> list[str]:
    """The bundled public-domain clauses, in file order."""
    packed = files("pcg.training.pair").joinpath("kjv.txt.gz").read_bytes()
    return gzip.decompress(packed).decode().splitlines()


def sentences(seed: int) -> Iterator[str]:
    """Endless distinct sentences of 4-25 words: two of the grammar to one clause, then the grammar alone."""
    rng = random.Random(seed)
    grammar = _Grammar(rng)
    verses = clauses()
    rng.shuffle(verses)
    seen: set[str] = set()
    while True:
        text = verses.pop() if verses and rng.random() < 1 / 3 else grammar.sentence()
        if 4 <= len(text.split()) <= 25 and text not in seen:
            seen.add(text)
            yield text


def short_lines(seed: int) -> Iterator[str]:
    """Endless lines of 1-4 words: answers, greetings, names, single nouns. Common ones repeat."""
    grammar = _Grammar(random.Random(seed), _SHORT_TEMPLATES)
    while True:
        text = grammar.sentence()
        if len(text.split()) <= 4:
            yield text
