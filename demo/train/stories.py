"""Short stories out of a small simulated world: who is who, who has what, what happened and why.

A story is a list of sentences and a list of facts (question, answer) that its own events make true; questions.py asks
them. Sentences come from templates where [a|b] is a choice and {key} is of the story's cast.
"""

from dataclasses import dataclass, field

from words import (
    BOYS, COLOURS, COUNTABLE_FOODS, GIRLS, HEROES, HOMES, OBJECTS, PEOPLE, PEOPLE_HE, PEOPLE_SHE, PLACES, SIZES, TRAITS, Source, a,
    cap, count, plural,
)

NUMBERS = "two three four five six seven eight nine ten".split()


@dataclass
class Story:
    title: str
    sentences: list[list[str]]  # by paragraph
    plan: str  # what a thought before telling it says
    cast: dict
    facts: list[tuple[str, str]] = field(default_factory=list)

    def text(self) -> str:
        return "\n\n".join(" ".join(paragraph) for paragraph in self.sentences)


class Teller:
    """Builds one story sentence by sentence."""

    def __init__(self, r: Source, wish: dict):
        self.r, self.paragraphs, self.facts = r, [[]], []
        self.c = self.cast(wish)

    def name(self, she: bool) -> str:
        """Of a character that nobody asked for: mostly a name that people have, as the model will make up what it saw most."""
        r = self.r
        return r.choice(r.split(GIRLS if she else BOYS)) if not r.held and r.chance(0.8) else r.name(she)

    def cast(self, wish: dict) -> dict:
        r = self.r
        c: dict = {}
        kinds = wish.get("kinds") or []
        taken: list[str] = []
        for who, key in enumerate(("h", "f", "s")):  # hero, friend, a third
            kind = kinds[who] if who < len(kinds) else r.choice(HEROES if r.chance(0.75) else PEOPLE)
            while who >= len(kinds) and kind in taken:
                kind = r.choice(HEROES)
            taken.append(kind)
            she = r.chance(0.5) if kind not in PEOPLE_HE | PEOPLE_SHE else kind in PEOPLE_SHE
            name = wish["names"][who] if who < len(wish.get("names", [])) else self.name(she)
            while name in (c.get("h"), c.get("f")):
                name = self.name(she)
            trait = wish["trait"] if who == 0 and "trait" in wish else r.choice(TRAITS)
            he, him, his = ("she", "her", "her") if she else ("he", "him", "his")
            c |= {key: name, f"{key}k": kind, f"{key}t": trait, f"a_{key}k": a(kind), f"a_{key}t": a(trait)}
            c |= {f"{key}he": he, f"{key}him": him, f"{key}his": his, f"{key}He": cap(he), f"{key}His": cap(his)}
        home = wish.get("place") if wish.get("place") in HOMES else r.choice(HOMES)
        places = [p for p in PLACES if p != home]
        place = wish.get("place") if wish.get("place") not in (None, home) else r.choice(places)
        other = r.choice([p for p in places if p != place])
        obj = wish.get("object") or r.choice(OBJECTS)
        c |= dict(home=home, inhome=f"{PLACES[home]} the {home}", p=place, inp=f"{PLACES[place]} the {place}")
        c |= dict(q=other, inq=f"{PLACES[other]} the {other}")
        c |= dict(o=obj, col=r.choice(COLOURS), size=r.choice(SIZES), food=r.choice(COUNTABLE_FOODS), n=r.choice(NUMBERS))
        c |= dict(a_o=a(obj), a_food=a(c["food"]), foods=plural(c["food"]), colo=f"{c['col']} {obj}")
        c |= dict(a_colo=a(c["colo"]), a_size=a(c["size"]))
        c |= dict(day=r.choice(["morning", "afternoon", "evening", "day"]))
        c |= dict(wx=r.choice(["sunny", "rainy", "windy", "cloudy", "snowy", "foggy", "warm", "cold"]))
        return c

    def say(self, *templates: str) -> None:
        """One of the templates, as the next sentence or sentences."""
        self.paragraphs[-1].append(self.r.say(self.r.choice(templates), **self.c))

    def maybe(self, p: float, *templates: str) -> None:
        if self.r.chance(p):
            self.say(*templates)

    def new(self) -> None:
        if self.paragraphs[-1]:
            self.paragraphs.append([])

    def fact(self, question: str, answer: str) -> None:
        self.facts.append((self.r.say(question, **self.c), self.r.say(answer, **self.c)))

    # ------------------------------------------------------------------------------------- pieces that plots share
    def begin(self) -> None:
        self.say(
            "Once upon a time, there was {a_ht} {hk} [named|called] {h}. {hHe} lived {inhome}.",
            "Once there was {a_hk} [named|called] {h}, who lived {inhome}. {h} was very {ht}.",
            "[Long ago|Once upon a time|Many years ago], {a_ht} {hk} lived {inhome}. {hHis} name was {h}.",
            "{h} was {a_ht} {hk}. {hHe} lived in a [small|little|cosy|quiet] house {inhome}.",
            "{h} the {hk} lived {inhome}. [Everyone|Everybody] knew that {h} was {ht}.",
            "In a [small|quiet|little] house {inhome} lived {a_hk} [named|called] {h}. {hHe} was {a_ht} {hk}.",
        )
        self.maybe(
            0.4,
            "{hHe} liked to [sing|walk|read|dance|paint|swim|run|play] [every day|in the morning|when the sun was out].",
            "{hHe} [loved|liked] {foods} more than anything [else|in the world].",
            "Every [morning|evening], {hhe} [looked at the sky|sang a song|went for a walk|said hello to the birds].",
        )
        self.fact("[What kind of animal or person is|Who or what is] {h}?", "{h} is {a_hk}.")
        if self.r.held:  # as the suite asks it, in either tense
            self.fact("Where [does|did] {h} live?", "{h} [lives|lived] {inhome}.")
        else:
            self.fact(*self.r.choice((("Where does {h} live?", "{h} lives {inhome}."), ("Where did {h} live?", "{h} lived {inhome}."))))
        self.fact("What is the [{hk}'s name|name of the {hk}]?", "The {hk}'s name is {h}.")

    def one_day(self) -> None:
        self.new()
        self.say(
            "One {wx} {day}, ", "One {day}, ", "It was a {wx} {day}. ", "On a {wx} {day}, ", "One {wx} {day}, "
        )
        self.opening = self.paragraphs[-1].pop()
        if self.c["wx"] in self.opening:
            self.fact("What was the weather like?", "It was {wx}.")

    def then(self, *templates: str) -> None:
        """A sentence that starts with what one_day chose."""
        text = self.r.say(self.r.choice(templates), **self.c)
        self.paragraphs[-1].append(self.opening + (cap(text) if self.opening.endswith(". ") else text))

    def meet(self) -> None:
        self.say(
            "On the way, {hhe} met {f}, {a_ft} {fk}.",
            "Soon {hhe} met {a_fk} [named|called] {f}.",
            "Then {a_fk} came [by|along]. {fHis} name was {f}.",
            "{f} the {fk} [was sitting|was resting|was waiting] {inq}.",
            "There {hhe} saw {f}, the {ft} {fk}.",
        )
        self.fact("Who did {h} meet?", "{h} met {f} the {fk}.")
        self.fact("What kind of animal or person is {f}?", "{f} is {a_fk}.")

    def thanks(self) -> None:
        self.say(
            '"Thank you, {f}," said {h}. "You are a [good|true|kind|real] friend."',
            '"[Thank you so much|Thank you|Oh, thank you]!" said {h}, and {hhe} [gave {f} a hug|smiled|danced for joy].',
            "{h} thanked {f} and gave {fhim} {a_food}.",
            '"I am so [happy|glad]," said {h}. "Thank you!"',
        )

    def end(self, feeling: str = "happy") -> None:
        self.c["feeling"] = feeling
        self.say(
            "From that day on, {h} and {f} were [good|best|close] friends.",
            "{h} went home and slept well that night.",
            "And {h} was {feeling} [again|for the rest of the day|all week].",
            "They [laughed|sang|talked] until the [moon|stars] came out, and then they went home.",
            "That night {h} fell asleep with a smile.",
            "{h} never forgot that {day}.",
        )
        self.maybe(0.25, "The end.")

    def moral(self, *templates: str) -> None:
        self.maybe(0.55, *templates)


