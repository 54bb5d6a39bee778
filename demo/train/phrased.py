"""Made-up tools whose values stand inside of the sentence: "The boiler K-12 gets 40 litres", "Bring me a raft with roses".

For training alone. made_up.py says values behind a request, each with its own word; here what a value is for follows from
where it stands, from its unit and from what it looks like. The request may say another verb than the tool, another noun, or
the thing alone; a tool may be named by two nouns, and have no parameter at all, or lists, choices and yes-or-no.
"""

from kinds import ENUMS, Param, foods, full_name, word
from made_up import STATES, MadeUp, any_word, behind, role
from values import clock, code, date, decimal, filename, integer, message, person, phone, pick, place_name, title, topic
from words import (
    COLOURS, FOODS, GENRES, HELD_TOOL_WORDS, HOBBIES, JOBS, MATERIALS, NOUNS, SAME_NOUNS, SAME_VERBS, SHOP_ITEMS, VERBS, Source, a, cap, is_held, plural,
)

UNITS = """weeks days hours minutes years months litres millilitres grams kilos metres inches points pages pieces rounds spoons drops cups boxes bags bottles rows steps
lessons seats tokens coins sheets slices stamps portions loads degrees percent euros units miles copies places watts""".split()
CHOICES = "small,medium,large|short,long|low,high|thin,thick|half,whole|plain,fancy|red,blue,green|hot,cold|left,right|north,south,east,west|morning,noon,evening|fast,slow|soft,hard|first,second|sweet,sour,salty|day,night|one,both,all".split("|")
FLAGS = [  # names, description, said when it is so, when it is not
    ("urgent important", "Whether it is urgent", "at once", "when there is time"), ("public visible", "Whether all may see it", "for all to see", "in secret"),
    ("silent quiet", "Whether it makes no sound", "without a sound", "with sound"), ("wrapped gift", "Whether it is wrapped", "in gift paper", "without gift paper"),
    ("repeat weekly", "Whether it is repeated every week", "every week", "just this once"), ("insured", "Whether it is insured", "with insurance", "without insurance"),
    ("paid prepaid", "Whether it is paid already", "and it is paid", "and it is not paid yet"), ("return round_trip", "Whether also the way back", "and back", "one way only"),
    ("notify", "Whether the user is told", "and tell me when it is done", "and do not tell me"), ("outside outdoors", "Whether it is outside", "outside", "inside"),
    ("breakfast", "Whether with breakfast", "with breakfast", "without breakfast"), ("alone private", "Whether nobody else is there", "just for me", "with others"),
    ("dry_run test", "Whether only to try it", "but only try it", "for real"), ("children kids", "Whether children come along", "with children", "without children"),
]


def free_word(r: Source, words: list[str]) -> str:
    while True:
        w = any_word(r, words)
        if w not in HELD_TOOL_WORDS:
            return w


def verbs_of(r: Source, noun: str) -> tuple[str, str]:
    """The verb of the tool and that of the request, which is often another one."""
    while True:
        own = said = free_word(r, VERBS)
        if r.chance(0.5):
            own, said = r.sample(r.choice(SAME_VERBS), 2)
        elif r.chance(0.3):
            said = free_word(r, VERBS)  # only the noun tells
        elif r.chance(0.3):
            said = r.choice(("do", "get", "handle", "arrange", "take care of", "see to", "work on", "deal with"))
        if not any(is_held("tool", v, noun) or v in HELD_TOOL_WORDS for v in (own, said)):
            return own, said.replace("_", " ")


def ing(verb: str) -> str:
    return (verb[:-1] if verb.endswith("e") and not verb.endswith("ee") else verb) + "ing"


def amount(r: Source) -> tuple[Param, str]:
    unit = r.choice(UNITS) if r.chance(0.75) else plural(free_word(r, NOUNS))
    names = [unit, unit, "amount", "number", "quantity", "count", f"how_many_{unit}", f"{unit}_count", unit[0] + unit[-2], "period", "size"]
    whats = [f"How many {unit}", f"Number of {unit}", f"The {unit}", cap(unit), f"For how many {unit}"]
    if r.chance(0.15):
        return Param(names, whats, decimal, "", "number"), unit
    return Param(names, whats, integer(2, 900 if r.chance(0.5) else 40), "", "integer"), unit


