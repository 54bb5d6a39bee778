"""Made-up tools whose values stand inside of the sentence: "Give 40 litres to the boiler K-12", "I want a raft with roses. Bring it to Oslo".

For training alone. made_up.py says values behind a request, each with its own word; here what a value is for follows from
where it stands, from its unit and from what it looks like. The request may say another verb than the tool, or the thing
alone, and a tool may be named by two nouns.
"""

from kinds import ENUMS, Param, foods, full_name, word
from made_up import STATES, MadeUp, any_word, behind, role
from values import code, filename, integer, person, phone, pick, place_name, title, topic
from words import COLOURS, GENRES, HELD_TOOL_WORDS, HOBBIES, JOBS, MATERIALS, NOUNS, SAME_VERBS, SHOP_ITEMS, VERBS, Source, a, cap, is_held, plural

UNITS = """weeks days hours minutes years litres grams kilos metres inches points pages pieces rounds spoons drops cups boxes bags bottles rows steps
lessons seats tokens coins sheets slices stamps portions loads degrees percent euros units miles""".split()
SIZES = ("small,medium,large", "short,long", "low,high", "thin,thick", "half,whole", "plain,fancy")


def free_word(r: Source, words: list[str]) -> str:
    while True:
        w = any_word(r, words)
        if w not in HELD_TOOL_WORDS:
            return w


def verbs_of(r: Source, noun: str) -> tuple[str, str]:
    """The verb of the tool and that of the request, which is often another one."""
    while True:
        own = said = free_word(r, VERBS)
        if r.chance(0.6):
            own, said = r.sample(r.choice(SAME_VERBS), 2)
        elif r.chance(0.2):
            said = r.choice(("do", "get", "handle", "arrange", "take care of", "see to"))
        if not any(is_held("tool", v, noun) or v in HELD_TOOL_WORDS for v in (own, said)):
            return own, said


def amount(r: Source) -> tuple[Param, str]:
    unit = r.choice(UNITS) if r.chance(0.75) else plural(free_word(r, NOUNS))
    names = [unit, unit, "amount", "number", "quantity", "count", f"how_many_{unit}", f"{unit}_count"]
    return Param(names, [f"How many {unit}", f"Number of {unit}", f"The {unit}"], integer(2, 900 if r.chance(0.5) else 40), "", "integer"), unit


def which(r: Source, noun: str) -> Param:
    if r.chance(0.5):
        return Param([noun, "target", f"{noun}_name", "name", "which"], [f"Which {noun}", f"Name of the {noun}"], r.choice((word, word, person)))
    return Param([f"{noun}_number", f"{noun}_id", "id", noun, "owner_id", "number"], [f"Number of the {noun}", f"Which {noun}"], r.choice((code, code, phone)))


def thing(r: Source) -> Param:
    names, what, make = r.choice((
        ("file document path", "Name of the file|Which file", filename), ("title name work", "The title|What it is called", title),
        ("item product what", "What it is|Which item", pick(SHOP_ITEMS)), ("food ingredient what", "What it is|The food", foods), ("code number part", "The code|Which one", code),
        ("subject topic what", "What it is about", topic),
    ))
    return Param(names.split(), what.split("|"), make)


def stuff(r: Source) -> Param:
    names, what, make = r.choice((
        ("filling content what", "What is in it|What it comes with", foods), ("material made_of", "What it is made of", pick(MATERIALS)), ("colour look", "The colour", pick(COLOURS)),
        ("course activity lesson", "Which course|What to do", pick(HOBBIES)), ("genre style", "The style|Which kind", pick(GENRES)), ("job worker role", "Who does it|The job", pick(JOBS)),
        ("thing object extra", "What goes with it", word), ("article item", "Which article", pick(SHOP_ITEMS)),
    ))
    return Param(names.split(), what.split("|"), make)


def pair_of_same(r: Source) -> tuple[Param, Param]:
    """Two values of one sort, each with its part: only its place in the sentence says which is which."""
    (n1, w1), (n2, w2) = r.choice(((("source first old", "The first one|What there is now"), ("target second new", "The second one|What comes then")),
                                   (("giver sender from_whom", "Who gives it"), ("taker receiver to_whom", "Who gets it")),
                                   (("start begin lowest", "Where it begins"), ("goal finish highest", "Where it ends"))))
    make, kind = r.choice(((person, "string"), (code, "string"), (word, "string"), (filename, "string"), (place_name, "string"), (full_name, "string"), (integer(1, 900), "integer")))
    return Param(n1.split(), w1.split("|"), make, "", kind), Param(n2.split(), w2.split("|"), make, "", kind)