# ------------------------------------------------------------------------------------------------------------- plots
def lost(t: Teller) -> str:
    """Something is lost; a friend helps to find it."""
    t.begin()
    t.say("{hHe} had {a_size} {colo} that {hhe} [loved|liked] very much.", "{hHis} [best|favourite] thing was {a_size} {colo}.",
          "{hHe} always carried {a_size} {colo}.")
    t.one_day()
    t.then("{h} could not find the {o}.", "the {o} was gone.", "{h} lost the {o}.", "{h} saw that the {o} was not there.")
    t.say("{hHe} looked [under the bed|behind the door|in every room|in the cupboard], but it was not there.",
          '"Where is my {o}?" {hhe} [cried|asked|said].', "{h} was very sad.", "{hHe} looked everywhere {inhome}.")
    t.maybe(0.6, "{h} sat down and [cried|thought for a long time].", "{hHe} felt [sad|lost and alone].")
    t.new()
    t.meet()
    t.say('"Why are you [sad|crying]?" asked {f}. "I lost my {o}," said {h}.',
          '"I lost my {colo}," said {h}. "[Do not worry|Do not cry]," said {f}. "I will help you."',
          '{h} told {f} [about the {o}|what was wrong]. "Let us look together," said {f}.')
    t.say("They looked [in the grass|behind the stones|under the leaves|up and down the path] and [then|at last] they went to the {p}.",
          "They walked [together|side by side] to the {p}.", "First they looked {inq}, and then they went to the {p}.")
    t.say("And there, {inp}, was the {o}!", "There it was! The {colo} was {inp}.", "{f} [saw|found] the {o} {inp}.",
          '"Look!" said {f}. The {o} was {inp}.')
    t.new()
    t.thanks()
    t.end()
    t.moral("[A friend|A good friend] makes hard things easy.", "When we look together, we find more.",
            "{h} learned to take care of {hhis} things.")
    t.fact("What did {h} lose?", "{h} lost {hhis} {colo}.")
    t.fact("What colour was the {o}?", "The {o} was {col}.")
    t.fact("Where was the {o}?|Where did they find the {o}?".split("|")[t.r.randrange(2)], "The {o} was {inp}.")
    t.fact("Who helped {h}?", "{f} the {fk} helped {h}.")
    t.fact("Why was {h} sad?", "{h} was sad because {hhe} lost {hhis} {o}.")
    return "{h} loses {a_colo}. {f} the {fk} helps to look for it, and they find it {inp}."


