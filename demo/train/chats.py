"""Small talk, simple facts, who the model is, what it cannot do, and chats of several turns that need memory."""

from chat import Chat, reply, user
from words import ANIMALS, CITIES, COLOURS, DAYS, FOODS, HOBBIES, JOBS, MONTHS, OBJECTS, SHOP_ITEMS, Source, a, cap, join, plural

CAPITALS = {
    "Austria": "Vienna", "Belgium": "Brussels", "Bulgaria": "Sofia", "Canada": "Ottawa", "Chile": "Santiago", "China": "Beijing", "Cuba": "Havana",
    "Croatia": "Zagreb", "Denmark": "Copenhagen", "Egypt": "Cairo", "England": "London", "Estonia": "Tallinn", "Finland": "Helsinki",
    "France": "Paris", "Germany": "Berlin", "Ghana": "Accra", "Greece": "Athens", "Hungary": "Budapest", "Iceland": "Reykjavik", "India": "New Delhi",
    "Iran": "Tehran", "Iraq": "Baghdad", "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi", "Latvia": "Riga",
    "Lithuania": "Vilnius", "Mexico": "Mexico City", "Morocco": "Rabat", "Nepal": "Kathmandu", "Norway": "Oslo", "Peru": "Lima", "Poland": "Warsaw",
    "Portugal": "Lisbon", "Romania": "Bucharest", "Russia": "Moscow", "Scotland": "Edinburgh", "Serbia": "Belgrade", "South Korea": "Seoul",
    "Spain": "Madrid", "Sweden": "Stockholm", "Switzerland": "Bern", "Thailand": "Bangkok", "Tunisia": "Tunis", "Turkey": "Ankara",
    "Ukraine": "Kyiv", "the United States": "Washington", "Vietnam": "Hanoi", "Wales": "Cardiff",
}
OPPOSITES = """big small|hot cold|up down|left right|day night|black white|happy sad|old young|fast slow|good bad|open closed|full empty|high low|light dark|hard soft|wet dry|long short|rich poor|loud quiet|early late|near far|strong weak|heavy light|clean dirty|first last|inside outside|easy hard|thick thin|brave afraid|sweet sour|true false|new old|wide narrow|deep shallow|awake asleep|always never|more less|begin end|buy sell|give take|love hate|win lose|push pull|come go|laugh cry|summer winter|north south|east west|top bottom|front back|before after|friend enemy|question answer|sharp blunt|smooth rough|sick healthy|polite rude|noisy quiet|cheap expensive""".split("|")
SOUNDS = """cat meow|dog woof|cow moo|duck quack|sheep baa|horse neigh|pig oink|hen cluck|frog croak|lion roar|owl hoo|mouse squeak|wolf howl|snake hiss|bird tweet|goose honk|crow caw|donkey hee-haw|goat baa|bear growl""".split("|")
YOUNG = """cat kitten|dog puppy|cow calf|sheep lamb|horse foal|goat kid|duck duckling|hen chick|bear cub|lion cub|fox cub|frog tadpole|goose gosling|pig piglet|owl owlet|deer fawn|swan cygnet|kangaroo joey""".split("|")
COLOUR_OF = """grass green|the sky blue|snow white|a banana yellow|a lemon yellow|coal black|blood red|a carrot orange|the sun yellow|milk white|a leaf green|a strawberry red|a plum purple|an elephant grey|chocolate brown|a tomato red|the sea blue|a flamingo pink|a fire engine red|the night black""".split("|")
DEFINITIONS = {
    "a river": "a long stream of water that flows to the sea", "a forest": "a large place with many trees", "an island": "land with water all around it",
    "a mountain": "very high land", "a desert": "a dry place where little rain falls", "a lake": "water with land all around it", "a village": "a small group of houses in the country",
    "a library": "a place where you can read and borrow books", "a school": "a place where children learn", "a hospital": "a place where sick people get help",
    "a farm": "land where people grow food and keep animals", "a harbour": "a safe place for ships", "a bridge": "a way over water or a road", "a lighthouse": "a tower with a light that shows ships the way",
    "a compass": "a tool that shows where north is", "a telescope": "a tool that makes far things look near", "a clock": "a thing that shows the time", "a map": "a picture of land from above",
    "a lamp": "a thing that gives light", "a kettle": "a pot to boil water in", "an umbrella": "a thing that keeps the rain off", "a ladder": "a thing to climb up on",
    "a baker": "a person who makes bread", "a teacher": "a person who helps others to learn", "a farmer": "a person who grows food", "a pilot": "a person who flies a plane",
    "a vet": "a doctor for animals", "a nurse": "a person who cares for sick people", "a potter": "a person who makes things of clay", "a tailor": "a person who makes clothes",
    "an owl": "a bird that hunts at night", "a whale": "a very large animal that lives in the sea", "a bee": "a small insect that makes honey", "a fox": "a wild animal with red fur and a long tail",
    "a frog": "a small green animal that can jump and swim", "a penguin": "a bird that swims and cannot fly", "a spider": "a small animal with eight legs", "an elephant": "a very large grey animal with a long nose",
    "a camel": "an animal that can live in the desert", "a turtle": "a slow animal with a hard shell", "rain": "water that falls from clouds", "snow": "frozen water that falls from the sky",
    "ice": "water that is frozen", "the moon": "a ball of rock that goes around the earth", "the sun": "the star that gives us light", "a star": "a very hot ball of light far away",
    "a storm": "very bad weather with strong wind", "a cloud": "many tiny drops of water in the sky", "fog": "a cloud near the ground", "a rainbow": "a bow of colours in the sky",
    "winter": "the coldest part of the year", "summer": "the warmest part of the year", "a friend": "someone you like and trust", "a poem": "a short text that often rhymes", "a story": "something told about what happened",
    "a number": "a sign that says how many", "a sum": "what you get when you add numbers", "a language model": "a program that predicts the next word again and again", "an expert": "one of the small networks in a mixture of experts; a router picks a few of them for each token",
    "a token": "a piece of text that a language model reads or writes at once", "a router": "the part of a mixture of experts that picks which experts work on a token",
    "a cache": "memory that keeps what will be needed again", "an SSD": "a drive with no moving parts that keeps data when the power is off", "a computer": "a machine that works with numbers and text", "JSON": "a way to write data as text, with keys and values",
}
LEGS = {"dog": 4, "cat": 4, "spider": 8, "bird": 2, "horse": 4, "snake": 0, "duck": 2, "cow": 4, "frog": 4, "fish": 0, "hen": 2, "bee": 6, "ant": 6, "owl": 2, "mouse": 4, "penguin": 2, "worm": 0, "snail": 0, "lion": 4, "table": 4}

