"""Sums and small word problems, worked out step by step as one does on paper."""

from chat import Chat, reply, user
from words import COUNTABLE_FOODS, OBJECTS, Source, cap, count, is_held, plural

PLACES_OF_DIGITS = ["ones", "tens", "hundreds", "thousands", "ten thousands"]


def digits(n: int) -> list[int]:
    return [int(d) for d in reversed(str(n))]


def add_steps(x: int, y: int) -> str:
    """Column by column from the right, with carries."""
    if x < 10 and y < 10:
        return f"{x} + {y} = {x + y}."
    dx, dy, carry, steps = digits(x), digits(y), 0, []
    for i in range(max(len(dx), len(dy))):
        parts = [d[i] for d in (dx, dy) if i < len(d)] + ([carry] if carry else [])
        total, last = sum(parts), i + 1 == max(len(dx), len(dy))
        step = f"{PLACES_OF_DIGITS[i]}: " + " + ".join(map(str, parts)) + (f" = {total}" if len(parts) > 1 else "")
        carry = total // 10
        steps.append(step + f", write {total if last else total % 10}" + (f", carry {carry}" if carry and not last else ""))
    return f"{x} + {y}. " + ". ".join(map(cap, steps)) + f". So {x} + {y} = {x + y}."


def subtract_steps(x: int, y: int) -> str:
    """x − y for x ≥ y, column by column, borrowing."""
    if x < 20 and y < 10:
        return f"{x} - {y} = {x - y}."
    dx, dy, borrow, steps = digits(x), digits(y), 0, []
    for i in range(len(dx)):
        top, bottom = dx[i], (dy[i] if i < len(dy) else 0) + borrow
        step = f"{PLACES_OF_DIGITS[i]}: "
        if top < bottom:
            step += f"{top + 10} - {bottom} = {top + 10 - bottom}, borrow 1"
            top += 10
            borrow = 1
        else:
            step += f"{top} - {bottom} = {top - bottom}"
            borrow = 0
        steps.append(step)
    return f"{x} - {y}. " + ". ".join(map(cap, steps)) + f". So {x} - {y} = {x - y}."


def times_steps(x: int, y: int) -> str:
    """x · y by the digits of x, then of y."""
    if x < 10 and y < 10:
        return f"{x} x {y} = {x * y}."
    if y >= 10 and x < 10:
        x, y = y, x
    if y < 10:
        parts = [d * 10**i for i, d in reversed(list(enumerate(digits(x)))) if d]
        lines = [f"{p} x {y} = {p * y}" for p in parts]
        total, text = parts[0] * y, ". ".join(lines) + "."
        for p in parts[1:]:
            text += f" {total} + {p * y} = {total + p * y}."
            total += p * y
        return text
    tens, ones = y - y % 10, y % 10
    text = f"{x} x {y} = {x} x {tens} + {x} x {ones}. {times_steps(x, tens // 10)} So {x} x {tens} = {x * tens}."
    if ones:
        text += f" {times_steps(x, ones)} {add_steps(x * tens, x * ones)}"
    return text


def divide_steps(x: int, y: int) -> str:
    """x / y without remainder."""
    return f"{y} x {x // y} = {x}, so {x} / {y} = {x // y}."


def number(r: Source) -> int:
    """Of one to four digits, the middle ones most often."""
    n = r.choices((1, 2, 3, 4), (2, 5, 5, 3))[0]
    return r.randrange(0 if n == 1 else 10 ** (n - 1), 10**n)