def found(t: Teller) -> str:
    """Something is found; whose is it?"""
    t.begin()
    t.one_day()
    t.then("{h} was walking {inp} when {hhe} saw something {col}.", "{h} found {a_colo} {inp}.",
           "{h} went to the {p}. There, in the [grass|sand|dust], was {a_colo}.")
    t.say("It was {a_size} {colo}. [It was so pretty|It was very fine]!", '"What {a_size} {o}!" said {h}. "Whose is it?"',
          "{h} picked up the {o} and looked at it.")
    t.say("{hHe} wanted to keep it, but {hhe} knew that someone must be [sad|looking for it].",
          '"It is not mine," {hhe} thought. "Somebody must [miss it|want it back]."')
    t.new()
    t.say("{hHe} asked {s} the {sk}, but it was not {shis} {o}.", 'First {hhe} asked {s}, {a_sk}. "No, it is not mine," said {s}.',
          '"Is this yours?" {hhe} asked {s} the {sk}. {s} shook {shis} head.')
    t.meet()
    t.say('"That is my {o}!" said {f}. "I lost it [yesterday|last week|in the night]."',
          '"Oh! My {o}!" cried {f}. "I looked for it [everywhere|all day]."')
    t.say("{h} gave the {o} back.", "So {h} gave {fhim} the {o}.")
    t.new()
    t.say("{f} was so happy that {fhe} gave {h} {n} {foods}.", '"You are so [honest|kind]," said {f}. {fHe} gave {h} {n} {foods}.')
    t.end("proud")
    t.moral("It feels good to be honest.", "What is not ours, we give back.", "{h} was proud of what {hhe} did.")
    t.fact("What did {h} find?", "{h} found {a_colo}.")
    t.fact("Where did {h} find the {o}?", "{h} found the {o} {inp}.")
    t.fact("Whose {o} was it?", "It was {f}'s {o}.")
    t.fact("What did {f} give {h}?", "{f} gave {h} {n} {foods}.")
    t.fact("What colour was the {o}?", "The {o} was {col}.")
    return "{h} finds {a_colo} {inp}. It belongs to {f} the {fk}, and {h} gives it back."


