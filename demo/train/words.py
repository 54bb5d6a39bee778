"""The controlled vocabulary, and the split into what training sees and what is held out.

Everything random goes through `Source`, a seeded generator that knows its side of the split. A held-out source draws
names, numbers and words that a training source never draws, so the evaluation is on unseen ones by construction.
"""

import json
import random
import re
import zlib
from pathlib import Path

HELD_SHARE = 12  # one of so many names, words and number pairs is held out
OPEN_SHARE = 0.3  # of words from a list are replaced by words out of pieces of the tokenizer


def _pieces() -> list[str]:
    """The tokenizer's tokens that are letters alone (none while it is itself being trained)."""
    path = Path(__file__).parent.parent / "model" / "tokenizer.json"
    if not path.exists():
        return []
    tokens = (t.lstrip("\u0120").lower() for t in json.loads(path.read_text())["model"]["vocab"])
    return sorted({t for t in tokens if re.fullmatch("[a-z]{2,10}", t)})


def is_held(*key) -> bool:
    """Whether a key is on the held-out side: a pure function of the key, in small letters."""
    return zlib.crc32("/".join(map(str, key)).lower().encode()) % HELD_SHARE == 0


class Source(random.Random):
    """Random choices on one side of the split."""

    def __init__(self, seed, held: bool = False):
        super().__init__(str(seed))
        self.held = held

    def chance(self, p: float) -> bool:
        return self.random() < p

    def split(self, words: list[str]) -> list[str]:
        """The words of this side (all of a list too short to be split); cached, as the lists are constants."""
        key = (id(words), self.held)
        if key not in _SPLITS:
            kept = [w for w in words if is_held(w) == self.held]
            _SPLITS[key] = kept if len(kept) >= 4 else words
        return _SPLITS[key]

    def unseen(self, words: list[str]) -> str:
        """One of the words of this side; in training sometimes any word at all, so that copying is not of a list."""
        if not self.held and PIECES and self.chance(OPEN_SHARE):
            word = self.open_word()
            return word.capitalize() if words[0][0].isupper() else word
        return self.choice(self.split(words))

    def open_word(self) -> str:
        """Pieces of the tokenizer in a row: with these, every token is copied now and then, as a word or part of one.

        For training alone; a held-out word is never made.
        """
        while True:
            word = "".join(self.choices(PIECES, k=self.choices((1, 2, 3), (5, 4, 1))[0]))
            if len(word) <= 12 and not is_held(word) and word not in HELD_TOOL_WORDS:
                return word

    def name(self, girl: bool | None = None) -> str:
        """A first name: mostly a known one, sometimes made of syllables or of pieces."""
        if self.chance(0.25):
            return self.made_up()
        if not self.held and PIECES and self.chance(0.4):
            return self.open_word().capitalize()
        if girl is None:
            girl = self.chance(0.5)
        return self.unseen(GIRLS if girl else BOYS)

    def made_up(self) -> str:
        """A name that is no one's, so that copying is learned and not the list."""
        while True:
            n = self.choice((2, 2, 3))
            name = "".join(self.choice(ONSETS) + self.choice(VOWELS) for _ in range(n)) + self.choice(ENDS)
            if is_held(name) == self.held:
                return name.capitalize()

    def names(self, n: int) -> list[str]:
        found: list[str] = []
        while len(found) < n:
            name = self.name()
            if name not in found:
                found.append(name)
        return found

    def surname(self) -> str:
        return self.unseen(SURNAMES) if self.chance(0.6) else self.made_up()

    def say(self, template: str, **c) -> str:
        """Expands [a|b|c] to one of its parts, innermost first, and {key} to c[key]."""
        while "[" in template:
            template = _CHOICE.sub(lambda m: self.choice(m[1].split("|")), template)
        return template.format(**c)