# {v} verb, {V} verb at the start, {n} noun, {an} with its article, {c} noun before it, {u} unit, {s} state; 0 and 1 are the two values.
WHICH_AMOUNT = [
    "{v} the {n} {{0}} with {{1}} {u}", "{v} my {n} {{0}} by {{1}} {u}", "give {{1}} {u} to the {n} {{0}}", "give the {n} {{0}} {{1}} {u}", "{v} {{1}} {u} into the {n} {{0}}", "My {n} {{0}} needs {{1}} {u}",
    "add {{1}} {u} to my {n} {{0}}", "{v} my {c} {n} {{0}} by {{1}} {u}", "{v} the {n} {{0}} for {{1}} {u}", "My {n} {{0}} is {s}. {V} it for {{1}} {u}", "let the {n} {{0}} have {{1}} {u}", "{v} the {c} {n} {{0}}, {{1}} {u}",
]
THING_AMOUNT = ["{v} {{1}} {u} of {{0}}", "{v} {{0}}, {{1}} {u}", "{v} the {n} {{0}}, {{1}} {u}", "I need {{1}} {u} of {{0}} from the {n}", "{v} {{1}} {u} of the {n} {{0}}", "get me {{1}} {u} of {{0}} at the {n}", "{v} {{1}} {u} for {{0}}", "I want {{1}} {u} for the {n} {{0}}"]
STUFF_GOAL = ["{v} {an} with {{0}} to {{1}}", "I want {an} with {{0}}. Bring it to {{1}}", "send {an} with {{0}} to {{1}}", "{v} {an} of {{0}} to {{1}}", "I need {an} with {{0}} at {{1}}", "bring {{0}} and {an} to {{1}}", "{v} me {an} with {{0}}. I live at {{1}}"]
STUFF_DAY = ["{v} the {{0}} {n} on {{1}}", "I would like to have {{0}} at the {n} on {{1}}", "I want {{0}} at the {n} on {{1}}", "we go to the {n} for {{0}} on {{1}}", "take me to {{0}} in the {c} {n} on {{1}}", "I like {{0}}. {V} the {n} for {{1}}", "{v} {{0}} at the {n} for {{1}}"]
WHICH_DAY = ["My {n} {{0}} is {s}. {V} the {c} for {{1}}", "{v} the {n} for {{0}} on {{1}}", "{v} {an} with the {c} for {{0}} on {{1}}", "{{0}} needs the {n} on {{1}}", "The {n} {{0}} is {s}. {V} it on {{1}}"]
SAME = ["{v} the {n} from {{0}} to {{1}}", "{v} {{0}} to {{1}} at the {n}", "{v} the {n} of {{0}} to {{1}}", "for the {n}, {v} {{0}} and then {{1}}", "{v} {{0}} with {{1}} in the {n}"]


def phrased(r: Source, like: MadeUp | None = None) -> MadeUp:
    noun, before = free_word(r, NOUNS), free_word(r, NOUNS)
    own, said = verbs_of(r, noun)
    unit, form = "", r.choices(range(6), (7, 5, 4, 4, 2, 2))[0]
    if form == 0:
        count, unit = amount(r)
        params, asks = [which(r, noun), count], WHICH_AMOUNT
    elif form == 1:
        count, unit = amount(r)
        params, asks = [thing(r), count], THING_AMOUNT
    elif form == 2:
        params, asks = [stuff(r), role(r, r.choice(("address", "address", "address", "city", "room", "mail")), noun)], STUFF_GOAL
    elif form == 3:
        params, asks = [stuff(r), role(r, r.choice(("weekday", "day", "date", "any_day")), noun)], STUFF_DAY
    elif form == 4:
        params, asks = [which(r, noun), role(r, r.choice(("weekday", "day", "date")), noun)], WHICH_DAY
    else:
        params, asks = list(pair_of_same(r)), SAME
    for p in params:
        p.required = True
    if r.chance(0.3):
        names, what, says = ENUMS["size"]
        values = r.choice(SIZES).split(",")
        params.append(Param(names.split(), [what], lambda r: r.choice(values), says, "string", values, r.chance(0.4)))
    elif r.chance(0.15):
        taken = {n for p in params for n in p.names}
        params += [p for p in behind(r, noun) if not taken & set(p.names)][:1]
    asks = [x.format(v=said, V=cap(said), n=noun, an=a(noun), c=before, u=unit, s=r.choice(STATES)) for x in r.sample(asks, 2)]
    named_by = r.choice((f"{own}_{noun}", f"{own}_{noun}", f"{noun}_{own}", f"{own}_{before}_{noun}", f"{own}_{noun}_{before}", f"{noun}_service"))
    whats = [
        f"{cap(own)} {a(noun)}", f"{cap(own)} the {before} {noun}", f"{cap(own)} the {noun} of the {before}", f"{cap(plural(noun))} of the {before}", f"Lets one {own} {plural(noun)}",
        f"{cap(own)} {plural(noun)} for the {before}", f"{cap(said)} {a(noun)}",
    ]
    return MadeUp([named_by], [r.choice(whats)], asks, params, None, own, noun, noun)