def storm(t: Teller) -> str:
    """A storm; somebody needs shelter."""
    t.begin()
    t.c["storm"] = t.r.choice(["storm", "heavy rain", "snow storm"])
    t.new()
    t.say("One [night|evening], a {storm} came over the {home}.", "One [dark|cold] night there was a {storm}.")
    t.say("The wind [blew|howled] and the [trees|windows] shook.", "The sky was black, and the wind was [loud|strong].")
    t.say("{h} sat by the fire with a cup of [tea|milk|soup].", "{h} was warm [in bed|under a blanket].")
    t.new()
    t.say("Then {hhe} heard a knock at the door.", "Knock, knock! Someone was at the door.", "Suddenly there was a knock.")
    t.say("It was {f}, {a_fk}. {fHe} was [wet and cold|cold and tired].", "Outside stood {f} the {fk}, [wet from head to foot|shaking with cold].")
    t.say('"My house is [broken|full of water]," said {f}. "May I come in?"', '"Please let me in," said {f}. "I have nowhere to go."')
    t.say('"Of course," said {h}. "Come in and sit by the fire."', '"Come in, come in!" said {h}.')
    t.say("{h} gave {fhim} {a_food} and a [dry|warm] blanket.", "{h} gave {f} {n} {foods} and {a_colo}.")
    t.maybe(0.5, "They told stories all night.", "Soon {f} was warm and [dry|sleepy].")
    t.new()
    t.say("In the morning the {storm} was over, and the sun was shining.", "The next day the sky was blue again.")
    t.say("{h} helped {f} to mend the house.", "They went to mend {f}'s house together. {h} brought {hhis} {o}.")
    t.end()
    t.moral("A warm heart is better than a warm fire.", "Kind friends open the door.")
    t.fact("Who came to the door?|Who knocked at the door?".split("|")[t.r.randrange(2)], "{f} the {fk} did.")
    t.fact("Why did {f} need help?", "{f} needed help because of the {storm}.")
    t.fact("Who let {f} in?", "{h} let {f} in.")
    return "There is a {storm}. {f} the {fk} knocks at the door, and {h} lets {fhim} in."


def sharing(t: Teller) -> str:
    """One has food, another has none."""
    t.begin()
    t.one_day()
    t.then("{h} had {n} {foods}.", "{h} picked {n} {foods} {inp}.", "{h} went to the {p} and got {n} {foods}.")
    t.say("{hHe} wanted to eat them all.", '"These are all for me," thought {h}.', "They [smelled|looked] so good!")
    t.new()
    t.meet()
    t.say("{f} was very hungry.", '"I have not eaten [today|since yesterday]," said {f}.', "{f} looked at the {foods} but said nothing.")
    t.say("{h} looked at {hhis} {foods} and then at {f}.", "{h} thought for a [moment|while].")
    t.say('"Here," said {h}, "you can have half."', "Then {hhe} gave half of the {foods} to {f}.", '"Let us share," said {h}.')
    t.say("They sat down {inq} and ate [together|side by side].", "So they ate together {inq}.")
    t.new()
    t.say("The next [day|week], {h} had nothing to eat, and {f} came with a basket full of [bread|cake|{foods}].",
          "A week later, {f} came back with {a_food} pie for {h}.")
    t.thanks()
    t.end("full and happy")
    t.moral("When we share, there is enough for all.", "Food tastes better with a friend.", "Who shares is never alone.")
    t.fact("What did {h} have?", "{h} had {n} {foods}.")
    t.fact("How many {foods} did {h} have?", "{h} had {n} {foods}.")
    t.fact("Who was hungry?", "{f} the {fk} was hungry.")
    t.fact("Where did they eat?", "They ate {inq}.")
    t.fact("What did {h} share with {f}?", "{h} shared {hhis} {foods} with {f}.")
    return "{h} has {n} {foods}. {f} the {fk} is hungry, so {h} shares them."