def which(r: Source, noun: str) -> Param:
    if r.chance(0.5):
        return Param([noun, "target", f"{noun}_name", "name", "which"], [f"Which {noun}", f"Name of the {noun}"], r.choice((word, word, person, lambda r: r.open_word())))
    return Param(
        [f"{noun}_number", f"{noun}_id", "id", noun, "owner_id", "number", "user_id", f"{noun}_code"], [f"Number of the {noun}", f"Which {noun}", "The number"], r.choice((code, code, code, phone)),
    )


def thing(r: Source) -> Param:
    names, what, make = r.choice((
        ("file document path", "Name of the file|Which file", filename), ("title name work", "The title|What it is called", title),
        ("item product what", "What it is|Which item", pick(SHOP_ITEMS)), ("food ingredient what", "What it is|The food", foods), ("code number part", "The code|Which one", code),
        ("subject topic what", "What it is about", topic), ("text words content", "The text|What it says", message), ("name who person", "Who it is for|The person", person),
    ))
    return Param(names.split(), what.split("|"), make)


def stuff(r: Source) -> Param:
    names, what, make = r.choice((
        ("filling content what extra", "What is in it|What it comes with", foods), ("material made_of", "What it is made of", pick(MATERIALS)), ("colour look", "The colour", pick(COLOURS)),
        ("course activity lesson which", "Which course|What to do", pick(HOBBIES)), ("genre style", "The style|Which kind", pick(GENRES)), ("job worker role", "Who does it|The job", pick(JOBS)),
        ("thing object extra", "What goes with it", word), ("article item", "Which article", pick(SHOP_ITEMS)), ("flavour taste", "What it tastes of", pick(FOODS)),
    ))
    return Param(names.split(), what.split("|"), make)


def pair_of_same(r: Source) -> tuple[Param, Param]:
    """Two values of one sort, each with its part: only its place in the sentence says which is which."""
    (n1, w1), (n2, w2) = r.choice(((("source first old", "The first one|What there is now"), ("target second new", "The second one|What comes then")),
                                   (("giver sender from_whom", "Who gives it"), ("taker receiver to_whom", "Who gets it")),
                                   (("start begin lowest min", "Where it begins"), ("goal finish highest max", "Where it ends"))))
    make, kind = r.choice((
        (person, "string"), (code, "string"), (word, "string"), (filename, "string"), (place_name, "string"), (full_name, "string"), (integer(1, 900), "integer"), (date, "string"), (clock, "string"),
        (decimal, "number"),
    ))
    return Param(n1.split(), w1.split("|"), make, "", kind), Param(n2.split(), w2.split("|"), make, "", kind)


def choice(r: Source, says: str = "") -> Param:
    """One of some words, said as they are."""
    values = r.choice(CHOICES).split(",")
    names = r.choice((ENUMS["size"][0].split(), ["mode", "kind"], ["option", "type"], ["how", "way"]))
    return Param(names, [r.choice(("The size", "Which kind", "How", f"One of {', '.join(values)}"))], lambda r: r.choice(values), says or r.choice(("in {v}", "{v}, please", "and take {v}", "in the {v} way")), "string", values)


def several(r: Source) -> Param:
    names, what, make = r.choice((
        ("names people guests members", "Who is meant|Names of the people", person), ("items things products", "Which items|What to take", pick(SHOP_ITEMS)), ("foods ingredients list", "What goes in|The foods", foods),
        ("codes ids numbers", "The codes", code), ("files documents paths", "Names of the files", filename), ("words terms tags", "The words", word), ("places cities stops", "The places|Where to stop", place_name),
    ))

    def made(r: Source) -> list:
        return list(dict.fromkeys(make(r) for _ in range(r.choice((1, 2, 2, 3, 3, 4)))))

    return Param(names.split(), what.split("|"), made, "", "array")


