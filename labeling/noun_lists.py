"""Default lists for the nouns of captions: which name nothing that a box could hold, and which stay plural.

Captions of BLIP-2 speak of the picture ("a close up view of"), of amounts ("a group of people") and of places in it
("on the side of the road"). The detector would look for these too, and where it finds one, its box may suppress the
real thing's. Entries are lower case and singular.
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
    # what has no shape
    *("beauty", "color", "colour", "concept", "design", "direction", "fashion", "fun", "idea", "kind", "life", "love"),
    *("mode", "motion", "pattern", "pose", "position", "size", "sort", "style", "theme", "type", "way"),
)
"""Nouns that name nothing, whatever they are compounded with: "photo", "stock photo"."""

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
    # nouns that are nothing by themselves, and something in a compound: "picnic area", "parking space"
    *("air", "area", "distance", "left", "location", "outdoors", "place", "right", "space", "world"),
    # what is done, and what is not in the picture
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
"""A noun is removed where the caption has it in one of these, and the phrase covers all of a compound: "on top" but not
"a red top", "a lot of" but not "the parking lot of"."""

PLURAL_WORDS = (
    *("bangs", "barracks", "binoculars", "blinds", "briefs", "chopsticks", "clothes", "crossroads", "earbuds"),
    *("earphones", "eyeglasses", "fireworks", "fries", "glasses", "goggles", "goods", "grapes", "groceries"),
    *("headphones", "heels", "jeans", "khakis", "leggings", "noodles", "outskirts", "overalls", "pajamas", "panties"),
    *("pants", "pliers", "pyjamas", "remains", "ruins", "scissors", "shears", "shorts", "slacks", "species", "stairs"),
    *("sunglasses", "surroundings", "suspenders", "sweatpants", "tights", "tongs", "trousers", "tweezers"),
    *("underpants", "woods"),
)
"""Words that mean another thing in the singular, or that name one thing: "glasses", "scissors"."""

RENAMED = {"cooky": "cookie", "people": "person", "syrinx": "syringe"}
"""Labels by the labels that replace them: singulars that spaCy's lemmatizer misses."""
