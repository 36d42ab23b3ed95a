"""Default lists for the nouns of captions: nouns that name no object, and words that stay plural.

Captions of BLIP-2 describe the picture ("a close up view of"), amounts ("a group of people") and positions ("on the
side of the road"). The detector would look for these nouns too, and their boxes could suppress those of real objects.
Entries are in lower case and singular.
"""

STOP_WORDS = (
    # the picture itself
    *("background", "close", "close-up", "closeup", "collage", "foreground", "illustration", "image", "photo"),
    *("photograph", "photography", "render", "rendering", "scene", "screenshot", "selfie", "shot", "snapshot", "view"),
    # events and activities
    *("action", "competition", "concert", "event", "festival", "game", "movie", "party", "performance", "race"),
    *("tournament", "trick", "trip", "vacation", "yoga"),
    # times and seasons
    *("afternoon", "autumn", "dawn", "day", "daytime", "dusk", "evening", "hour", "morning", "night", "nighttime"),
    *("season", "summer", "time", "today", "weather", "winter", "year"),
    # things without a shape
    *("beauty", "color", "colour", "concept", "design", "direction", "fashion", "fun", "idea", "kind", "life", "love"),
    *("mode", "motion", "pattern", "pose", "position", "size", "sort", "style", "theme", "type", "way"),
)
"""Nouns that name no object, alone or as the last word of a compound: "photo", "stock photo"."""

_AMOUNTS = (
    *("amount", "array", "assortment", "bit", "body", "bunch", "cluster", "collection", "couple", "crowd", "dozen"),
    *(
        "flock",
        "group",
        "half",
        "handful",
        "heap",
        "herd",
        "hundred",
        "line",
        "loaf",
        "lot",
        "majority",
        "mix",
        "number",
    ),
    *(
        "pack",
        "pair",
        "part",
        "piece",
        "pile",
        "portion",
        "roll",
        "row",
        "selection",
        "series",
        "set",
        "slice",
        "stack",
    ),
    *("swarm", "thousand", "trio", "variety"),
)
_DEPICTIONS = (
    *("cartoon", "cover", "depiction", "digital painting", "drawing", "line drawing", "oil painting", "painting"),
    *("pencil drawing", "pencil sketch", "picture", "portrait", "sketch", "watercolor", "watercolor painting"),
)
_PLACES = ("back", "bottom", "center", "centre", "corner", "edge", "end", "exterior", "front", "inside", "interior")
STOP_PHRASES = (
    *(f"{noun} of" for noun in (*_AMOUNTS, *_DEPICTIONS, *_PLACES, "middle", "outside", "rear", "side", "top")),
    # places in the picture without "of"
    *("in front", "in the back", "in the corner", "in the front", "in the middle", "on the back", "on the front"),
    *("on the left", "on the right", "on the side", "on top", "one side", "other side"),
    # nouns that name an object only in a compound: "picnic area", "parking space"
    *("air", "area", "distance", "left", "location", "outdoors", "place", "right", "space", "world"),
    # activities, and things outside the picture
    *("at sunrise", "at sunset", "at the camera", "for a picture", "for a ride", "for a walk", "for the camera"),
    *(
        "in bloom",
        "in flight",
        "in the fall",
        "in the rain",
        "in the shade",
        "in the spring",
        "in the sun",
        "on display",
        "taking a picture",
    ),
    *(f"playing {sport}" for sport in ("baseball", "basketball", "football", "golf", "hockey", "soccer", "tennis")),
)
"""Phrases whose noun is removed if the phrase covers its whole compound: "on top" but not "a red top", "a lot of" but
not "the parking lot of"."""

PLURAL_WORDS = (
    *("bangs", "barracks", "binoculars", "blinds", "briefs", "chopsticks", "clothes", "crossroads", "earbuds"),
    *("earphones", "eyeglasses", "fireworks", "fries", "glasses", "goggles", "goods", "grapes", "groceries"),
    *("headphones", "heels", "jeans", "khakis", "leggings", "noodles", "outskirts", "overalls", "pajamas", "panties"),
    *("pants", "pliers", "pyjamas", "remains", "ruins", "scissors", "shears", "shorts", "slacks", "species", "stairs"),
    *("sunglasses", "surroundings", "suspenders", "sweatpants", "tights", "tongs", "trousers", "tweezers"),
    *("underpants", "woods"),
)
"""Words with another meaning in the singular, or for a single object: "glasses", "scissors"."""

RENAMED = {"cooky": "cookie", "people": "person", "syrinx": "syringe"}
"""Replacements of labels: singulars that spaCy's lemmatizer misses."""