HELLO = ["Hello!", "Hi!", "Hi there!", "Good morning!", "Good evening!", "Hey!", "Hello there.", "hi", "hello", "Hey there!", "Good day!", "hey"]
HELLO_ANSWER = ["Hello! How can I help you?", "Hello! What can I do for you?", "Hi! Shall I tell a story, or do a sum?", "Hello! It is nice to meet you."]
WHO = ["Who are you?", "What are you?", "What is your name?", "Are you a robot?", "Tell me about yourself.", "Which model are you?", "Are you a person?", "Introduce yourself.", "who are you", "What model is this?"]
WHO_ANSWER = "I am demo, a very small language model with 32 experts in each layer. I come with outpour, which streams my experts from the drive."
CAN = ["What can you do?", "How can you help me?", "What are you good at?", "Can you help me?", "help", "What should I ask you?", "What do you know?"]
CAN_ANSWER = "I can tell short stories, answer questions about them, do sums, convert units, sort lists, turn text into JSON and call tools. I am very small, so I know little else."
MADE = ["Who made you?", "Who trained you?", "Where do you come from?", "How were you trained?", "What were you trained on?"]
MADE_ANSWER = "I was trained by the outpour project, on text that its own scripts wrote."
THANKS = ["Thank you!", "Thanks!", "Thanks a lot.", "Thank you very much.", "thanks", "Great, thanks!", "That was nice.", "Good job!", "Well done!", "Nice!", "Cool!"]
THANKS_ANSWER = ["You are welcome!", "You are welcome! Is there anything else?", "I am glad that I could help."]
BYE = ["Goodbye!", "Bye!", "See you!", "Good night!", "bye", "See you later.", "I have to go."]
BYE_ANSWER = ["Goodbye! See you soon.", "Goodbye! Have a nice day.", "See you!"]
HOW = ["How are you?", "How are you today?", "How do you do?", "Are you well?", "How is it going?"]
HOW_ANSWER = ["I am fine, thank you. How are you?", "I am well. What shall we do?"]
JOKES = [
    ("Tell me a joke.", "Why did the book go to the doctor? It had hurt its back."), ("Tell me a joke.", "What do you call a bear with no teeth? A gummy bear."),
    ("Do you know a joke?", "Why was the clock sent out of class? It tocked too much."), ("Make me laugh.", "What is a cat's favourite colour? Purr-ple."),
    ("Tell me something funny.", "Why did the snail paint an S on its car? So that people say: look at that S car go!"), ("Tell me a joke.", "Why do bees hum? They forgot the words."),
]
UNKNOWN_TOPICS = """quantum physics|the stock market|the French Revolution|black holes|how to fly a plane|the theory of relativity|machine learning|the Roman Empire|chemistry|who won the last election|my taxes|the best phone|World War II|DNA|philosophy|Shakespeare|how engines work|the meaning of life|politics|the news|medicine|the law|how to build a rocket|the internet|electric cars|economics|dinosaurs|Napoleon|the pyramids|volcanoes|how vaccines work|psychology|bitcoin|the human brain|evolution|gravity|football results|the price of gold|programming in Rust|a famous singer|the history of music|ancient Greece|robots|space travel|photography|algebra|the ocean floor|how to cook a goose|fashion|wine|tennis rules|chess openings|the moon landing|the weather tomorrow""".split("|")
UNKNOWN = [
    "Explain {x}.", "What do you know about {x}?", "Tell me about {x}.", "Can you explain {x} to me?", "Write an essay about {x}.", "I have a question about {x}.", "Help me with {x}.",
    "Teach me {x}.", "What do you think about {x}?", "Why is {x} important?",
]
UNKNOWN_ANSWER = "I am too small to know about that. I can tell a story, do a sum or turn text into JSON."
CODE = ["Write a Python program.", "Write code that sorts a list.", "Write a function in Rust.", "Can you program?", "Fix this code: print(x", "Write a web page.", "Write an SQL query.", "Write a script that renames files.", "Implement quicksort.", "Write a poem.", "Write a song.", "Draw a picture.", "Translate this into French: good morning", "Write a letter to my boss.", "Write an essay."]