def flag(r: Source) -> Param:
    names, what, yes, no = r.choice(FLAGS)
    return Param(names.split(), [what], lambda r: r.chance(0.6), f"{yes}|{no}", "boolean", None, r.chance(0.3))


# {v} verb, {n} noun, {an} with its article, {V} {N} {AN} the same at the start (small letters at the start make it an order), {c} noun before it, {x} noun that the tool has not, {u} unit, {s} state; 0 and 1 are the values.
WHICH_AMOUNT = [
    "{v} the {c} {n} {{0}} once more, with {{1}} {u}", "{v} {n} {{0}}, by {{1}} {u}", "give {{1}} {u} to {n} {{0}}", "give the {n} {{0}} {{1}} {u}", "{v} {{1}} {u} into the {n} {{0}}", "My {n} {{0}} needs {{1}} {u}.",
    "add {{1}} {u} to my {n} {{0}}", "The {c} {n} {{0}} gets {{1}} {u} more", "{v} the {n} that is called {{0}} for {{1}} {u}", "My {n} {{0}} is {s}. {V} it for {{1}} {u}.", "let the {n} {{0}} have {{1}} {u}", "{v} the {c} {n} {{0}}, {{1}} {u}",
    "{v} {n} {{0}}: {{1}} {u}", "{{1}} {u} for the {n} {{0}}", "{{1}} {u} more for my {n} {{0}}, please", "{{0}} is my {n}. {V} it by {{1}} {u}.", "I want {{1}} more {u} on my {c} {n} {{0}}.", "The {n} {{0}} should have {{1}} {u}.",
    "{v} my {n}, its number is {{0}}, for another {{1}} {u}", "Can my {n} {{0}} get {{1}} {u}?", "{{1}} {u} {v} the {n} {{0}}", "pour {{1}} {u} of {x} over the {n} {{0}}", "The {n} {{0}} wants {{1}} {u} of {x}.", "I have {an}, {{0}}. {V} it with {{1}} {u}.",
    "{v} my {x} {n} {{0}} until {{1}} {u} from now", "By {{1}} {u} {v} my {c} {n} {{0}}", "After {{1}} {u}, {v} {n} {{0}}",
]
THING_AMOUNT = [
    "{v} {{0}}, all {{1}} {u}", "{v} the {n} {{0}} and make it {{1}} {u}", "I need {{1}} {u} of {{0}} from the {n}.", "get me {{1}} {u} of {{0}} at the {n}", "{v} {{1}} {u} for my {{0}}", "I want {{1}} {u} for the {n} {{0}}.", "{{0}}: {{1}} {u}",
    "{{1}} {u} of {{0}}, please", "{v} {{0}} for me, {{1}} {u} of it", "{V} {{0}}. I need {{1}} {u}.", "How much is {{1}} {u} of {{0}}?", "put {{1}} {u} of {{0}} into the {n}", "With {{0}} I need {{1}} {u}", "I have to {v} {{0}}, {{1}} {u}.",
    "We need {{0}}. {{1}} {u} are enough.", "{v} {{0}} {{1}} times", "The {n} {{0}}, {{1}} {u}, please", "{{1}} {u}, and the {n} is {{0}}", "I would like to see {{0}}. {V} {{1}} {u}.",
]
STUFF_GOAL = [
    "I want {an} with {{0}}. Bring it over to {{1}}.", "send us {an} with {{0}} to {{1}}", "I need {an} with {{0}} at {{1}}.", "bring {{0}} and {an} to {{1}}", "{v} me {an} with {{0}}. I live at {{1}}.", "{AN} with {{0}} for {{1}}, please",
    "We are at {{1}} and want {an} with {{0}}.", "To {{1}}, {v} {an} with {{0}}", "Somebody at {{1}} wants {{0}} on the {n}.", "{v} {an}, with {{0}} on it, and come to {{1}}", "{{1}} waits for {an} of {{0}}", "I would love {an} with much {{0}} here, at {{1}}.",
    "My {n} should have {{0}}. My home is {{1}}.", "{v} {{0}} {n} to {{1}}", "take {an} with {{0}} over to {{1}}",
]
STUFF_DAY = [
    "I would like to have {{0}} at the {n} on {{1}}.", "I want {{0}} at the {n}, on {{1}}.", "We go to the {n} for {{0}} on {{1}}", "take me to {{0}} in the {c} {n} on {{1}}", "I like {{0}}. {V} the {n} for {{1}}.", "{v} me a place for {{0}} at the {n}, {{1}}",
    "On {{1}} I have time for {{0}} at the {n}.", "{{0}} on {{1}}, at the {n}", "Is there {{0}} in the {n} on {{1}}?", "put me into {{0}} on {{1}} in your {n}", "I come to the {n} on {{1}}, for {{0}}.", "{v} {{0}} on {{1}}", "The {n} on {{1}}: {{0}}",
    "On {{1}} I want to {v} {{0}} with the {n}.", "let me do {{0}} on {{1}} with the {c} {n}", "My plan for {{1}} is {{0}} at the {n}.",
]
WHICH_DAY = [
    "My {n} {{0}} is {s}. {V} a {c} for it on {{1}}.", "{v} the {n} of {{0}} on {{1}}", "{v} {an} with the {c}, {{0}} on {{1}}", "{{0}} needs the {n} on {{1}}.", "The {n} {{0}} is {s}. {V} it on {{1}}.", "{{0}} is {s}. The {n} must come on {{1}}.",
    "On {{1}} the {n} should see {{0}}.", "{{0}} wants to {v} the {n} on {{1}}.", "I have to bring {{0}} to the {n} on {{1}}.", "{N} for {{0}}, {{1}}", "Who can {v} the {n} {{0}} on {{1}}?", "Does {{0}} have {an} on {{1}}?",
]
SAME = [
    "{v} the {n} from {{0}} to {{1}}", "{v} {{0}} to {{1}} at the {n}", "{v} the {n} of {{0}} to {{1}}", "For the {n}, {v} {{0}} and then {{1}}", "{v} {{0}} with {{1}} in the {n}", "Not {{0}} but {{1}} for the {n}", "{{1}} instead of {{0}} on the {n}",
    "replace {{0}} by {{1}} in the {n}", "The {n} goes from {{0}} until {{1}}", "Between {{0}} and {{1}}, {v} the {n}", "To {{1}}, and from {{0}}: {v} the {n}", "{{0}} was wrong for the {n}. It is {{1}}.", "First {{0}}, then {{1}}: {v} the {n}",
    "{{1}} comes after {{0}} in the {n}", "I had {{0}} before, now I want {{1}} in my {n}.",
]
SHORT = [
    "{v} the {n} {{0}}", "{N} {{0}}, please", "What about the {n} {{0}}?", "{{0}} is my {n}. {V} it.", "I need the {n} {{0}}.", "The {n} {{0}} is {s}.", "Is the {n} {{0}} {s}?", "{v} {{0}}", "My {n} is {{0}}. {V} it.", "Something is wrong with my {n} {{0}}",
    "How is my {n} {{0}}?", "{v} my {c} {n} {{0}}", "I forgot my {n} {{0}}.", "{v} {{0}} for the {n}", "The {c}: {{0}}", "I want {{0}} in the {n}.", "Who has the {n} {{0}}?", "{v} {{0}} again", "make the {n} {{0}}", "The {n} should be {{0}}",
]
BARE = ["{v} the {n}", "The {n} is {s}.", "It is {s} in the {c}. {V} the {n}.", "Is the {n} {s}?", "I want to have the {n} {s}.", "My {n}, please", "{v} my {c} {n}", "{v} {an}", "What is with the {n}?", "Is there {an}?", "{N}!", "{v} all {c} {n}", "I need the {n} now."]
LISTS = [
    "{v} {{0}} at the {n}", "{v} {an} with {{0}}", "put {{0}} into the {n}", "The {n} needs {{0}}", "{v} the {n} for {{0}}", "{v} {{0}}", "I want {{0}} in my {n}.", "{{0}} should be in the {n}", "{N}: {{0}}", "We have {{0}}. {V} the {n}.", "For the {n} take {{0}}",
]
CHOSEN = ["{v} {an} that is {{0}}", "I want the {n} {{0}}.", "{v} the {{0}} {n}", "make the {n} {{0}}", "{{0}}, please, the {n}", "The {n}: {{0}}", "I like it {{0}}. {V} the {n}.", "turn the {n} {{0}}", "{v} the {n}, but {{0}}"]
AMOUNTS = [
    "{v} {{0}} {u} and {{1}} {u2}", "{AN} of {{0}} {u} and {{1}} {u2}", "{v} the {n} with {{1}} {u2}, {{0}} {u}", "{{0}} {u}, {{1}} {u2}: {v} the {n}", "I have {{1}} {u2} and {{0}} {u}. {V} the {n}.", "{v} {{0}} {u} in {{1}} {u2} at the {n}", "The {n} takes {{0}} {u} for {{1}} {u2}",
]


