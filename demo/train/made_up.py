"""Tools that nobody has: a verb, a noun, and parameters, out of long lists and of words that are none.

They teach to read a schema: `named` requests say the name of each parameter ("Archive the note with owner Tom"), `lifelike`
ones speak as people do ("I need a raft for 4 people in Oslo on Monday."), so what fits is to be found by the words that
request and schema share, and by what a value looks like. Which verb goes with which noun is either trained or held out.
"""

from dataclasses import dataclass

from kinds import ROLES, Kind, Param, address, full_name
from values import clock, code, date, decimal, filename, integer, mail, message, person, phone, pick, place_name, title
from words import (
    ADJECTIVES, COLOURS, COUNTRIES, DAYS, FOODS, GENRES, HELD_TOOL_WORDS, HOBBIES, JOBS, MATERIALS, MONTHS, NOUNS, PIECES, SHOP_ITEMS, VERBS, Source, a, cap,
    is_held, join, plural,
)


@dataclass
class MadeUp(Kind):
    """A made-up tool remembers what it is made of, so that one like it can be made."""

    verb: str = ""
    noun: str = ""
    said: str = ""  # the noun as requests say it
    by_name: bool = False  # whether requests name the parameters
    asks_by_verb: bool = False  # whether requests say the verb, so that another verb is another tool


def any_word(r: Source, words: list[str]) -> str:
    return r.open_word() if not r.held and PIECES and r.chance(0.35) else r.choice(words)


def pair(r: Source, like: MadeUp | None, verbs: list[str]) -> tuple[str, str]:
    """A verb and a noun of this side of the split; `like` gives one of the two."""
    while True:
        verb, noun = any_word(r, verbs), any_word(r, NOUNS)
        if like is not None:
            verb, noun = (like.verb, noun) if r.chance(0.5) else (verb, like.noun)
        if is_held("tool", verb, noun) == r.held and not {verb, noun} & HELD_TOOL_WORDS:
            return verb, noun


# -------------------------------------------------------------------------------------------------- named parameters
GENERIC_PARAMS = [  # (name, description, maker, type, how it is said)
    ("name", "Name", person, "string"), ("owner", "Who owns it", person, "string"), ("user", "Name of the user", person, "string"), ("author", "Who made it", lambda r: f"{r.name()} {r.surname()}", "string"),
    ("customer", "The customer", lambda r: f"{r.name()} {r.surname()}", "string"), ("worker", "Who does it", person, "string"), ("guest", "Name of the guest", person, "string"), ("manager", "Who manages it", person, "string"),
    ("city", "The city", place_name, "string"), ("country", "The country", pick(COUNTRIES), "string"), ("place", "The place", place_name, "string"), ("origin", "Where it comes from", place_name, "string"), ("destination", "Where it goes", place_name, "string"),
    ("date", "Day as YYYY-MM-DD", date, "string"), ("day", "Day of the week", pick(DAYS), "string"), ("month", "The month", pick(MONTHS), "string"), ("time", "Time as HH:MM", clock, "string"), ("deadline", "The last day", date, "string"), ("start", "When it starts", clock, "string"), ("end", "When it ends", clock, "string"),
    ("id", "Identifier", code, "string"), ("code", "The code", code, "string"), ("key", "The key", code, "string"), ("serial", "Serial number", code, "string"), ("version", "The version", lambda r: f"{r.randrange(10)}.{r.randrange(20)}", "string"),
    ("title", "The title", title, "string"), ("label", "The label", title, "string"), ("topic", "The topic", title, "string"), ("text", "The text", message, "string"), ("comment", "A comment", message, "string"), ("reason", "The reason", message, "string"), ("note", "A note", message, "string"),
    ("email", "E-mail address", mail, "string"), ("phone", "Phone number", phone, "string"), ("file", "Name of the file", filename, "string"), ("folder", "The folder", lambda r: r.choice(("/home/{}", "{}/old", "/{}")).format(r.choice(NOUNS)), "string"),
    ("colour", "The colour", pick(COLOURS), "string"), ("material", "What it is made of", pick(MATERIALS), "string"), ("item", "The item", pick(SHOP_ITEMS), "string"), ("food", "The food", pick(FOODS), "string"), ("job", "The job", pick(JOBS), "string"), ("hobby", "The hobby", pick(HOBBIES), "string"), ("genre", "The genre", pick(GENRES), "string"),
    ("size", "The size", None, ["small", "medium", "large"]), ("priority", "How urgent", None, ["low", "medium", "high", "urgent"]), ("format", "The format", None, ["pdf", "csv", "png", "text"]), ("mode", "The mode", None, ["fast", "slow", "safe", "auto"]), ("status", "The status", None, ["open", "closed", "waiting", "done"]), ("level", "The level", None, ["easy", "normal", "hard"]), ("side", "Which side", None, ["left", "right", "top", "bottom"]), ("language", "The language", None, ["English", "French", "German", "Spanish"]), ("unit", "The unit", None, ["metre", "foot", "mile", "inch"]),
    ("count", "How many", integer(1, 500), "integer"), ("amount", "How much", integer(1, 9999), "integer"), ("quantity", "How many", integer(1, 99), "integer"), ("limit", "At most so many", integer(1, 100), "integer"), ("page", "Number of the page", integer(1, 400), "integer"), ("width", "Width in centimetres", integer(1, 900), "integer"), ("height", "Height in centimetres", integer(1, 900), "integer"), ("age", "Age in years", integer(1, 99), "integer"), ("hours", "How many hours", integer(1, 48), "integer"), ("minutes", "How many minutes", integer(1, 240), "integer"), ("days", "How many days", integer(1, 60), "integer"), ("year", "The year", integer(1950, 2040), "integer"), ("floor", "Which floor", integer(0, 40), "integer"), ("speed", "The speed", integer(1, 300), "integer"), ("score", "The score", integer(0, 100), "integer"),
    ("price", "The price", decimal, "number"), ("weight", "Weight in kilograms", decimal, "number"), ("length", "Length in metres", decimal, "number"), ("rate", "The rate", decimal, "number"), ("discount", "Discount in percent", decimal, "number"), ("distance", "Distance in kilometres", decimal, "number"),
    ("public", "Whether all may see it", "public", "boolean"), ("urgent", "Whether it is urgent", "urgent", "boolean"), ("silent", "Whether it makes no sound", "silent", "boolean"), ("paid", "Whether it is paid", "paid", "boolean"), ("locked", "Whether it is locked", "locked", "boolean"), ("repeat", "Whether it is repeated", "repeated", "boolean"), ("wrapped", "Whether it is wrapped", "wrapped", "boolean"),
]