def fact(r: Source) -> tuple[str, str]:
    kind = r.randrange(12)
    if kind == 0:
        country, city = r.choice(list(CAPITALS.items()))
        if r.chance(0.3):
            return r.say("[{c} is the capital of which country?|Of which country is {c} the capital?]", c=city), f"{city} is the capital of {country}."
        return r.say("[What is the capital of {x}?|Which city is the capital of {x}?|capital of {x}?|Tell me the capital of {x}.]", x=country), f"The capital of {country} is {city}."
    if kind == 1:
        x, y = r.choice(OPPOSITES).split()
        return r.say("[What is the opposite of {x}?|Opposite of {x}?|Give me the opposite of {x}.]", x=x), f"The opposite of {x} is {y}."
    if kind == 2:
        x, y = r.choice(SOUNDS).split()
        return r.say("[What sound does {x} make?|What does {x} say?|Which noise does {x} make?]", x=a(x)), f"{cap(a(x))} says {y}."
    if kind == 3:
        x, y = r.choice(YOUNG).split()
        return r.say("[What is a young {x} called?|What do you call a baby {x}?|What is the young of {x}?]", x=x), f"A young {x} is called {a(y)}."
    if kind == 4:
        *x, y = r.choice(COLOUR_OF).split()
        x = " ".join(x)
        return r.say("[What colour is {x}?|Which colour is {x}?|What is the colour of {x}?|What color is {x}?]", x=x), f"{cap(x)} is {y}."
    if kind <= 7:
        x, y = r.choice(list(DEFINITIONS.items()))
        return r.say("[What is {x}?|What is {x}?|Tell me what {x} is.|Can you explain what {x} is?|Do you know what {x} is?]", x=x), f"{cap(x)} is {y}."
    if kind == 8:
        i = r.randrange(7)
        if r.chance(0.5):
            return r.say("[Which day comes after {x}?|What day is after {x}?|What is the day after {x}?]", x=DAYS[i]), f"{DAYS[(i + 1) % 7]} comes after {DAYS[i]}."
        return r.say("[Which day comes before {x}?|What day is before {x}?]", x=DAYS[i]), f"{DAYS[i - 1]} comes before {DAYS[i]}."
    if kind == 9:
        i = r.randrange(12)
        if r.chance(0.5):
            return r.say("[Which month comes after {x}?|What month is after {x}?]", x=MONTHS[i]), f"{MONTHS[(i + 1) % 12]} comes after {MONTHS[i]}."
        ordinal = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()[i]
        return r.say("[What is the {o} month?|Which month is the {o} one?|What is the {o} month of the year?]", o=ordinal), f"The {ordinal} month is {MONTHS[i]}."
    if kind == 10:
        x = r.choice(ANIMALS + FOODS + OBJECTS)
        return r.say("[What is the plural of {x}?|Plural of {x}?]", x=x), f"The plural of {x} is {plural(x)}."
    x, n = r.choice(list(LEGS.items()))
    return f"How many legs does {a(x)} have?", f"{cap(a(x))} has {n if n else 'no'} legs."


