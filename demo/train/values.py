"""The values that texts, tools and records are filled with: numbers, dates, names, titles, messages."""

from typing import Callable

from words import CITIES, COLOURS, COUNTRIES, DAYS, FOODS, HOBBIES, MONTHS, OBJECTS, NOUNS, PIECES, SHOP_ITEMS, TITLE_ADJECTIVES, TITLE_NOUNS, VERBS, Source, a, plural


FILES = """notes plan report list letter photo budget menu draft song map recipe data log test thesis minutes offer contract summary index
slides essay diary poem scan sketch table results""".split()


def integer(low: int, high: int) -> Callable[[Source], int]:
    return lambda r: r.randrange(low, high + 1)


def decimal(r: Source) -> float:
    return r.randrange(1, 1000) / r.choice((2, 4, 10, 10, 100))


def clock(r: Source) -> str:
    return f"{r.randrange(24):02}:{r.choice((0, 5, 10, 15, 20, 30, 40, 45, 50)):02}"


def date(r: Source) -> str:
    return f"20{r.randrange(20, 36)}-{r.randrange(1, 13):02}-{r.randrange(1, 29):02}"


def day(r: Source) -> str:
    return r.choice(DAYS + DAYS + ["today", "tomorrow"])


def code(r: Source) -> str:
    """An identifier such as K-204."""
    return r.choice(("{}{}{}", "{}-{}{}", "{}{}-{}")).format(r.choice("ABCDEFGHKLMNPRSTVWXZ"), r.choice("ABCDEFGHKLMNPRSTVWXZ0123456789"), r.randrange(10, 1000))


def mail(r: Source) -> str:
    return f"{r.name().lower()}@{r.choice('mail post home work example web'.split())}.{r.choice('com org net'.split())}"


def phone(r: Source) -> str:
    return r.choice(("0{} {} {}", "0{}-{}{}", "+{}{}{}")).format(r.randrange(10, 99), r.randrange(100, 999), r.randrange(1000, 9999))


def title(r: Source) -> str:
    pattern = r.choice(("The {a} {n}", "{a} {n}", "The {n} of {m}", "{n} and {m}", "The {n}", "{a} {m}s"))
    return pattern.format(a=r.unseen(TITLE_ADJECTIVES), n=r.unseen(TITLE_NOUNS), m=r.unseen(TITLE_NOUNS))


def filename(r: Source) -> str:
    return f"{r.unseen(FILES)}{r.choice(['', '_old', '_new', str(r.randrange(1, 100)), '_' + r.choice(MONTHS).lower()])}.{r.choice('txt pdf md csv png doc json'.split())}"


def message(r: Source) -> str:
    """A short sentence to pass on, now and then of words in no order."""
    if not r.held and PIECES and r.chance(0.15):
        return " ".join(r.open_word() if r.chance(0.5) else r.choice(r.choice((NOUNS, VERBS, FOODS, OBJECTS))) for _ in range(r.randrange(2, 6)))
    return r.say(
        r.choice((
            "I will be {n} minutes late", "[dinner|lunch] is ready", "the [meeting|party|lesson] is on {d}", "happy birthday", "I am at the {p}",
            "see you on {d}", "please [call|text|write to] me", "the {o} is [broken|ready|here]", "do not forget the {f}", "I [found|lost] the {o}",
            "we need {n} {fs}", "the train leaves at {t}", "thank you for the {o}", "can you bring {fs}", "I love the {c} {o}", "good luck on {d}",
        )),
        n=r.randrange(2, 60), d=r.choice(DAYS), p=r.choice(("station", "park", "office", "school", "market", "beach")), o=r.unseen(OBJECTS),
        f=r.unseen(FOODS), fs=plural(r.unseen(FOODS)), t=clock(r), c=r.unseen(COLOURS),
    )


def task(r: Source) -> str:
    return r.say(
        r.choice((
            "[buy|get] {f}", "call {n}", "[clean|paint|tidy] the {p}", "feed the {x}", "mend the {o}", "write to {n}", "water the plants", "pay the {b}",
            "bake {fa} pie", "wash the {o}", "visit {n}", "return the {o}", "pack the {o}", "pick up {n}",
        )),
        f=plural(r.unseen(FOODS)), n=r.name(), p=r.choice(("kitchen", "garden", "car", "garage", "bathroom", "roof", "fence")), x=r.choice(("cat", "dog", "fish", "hens", "bird")),
        o=r.unseen(OBJECTS), b=r.choice(("rent", "bill", "tax", "gardener")), fa=a(r.unseen(FOODS)),
    )


def topic(r: Source) -> str:
    """What one searches the web for."""
    pattern = r.choice((
        "cheap {o}", "how to mend a {o}", "{f} recipes", "hotels in {c}", "trains to {c}", "history of {k}", "{h} for beginners", "the best {o}",
    ))
    return pattern.format(o=r.unseen(SHOP_ITEMS), f=r.unseen(FOODS), c=r.unseen(CITIES), k=r.unseen(COUNTRIES), h=r.unseen(HOBBIES))


def place_name(r: Source) -> str:
    return r.unseen(CITIES) if r.chance(0.75) else r.made_up()


def pick(words: list[str]) -> Callable[[Source], str]:
    return lambda r: r.unseen(words)


def person(r: Source) -> str:
    return r.name()