def named(r: Source, like: MadeUp | None = None) -> MadeUp:
    verb, noun = pair(r, like, VERBS)
    adjective = r.choice(ADJECTIVES)
    name = f"{verb}_{adjective}{noun}" if r.chance(0.85) else f"{noun}_{verb}" if r.chance(0.5) else verb + cap(noun)
    said = adjective.replace("_", " ") + noun
    what = r.choice((f"{cap(verb)} the {said}", f"{cap(verb)} {a(noun)}", f"Use this to {verb} {a(said)}", f"{cap(plural(noun))}: {verb}"))
    params = []
    for key, description, make, kind in r.sample(GENERIC_PARAMS, r.choices((0, 1, 2, 3, 4), (1, 5, 6, 4, 2))[0]):
        if key in ("name", "id", "code", "date", "title", "size", "price") and r.chance(0.12):
            key = f"{noun}_{key}"
        word, required = key.replace("_", " "), r.chance(0.7)
        if isinstance(kind, list):
            params.append(Param([key], [description], lambda r, e=kind: r.choice(e), f"{word} {{v}}", "string", kind, required))
        elif kind == "boolean":
            params.append(Param([key], [description], lambda r: r.chance(0.5), f"{make}|not {make}", "boolean", None, required))
        else:
            quoted = make in (title, message)
            params.append(Param([key], [description], make, f'{word} "{{v}}"' if quoted else f"{word} {{v}}", kind, None, required))
    return MadeUp([name], [what], [], params, None, verb, noun, said, True, True)


def named_request(r: Source, d: MadeUp, values: dict[int, object]) -> str:
    """Asks for it, naming every value."""
    parts = [d.params[i].mentioned(v) for i, v in values.items()]
    start = r.say(r.choice(("{V} the {n}", "Please {v} the {n}", "Can you {v} the {n}", "I want to {v} the {n}", "{V} {an}", "I need you to {v} the {n}")), V=cap(d.verb), v=d.verb, n=d.said, an=a(d.said))
    mark = "?" if start.startswith("Can") else "."
    if not parts:
        return start + mark
    style = r.randrange(4)
    r.shuffle(parts)
    if style == 0:
        return f"{start} with {join(parts)}{mark}"
    if style == 1:
        return f"{start}: {', '.join(parts)}{mark}"
    if style == 2:
        return f"{start}{mark} Use {join(parts)}."
    return f"{start}, {join(parts)}{mark}"