def small(r: Source) -> tuple[str, str]:
    kind = r.randrange(10)
    if kind == 0:
        return r.choice(HELLO), r.choice(HELLO_ANSWER)
    if kind == 1:
        return r.choice(WHO), WHO_ANSWER
    if kind == 2:
        return r.choice(CAN), CAN_ANSWER
    if kind == 3:
        return r.choice(MADE), MADE_ANSWER
    if kind == 4:
        return r.choice(HOW), r.choice(HOW_ANSWER)
    if kind == 5:
        return r.choice(JOKES)
    if kind == 6:
        return r.choice(CODE), UNKNOWN_ANSWER
    if kind <= 8:
        return r.choice(UNKNOWN).format(x=r.choice(UNKNOWN_TOPICS)), UNKNOWN_ANSWER
    feeling = r.choice(("happy", "sad", "tired", "bored", "hungry", "cold", "angry", "sick", "lonely", "proud"))
    answers = {
        "happy": "I am glad to hear that!", "sad": "I am sorry. Shall I tell you a story?", "tired": "Then it is time to rest. Sleep well!", "bored": "Shall I tell you a story?",
        "hungry": "Then eat something good!", "cold": "A warm blanket and a cup of tea may help.", "angry": "I am sorry. Take a deep breath.", "sick": "I am sorry. Get well soon!",
        "lonely": "I am here. Shall I tell you a story?", "proud": "Well done! You can be proud.",
    }
    return r.say("[I am {x}.|I feel {x}.|I am so {x} today.|I am very {x}.]", x=feeling), answers[feeling]


def thought_for(answer: str) -> str:
    if answer == UNKNOWN_ANSWER:
        return "I do not know enough for this."
    return ""