def phrased(r: Source, like: MadeUp | None = None) -> MadeUp:
    noun, before, other = free_word(r, NOUNS), free_word(r, NOUNS), free_word(r, NOUNS)
    spoken = noun
    if r.chance(0.12):
        noun, spoken = r.sample([w for w in r.choice(SAME_NOUNS)], 2)
    own, said = verbs_of(r, noun)
    unit = unit2 = ""
    form = r.choices(range(11), (8, 6, 5, 5, 3, 3, 4, 1.2, 1.5, 2, 1.5))[0]
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
    elif form == 5:
        params, asks = list(pair_of_same(r)), SAME
    elif form == 6:
        params, asks = [r.choice((which(r, noun), which(r, noun), thing(r), stuff(r)))], SHORT
    elif form == 7:
        params, asks = [], BARE
    elif form == 8:
        params, asks = [several(r)], LISTS
    elif form == 9:
        params, asks = [choice(r)], CHOSEN
    else:
        (count, unit), (count2, unit2) = amount(r), amount(r)
        params, asks = [count, count2], AMOUNTS
    for p in params:
        p.required = True
    # What a request may say behind it: of other names, so that each has its own place.
    more = ([choice(r)] if r.chance(0.2) else []) + (behind(r, noun) if r.chance(0.3) else []) + ([flag(r)] if r.chance(0.2) else [])
    for p in more[:2]:
        if not {n for q in params for n in q.names} & set(p.names):
            p.required = r.chance(0.4)
            params.append(p)
    asks = [
        x.format(v=said, V=cap(said), n=spoken, N=cap(spoken), an=a(spoken), AN=cap(a(spoken)), c=before, x=other, u=unit, u2=unit2, s=r.choice(STATES)) for x in r.sample(asks, 2)
    ]
    named_by = r.choice((
        f"{own}_{noun}", f"{own}_{noun}", f"{noun}_{own}", f"{own}_{before}_{noun}", f"{own}_{noun}_{before}", f"{noun}_service", f"{noun}_{ing(own)}", f"{before}_{noun}", own + cap(noun),
    ))
    do = own.replace("_", " ")
    whats = [
        f"{cap(do)} {a(noun)}", f"{cap(do)} the {before} {noun}", f"{cap(do)} the {noun} of the {before}", f"{cap(plural(noun))} of the {before}", f"Lets one {do} {plural(noun)}",
        f"{cap(do)} {plural(noun)} for the {before}", f"{cap(said)} {a(noun)}", f"{cap(do)} the {before} {noun} of {a(free_word(r, NOUNS))}", f"To {do} {plural(noun)}", f"{cap(noun)} and {before}",
        f"{cap(do)} or {free_word(r, VERBS)} {a(noun)}",
    ]
    return MadeUp([named_by], [r.choice(whats)], asks, params, None, own, noun, noun)