# --------------------------------------------------------------------------------------------------- lifelike requests
# Roles of kinds.ROLES that can be said behind any request, in groups of which at most one is taken.
BEHIND = [
    ["city", "city", "city", "address", "country", "room", "month", "language"], ["day", "weekday", "any_day", "date"], ["time", "time", "after"],
    ["people", "person", "full_name"], ["minutes", "hours", "days", "nights", "weeks", "years"], ["price", "euros"], ["mail", "phone"], ["colour"],
    ["title", "message"], ["food"], ["kilometres", "kilograms"], ["percent", "level", "degrees"], ["author", "year"],
]
OTHER_SAYS = {  # more ways to say a role
    "city": ["near {v}", "in {v}", "here in {v}"], "weekday": ["for {v}", "next {v}", "on {v}"], "date": ["on {v}", "for {v}"], "time": ["by {v}", "at {v}"], "person": ["for {v}", "with {v}", "for my friend {v}"],
    "people": ["for {v} people", "with {v} people"], "price": ["for at most {v} euros", "under {v} euros"], "title": ['called "{v}"', 'named "{v}"'], "colour": ["in {v}"],
    "message": ['with the text "{v}"', 'and say "{v}"', 'and write "{v}"'], "mail": ["to {v}", "and mail it to {v}"],
}
FIND, BOOK = "find search list show get look_up check".split(), "book reserve rent hire order request get buy".split()
ATTRIBUTES = [  # word, questions about the {n} {id}, unit of the answer
    ("price", ["How much does {n} cost?", "What is the price of {n}?"]), ("status", ["What is the status of {n}?", "How is {n} doing?"]), ("size", ["How big is {n}?", "What is the size of {n}?"]),
    ("weight", ["How heavy is {n}?", "What is the weight of {n}?"]), ("age", ["How old is {n}?", "What is the age of {n}?"]), ("speed", ["How fast is {n}?", "What is the speed of {n}?"]),
    ("level", ["What is the level of {n}?", "Tell me the level of {n}."]), ("height", ["How high is {n}?", "What is the height of {n}?"]), ("length", ["How long is {n}?", "What is the length of {n}?"]),
    ("owner", ["Who owns {n}?", "Who is the owner of {n}?"]), ("address", ["Where is {n}?", "What is the address of {n}?"]), ("colour", ["Which colour has {n}?", "What is the colour of {n}?"]),
    ("temperature", ["How warm is {n}?", "What is the temperature of {n}?"]), ("history", ["Show me the history of {n}.", "What is the history of {n}?"]), ("schedule", ["What is the schedule of {n}?", "When is {n} open?"]),
]


def role(r: Source, name: str, noun: str) -> Param:
    names, whats, value, says, *kind = ROLES[name]
    names = names.split() + ([f"{noun}_{names.split()[0]}"] if r.chance(0.2) else [])
    says = r.choice(OTHER_SAYS.get(name, [says]))
    return Param(names, whats.split("|"), value, says, kind[0] if kind else "string", None, r.chance(0.7))


def behind(r: Source, noun: str, low: int = 0) -> list[Param]:
    """Some parameters of different kinds, said behind the request; sometimes the pair from and to."""
    groups = r.sample(BEHIND, r.choices((0, 1, 2, 3), (1, 5, 5, 2))[0] or low)
    params = [role(r, r.choice(g), noun) for g in groups]
    if r.chance(0.12):
        params = [p for p in params if not p.says.startswith(("from", "to", "in", "near", "at"))] + [role(r, "from", noun), role(r, "to", noun)]
        params[-1].required = params[-2].required = True
    return params


def described(r: Source, whats: list[str], params: list[Param]) -> list[str]:
    """A description, which sometimes says what else there is."""
    what = r.choice(whats)
    if params and r.chance(0.3):
        what += r.choice((" by ", " with ")) + r.choice(params).names[0]
    return [what]