def race(t: Teller) -> str:
    """A race with a fall in it."""
    t.begin()
    t.say("{f} the {fk} was [fast|proud], and {fhe} told everyone so.", "{hHis} friend {f}, {a_fk}, thought that {fhe} was the fastest of all.")
    t.one_day()
    t.then("there was a race to the {p}.", "{f} asked {h} to race to the {p}.", "all the animals came to see a race to the {p}.")
    t.say('"I will win," said {f}.', '"You are too slow," said {f} with a laugh.', "{s} the {sk} held up the {colo}. The race could start.")
    t.say("One, two, three, go!", '"Ready, steady, go!" called {s}.')
    t.new()
    t.say("{f} ran so fast that {fhe} did not look at the road.", "At first {f} was far in front.")
    winner = t.r.choice(["h", "both"])
    t.say("But then {fhe} fell over a [stone|root|log] and hurt {fhis} [leg|foot|knee].", "Then {f} fell into a [hole|ditch], and {fhe} could not get out.")
    if winner == "h":
        t.say("{h} ran on slowly, step by step, and [won|was first].", "{h} did not stop, and {hhe} won the race.")
        t.say("{hHe} won {a_colo}.", "The prize was {a_colo}. {h} gave {f} a kind word too.")
        t.say('"Well done," said {f}. "You were [better|steady and calm]."', "{f} said sorry for {fhis} proud words.")
        t.fact("Who won the race?", "{h} won the race.")
        t.fact("What did {h} win?", "{h} won {a_colo}.")
        plan = "{h} and {f} the {fk} race to the {p}. {f} falls, and {h} wins {a_colo}."
    else:
        t.say("{h} stopped and went back to help.", "{h} could win now. But {hhe} turned around to help {f}.")
        t.say("{hHe} took {f} by the hand, and they finished the race together.", "They walked to the {p} together and finished side by side.")
        t.say("{s} gave them both {a_food}.", "Everyone cheered for both of them.")
        t.fact("Who helped {f}?", "{h} helped {f}.")
        t.fact("Who won the race?", "Nobody won alone: {h} and {f} finished together.")
        plan = "{h} and {f} the {fk} race to the {p}. {f} falls, and {h} helps {fhim}, so they finish together."
    t.end("proud")
    t.moral("It is better to be kind than to be first.", "Slow and steady is good enough.", "Proud words make no one fast.")
    t.fact("Where did the race end?|Where did they race to?".split("|")[t.r.randrange(2)], "The race ended at the {p}.")
    t.fact("Who fell?", "{f} fell.")
    return plan


def building(t: Teller) -> str:
    """Something is built with many hands."""
    t.c["thing"] = t.r.choice(["boat", "bridge", "house", "swing", "tower", "wagon", "kite", "tree house", "bench", "sled"])
    t.c["a_thing"] = a(t.c["thing"])
    t.begin()
    t.one_day()
    t.then("{h} wanted to build {a_thing}.", "{h} had an idea. \"I will build {a_thing},\" {hhe} said.")
    t.say("{hHe} had [wood|some boards] and {a_o}, but {hhe} did not know how to start.", "But alone it was [too hard|too much work].")
    t.maybe(0.6, "{hHe} tried and tried, but it fell down.", "The first {thing} broke at once.")
    t.new()
    t.meet()
    t.say('"I can help," said {f}. "I know how to [use a saw|tie a knot|measure]."', '"Two are better than one," said {f}. "I will bring {a_colo}."')
    t.say("{s} the {sk} came too, and {she} brought {n} {foods}.", "{s} the {sk} brought paint.")
    t.say("They worked [all day|for {n} days] {inp}.", "{h} cut the wood, {f} held it, and {s} painted it {col}.")
    t.new()
    t.say("At last the {thing} was ready.", "When the sun went down, the {thing} was [done|ready].")
    t.say("It was {col} and [strong|beautiful].", "It was the best {thing} in the {home}.")
    t.end("proud")
    t.moral("Many hands make light work.", "What we build together is strong.")
    t.fact("What did {h} want to build?", "{h} wanted to build {a_thing}.")
    t.fact("Where did they build the {thing}?", "They built it {inp}.") if any("They worked" in s for s in t.paragraphs[-2]) else None
    t.fact("Who helped {h}?", "{f} and {s} helped {h}.")
    return "{h} wants to build {a_thing}. It is hard alone, but {f} the {fk} and {s} the {sk} help."


