"""Chats around stories: ask for one, or ask about one."""

import re

from chat import Chat, reply, user
from stories import Story, tell
from words import COUNTABLE_FOODS, HEROES, OBJECTS, PEOPLE, PLACES, TRAITS, Source, a, is_held, join

WORD = re.compile(r"[a-z]+")
FREE = set("""a an the is was are were did does do yes no and of to in on at by it they he she his her him its had has have
with for because so there not nobody who lives lived went s alone finished together wanted""".split())


def supported(story: Story) -> list[tuple[str, str]]:
    """The facts whose answer uses only words of the story or of the question: the others were not told this time."""
    text = set(WORD.findall(story.text().lower()))
    return [
        (q, answer) for q, answer in story.facts
        if not set(WORD.findall(answer.lower())) - text - set(WORD.findall(q.lower())) - FREE
    ]


def story_of(r: Source, wish: dict | None = None) -> Story:
    while True:
        story = tell(r, wish)
        # By hero and object, so that a held-out story's cast is new also where its names are not.
        if r.held or not is_held("story", story.cast["h"], story.cast["hk"], story.cast["o"]):
            return story


def plain_story(r: Source) -> str:
    story = story_of(r)
    return (f"{story.title}\n\n" if r.chance(0.5) else "") + story.text()


ASK = [
    "Tell me a story about {x}.", "Tell me a [short|little|bedtime] story about {x}.", "Write a [short |]story about {x}.", "A story about {x}, please.",
    "Can you tell me a story about {x}?", "I want to hear a story about {x}.", "Please tell a story about {x}.", "Write me a [children's |short |]story about {x}.",
    "story about {x}", "Make up a story about {x}.", "Could you write a [short |]story about {x}?", "Tell me about {x}. Make it a story.", "Tell a tale of {x}.",
]
ANY = [
    "Tell me a story.", "Can you tell me a story?", "Please tell me a [short|bedtime|nice|new] story.", "Write a [short |]story.", "I want to hear a story.",
    "A story, please!", "Story time!", "Do you know a [good |]story?", "Tell me a story, please.", "Write something [nice|for children].", "Make up a story.",
]


def story_chat(r: Source, think: bool) -> Chat:
    wish: dict = {}
    kind = r.choice(HEROES if r.chance(0.85) else PEOPLE)
    x = None
    form = r.randrange(10)
    said = a(f"{r.choice(TRAITS)} {kind}") if r.chance(0.2) else a(kind)
    if said != a(kind):
        wish["trait"] = said.split()[1]
    if form == 0:
        question = r.say(r.choice(ANY))
        wish = {}
    else:
        wish["kinds"] = [kind]
        if form <= 4:
            x = said
        elif form == 5:
            other = r.choice([h for h in HEROES if h != kind])
            wish["kinds"].append(other)
            x = f"{said} and {a(other)}"
        elif form == 6:
            wish["names"] = [r.name()]
            x = f"{said} [named|called] {wish['names'][0]}"
        elif form == 7:
            wish["object"] = r.choice(OBJECTS)
            x = f"{said} and {a(wish['object'])}"
        elif form == 8:
            wish["place"] = r.choice([p for p in PLACES])
            x = f"{said} {PLACES[wish['place']]} the {wish['place']}"
        else:
            wish["names"] = [r.name()]
            x = f"{wish['names'][0]} the {kind}"
            wish.pop("trait", None)
        question = r.say(r.choice(ASK), x=r.say(x))
    while True:
        story = story_of(r, wish)
        if "place" not in wish or f"{PLACES[wish['place']]} the {wish['place']}" in story.text():
            break
    text = story.text()
    if r.chance(0.3):
        text = f"**{story.title}**\n\n{text}"
    messages = [user(question), reply(text, story.plan if think else "")]
    expect: dict = {"story": [w for w in wish.get("kinds", []) + wish.get("names", [])]}
    if r.chance(0.25):  # and a question about it
        facts = supported(story)
        if facts:
            q, answer = r.choice(facts)
            messages[1].pop("reasoning_content", None)
            messages += [user(q), reply(answer, "The story says so." if think else "")]
            expect = {"text": answer}
    return Chat("stories" if "story" in expect else "questions", messages, thinking=think, expect=expect)


HEADS = ["Read this story:\n\n{s}\n\n{q}", "{s}\n\n{q}", "Story: {s}\n\nQuestion: {q}", "Here is a story.\n\n{s}\n\n{q}", "{q}\n\n{s}", "Answer from the story.\n\n{s}\n\n{q}"]
UNTOLD = [
    "How old is {h}'s [mother|father|brother|sister]?", "What is {h}'s favourite colour?", "What does {f} eat for breakfast?", "Which language does {h} speak?",
    "What is the name of {h}'s [mother|father|teacher]?", "How tall is {f}?", "What is {f}'s favourite song?", "How much money does {h} have?",
]


def question_chat(r: Source, think: bool) -> Chat:
    """A story and one question, or two in turn."""
    while True:
        story = story_of(r)
        facts = supported(story)
        if len(facts) >= 3:
            break
    text = story.text().replace("\n\n", " ") if r.chance(0.6) else story.text()
    (q, answer), (q2, answer2) = r.sample(facts, 2)
    evidence = sentence_with(story, answer)
    if r.chance(0.08):
        q, answer, evidence = r.say(r.choice(UNTOLD), **story.cast), "The story does not say.", "That is not in the story."
    messages = [user(r.choice(HEADS).format(s=text, q=q)), reply(answer, evidence if think else "")]
    if r.chance(0.25):
        messages[1].pop("reasoning_content", None)
        messages += [user(q2), reply(answer2, sentence_with(story, answer2) if think else "")]
        answer = answer2
    return Chat("questions", messages, thinking=think, expect={"text": answer})


def sentence_with(story: Story, answer: str) -> str:
    """The sentence of the story that shares most words with the answer, quoted."""
    words = set(WORD.findall(answer.lower())) - FREE
    sentences = [s for paragraph in story.sentences for s in paragraph]
    best = max(sentences, key=lambda s: len(words & set(WORD.findall(s.lower()))))
    return f"The story says: {best}"


def retell(r: Source, think: bool) -> Chat:
    """In one or two sentences: what happens."""
    story = story_of(r)
    question = r.choice(("What is this story about?\n\n{}", "Sum up this story.\n\n{}", "{}\n\nWhat happens in this story?", "Tell me in short what happens here: {}")).format(story.text())
    return Chat("questions", [user(question), reply(story.plan, f"It is about {story.cast['h']} and {story.cast['f']}." if think else "")], thinking=think, expect={"text": story.plan})