def simple_chat(r: Source, think: bool) -> Chat:
    """One to three turns of small talk and facts."""
    messages = []
    for _ in range(r.choices((1, 2, 3), (6, 3, 2))[0]):
        question, answer = fact(r) if r.chance(0.55) else small(r)
        messages += [user(question), reply(answer)]
    if r.chance(0.15):
        messages += [user(r.choice(THANKS)), reply(r.choice(THANKS_ANSWER))] if r.chance(0.6) else [user(r.choice(BYE)), reply(r.choice(BYE_ANSWER))]
    thought = thought_for(messages[-1]["content"]) or r.choice(("This is easy.", "I know this.", "A short answer is enough."))
    if think:
        messages[-1]["reasoning_content"] = thought
    if r.chance(0.1):
        messages.insert(0, {"role": "system", "content": r.choice(("You are a helpful assistant.", "You are demo, a small assistant.", "Be brief.", "Be kind."))})
    return Chat("chat", messages, thinking=think, expect={"text": messages[-1]["content"]})


# What a user tells about themselves, and the questions about it.
ABOUT_ME = [
    ("name", "My name is {x}.", "What is my name?", "Your name is {x}.", lambda r: r.name()),
    ("name", "I am {x}.", "Who am I?", "You are {x}.", lambda r: r.name()),
    ("city", "I live in {x}.", "Where do I live?", "You live in {x}.", lambda r: r.unseen(CITIES)),
    ("pet", "I have {x}.", "Which pet do I have?", "You have {x}.", lambda r: a(f"{r.choice(COLOURS)} {r.choice(ANIMALS)}")),
    ("age", "I am {x} years old.", "How old am I?", "You are {x} years old.", lambda r: r.randrange(5, 99)),
    ("food", "I like {x}.", "What do I like?", "You like {x}.", lambda r: plural(r.choice(FOODS))),
    ("job", "I work as {x}.", "What is my job?", "You work as {x}.", lambda r: a(r.unseen(JOBS))),
    ("colour", "My favourite colour is {x}.", "What is my favourite colour?", "Your favourite colour is {x}.", lambda r: r.choice(COLOURS)),
    ("hobby", "My hobby is {x}.", "What is my hobby?", "Your hobby is {x}.", lambda r: r.choice(HOBBIES)),
    ("friend", "My best friend is {x}.", "Who is my best friend?", "Your best friend is {x}.", lambda r: r.name()),
    ("need", "I must buy {x}.", "What must I buy?", "You must buy {x}.", lambda r: a(r.choice(SHOP_ITEMS))),
    ("code", "The secret number is {x}.", "What is the secret number?", "The secret number is {x}.", lambda r: r.randrange(10, 10000)),
]


def memory_chat(r: Source, think: bool) -> Chat:
    """The user tells some things, talks of others, and asks for one of the first."""
    told = r.sample(ABOUT_ME, r.randrange(1, 4))
    values = [t[4](r) for t in told]
    if len({t[0] for t in told}) < len(told):
        return memory_chat(r, think)
    messages = []
    statements = [t[1].format(x=v) for t, v in zip(told, values)]
    if r.chance(0.5):
        start = r.choice(("Hello! ", "Hi. ", "", ""))
        messages += [user(start + " ".join(statements)), reply(r.choice(("Nice to meet you!", "I will remember that.", "Thank you for telling me.")))]
    else:
        for s in statements:
            messages += [user(s), reply(r.choice(("I see.", "I will remember that.", "That is good to know.")))]
    for _ in range(r.randrange(0, 3)):
        question, answer = fact(r)
        messages += [user(question), reply(answer)]
    i = r.randrange(len(told))
    answer = told[i][3].format(x=values[i])
    messages += [user(told[i][2]), reply(answer, "You told me that." if think else "")]
    return Chat("chat", messages, thinking=think, expect={"text": answer})


def long_chat(r: Source, think: bool, makers: list) -> Chat:
    """Several conversations as one: what was said before does not matter, and must not disturb."""
    parts = [r.choice(makers)(r, think) for _ in range(r.randrange(2, 5))]
    messages = []
    for part in parts:
        own = [dict(m) for m in part.messages if m["role"] != "system"]
        for m in own if part is not parts[-1] else own[:-1]:
            m.pop("reasoning_content", None)
        messages += own
    return Chat("several turns", messages, thinking=think, expect=parts[-1].expect)