def rescue(t: Teller) -> str:
    """Somebody is stuck."""
    t.begin()
    t.c["trap"] = t.r.choice(["in a hole", "in a tree", "under a log", "in the mud", "in a net", "behind a rock"])
    t.one_day()
    t.then("{h} was [walking|playing] {inp} when {hhe} heard a cry.", "{h} heard a small voice {inp}. \"Help! Help!\"")
    t.say("It was {f}, {a_ft} {fk}. {fHe} was stuck {trap}.", "{f} the {fk} was stuck {trap}.")
    t.say('"Please help me," said {f}.', '"I cannot get out," said {f}. "I am so [afraid|tired]."')
    t.new()
    t.say("{h} pulled and pulled, but {hhe} was not strong enough.", "At first {h} did not know what to do.")
    t.say("Then {hhe} had an idea. {hHe} ran home and got {a_colo}.", '"Wait here," said {h}, and {hhe} ran to get {a_colo}.')
    t.say("With the {o}, {hhe} [pulled|helped] {f} out.", "{h} used the {o}, and soon {f} was free.")
    t.new()
    t.thanks()
    t.end()
    t.moral("You do not have to be big to help.", "A good idea is stronger than strong arms.")
    t.fact("Who was stuck?", "{f} the {fk} was stuck.")
    t.fact("Where was {f} stuck?", "{f} was stuck {trap}.")
    t.fact("What did {h} use to help {f}?", "{h} used {a_colo}.")
    t.fact("Who helped {f}?", "{h} the {hk} helped {f}.")
    return "{f} the {fk} is stuck {trap} {inp}. {h} gets {a_colo} and helps {fhim} out."


def garden(t: Teller) -> str:
    """Something grows slowly."""
    t.begin()
    t.new()
    t.say("In spring, {h} [got|found|bought] {n} {food} seeds.", "{f} the {fk} gave {h} {n} {food} seeds.")
    t.say("{hHe} put them in the ground {inp}.", "{hHe} made a little garden {inp} and put the seeds in the ground.")
    t.say("Every day {hhe} gave them water.", "{hHe} [gave them water|sang to them] every [morning|evening].")
    t.say("But nothing [grew|came up]. Day after day, there was only [earth|mud].", "A week went by, and nothing happened.")
    t.new()
    t.say('"They will never grow," said {h}.', "{h} was sad and wanted to stop.")
    t.say('"Wait a little," said {f}, the {ft} {fk}. "Good things take time."', "{f} the {fk} told {hhim} to wait.")
    t.say("So {h} waited, and one {wx} {day} there was a [tiny|small] green leaf.", "And one {day}, there were {n} green leaves!")
    t.new()
    t.say("In [summer|autumn] there were so many {foods} that {h} could share them with everyone {inhome}.",
          "By [summer|autumn], {h} had {n} baskets of {foods}. {hHe} gave one to {f}.")
    t.end()
    t.moral("Good things take time.", "{h} learned to wait.")
    t.fact("What did {h} plant?", "{h} planted {n} {food} seeds.")
    t.fact("Where was the garden?|Where did {h} put the seeds?".split("|")[t.r.randrange(2)], "{cap_inp}.")
    t.fact("Who told {h} to wait?", "{f} the {fk} told {h} to wait.")
    return "{h} plants {food} seeds {inp}. {f} the {fk} says that good things take time, and at last they grow."


def party(t: Teller) -> str:
    """A birthday that seems forgotten."""
    t.begin()
    t.c["age"] = t.r.choice(NUMBERS)
    t.new()
    t.say("It was {h}'s birthday. {hHe} was {age} years old.", "One {day}, {h} turned {age}.")
    t.say("But nobody said a word about it.", "{hHe} waited, but no one came.", '"Did they all forget?" {hhe} thought.')
    t.say("{hHe} went to {f} the {fk}, but {f} was not at home.", "{hHe} looked for {f}, {hhis} friend the {fk}, but {fhe} was not there.")
    t.maybe(0.6, "{h} felt [sad|lonely].", "{hHe} walked home with slow steps.")
    t.new()
    t.say("Then {hhe} heard [music|a noise|a song] {inp}.", "{hHe} saw a light {inp}.")
    t.say('{h} went to look. "Surprise!" they all called.', '"Surprise!" shouted {f} and {s}.')
    t.say("There was a cake with {age} candles, and {f} gave {hhim} {a_colo}.", "{f} had {a_colo} for {hhim}, and {s} the {sk} brought {n} {foods}.")
    t.end("very happy")
    t.moral("Good friends do not forget.", "It was the best birthday of all.")
    t.fact("How old was {h}?", "{h} was {age} years old.")
    t.fact("Where was the party?", "The party was {inp}.")
    t.fact("What did {f} give {h}?", "{f} gave {h} {a_colo}.")
    return "It is {h}'s birthday, and everyone seems to forget. But {f} the {fk} has made a party {inp}."