def act(r: Source, like: MadeUp | None = None) -> MadeUp:
    """To do something with a thing: "Polish my raft in Oslo on Monday"; or "My raft is dirty. Polish it on Monday."."""
    verb, noun = pair(r, like, VERBS)
    adjective = r.choice(ADJECTIVES)
    said = adjective.replace("_", " ") + noun
    name = r.choice((f"{verb}_{adjective}{noun}", f"{verb}_{noun}", f"{verb}_{noun}", f"{noun}_{verb}", verb + cap(noun), verb))
    what = described(r, [f"{cap(verb)} {a(noun)}", f"{cap(verb)} the {said}", f"{cap(verb)} {plural(noun)}", f"Lets you {verb} {a(noun)}", f"{cap(a(noun))} to {verb}"], params := behind(r, noun))
    one = r.choice((f"the {said}", f"my {said}", a(said), f"our {noun}", f"this {noun}"))
    asks = [f"{verb} {one}"]
    if r.chance(0.3):
        which = r.choice((Param(["name", "which", noun], ["Which one", f"Name of the {noun}"], person), Param(["id", noun, f"{noun}_id"], [f"Number of the {noun}", "Which one"], code)))
        params.insert(0, which)
        asks = r.choice(([f"{verb} the {noun} {{0}}"], [f"{verb} {noun} {{0}}"], [f"The {noun} {{0}} is {r.choice(STATES)}. {cap(verb)} it"], [f"My {noun} {{0}} is {r.choice(STATES)}. {cap(verb)} it"]))
    elif r.chance(0.25):
        asks = [f"My {noun} is {r.choice(STATES)}. {cap(verb)} it", f"I have {a(noun)}. {cap(verb)} it"]
    elif r.chance(0.2):
        many = Param(["count", "number", "amount", plural(noun)], ["How many", f"How many {plural(noun)}"], integer(2, 50), "", "integer")
        params.insert(0, many)
        asks = [f"{verb} {{0}} {plural(noun)}"]
    return MadeUp([name], what, asks, params, None, verb, noun, said, False, True)


STATES = "broken dirty old new ready late full empty slow loud wet cold sick lost tired".split()


def find(r: Source, like: MadeUp | None = None) -> MadeUp:
    """To look for something: "Where can I find a raft in Oslo?"."""
    verb, noun = pair(r, None, FIND)
    many = plural(noun)
    names = [f"{verb}_{many}", f"{verb}_{noun}", f"{noun}_search", f"{noun}_finder", f"nearest_{noun}", f"{verb}_{many}", many, f"{noun}_{verb}"]
    params = behind(r, noun, 1)
    what = described(r, [f"Find {many}", f"Search for {a(noun)}", f"Shows where {many} are", f"Looks for {many}", f"List of {many}", f"{cap(many)} near the user", f"Where to find {a(noun)}"], params)
    asks = ["Where can I find {an}", "Is there {an}", "Are there [any |]{s}", "Which {s} are there", "show me [all |]{s}", "find {an}", "look for {an}", "search for {s}", "I am looking for {an}", "Do you know {an}", "list the {s}"]
    return MadeUp(names, what, [r.say(x, an=a(noun), s=many) for x in r.sample(asks, 2)], params, None, verb, noun, noun)


def book(r: Source, like: MadeUp | None = None) -> MadeUp:
    """To get something: "I need a raft for 4 people on Monday."; or several of it."""
    verb, noun = pair(r, None, BOOK)
    many = plural(noun)
    names = [f"{verb}_{noun}", f"{noun}_booking", f"{noun}_service", f"{verb}_{noun}", f"{verb}_{many}", f"new_{noun}"]
    params = behind(r, noun, 1)
    what = described(r, [f"{cap(verb)} {a(noun)}", f"{cap(verb)} {many}", f"Makes a booking of {a(noun)}", f"{cap(many)} to {verb}", f"Gets {a(noun)} for the user"], params)
    asks = ["I need {an}", "I want {an}", "get me {an}", "{v} {an}", "{v} {an}", "have {an}", "I would like {an}", "We need {an}"]
    if r.chance(0.3):
        params.insert(0, Param(["count", "number", "quantity", many], ["How many", f"How many {many}"], integer(2, 50), "", "integer"))
        asks = ["I need {{0}} {s}", "I want {{0}} {s}", "get me {{0}} {s}", "{v} {{0}} {s}", "{v} {{0}} {s}"]
    return MadeUp(names, what, [x.format(an=a(noun), s=many, v=verb) for x in r.sample(asks, 2)], params, None, verb, noun, noun)


