"""Text to JSON: a record told in sentences, and the keys that are wanted of it."""

import json
from typing import Callable

from chat import Chat, reply, user
from made_up import GENERIC_PARAMS
from values import clock, code, date, decimal, filename, mail, message, phone, place_name, title
from words import (
    ANIMALS, COLOURS, COUNTRIES, DAYS, FOODS, GENRES, HOBBIES, JOBS, MATERIALS, MONTHS, SHOP_ITEMS, TRAITS, Source, a, cap, is_held, join, plural,
)


def some(words: list[str]) -> Callable:
    """One to three of them, for a list."""
    return lambda r: list(dict.fromkeys(r.unseen(words) for _ in range(r.randrange(1, 4))))


# kind -> (what starts a record, {key: (value, sentences)}); {x} is the value, {n} the record's main name.
RECORDS: dict[str, tuple[str, dict[str, tuple[Callable, list[str]]]]] = {
    "person": ("name", {
        "name": (lambda r: r.name(), ["This is {x}.", "My friend is called {x}.", "The name is {x}.", "Meet {x}.", "I know someone named {x}."]),
        "age": (lambda r: r.randrange(3, 95), ["{n} is {x} years old.", "{n} is {x}.", "{n} turned {x} this year."]),
        "city": (place_name, ["{n} lives in {x}.", "{n}'s home is in {x}.", "{n} has a flat in {x}."]),
        "job": (lambda r: r.unseen(JOBS), ["{n} works as {ax}.", "{n} is {ax}.", "By day {n} is {ax}."]),
        "hobbies": (some(HOBBIES), ["{n} likes {x}.", "{n}'s hobbies are {x}.", "In the evening {n} enjoys {x}."]),
        "email": (mail, ["You can write to {x}.", "The mail address is {x}."]),
        "phone": (phone, ["The phone number is {x}.", "Call {x}."]),
        "country": (lambda r: r.unseen(COUNTRIES), ["{n} comes from {x}.", "{n} was born in {x}."]),
        "pet": (lambda r: r.unseen(ANIMALS), ["{n} has {ax} at home.", "{n}'s pet is {ax}."]),
    }),
    "order": ("item", {
        "item": (lambda r: r.unseen(SHOP_ITEMS), ["I want to order {ax}.", "The order is for {ax}.", "We sold {ax}."]),
        "quantity": (lambda r: r.randrange(1, 60), ["The quantity is {x}.", "I need {x} of them.", "There are {x} pieces."]),
        "price": (decimal, ["Each one costs {x} euros.", "The price is {x}."]),
        "colour": (lambda r: r.unseen(COLOURS), ["The colour is {x}.", "It has to be {x}."]),
        "material": (lambda r: r.unseen(MATERIALS), ["It is made of {x}."]),
        "customer": (lambda r: f"{r.name()} {r.surname()}", ["The customer is {x}.", "It is for {x}."]),
        "date": (date, ["The date is {x}.", "Deliver it on {x}."]),
        "order_id": (code, ["The order number is {x}.", "It has the number {x}."]),
        "city": (place_name, ["Send it to {x}.", "It goes to {x}."]),
        "paid": (lambda r: r.chance(0.5), [""]),
    }),
    "event": ("event", {
        "event": (lambda r: r.choice(("concert", "party", "meeting", "lesson", "match", "market", "wedding", "workshop", "reading", "picnic", "show", "parade")), ["There is {ax}.", "You are invited to {ax}.", "We plan {ax}."]),
        "day": (lambda r: r.unseen(DAYS), ["It is on {x}.", "Come on {x}."]),
        "date": (date, ["The date is {x}."]),
        "time": (clock, ["It starts at {x}.", "The doors open at {x}."]),
        "city": (place_name, ["It is in {x}.", "We meet in {x}."]),
        "host": (lambda r: r.name(), ["{x} is the host.", "Ask {x} if you have questions."]),
        "guests": (lambda r: r.randrange(2, 400), ["{x} guests will come.", "We expect {x} people."]),
        "price": (lambda r: r.randrange(1, 90), ["A ticket costs {x} euros.", "The price is {x} euros."]),
        "bring": (lambda r: [plural(f) for f in some(FOODS)(r)], ["Please bring {x}.", "Do not forget {x}."]),
    }),
    "book": ("title", {
        "title": (title, ['The book is called "{x}".', 'I read "{x}".', '"{x}" is a good book.']),
        "author": (lambda r: f"{r.name()} {r.surname()}", ["It was written by {x}.", "The author is {x}."]),
        "year": (lambda r: r.randrange(1900, 2030), ["It came out in {x}.", "The year is {x}."]),
        "pages": (lambda r: r.randrange(40, 900), ["It has {x} pages."]),
        "genre": (lambda r: r.unseen(GENRES), ["The genre is {x}.", "You find it under {x}."]),
        "price": (decimal, ["It costs {x} euros.", "The price is {x}."]),
        "shelf": (code, ["It is on shelf {x}.", "Look on shelf {x}."]),
        "language": (lambda r: r.choice(("English", "French", "German", "Spanish", "Italian", "Greek", "Polish")), ["It is in {x}.", "The language is {x}."]),
    }),
    "trip": ("from", {
        "from": (place_name, ["The trip starts in {x}.", "We leave from {x}."]),
        "to": (place_name, ["We go to {x}.", "It ends in {x}."]),
        "date": (date, ["We leave on {x}.", "The date is {x}."]),
        "days": (lambda r: r.randrange(2, 40), ["It takes {x} days.", "We stay for {x} days."]),
        "travellers": (lambda r: r.names(r.randrange(1, 4)), ["{x} will come along.", "The travellers are {x}."]),
        "transport": (lambda r: r.choice(("train", "bus", "car", "boat", "plane", "bike")), ["We go by {x}."]),
        "cost": (lambda r: r.randrange(50, 5000), ["It costs {x} euros.", "The cost is {x}."]),
        "hotel": (lambda r: "Hotel " + title(r).split()[-1], ["We sleep in {x}.", "The room is in {x}."]),
    }),
    "animal": ("name", {
        "name": (lambda r: r.name(), ["The animal is called {x}.", "This is {x}.", "We have an animal named {x}."]),
        "animal": (lambda r: r.unseen(ANIMALS), ["{n} is {ax}."]),
        "age": (lambda r: r.randrange(1, 30), ["{n} is {x} years old."]),
        "colour": (lambda r: r.unseen(COLOURS), ["{n} is {x}.", "{n}'s colour is {x}."]),
        "weight": (decimal, ["{n} weighs {x} kilograms."]),
        "food": (lambda r: plural(r.unseen(FOODS)), ["{n} eats {x}.", "{n} loves {x}."]),
        "owner": (lambda r: r.name(), ["{n} belongs to {x}.", "The owner is {x}."]),
        "trait": (lambda r: r.unseen(TRAITS), ["{n} is very {x}."]),
    }),
    "weather": ("city", {
        "city": (place_name, ["Here is the weather for {x}.", "The report is from {x}."]),
        "day": (lambda r: r.unseen(DAYS), ["It is {x}.", "The day is {x}."]),
        "sky": (lambda r: r.choice(("sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "stormy")), ["It is {x}.", "The sky is {x}."]),
        "temperature": (lambda r: r.randrange(-20, 40), ["The temperature is {x} degrees.", "We have {x} degrees."]),
        "wind": (lambda r: r.randrange(0, 120), ["The wind blows at {x} kilometres per hour.", "The wind is {x}."]),
        "month": (lambda r: r.unseen(MONTHS), ["The month is {x}."]),
    }),
    "file": ("file", {
        "file": (filename, ["The file is {x}.", "I saved it as {x}.", "Look at {x}."]),
        "size": (lambda r: r.randrange(1, 9999), ["It has {x} bytes.", "The size is {x}."]),
        "owner": (lambda r: r.name(), ["It belongs to {x}.", "The owner is {x}."]),
        "date": (date, ["It was made on {x}.", "The date is {x}."]),
        "version": (lambda r: f"{r.randrange(10)}.{r.randrange(20)}", ["The version is {x}."]),
        "id": (code, ["The id is {x}.", "It has the id {x}."]),
    }),
}
def property_of(key: str, make: Callable, values: list | str) -> tuple[Callable, list[str]]:
    """A parameter of a made-up tool as a field: its value, and how it is told."""
    word = key.replace("_", " ")
    x = '"{x}"' if make in (title, message) else "{x}"
    return make or (lambda r: r.choice(values)), [f"The {word} is {x}.", f"Its {word} is {x}.", f"{cap(word)}: {x}.", f"It has the {word} {x}.", f"As {word} I have {x}."]


# What nothing in particular has: any keys with any values.
THING = {key: property_of(key, make, kind) for key, _, make, kind in GENERIC_PARAMS if kind != "boolean"}
THING_SHARE = 0.25
PAID = {True: ["It is paid.", "The customer has paid."], False: ["It is not paid.", "The customer has not paid yet."]}

ASK = [
    "Extract {k} as JSON.", "Give me {k} as JSON.", "Make JSON with {k} from this text.", "Write this as JSON with the keys {k}.", "Return a JSON object with {k}.",
    "Get {k} from the text. Answer in JSON.", "JSON with {k}, please.", "Turn this into JSON. Keys: {k}.", "Find {k} and write them as JSON.",
]


def said(r: Source, key: str, value, sentences: list[str], n: str) -> str:
    if isinstance(value, bool):
        return r.choice(PAID[value])
    x = join(value) if isinstance(value, list) else str(value)
    return cap(r.choice(sentences).format(x=x, ax=a(x), n=n))


def record_kind(r: Source) -> tuple[str, str, dict]:
    """A kind of record, the key that is told first, and all of its fields."""
    if r.chance(THING_SHARE):
        return "thing", r.choice(list(THING)), THING
    kind = r.choice(list(RECORDS))
    return kind, *RECORDS[kind]


def extraction_chat(r: Source, think: bool) -> Chat:
    while True:
        kind, first, fields = record_kind(r)
        others = [k for k in fields if k != first]
        told = [first] + r.sample(others, r.randrange(2, min(6, len(others)) + 1))
        record = {k: fields[k][0](r) for k in told}
        asked = r.sample(told, r.randrange(2, min(5, len(told)) + 1))
        if r.chance(0.2):  # and one that the text does not give
            absent = [k for k in others if k not in told]
            if absent:
                asked.insert(r.randrange(len(asked) + 1), r.choice(absent))
        # Half of the held-out requests are of key sets that training never asked for in that order.
        if len(set(map(str, record.values()))) == len(record) and is_held("json", kind, *asked[:3]) == r.held:
            break
    sentences = [said(r, k, record[k], fields[k][1], str(record[first])) for k in told]
    rest = sentences[1:]
    r.shuffle(rest)
    text = " ".join(sentences[:1] + rest)
    want = {k: record.get(k) for k in asked}
    form = r.randrange(4)
    if form == 0:
        ask = "Fill in this JSON: " + json.dumps({k: None for k in asked})
    elif form == 1:
        ask = r.choice(ASK).format(k=", ".join(asked))
    else:
        ask = r.choice(ASK).format(k=join(asked))
    question = r.choice((f"{ask}\n\n{text}", f"{text}\n\n{ask}", f"Text: {text}\n\n{ask}", f"{ask}\nText: {text}"))
    answer = json.dumps(want, ensure_ascii=False)
    missing = [k for k, v in want.items() if v is None]
    thought = f"The keys are {', '.join(asked)}." + (f" The text does not give {join(missing)}." if missing else "")
    return Chat("json", [user(question), reply(answer, thought if think else "")], thinking=think, expect={"json": want})


def pairs_chat(r: Source, think: bool) -> Chat:
    """Lines of key: value to JSON."""
    kind, _, fields = record_kind(r)
    while True:
        keys = r.sample([k for k in fields if k != "paid"], r.randrange(2, 6))
        if is_held("pairs", kind, *keys[:3]) == r.held:
            break
    record = {k: fields[k][0](r) for k in keys}
    mark = r.choice((": ", " = ", " - "))
    lines = r.choice(("\n", ", ", "; ")).join(f"{k}{mark}{join(v) if isinstance(v, list) else v}" for k, v in record.items())
    if any(isinstance(v, list) for v in record.values()) and "\n" not in lines:
        lines = "\n".join(f"{k}{mark}{join(v) if isinstance(v, list) else v}" for k, v in record.items())
    question = r.choice(("Write this as JSON:\n{}", "Turn this into JSON.\n\n{}", "{}\n\nMake JSON of this.", "Convert to JSON:\n\n{}")).format(lines)
    thought = f"The keys are {', '.join(keys)}."
    return Chat("json", [user(question), reply(json.dumps(record, ensure_ascii=False), thought if think else "")], thinking=think, expect={"json": record})


def ask_record(r: Source, think: bool) -> Chat:
    """A plain question about a record, answered with the value alone."""
    kind = r.choice(list(RECORDS))
    first, fields = RECORDS[kind]
    told = [first] + r.sample([k for k in fields if k not in (first, "paid")], 3)
    record = {k: fields[k][0](r) for k in told}
    sentences = [said(r, k, record[k], fields[k][1], str(record[first])) for k in told]
    key = r.choice(told)
    value = record[key]
    text = join(value) if isinstance(value, list) else str(value)
    question = r.choice(("{t}\n\nWhat is the {k}?", "{t} What is the {k}?", "Text: {t}\nQuestion: What is the {k}?")).format(t=" ".join(sentences), k=key.replace("_", " "))
    return Chat("questions", [user(question), reply(cap(text) if not text[0].islower() else text, "The text gives it." if think else "")], thinking=think, expect={"text": text})