def night(t: Teller) -> str:
    """Fear of a noise in the dark."""
    t.begin()
    t.new()
    t.say("One night, {h} heard a strange noise.", "It was dark, and {h} could not sleep. There was a noise outside.")
    t.c["noise"] = t.r.choice(["Tap, tap, tap", "Boom, boom", "Hoo, hoo", "Scratch, scratch", "Ding, ding", "Crack, crack"])
    t.say('"{noise}," it went.', "{noise}! There it was again.")
    t.say("{h} was [afraid|scared]. {hHe} hid under the blanket.", "{hHis} heart beat fast.")
    t.say('"It must be a [monster|ghost|giant]," {hhe} thought.', "What could it be?")
    t.new()
    t.say("But {h} wanted to know. {hHe} took {hhis} {colo} and went out.", "At last {hhe} took {a_colo} and opened the door.")
    t.say("{hHe} went to the {p}, step by step.", "The noise came from the {p}.")
    t.say("It was only {f} the {fk}!", "There was no monster. It was {f}, {a_fk}.")
    t.say('"I am [mending my roof|looking for my shoe|making a drum]," said {f}. "I am sorry that I woke you."',
          '"I could not sleep," said {f}, "so I made some music."')
    t.say("They both laughed.", "{h} laughed and laughed.")
    t.end("calm")
    t.moral("Things look bigger in the dark.", "Being brave means going to look.")
    t.fact("Who made the noise?", "{f} the {fk} made the noise.")
    t.fact("Where did the noise come from?", "It came from the {p}.") if any("{p}".format(**t.c) in s for s in t.paragraphs[-1]) else None
    t.fact("What did {h} take along?", "{h} took {a_colo}.")
    return "{h} hears a noise at night and is afraid. {hHe} goes to look, and it is only {f} the {fk}."


def journey(t: Teller) -> str:
    """A wish to see something far away."""
    t.begin()
    t.c["goal"] = t.r.choice(["sea", "big city", "end of the river", "highest mountain", "old castle", "moon lake", "great desert", "north star"])
    t.say("{hHe} had one wish: {hhe} wanted to see the {goal}.", "More than anything, {h} wanted to see the {goal}.")
    t.one_day()
    t.then("{hhe} packed {n} {foods} and {a_colo} and left.", "{h} put {a_colo} and {n} {foods} in a bag and went off.")
    t.say("{hHe} walked [over|past] the {p} and [along|through] the {q}.", "First {hhe} came to the {p}.")
    t.new()
    t.meet()
    t.say('"Where are you going?" asked {f}. "To the {goal}," said {h}.', '"I am going to the {goal}," said {h}. "Can I come?" asked {f}.')
    t.say("So they went on together.", '"Then I will show you the way," said {f}.')
    t.say("The way was long, and at night they slept under the [stars|trees].", "They walked for {n} days.")
    t.maybe(0.5, "When {h} was tired, {f} told a [joke|story].", "They ate the {foods} and sang songs.")
    t.new()
    t.say("At last they saw the {goal}. It was [wonderful|bigger than a dream|beautiful].", "Then, one {day}, there it was: the {goal}!")
    t.say("{h} looked for a long time and said nothing.", '"It is even better than I thought," said {h}.')
    t.end()
    t.moral("A long way is short with a friend.", "Every long way starts with one step.")
    t.fact("What did {h} want to see?", "{h} wanted to see the {goal}.")
    t.fact("Who went with {h}?", "{f} the {fk} went with {h}.")
    t.fact("What did {h} pack?|What did {h} take along?".split("|")[t.r.randrange(2)], "{h} took {n} {foods} and {a_colo}.")
    return "{h} wants to see the {goal}. {f} the {fk} goes along, and at last they get there."