# Words that name the kinds of tools that training never has: see kinds.HELD_KINDS.
HELD_TOOL_WORDS = set("""parking park parks vet vets plant plants printer print prints ticket tickets card cards museum pizza pizzas ferry ferries
gym laundry wash washing clothes renew""".split())
PIECES = _pieces()
_SPLITS: dict = {}
_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def a(noun: str) -> str:
    """The noun with its article."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def cap(text: str) -> str:
    return text[0].upper() + text[1:]


def join(items: list[str], word: str = "and") -> str:
    """a, b and c"""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + f" {word} {items[-1]}"


def plural(noun: str) -> str:
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def count(n: int, noun: str) -> str:
    return f"{n} {noun if n == 1 else plural(noun)}"


IRREGULAR = {
    "mouse": "mice", "goose": "geese", "sheep": "sheep", "fish": "fish", "wolf": "wolves", "leaf": "leaves",
    "child": "children", "deer": "deer", "knife": "knives", "loaf": "loaves", "scarf": "scarves", "shelf": "shelves",
    "potato": "potatoes", "tomato": "tomatoes", "foot": "feet", "tooth": "teeth", "piano": "pianos", "calf": "calves",
}

ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh st t th tr v w y z".split()
VOWELS = "a e i o u a e i o ai ea ee ia io oo".split()
ENDS = ["", "", "", "n", "r", "s", "l", "m", "th", "k", "x", "nd"]

GIRLS = """Ada Aisha Alice Alma Amara Amina Amy Ana Anna Aria Asha Astrid Ava Bea Bella Beth Bianca Birgit Bo Carla Carmen
Cara Chloe Clara Cleo Dana Daisy Dalia Diana Dora Edith Elena Elif Elin Eliza Ella Elsa Emi Emily Emma Erin Esme Eva Eve
Fatima Fay Fiona Flora Freya Gia Gina Grace Greta Hana Hanna Hazel Heidi Helen Holly Ida Ines Ingrid Iris Isla Ivy Jade
Jana Jane Jasmin Jill Joan Josie Joy Julia June Kaia Karen Kate Keiko Kim Kira Lara Laila Laura Lea Leila Lena Lily Lina
Lisa Liv Lola Lucy Luna Lydia Mae Maia Mara Maria Marie Marta Maya Mei Mia Mila Mina Mira Molly Mona Nadia Nala Naomi
Nell Nia Nina Noor Nora Olga Olive Olivia Paula Pearl Petra Pia Polly Priya Rana Rita Rosa Rose Ruby Ruth Sada Sally Sana
Sara Selma Signe Sofia Sonia Stella Sue Suki Talia Tara Tess Thea Tilda Tina Una Uma Vera Vida Viola Wanda Wilma Yara Yuki
Zara Zoe Zora""".split()
BOYS = """Aaron Abe Adam Ali Amir Anders Andy Anton Arlo Arno Arthur Axel Basil Ben Bill Bjorn Bruno Carl Chen Cody Cole
Colin Dan Darius David Dean Dev Diego Dino Eddie Edgar Eli Elias Emil Eric Erik Ezra Felix Finn Frank Fred Gabe George Gil
Glen Gus Hans Harry Henry Hugo Ian Igor Imran Ivan Jack Jacob Jake James Jan Jasper Jay Jens Jim Joe John Jon Jonas Jose
Juan Kai Karim Karl Ken Kenji Kofi Kurt Lars Leo Liam Linus Louis Luca Lukas Luke Malik Marco Mario Mark Mateo Matt Max
Miles Milo Mohan Moses Nate Ned Niels Nico Nils Noah Oleg Oli Omar Oscar Otis Otto Owen Pablo Paul Pedro Pete Peter Piet
Rafi Raj Ralph Ravi Ray Remy Rex Rob Robin Roman Ron Rory Rudi Sam Samir Sean Seth Simon Stan Stefan Sven Tariq Ted Theo
Tim Timo Tobias Toby Tom Tony Umar Uri Victor Vijay Viktor Walt Will Willem Yan Yusuf Zack Zane Zeno""".split()
SURNAMES = """Adler Baker Berg Bianchi Brook Brown Carter Castro Cohen Cook Costa Dale Diaz Eriksen Fields Fischer Ford
Garcia Gray Green Haddad Hall Hansen Hill Ito Jensen Jones Kaur Keller Khan Kim King Klein Kovac Lane Larsen Lee Lopez Mann
Marsh Meyer Mills Moore Mori Nagy Novak Okoye Olsen Park Patel Perez Pike Reed Reyes Rossi Sato Silva Singh Smith Stone
Suzuki Tanaka Taylor Torres Turner Wagner Walker Ward Weber West White Wolf Wood Young Yilmaz""".split()

ANIMALS = """badger bear beaver bird cat chicken cow crab crow deer dog donkey dragon duck elephant fish fox frog giraffe
goat goose hamster hare hedgehog hen horse kitten lamb lion lizard mole monkey mouse otter owl panda parrot penguin pig pony
puppy rabbit raccoon robin seal sheep snail snake spider squirrel swan tiger toad turtle whale wolf""".split()
# Who tells a story well: walks, talks and carries things.
HEROES = """badger bear beaver bird cat crow deer dog donkey dragon duck elephant fox frog goat goose hamster hare hedgehog
hen horse kitten lamb lion mole monkey mouse otter owl panda parrot penguin pig pony puppy rabbit raccoon robin squirrel
tiger toad turtle wolf""".split()
PEOPLE = "baker farmer fisher gardener girl boy king queen knight painter pirate princess prince robot sailor teacher wizard".split()
PEOPLE_HE = {"boy", "king", "prince", "wizard", "knight"}
PEOPLE_SHE = {"girl", "queen", "princess"}

COLOURS = "black blue brown gold green grey orange pink purple red silver white yellow".split()
OBJECTS = """apron bag ball balloon basket bell blanket boat book boot bottle bowl box brush bucket button candle cap card
chair clock coat coin comb compass crown cup doll drum fan feather flag flute glove hammer hat helmet horn jar jug kettle key
kite ladder lamp lantern letter map marble mask medal mirror mitten mug necklace net paddle paintbrush pan pebble pen pencil
pillow pipe plate pot puppet purse ribbon ring rope ruler scarf shell shoe shovel skate sled slipper spoon stamp stick stone
stool sword teapot telescope toy train trumpet umbrella vase violin wagon wand watch wheel whistle""".split()
FOODS = """apple banana bean berry biscuit bun cake carrot cheese cherry cookie corn cracker cucumber egg fig grape honey
jam lemon loaf mango melon muffin mushroom nut olive onion orange pancake pea peach pear pie plum potato pumpkin radish
sandwich soup strawberry tart tomato turnip waffle""".split()
COUNTABLE_FOODS = [f for f in FOODS if f not in ("honey", "jam", "cheese", "corn", "soup")]
PLACES = {  # place: how one is there
    "river": "by", "forest": "in", "village": "in", "hill": "on", "lake": "by", "meadow": "in", "garden": "in",
    "beach": "on", "farm": "on", "castle": "in", "cave": "in", "bridge": "on", "barn": "in", "harbour": "in", "island": "on",
    "market": "at", "mill": "at", "mountain": "on", "orchard": "in", "park": "in", "pond": "by", "road": "on", "school": "at",
    "station": "at", "stream": "by", "tower": "in", "town": "in", "valley": "in", "well": "by", "field": "in", "library": "in",
    "kitchen": "in", "bakery": "in", "lighthouse": "in", "swamp": "in",
}
HOMES = ["river", "forest", "village", "hill", "lake", "meadow", "farm", "island", "mountain", "pond", "valley", "town", "swamp"]
TRAITS = """brave calm careful cheerful clever curious friendly funny gentle grumpy happy hungry kind lazy lonely neat noisy
old patient polite proud quick quiet shy silly sleepy small strong tiny wise young""".split()
SIZES = "big little long old round shiny small tiny new soft heavy pretty strange".split()
WEATHER = "sunny rainy windy cloudy snowy foggy stormy warm cold".split()
SEASONS = "spring summer autumn winter".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
JOBS = """actor baker builder carpenter chef clerk dancer dentist doctor driver editor engineer farmer fisher florist gardener
guard guide judge lawyer librarian mechanic miner musician nurse painter pilot plumber poet police officer potter sailor
scientist singer tailor teacher vet waiter writer""".replace("police officer", "officer").split()
HOBBIES = """baking boxing camping chess cooking cycling dancing drawing fishing football gardening golf hiking hockey
juggling knitting painting poker reading riding rowing running sailing sewing singing skating skiing surfing swimming tennis
weaving writing yoga""".split()
CITIES = """Accra Amsterdam Ankara Athens Baghdad Bangkok Beijing Belgrade Berlin Bern Bogota Boston Brussels Bucharest
Budapest Cairo Caracas Chicago Copenhagen Dakar Damascus Delhi Dhaka Doha Dublin Florence Geneva Hamburg Hanoi Havana Helsinki
Istanbul Jakarta Kabul Karachi Kiev Kyoto Lagos Lima Lisbon London Lyon Madrid Manila Melbourne Miami Milan Montreal Moscow
Mumbai Munich Nairobi Naples Oslo Paris Porto Prague Quito Riga Rome Santiago Seoul Seville Shanghai Sofia Stockholm Sydney
Tallinn Tehran Tokyo Toronto Tunis Turin Utrecht Vancouver Venice Vienna Vilnius Warsaw Zagreb Zurich""".split()
COUNTRIES = """Austria Belgium Brazil Canada Chile China Cuba Denmark Egypt England Estonia Finland France Germany Ghana
Greece Hungary India Iran Iraq Ireland Israel Italy Japan Jordan Kenya Korea Latvia Mexico Morocco Nepal Nigeria Norway Peru
Poland Portugal Romania Russia Scotland Serbia Spain Sweden Turkey Uganda Ukraine Vietnam Wales Zambia""".split()
SHOP_ITEMS = """backpack bench bicycle blanket bookshelf bracelet bread camera candle carpet chair clock coat cup curtain desk
drill fan fork fridge guitar hammer hat headphones jacket kettle keyboard ladder lamp laptop mattress mirror monitor mug
notebook oven pan pen phone piano pillow plate printer rug saw scarf shirt shoes sofa speaker spoon stove suitcase table
tablet teapot tent toaster towel tripod umbrella vase wallet watch""".split()
MATERIALS = "brass clay cotton glass gold iron leather paper plastic silk silver steel stone wood wool".split()
GENRES = "adventure biography comedy crime drama fantasy history horror mystery poetry romance science travel western".split()
TITLE_NOUNS = """Bridge Clock Crown Dream Door Dust Empire Fire Forest Garden Ghost Harbour Heart House Island Journey Key Lake
Letter Light Moon Mountain Night Ocean Path River Road Secret Shadow Silence Sky Song Star Storm Stranger Summer Sword Tower
Train Tree Voice Wall Water Wind Winter Witness Wolf World""".split()
TITLE_ADJECTIVES = """Ancient Blue Broken Burning Cold Dark Distant Empty Endless Fallen First Forgotten Frozen Golden Green
Hidden Hollow Last Little Lonely Long Lost Midnight Narrow Old Painted Quiet Red Salt Second Secret Silent Silver Sleeping
Small Stolen Strange Sunken Tall Wandering White Wild Winter Wooden""".split()
VERBS = """add adjust apply approve archive assign attach bake block book borrow brew bring call cancel cast change
charge check clean clear climb close collect compare connect cook copy count create cut deliver deposit describe
design detect dim disable display donate download draw drop dry edit empty enable enter estimate exchange export feed
fetch fill filter find fix flag fly fold forward freeze generate get grade grant greet group heat hide hire import
increase inspect install invite join keep label launch lend lift list load log lower mail make map mark measure mend
merge mix move mute notify open order pack paint pass patch pause pay pick plan plot polish post pour power prepare
press publish pull push query raise rank rate read record recycle reduce refill refund register reject release remind
remove rename rent repair replace report request rescue reserve reset resize restart restore reverse review ride ring
rinse rotate save scale scan score seal search season select send serve set share shift ship show sign skip slice
solve sort spell split stack stamp start steer stir stop store stream stretch study submit summon swap sweep switch
tag teach test tidy tie track trade train transfer translate trim turn type unlock unpack update upload validate
verify view visit vote wake walk warm watch water weave weigh whisper withdraw wrap write""".split()
SAME_VERBS = [group.split() for group in """add insert append include|begin start launch open|buy purchase get order|bring deliver fetch carry send|call phone ring contact
change alter modify adjust edit|check inspect examine test verify|clean tidy scrub polish|close shut lock|cancel stop drop call_off|choose pick select take|copy duplicate clone|cut trim shorten clip
delete remove erase clear|end finish complete|enlarge grow widen raise increase lengthen|feed nourish fill supply|find locate look_for seek search|fix repair mend restore|get obtain receive collect
give hand provide grant supply|hide cover mask|hire employ engage|join enter attend sign_up|keep store save hold|lower reduce cut decrease|make create build produce prepare|mark label tag flag
move shift transfer carry|pay settle transfer|plan schedule arrange organise|publish post release issue|put place set lay|read view open look_at|reserve book keep secure|say tell announce|sell trade offer
show display present|sort order arrange|spray sprinkle soak moisten|stretch prolong continue|take grab fetch|turn rotate spin|update refresh prolong|use apply run|write note record|warm heat|cool chill freeze|dry air
borrow lend loan|wipe rinse scrub|visit see attend""".replace("\n", "|").split("|")]
SAME_NOUNS = [group.split() for group in """car vehicle auto|bike bicycle|flat apartment home|film movie|photo picture image|doctor physician|shop store market|street road|boat ship|
lamp light|sofa couch|cup mug|bag sack|coat jacket|cellar basement|toilet bathroom|fridge refrigerator|stove cooker oven|computer laptop machine|phone mobile telephone|
letter note message|bill invoice|present gift|trip journey tour|child kid|shoes boots|holiday vacation|lift elevator|rubbish trash waste|tap faucet|parcel package box|
job work task|mistake error bug|song tune track|class lesson course|seat chair|path way trail|stone rock|meal dish dinner|blanket cover|garden yard|hut cabin|
meeting appointment talk|employee worker|customer client|guest visitor|purse wallet|price cost fee|room chamber|team crew group|test exam|folder directory|picture drawing""".replace("\n", "").split("|")]
NOUNS = """account airport album animal answer apartment aquarium arena article award badge bakery balcony ballot band
bank banner barber barrel basin battery beach bed bicycle bill bin bird blanket blind blog board boat boiler bonus bot
bottle bowl branch bread brush bucket budget building bulb bus cabin cafe camera campaign candle canoe canvas car
carpet case castle cello chair channel chapter chart choir cinema circuit circus city class cleaner client clinic
clock coach coat code coffee colour comment company compass computer concert contract cooker cottage coupon course
court crate crew cube cup curtain cushion customer database deal deck delivery dentist desk device diary diet dish
doctor document dog door dragon drawer drawing dress drink drone drum elevator engine engineer envelope escalator
essay event exam expense fan farm farmer feed fence ferret field file film filter fireplace flat fleet flight flower
flute folder font form fountain frame fridge fuse gallery game garage garden gardener garment gate gift glacier glove
goal graph grill group guest guide guitar hall hammer harbour harvest heater hedge helmet highway hive horse hose
hospital hotel house icon image index invoice island job juice kayak kennel kettle key kitchen kite label ladder lamp
laptop lawn layer lease lecture lesson letter level library license lighthouse line list loan lock locker log lunch
machine magazine map market mask massage meal medicine meeting melody member menu meter mill mine mirror model module
movie mower network note nurse office orchard orchestra organ osprey oven package paddle page paint parade parcel
partner party path patient payment pen permit pet phone photo piano picture pilot pipe pitch plan plane playlist plug
plumber poem policy poll pond pool porter post poster potion prize product profile project pump puzzle quest quilt
quiz quote rabbit race radio raft razor receipt recipe record refuge refund region rental report request review ribbon
ride ring river road robot rocket role roof room rope route row rule runner sail salad salary sample satellite sauna
saw scarf scene school scooter score seat sensor server session sheet shelf ship shirt shop shower shuttle sign signal
site skate sketch ski skill slot sofa song spa speaker spice stable stadium stage stall stamp station statue stock
story stove street student subway suit surgeon survey switch table tailor tank task taxi tea team telescope template
tenant tent test theme thermostat tile toaster token tool topic tour tournament tower toy track tractor trail train
trainer tram translator trap tree trip tripod trolley trombone trophy truck tube tunnel tutor umbrella uniform unit
university user vacuum valley valve van vault vehicle video violin vote waiter wall wallet wardrobe warehouse watch
well wheel wheelchair whistle windmill window wing worker workshop yacht zone""".split()
ADJECTIVES = ["", "", "", "", "new_", "my_", "all_", "next_", "main_", "old_", "daily_", "local_", "public_", "spare_", "quick_"]
INSTRUMENTS = "cello drum flute guitar harp horn piano trumpet violin".split()