def info(r: Source, like: MadeUp | None = None) -> MadeUp:
    """To ask for one property: "How heavy is the raft K-12?"."""
    attribute, questions = r.choice(ATTRIBUTES)
    while True:
        noun = any_word(r, NOUNS)
        if is_held("tool", attribute, noun) == r.held:
            break
    names = [f"get_{noun}_{attribute}", f"{noun}_{attribute}", f"{attribute}_of_{noun}", f"check_{attribute}", f"{noun}_info"]
    what = [f"{cap(attribute)} of {a(noun)}", f"Get the {attribute} of the {noun}", f"Tells the {attribute} of {plural(noun)}", f"Shows what the {attribute} is, of {a(noun)}"]
    which = r.choice((Param(["id", noun, f"{noun}_id", "number"], [f"Number of the {noun}", "Which one"], code), Param(["name", noun, f"{noun}_name"], [f"Name of the {noun}", "Which one"], person)))
    params = [which] + (behind(r, noun) if r.chance(0.2) else [])
    return MadeUp(names, [r.choice(what)], [q.replace("{n}", r.choice((f"the {noun} {{0}}", f"my {noun} {{0}}", f"{noun} {{0}}"))) for q in questions], params, None, attribute, noun, noun)


def adjust(r: Source, like: MadeUp | None = None) -> MadeUp:
    """To set something: "Set the boiler to 40 degrees."."""
    verb, noun = pair(r, None, "set change turn put adjust switch".split())
    kind = r.randrange(3)
    if kind == 0:
        unit, names = r.choice((("degrees", "degrees temperature"), ("percent", "percent level"), ("metres", "metres height"), ("watts", "watts power"), ("points", "points score")))
        params = [Param(names.split() + ["value"], [f"How many {unit}", f"The {unit}"], integer(1, 300), "", "integer")]
        asks = [f"{verb} the {noun} to {{0}} {unit}", f"I want the {noun} at {{0}} {unit}"]
        names = [f"{verb}_{noun}", f"{noun}_{names.split()[1]}", f"{noun}_control"]
    elif kind == 1:
        enum = r.choice((["on", "off"], ["up", "down"], ["fast", "slow", "normal"], ["open", "closed"], ["left", "right"]))
        params = [Param(["state", "mode", "position", "to"], ["What to do", "The new state", f"State of the {noun}"], lambda r: r.choice(enum), "", "string", enum)]
        asks = [f"{verb} the {noun} {{0}}" if enum[0] in ("on", "up") else f"{verb} the {noun} to {{0}}", f"{verb} my {noun} to {{0}}"]
        names = [f"{verb}_{noun}", f"{noun}_control", f"{noun}_mode"]
    else:
        key, make = r.choice((("name", title), ("colour", pick(COLOURS)), ("owner", person), ("code", code), ("place", place_name), ("time", clock), ("day", pick(DAYS))))
        params = [Param([key, f"new_{key}", f"{noun}_{key}"], [f"The new {key}", f"{cap(key)} of the {noun}"], make)]
        asks = [f"{verb} the {key} of the {noun} to {{0}}", f"{verb} the {noun}'s {key} to {{0}}"]
        names = [f"{verb}_{noun}_{key}", f"{verb}_{key}", f"{noun}_{key}"]
    what = [f"{cap(verb)} the {noun}", f"Controls the {noun}", f"{cap(verb)} {a(noun)} to something"]
    return MadeUp(names, [r.choice(what)], asks, params + (behind(r, noun) if r.chance(0.25) else []), None, verb, noun, noun)


def tell(r: Source, like: MadeUp | None = None) -> MadeUp:
    """To say something to somebody: "Tell the plumber that ..."."""
    verb, noun = pair(r, None, "tell message notify warn ask inform remind".split())
    names = [f"{verb}_{noun}", f"send_to_{noun}", f"{noun}_message", f"message_{noun}"]
    what = [f"{cap(verb)} the {noun}", f"Sends a message to the {noun}", f"{cap(verb)} {a(noun)} something"]
    params = [Param(["text", "message", "content", "what"], ["What to say", "The text", "The message"], message)]
    return MadeUp(names, [r.choice(what)], [f'{verb} the {noun} "{{0}}"', f"{verb} my {noun}: {{0}}", f'send "{{0}}" to the {noun}', f'The {noun} must know: "{{0}}"'], params + (behind(r, noun) if r.chance(0.15) else []), None, verb, noun, noun)


LIFELIKE = [(act, 6), (find, 3), (book, 4), (info, 3), (adjust, 3), (tell, 1)]


def lifelike(r: Source) -> MadeUp:
    return r.choices([make for make, _ in LIFELIKE], [share for _, share in LIFELIKE])[0](r)
