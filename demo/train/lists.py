"""Lists: name some, sort, reverse, count, filter, and numbers in order."""

from chat import Chat, reply, user
from words import ANIMALS, CITIES, COLOURS, COUNTRIES, DAYS, FOODS, HOBBIES, INSTRUMENTS, JOBS, MONTHS, OBJECTS, Source, cap, is_held, join, plural

KINDS = {
    "animals": ANIMALS, "colours": COLOURS, "things to eat": FOODS, "jobs": JOBS, "cities": CITIES, "countries": COUNTRIES, "hobbies": HOBBIES,
    "days of the week": DAYS, "months": MONTHS, "musical instruments": INSTRUMENTS,
    "fruits": "apple banana berry cherry fig grape lemon mango melon orange peach pear plum strawberry".split(),
    "vegetables": "bean carrot corn cucumber onion pea potato pumpkin radish turnip".split(),
    "farm animals": "cow donkey duck goat goose hen horse lamb pig sheep".split(),
    "animals that can fly": "bird crow goose owl parrot robin swan duck".split(),
    "animals that live in water": "fish crab seal whale otter turtle frog".split(),
    "things in a kitchen": "bowl cup fork jug kettle knife pan plate pot spoon oven fridge".split(),
    "clothes": "coat scarf hat shoe boot glove shirt sock belt cap".split(),
    "things in a school": "book pen pencil ruler desk chair map bell teacher board".split(),
    "pets": "cat dog hamster fish parrot rabbit turtle mouse".split(),
    "parts of the body": "head arm leg hand foot nose ear eye mouth knee".split(),
    "seasons": "spring summer autumn winter".split(),
}
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def some(r: Source, think: bool) -> Chat:
    kind = r.choice(list(KINDS))
    n = r.randrange(2, min(9, len(KINDS[kind]) + 1))
    chosen = r.sample(KINDS[kind], n)
    if kind in ("days of the week", "months", "seasons"):
        chosen.sort(key=KINDS[kind].index)
    number = WORDS[n - 1] if r.chance(0.6) else str(n)
    question = r.say("[List|Name|Give me|Tell me] {n} {k}.", n=number, k=kind)
    style = r.randrange(3)
    if style == 0:
        text = "\n".join(f"{i + 1}. {cap(w)}" for i, w in enumerate(chosen))
    elif style == 1:
        question = question[:-1] + r.choice((" as a list.", " with bullets.", ", one per line."))
        text = "\n".join(f"- {cap(w)}" for w in chosen)
    else:
        question = question[:-1] + r.choice((" in one line.", " in one sentence."))
        text = cap(join(chosen)) + "."
    return Chat("lists", [user(question), reply(text, f"{cap(WORDS[n - 1])} {kind}." if think else "")], thinking=think, expect={"items": n})


def pool(r: Source) -> list[str]:
    """Four to eight different words."""
    words = r.choice((ANIMALS, FOODS, OBJECTS, JOBS, COLOURS, HOBBIES, CITIES))
    while True:
        chosen = r.sample(words, r.randrange(3, 8))
        if is_held("list", *sorted(chosen)[:2]) == r.held:
            return chosen


def order(r: Source, think: bool) -> Chat:
    what = r.choice(("sort", "sort", "reverse", "first", "last", "count", "numbers", "numbers", "longest", "letter"))
    if what == "numbers":
        while True:
            numbers = r.sample(range(1, r.choice((20, 100, 1000))), r.randrange(3, 7))
            if is_held("list", *numbers[:2]) == r.held:
                break
        down = r.chance(0.3)
        way = r.choice(("from largest to smallest", "in falling order")) if down else r.choice(("from smallest to largest", "in rising order"))
        answer = ", ".join(map(str, sorted(numbers, reverse=down)))
        question = r.say("[Sort|Order|Put] these numbers {w}: {x}", w=way, x=", ".join(map(str, numbers)))
        thought = f"The {'largest' if down else 'smallest'} is {max(numbers) if down else min(numbers)}."
        return Chat("lists", [user(question), reply(answer, thought if think else "")], thinking=think, expect={"text": answer})
    words = pool(r)
    line = ", ".join(words)
    thought = ""
    if what == "sort":
        question = r.say(r.choice(("[Sort|Order] these words [by the alphabet|from a to z|alphabetically]: {x}", "Put these in alphabetical order: {x}")), x=line)
        answer = ", ".join(sorted(words, key=str.lower))
        thought = "First letters: " + ", ".join(f"{w[0].lower()} {w}" for w in words) + "."
    elif what == "reverse":
        question, answer = r.say("[Reverse this list|Write this list backwards|Turn this list around]: {x}", x=line), ", ".join(reversed(words))
    elif what in ("first", "last"):
        question, answer = r.say("What is the {w} [word|item] in this list? {x}", w=what, x=line), words[0 if what == "first" else -1]
    elif what == "count":
        question, answer = r.say("How many [words|items|things] are in this list? {x}", x=line), str(len(words))
        thought = ", ".join(f"{i + 1} {w}" for i, w in enumerate(words)) + "."
    elif what == "longest":
        lengths = [len(w) for w in words]
        while lengths.count(max(lengths)) > 1:
            words = pool(r)
            lengths = [len(w) for w in words]
        question, answer = f"Which is the longest word? {', '.join(words)}", max(words, key=len)
        thought = ", ".join(f"{w} {len(w)}" for w in words) + "."
    else:
        letter = r.choice(words)[0].lower()
        found = [w for w in words if w[0].lower() == letter]
        question, answer = f"Which of these words start with {letter}? {line}", ", ".join(found)
    return Chat("lists", [user(question), reply(answer, thought if think else "")], thinking=think, expect={"text": answer})


def odd(r: Source, think: bool) -> Chat:
    """Keep those of one kind."""
    wanted, other = r.sample(["animals", "colours", "things to eat", "jobs", "hobbies", "clothes", "cities"], 2)
    inside = r.sample(KINDS[wanted], r.randrange(2, 5))
    mixed = inside + r.sample([w for w in KINDS[other] if w not in KINDS[wanted]], r.randrange(1, 4))
    r.shuffle(mixed)
    answer = ", ".join(w for w in mixed if w in inside)
    question = r.say("[Which of these are {k}?|Find the {k}:|Pick the {k} out of this list:|Only keep the {k}:] {x}", k=wanted, x=", ".join(mixed))
    return Chat("lists", [user(question), reply(answer, f"The {wanted} are {answer}." if think else "")], thinking=think, expect={"text": answer})


def counting(r: Source, think: bool) -> Chat:
    first, step = r.randrange(1, 90), r.choice((1, 1, 1, 2, 5, 10, -1))
    n = r.randrange(4, 12)
    if step == -1:
        first += n
    numbers = [first + step * i for i in range(n)]
    if step in (1, -1):
        question = r.say("Count [down |]from {a} to {b}.".replace("[down |]", "down " if step < 0 else ""), a=numbers[0], b=numbers[-1])
    else:
        question = f"Count from {numbers[0]} to {numbers[-1]} in steps of {step}."
    answer = ", ".join(map(str, numbers))
    return Chat("lists", [user(question), reply(answer, f"The step is {step}." if think else "")], thinking=think, expect={"text": answer})


def list_chat(r: Source, think: bool) -> Chat:
    return r.choices((some, order, odd, counting), (4, 6, 2, 1))[0](r, think)
