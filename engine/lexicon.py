"""Word knowledge: what excludes what, what is a kind of what, and what means the same.

Every line of a table is one set of alternatives: of one thing at one time at most one of them is true, so each is a
foil of the others. `a=b` are two words for the same; the first is the one that is written. Nouns stand under the kinds
they belong to, `wider > narrower: words`, so that "man" is never foiled by "person" or "guy".
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

_NOUNS = """
person=human > adult: man=guy=gentleman=dude, woman=lady
person > child=kid: boy, girl
person > child > baby: infant=newborn
person > worker: chef=cook, waiter, doctor, nurse, policeman=police officer, firefighter=fireman, soldier, farmer, fisherman
person > performer: dancer, singer, guitarist, drummer, juggler, magician
person > athlete: cyclist=biker, runner=jogger, swimmer, skier, surfer, snowboarder, skateboarder, boxer, gymnast, golfer
person: bride, groom
animal=creature > pet: dog=puppy, cat=kitten, rabbit=bunny, hamster, parrot
animal > cattle: cow, sheep=lamb, goat, pig=piglet, horse=pony, donkey
animal > wild animal: lion, tiger, bear, wolf, fox, deer, elephant, giraffe, zebra, monkey, kangaroo, camel
animal > bird: pigeon, seagull, duck, goose, chicken, owl, eagle, penguin, swan, peacock, sparrow
animal > sea animal: fish, shark, dolphin, whale, crab, octopus, turtle, seal
animal > insect: butterfly, bee, ant, spider, ladybug
vehicle > road vehicle: car=automobile, truck=lorry, bus, van, tractor, motorcycle=motorbike, bicycle=bike, scooter, taxi=cab
vehicle > rail vehicle: train, tram=streetcar
vehicle > aircraft: airplane=plane=aeroplane, helicopter, hot air balloon, glider
vehicle > watercraft > boat: canoe, kayak, sailboat, raft, rowboat
vehicle > watercraft: ship, submarine
furniture > seat: chair, stool, bench, sofa=couch, armchair
furniture > surface: table=dining table, desk, counter
furniture > bedding: bed, crib, hammock
furniture > storage: shelf, cupboard=cabinet, drawer, wardrobe
tableware > drinkware: mug, glass
tableware > drinkware: cup, wine glass
tableware > drinkware > glass: wine glass=goblet, tumbler
tableware > vessel: bottle, jar, jug=pitcher, teapot, vase
tableware > cutlery: fork, spoon, knife, chopstick
tableware > dish: bowl, plate, tray
container: box, basket, bucket=pail, barrel, crate
container > bag: backpack=rucksack, handbag=purse, suitcase, briefcase
food > fruit: apple, banana, orange, pear, lemon, strawberry, pineapple, watermelon, peach
food > vegetable: carrot, broccoli, tomato, cucumber, potato, onion, pepper, mushroom, cabbage
food > meal: pizza, sandwich, hot dog, hamburger=burger, salad, taco
food > dessert: cake, donut=doughnut, cookie, pie, cupcake, muffin
clothing > headwear: hat=cap, helmet, crown, headscarf
clothing > footwear: shoe, boot, sandal, slipper
clothing > upper wear: shirt=t-shirt, sweater=jumper=pullover, jacket, coat, vest, hoodie
clothing > lower wear: pants=trousers, jeans, shorts, skirt
clothing > accessory: scarf, tie=necktie, belt, glove, sock
jewellery: necklace, ring, bracelet, earring
device > computer: laptop, tablet
device: television=tv, radio, telephone=phone=cell phone=mobile phone, keyboard, remote=remote control, computer mouse
appliance: oven=stove, microwave, toaster, refrigerator=fridge, dishwasher, washing machine, sink
light source: lamp, candle, torch=flashlight
light source: lantern, bulb=light bulb
instrument: guitar, piano, violin, drum, trumpet, flute, saxophone, accordion, harp
tool: hammer, screwdriver, wrench, shovel, axe, drill, rake, broom, ladder
stationery: pencil, pen, crayon, ruler, eraser
stationery > reading matter: book, newspaper, magazine, letter
toy: ball=soccer ball=football, kite, frisbee, doll, teddy bear, puppet, balloon
sports gear: skateboard, surfboard, snowboard, baseball bat, tennis racket, baseball glove, golf club, hockey stick
plant: tree, bush=shrub, flower, cactus
plant > flower: rose, tulip, sunflower, daisy, lily
building: house, church, barn, skyscraper, castle, lighthouse, factory, hotel
building part: door, window, roof, chimney, balcony, staircase=stairs
street furniture: traffic light, stop sign, fire hydrant, parking meter, mailbox, lamppost=street light
room: kitchen, bathroom, bedroom, living room, office, classroom, garage
place > outdoor place: beach, forest=woods, desert, street=road, park, field, mountain, river, lake, playground, farm
place > venue: restaurant=cafe, stadium, library, museum, supermarket, airport, hospital, theater=theatre
body part: arm, leg, knee, elbow, shoulder
facial hair: beard, moustache=mustache
everyday thing: clock, key, star, bell, umbrella, tube, scissors, toothbrush, comb, mirror, pillow, towel, blanket, rug=carpet
~drink: water, milk, coffee, tea, beer, wine, juice, soda
~ground cover: grass, snow, sand, mud, gravel
~staple: bread, rice, pasta=spaghetti, cheese, meat
~human feature: hair
~weather: rain, fog, sunshine
"""

_ATTRIBUTES = {
    "colour": """
        red=crimson=scarlet=maroon=burgundy, orange, yellow, green=olive, blue=navy, purple=violet, pink, brown, white, black
        gray=grey, red, yellow, green, blue, purple, orange, pink
        beige=tan=cream, red, green, blue, purple, black
        turquoise=teal=cyan, red, yellow, orange, brown, black
        golden=gold, blue, green, red, black, purple
        silver, red, green, blue, brown, orange
        blond=blonde, black, brown
        colourful=colorful=multicolored=multicoloured, black, white
    """,
    "pattern": """
        striped, dotted=spotted=speckled=polka-dot=polka-dotted, checked=checkered=chequered=plaid, zigzag, floral=flowered
        plain, striped, dotted, checked, zigzag, speckled, floral
    """,
    "material": """
        wooden, metallic=metal=steel=iron, glass, plastic, leather, paper, stone, brick, concrete, ceramic=porcelain, rubber, wicker
        matte=dull, glossy=shiny
        fluffy=furry, smooth
    """,
    "size": """
        small=little=tiny=miniature, large=big=huge=giant=enormous
        medium=medium-sized, tiny, huge
        tall, short
        long, short
        wide, narrow
        thick, thin
        deep, shallow
    """,
    "attribute": """
        open=opened, closed=shut
        wet=soaked, dry
        empty, full
        old=elderly, young
        old, new
        clean, dirty
        broken, intact
        happy=cheerful=smiling, sad=unhappy
        sunny, cloudy=overcast, rainy
        male, female
        round=circular, square, triangular
        crowded=busy, deserted
        bald, long-haired
        shirtless, fully dressed
        bright, dim
        snowy, grassy, sandy
    """,
    "action": """
        standing, sitting=seated, lying=laying, kneeling, crouching=squatting
        stands, sits, lies, kneels, crouches
        walking=strolling, running=jogging=sprinting, crawling
        walks, runs, crawls
        swimming, flying
        swims, flies
        smiling=grinning, frowning
        smiles, frowns
        laughing, crying=weeping
        laughs, cries
        eating, cooking
        eats, cooks
        throwing=tossing, catching
        throws, catches
        pushing, pulling
        pushes, pulls
        opening, closing=shutting
        opens, closes
        entering, leaving=exiting
        enters, leaves
        climbing, descending
        climbs, descends
        sleeping, dancing
        sleeps, dances
        reading, painting
        reads, paints
        singing, whispering
        sings, whispers
        kicking, catching
        kicks, catches
        washing, breaking
        buying, selling
        buys, sells
        lifting=raising, lowering
        parked, moving
    """,
    "position": """
        leftmost, rightmost
        topmost=uppermost, bottommost=lowest
        upper, lower
        nearest=closest, farthest=furthest
        foreground, background
        left, right
        top, bottom
        front, back
        indoors=inside, outdoors=outside
        upstairs, downstairs
    """,
    "relation": """
        left of, right of
        to the left of, to the right of
        on the left of, on the right of
        in front of, behind
        above, below=beneath
        on top of, underneath
        on, under=underneath
        over, under=underneath
        near=next to=beside=close to, far from
        with, without
        inside, outside
        inside of, outside of
        into, out of
        onto, off
        toward=towards, away from
        up, down
    """,
}

NEAR_COLOURS = tuple(
    map(
        frozenset,
        (
            ("red", "orange"),
            ("red", "pink"),
            ("orange", "yellow"),
            ("orange", "brown"),
            ("purple", "pink"),
            ("purple", "blue"),
            ("red", "purple"),
        ),
    )
)
"""Neighbours that two people may name differently: never foils of each other."""

INVERSE = {
    "left of": "right of",
    "right of": "left of",
    "in front of": "behind",
    "behind": "in front of",
    "above": "below",
    "below": "above",
    "on": "under",
    "under": "on",
    "near": "near",
    "far from": "far from",
}
"""`a REL b` says the same as `b INVERSE[REL] a`, roughly for on and under."""

_SAME_RELATION = {
    "to the left of": "left of",
    "on the left of": "left of",
    "to the right of": "right of",
    "on the right of": "right of",
    "on top of": "on",
    "underneath": "under",
    "in": "inside",
    "inside of": "inside",
    "outside of": "outside",
}


def words(text: str) -> frozenset[str]:
    """The words of a text between spaces."""
    return frozenset(text.split())


NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
PLURAL_ONLY = words("scissors pants jeans shorts trousers stairs woods")
LONG_THINGS = words("hair sleeve skirt dress grass coat rope line road beard shorts table pencil")
"""Things of which short is the opposite of long, not of tall."""


@cache
def _english() -> Any:
    """Imported when used: it takes a second, and the web process reads only the list of filters."""
    import inflect

    return inflect.engine()


_ANYTHING = ("thing", "object", "item")


class Sense(NamedTuple):
    """A noun: `name` stands for all its synonyms, `kinds` are the wider terms, `rivals` exclude it."""

    name: str
    kinds: frozenset[str]
    rivals: tuple[str, ...]
    mass: bool


def _synonyms(entry: str) -> list[str]:
    return [word.strip() for word in entry.split("=")]


def _lines(table: str) -> Iterator[str]:
    return (line.strip() for line in table.splitlines() if line.strip())


@cache
def nouns() -> dict[str, Sense]:
    """Every known noun in the singular, synonyms and kinds included."""
    found = {word: Sense(_ANYTHING[0], frozenset(), (), False) for word in _ANYTHING}
    for line in _lines(_NOUNS):
        path, _, words = line.removeprefix("~").partition(":")
        kinds = [_synonyms(kind) for kind in path.split(">")]
        for depth, names in enumerate(kinds):
            wider = frozenset(kind[0] for kind in kinds[:depth])
            for name in names:
                found.setdefault(name, Sense(names[0], wider, (), line.startswith("~")))
        _add_members(
            found, [_synonyms(word) for word in words.split(",")], frozenset(k[0] for k in kinds), line[0] == "~"
        )
    return found


def _add_members(found: dict[str, Sense], members: list[list[str]], kinds: frozenset[str], mass: bool) -> None:
    """A word that is already known as a kind of other words gets its rivals; wider terms add up."""
    for synonyms in members:
        rivals = tuple(other[0] for other in members if other is not synonyms)
        for word in synonyms:
            known = found.get(word, Sense(synonyms[0], frozenset(), (), mass))
            both = tuple(dict.fromkeys((*known.rivals, *rivals)))
            found[word] = Sense(synonyms[0], (kinds | known.kinds) - {synonyms[0]}, both, mass)


@cache
def _attribute_index() -> dict[tuple[str, str], tuple[str, tuple[str, ...]]]:
    """(edit type, word) -> (the word that stands for its synonyms, its alternatives)."""
    found: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
    for edit_type, table in _ATTRIBUTES.items():
        for line in _lines(table):
            members = [_synonyms(entry) for entry in line.split(",")]
            for synonyms in members:
                rivals = tuple(other[0] for other in members if other is not synonyms)
                for word in synonyms:
                    name, known = found.get((edit_type, word), (synonyms[0], ()))
                    found[edit_type, word] = (name, tuple(dict.fromkeys((*known, *rivals))))
    return found


def edit_types() -> tuple[str, ...]:
    """The kinds of attribute word, in the order of the tables."""
    return tuple(_ATTRIBUTES)


@cache
def words_of(edit_type: str) -> frozenset[str]:
    """Every word of a kind, synonyms included."""
    return frozenset(word for kind, word in _attribute_index() if kind == edit_type)


def canonical(edit_type: str, word: str) -> str:
    """The word that stands for all synonyms of `word`; a word that is not known stands for itself."""
    return _attribute_index().get((edit_type, word), (word, ()))[0]


def relation_name(words: str) -> str:
    """The one name of a relation that may be put in several ways: "to the left of" -> "left of"."""
    name = canonical("relation", words)
    return _SAME_RELATION.get(name, name)


def alternatives(edit_type: str, word: str) -> tuple[str, ...]:
    """Words that cannot be true where `word` is, none that a person may take for the same."""
    own, rivals = _attribute_index().get((edit_type, word), (word, ()))
    return tuple(r for r in rivals if canonical(edit_type, r) != own and frozenset((own, r)) not in NEAR_COLOURS)


def same_or_kin(one: str, other: str) -> bool:
    """Whether one noun may be said of what the other names: a synonym, a wider or a narrower term, or a part of the name.

    Words that are not known are kin when one name contains the other ("cell", "white cell").
    """
    a, b = _sense(one), _sense(other)
    if a.name == b.name or a.name in b.kinds or b.name in a.kinds:
        return True
    if one in nouns() and other in nouns():
        return False
    first, second = a.name.split(), b.name.split()
    return _within(first, second) or _within(second, first)


def is_a(narrow: str, wide: str) -> bool:
    """Whether everything called `narrow` may be called `wide`; an unknown compound is a kind of its last word."""
    a, b = _sense(narrow), _sense(wide)
    if b.name in (a.name, _ANYTHING[0]) or b.name in a.kinds:
        return True
    return narrow not in nouns() and narrow.endswith(f" {wide}")


def may_be_both(one: str, other: str) -> bool:
    """Whether two nouns that are no synonyms can name one and the same: a mug and a cup, a woman and a chef."""
    a, b = _sense(one), _sense(other)
    alike = bool(a.kinds) and a.kinds == b.kinds
    return (alike or "person" in a.kinds & b.kinds) and b.name not in a.rivals and a.name not in b.rivals


def _sense(noun: str) -> Sense:
    return nouns().get(noun) or Sense(noun, frozenset(), (), False)


def _within(part: list[str], whole: list[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


@cache
def singular(word: str) -> str:
    """The singular of a noun; the word itself when it is no plural."""
    if word in nouns() or word in PLURAL_ONLY:
        return word
    return str(_english().singular_noun(word) or word)


@cache
def plural(word: str) -> str:
    """The plural of a noun given in the singular."""
    if word.isupper():  # an abbreviation: RBC, RBCs
        return f"{word}s"
    return word if word in PLURAL_ONLY else str(_english().plural_noun(word))


@cache
def article(following: str) -> str:
    """The indefinite article, as the word that follows sounds."""
    return str(_english().a(following)).split(" ", 1)[0]