def broken(t: Teller) -> str:
    """Something is broken; the truth is told."""
    t.begin()
    t.say("{hHis} friend {f} the {fk} had {a_colo}.", "{f}, {a_fk}, was {hhis} friend. {f} had {a_size} {colo}.")
    t.one_day()
    t.then("{h} played with the {o} {inp}, and it fell down and broke.", "{h} took the {o} to the {p}. It fell and broke.")
    t.say("Nobody saw it.", "{h} looked around. No one was there.")
    t.say('"I will say that the wind did it," {hhe} thought.', "{hHe} hid the {o} behind a [tree|door|chair].")
    t.new()
    t.say("But that night {h} could not sleep.", "But {hhe} felt bad all [day|evening].")
    t.say("In the morning {hhe} went to {f} and told {fhim} the truth.", 'So {hhe} went to {f}. "I broke your {o}," {hhe} said. "I am sorry."')
    t.say('"Thank you for telling me," said {f}. "We can mend it."', "{f} was sad at first, but then {fhe} smiled. \"It is good that you told me,\" {fhe} said.")
    t.say("{s} the {sk} had some glue, and together they mended the {o}.", "They mended it together with [glue|thread|string].")
    t.end("glad")
    t.moral("The truth is hard to say, but it makes the heart light.", "It is brave to say sorry.")
    t.fact("What did {h} break?", "{h} broke {f}'s {o}.")
    t.fact("Whose {o} was it?", "It was {f}'s {o}.")
    t.fact("Where did the {o} break?", "It broke {inp}.")
    t.fact("What did {h} say to {f}?", "{h} told {f} the truth and said sorry.")
    return "{h} breaks {f}'s {o} {inp} and wants to hide it. Then {hhe} tells the truth, and they mend it."


def trade(t: Teller) -> str:
    """A chain of swaps, so that who has what changes."""
    t.begin()
    t.c["x"], t.c["y"] = t.r.sample([o for o in OBJECTS if o != t.c["o"]], 2)
    t.c |= dict(a_x=a(t.c["x"]), a_y=a(t.c["y"]))
    t.one_day()
    t.then("{h} went to the {p} with {a_x}.", "{h} took {a_x} and went to the {p}.")
    t.say("{hHe} wanted to [get|find] {a_o}.", "{hHe} wished for {a_o}.")
    t.new()
    t.say('There was {f} the {fk} with {a_y}. "I will give you my {y} for your {x}," said {f}.',
          '{f}, {a_fk}, had {a_y}. "Let us swap," said {f}. "My {y} for your {x}."')
    t.say("{h} thought about it and said yes.", '"That is fair," said {h}. So they swapped.')
    t.say("Now {h} had the {y}, and {f} had the {x}.", "{f} took the {x}, and {h} took the {y}.")
    t.new()
    t.say("Then came {s} the {sk} with {a_colo}. {sHe} needed {a_y}.", "Near the {q}, {s} the {sk} was carrying {a_colo}. {sHe} was looking for {a_y}.")
    t.say('"I will give you my {o} for your {y}," said {s}.', '"Would you swap your {y} for my {o}?" asked {s}.')
    t.say("{h} said yes at once.", '"Yes, please!" said {h}.')
    t.say("So {h} got {hhis} {o}, and everyone was happy.", "At the end of the day, {h} had the {o}, {s} had the {y} and {f} had the {x}.")
    t.end("glad")
    t.fact("Who has the {x} at the end?", "{f} has the {x}.")
    t.fact("Who has the {y} at the end?", "{s} has the {y}.")
    t.fact("Who has the {o} at the end?", "{h} has the {o}.")
    t.fact("What did {h} have at first?", "{h} had {a_x}.")
    t.fact("What did {h} want?", "{h} wanted {a_o}.")
    return "{h} has {a_x} and wants {a_o}. {hHe} swaps with {f} the {fk}, and then with {s} the {sk}."


PLOTS = [lost, found, storm, sharing, race, building, rescue, garden, party, night, journey, broken, trade]
# Plots in which the coloured object of the cast is sure to appear.
WITH_OBJECT = [lost, found, rescue, broken, night, trade]

TITLES = [
    "{h} and the {o}", "The {hk} and the {fk}", "{h} and {f}", "The {ht} {hk}", "The {colo}", "A {wx} day {inhome}", "{h} the {hk}",
]


def tell(r: Source, wish: dict | None = None) -> Story:
    """A story; `wish` may set kinds, names, trait, place and object."""
    wish = wish or {}
    plot = r.choice(WITH_OBJECT if "object" in wish else PLOTS)
    t = Teller(r, wish)
    t.c["cap_inp"] = cap(t.c["inp"])
    plan = plot(t).format(**t.c)
    title = r.choice(TITLES).format(**t.c)
    place_told = t.c["inp"] in " ".join(s for p in t.paragraphs for s in p)
    return Story(cap(title), [p for p in t.paragraphs if p], plan, t.c | {"place_told": place_told}, t.facts)