def task(r: Source) -> tuple[str, int, int, int]:
    """(operation, x, y, result) of this side of the split."""
    while True:
        op = r.choices("+-x/", (6, 5, 3, 2))[0]
        if op in "+-":
            x, y = number(r), number(r)
            if op == "-" and x < y:
                x, y = y, x
        elif op == "x":
            x = r.randrange(2, r.choice((10, 100, 100, 1000)))
            y = r.randrange(2, 10) if x >= 100 or r.chance(0.6) else r.randrange(2, 100)
        else:
            y = r.randrange(2, 13)
            x = y * r.randrange(2, 13)
        # Two small numbers are a table to know by heart: all are trained, and none is asked in the evaluation.
        by_heart = x < 20 and y < 20 if op != "/" else True
        if (by_heart and not r.held) or (not by_heart and is_held(op, x, y) == r.held):
            return op, x, y, {"+": x + y, "-": x - y, "x": x * y, "/": x // max(y, 1)}[op]


STEPS = {"+": add_steps, "-": subtract_steps, "x": times_steps, "/": divide_steps}
ASK = {
    "+": ["What is {x} + {y}?", "{x} + {y}", "{x} + {y} = ?", "What is {x} plus {y}?", "Add {x} and {y}.", "How much is {x} + {y}?",
          "What is the sum of {x} and {y}?", "Please add {y} to {x}.", "Calculate {x} + {y}.", "{x}+{y}", "{x}+{y}=?", "Work out {x} + {y}."],
    "-": ["What is {x} - {y}?", "{x} - {y}", "{x} - {y} = ?", "What is {x} minus {y}?", "Take {y} away from {x}.", "How much is {x} - {y}?",
          "Subtract {y} from {x}.", "What is the difference of {x} and {y}?", "Calculate {x} - {y}.", "{x}-{y}", "{x}-{y}=?"],
    "x": ["What is {x} x {y}?", "{x} * {y}", "{x} x {y} = ?", "What is {x} times {y}?", "Multiply {x} by {y}.", "How much is {x} * {y}?",
          "Calculate {x} x {y}.", "{x}*{y}", "What is the product of {x} and {y}?", "{x} times {y}"],
    "/": ["What is {x} / {y}?", "{x} / {y}", "{x} / {y} = ?", "What is {x} divided by {y}?", "Divide {x} by {y}.", "How much is {x} / {y}?",
          "Calculate {x} / {y}.", "{x}/{y}"],
}


def answer_of(r: Source, op: str, x: int, y: int, z: int) -> str:
    return r.choice((f"{x} {op} {y} = {z}", f"{x} {op} {y} = {z}", f"The answer is {z}.", f"{z}"))


def easy(op: str, x: int, y: int) -> bool:
    """Small enough to answer without working it out."""
    return x < 20 and y < 20 or op == "/" or (op in "+-" and min(x, y) < 10 and max(x, y) < 100)


def sum_chat(r: Source, think: bool) -> Chat:
    op, x, y, z = task(r)
    question, steps = r.choice(ASK[op]).format(x=x, y=y), STEPS[op](x, y)
    if think:
        message = reply(answer_of(r, op, x, y, z), steps)
    elif easy(op, x, y):
        message = reply(answer_of(r, op, x, y, z))
    else:  # without a thought, the working is part of the answer
        message = reply(steps)
    return Chat("sums", [user(question), message], thinking=think, expect={"number": z})


def chain(r: Source, think: bool) -> Chat:
    """Three or four terms, one after the other."""
    while True:
        terms = [r.randrange(1, r.choice((10, 50, 100))) for _ in range(r.choice((3, 3, 4)))]
        signs = ["+"] + [r.choice("++-") for _ in terms[1:]]
        totals = [0]
        for s, t in zip(signs, terms):
            totals.append(totals[-1] + (t if s == "+" else -t))
        text = str(terms[0]) + "".join(f" {s} {t}" for s, t in zip(signs[1:], terms[1:]))
        if min(totals) >= 0 and is_held(text) == r.held:
            break
    steps = " ".join(
        (add_steps if s == "+" else subtract_steps)(before, t) for s, t, before in zip(signs[1:], terms[1:], totals[1:])
    )
    question = r.choice(("What is {}?", "{}", "{} = ?", "Calculate {}.", "How much is {}?")).format(text)
    message = reply(f"{text} = {totals[-1]}", steps) if think else reply(f"{steps} So {text} = {totals[-1]}.")
    return Chat("sums", [user(question), message], thinking=think, expect={"number": totals[-1]})


def compare(r: Source, think: bool) -> Chat:
    x, y = number(r), number(r)
    while x == y or is_held("<", x, y) != r.held:
        x, y = number(r), number(r)
    word = r.choice(("larger", "bigger", "smaller"))
    z = min(x, y) if word == "smaller" else max(x, y)
    question = r.choice((f"Which is {word}, {x} or {y}?", f"Which number is {word}: {x} or {y}?"))
    less = f"{min(x, y)} is less than {max(x, y)}."
    return Chat("sums", [user(question), reply(f"{z} is {word}.", less if think else "")], thinking=think, expect={"number": z})


# --------------------------------------------------------------------------------------------------- word problems
def things(r: Source) -> str:
    return plural(r.choice(COUNTABLE_FOODS if r.chance(0.5) else OBJECTS))


def problem(r: Source) -> tuple[str, str, str, int]:
    """(text, steps, answer, number)"""
    kind = r.choice(("more", "less", "both", "each", "shared", "price", "two", "left", "age", "difference"))
    n1, n2 = r.names(2)
    it = things(r)
    big = r.choice((20, 100, 100, 500))
    x, y = r.randrange(2, big), r.randrange(2, big)
    if kind in ("each", "shared", "price"):
        x, y = r.randrange(2, 13 if kind == "shared" else r.choice((10, 13, 50))), r.randrange(2, 10)
    if x < y:
        x, y = y, x
    if kind != "shared" and x == y:
        x += 1
    if kind == "more":
        text = r.say("{n} has {x} {it}. [{m} gives {n} {y} more|{n} finds {y} more|{n} buys {y} more]. How many {it} does {n} have [now|in all]?", n=n1, m=n2, x=x, y=y, it=it)
        return text, f"{n1} has {x} and gets {y}. " + add_steps(x, y), f"{n1} has {x + y} {it}.", x + y
    if kind == "less":
        text = r.say("{n} has {x} {it}. {n} [gives {y} to {m}|loses {y}|sells {y}|gives away {y}]. How many {it} [are left|does {n} have left|does {n} have now]?", n=n1, m=n2, x=x, y=y, it=it)
        return text, f"{n1} has {x} and {y} are gone. " + subtract_steps(x, y), f"{n1} has {x - y} {it} left.", x - y
    if kind == "both":
        text = r.say("{n} has {x} {it} and {m} has {y} {it}. How many {it} do they have [together|in all]?", n=n1, m=n2, x=x, y=y, it=it)
        return text, f"Together means adding. " + add_steps(x, y), f"They have {x + y} {it} together.", x + y
    if kind == "difference":
        text = r.say("{n} has {x} {it} and {m} has {y} {it}. How many more {it} does {n} have than {m}?", n=n1, m=n2, x=x, y=y, it=it)
        return text, "How many more means taking away. " + subtract_steps(x, y), f"{n1} has {x - y} more {it} than {n2}.", x - y
    if kind == "each":
        box = r.choice(("box", "bag", "basket", "shelf", "table"))
        boxes = plural(box)
        text = r.say("There are {y} {boxes} with {x} {it} [each|in each {box}]. How many {it} are there [in all|altogether]?", x=x, y=y, it=it, box=box, boxes=boxes).replace("in each shelf", "on each shelf").replace("in each table", "on each table")
        return text, f"{y} {boxes} of {x}: {x} x {y}. " + times_steps(x, y), f"There are {x * y} {it}.", x * y
    if kind == "shared":
        text = r.say("{n} has {z} {it} and shares them [equally|fairly] among {y} friends. How many {it} does each friend get?", n=n1, z=x * y, y=y, it=it)
        return text, f"Sharing means dividing. " + divide_steps(x * y, y), f"Each friend gets {x} {it}.", x
    if kind == "price":
        one = r.choice(OBJECTS)
        text = r.say("[One|A] {one} costs {y} [coins|euros]. How much do {x} {many} cost?", one=one, many=plural(one), x=x, y=y)
        unit = "coins" if "coins" in text else "euros"
        return text, f"{x} times {y}: " + times_steps(x, y), f"They cost {x * y} {unit}.", x * y
    if kind == "two":
        z = r.randrange(2, 50)
        text = r.say("{n} has {x} {it}. {n} gets {z} more and then [gives {y} to {m}|loses {y}]. How many {it} does {n} have [now|at the end]?", n=n1, m=n2, x=x, y=y, z=z, it=it)
        return text, f"First {n1} gets {z}. {add_steps(x, z)} Then {y} are gone. {subtract_steps(x + z, y)}", f"{n1} has {x + z - y} {it}.", x + z - y
    if kind == "left":
        z = r.randrange(1, y + 1)
        text = r.say("There are {x} {it} on the table. {n} takes {y} and {m} puts back {z}. How many {it} are on the table now?", n=n1, m=n2, x=x, y=y, z=z, it=it)
        return text, f"{n1} takes {y}. {subtract_steps(x, y)} {n2} puts back {z}. {add_steps(x - y, z)}", f"There are {x - y + z} {it} on the table.", x - y + z
    x = r.randrange(3, 60)
    y = r.randrange(2, 40)
    if r.chance(0.5):
        text = r.say("{n} is {x} years old. {m} is {y} years older [than {n}|]. How old is {m}?", n=n1, m=n2, x=x, y=y).replace("older .", "older.")
        return text, "Older means adding. " + add_steps(x, y), f"{n2} is {x + y} years old.", x + y
    text = r.say("{n} is {x} years old. How old will {n} be in {y} years?", n=n1, x=x, y=y)
    return text, f"In {y} years means adding. " + add_steps(x, y), f"{n1} will be {x + y} years old.", x + y


def word_problem(r: Source, think: bool) -> Chat:
    while True:
        text, steps, answer, z = problem(r)
        if is_held(text) == r.held:
            break
    message = reply(answer, steps) if think else reply(f"{steps} {answer}")
    return Chat("word problems", [user(text), message], thinking=think, expect={"number": z})


# ------------------------------------------------------------------------------------------------------------- units
UNITS = [  # (big, small, factor), singular forms
    ("metre", "centimetre", 100), ("kilometre", "metre", 1000), ("centimetre", "millimetre", 10), ("kilogram", "gram", 1000),
    ("litre", "millilitre", 1000), ("hour", "minute", 60), ("minute", "second", 60), ("day", "hour", 24), ("week", "day", 7),
    ("year", "month", 12), ("euro", "cent", 100), ("dollar", "cent", 100), ("foot", "inch", 12), ("yard", "foot", 3),
    ("ton", "kilogram", 1000), ("dozen", "piece", 12), ("century", "year", 100), ("gram", "milligram", 1000),
]
SHORT = {"metre": "m", "centimetre": "cm", "kilometre": "km", "millimetre": "mm", "kilogram": "kg", "gram": "g", "litre": "l",
         "millilitre": "ml", "milligram": "mg", "minute": "min", "second": "s", "hour": "h"}


def conversion(r: Source, think: bool) -> Chat:
    while True:
        big, small, factor = r.choice(UNITS)
        n = r.randrange(2, r.choice((10, 30, 100)))
        if is_held("unit", big, small, n) == r.held:
            break
    short = big in SHORT and small in SHORT and r.chance(0.4)
    name = lambda k, unit: f"{k} {SHORT[unit]}" if short else count(k, unit).replace("dozens", "dozen").replace("inchs", "inches")
    many = lambda unit: SHORT[unit] if short else plural(unit)
    fact = f"{name(1, big)} is {name(factor, small)}."
    if r.chance(0.6):  # big to small
        ask = r.say("[How many {s} are {b}?|Convert {b} to {s}.|What is {b} in {s}?|How many {s} are there in {b}?|{b} in {s}?]", s=many(small), b=name(n, big))
        work = (f"{n} x {factor} = {n * factor}." if factor in (10, 100, 1000) else times_steps(n, factor))
        answer, z = f"{name(n, big)} is {name(n * factor, small)}.", n * factor
    else:
        n = min(n, 12) if factor in (60, 24, 7) else n
        ask = r.say("[How many {s} are {b}?|Convert {b} to {s}.|What is {b} in {s}?|{b} in {s}?]", s=many(big), b=name(n * factor, small))
        work = f"{n * factor} / {factor} = {n}."
        answer, z = f"{name(n * factor, small)} is {name(n, big)}.", n
    message = reply(answer, f"{fact} {work}") if think else reply(f"{fact} {work} {answer}" if factor not in (10, 100, 1000) else answer)
    return Chat("units", [user(ask), message], thinking=think, expect={"number": z})
