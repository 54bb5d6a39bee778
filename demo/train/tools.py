"""Tool calls: choose among tools, fill the arguments, use the result, ask for what is missing, or answer without one.

Two sources of tools. DOMAINS are what people really have (weather, timers, mail, ...): each with several names for the
function and its parameters. Domains of HELD_DOMAINS are never trained. `generic` makes tools up from lists of verbs,
nouns and parameters, and from words that are none; a verb with a noun is either trained or held out. It is what teaches
to read a schema.
"""

from dataclasses import dataclass
from typing import Callable

from chat import Chat, calls, reply, result, user
from words import (
    CITIES, COLOURS, COUNTRIES, DAYS, FOODS, GENRES, HOBBIES, JOBS, MATERIALS, MONTHS, OBJECTS, SHOP_ITEMS, TITLE_ADJECTIVES,
    PIECES, TITLE_NOUNS, Source, a, cap, is_held, join, plural,
)


# ------------------------------------------------------------------------------------------------------------ values
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
    return f"{r.choice('notes plan report list letter photo budget menu draft song map recipe data log test'.split())}{r.choice(['', '_old', '_new', str(r.randrange(1, 100)), '_' + r.choice(MONTHS).lower()])}.{r.choice('txt pdf md csv png doc json'.split())}"


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
        n=r.randrange(2, 60), d=r.choice(DAYS), p=r.choice(("station", "park", "office", "school", "market", "beach")), o=r.choice(OBJECTS),
        f=r.choice(FOODS), fs=plural(r.choice(FOODS)), t=clock(r), c=r.choice(COLOURS),
    )


def task(r: Source) -> str:
    return r.say(
        r.choice((
            "[buy|get] {f}", "call {n}", "[clean|paint|tidy] the {p}", "feed the {x}", "mend the {o}", "write to {n}", "water the plants", "pay the {b}",
            "bake {fa} pie", "wash the {o}", "visit {n}", "return the {o}", "pack the {o}", "pick up {n}",
        )),
        f=plural(r.choice(FOODS)), n=r.name(), p=r.choice(("kitchen", "garden", "car", "garage", "bathroom", "roof", "fence")), x=r.choice(("cat", "dog", "fish", "hens", "bird")),
        o=r.choice(OBJECTS), b=r.choice(("rent", "bill", "tax", "gardener")), fa=a(r.choice(FOODS)),
    )


def topic(r: Source) -> str:
    """What one searches the web for."""
    pattern = r.choice((
        "cheap {o}", "how to mend a {o}", "{f} recipes", "hotels in {c}", "trains to {c}", "history of {k}", "{h} for beginners", "the best {o}",
    ))
    return pattern.format(o=r.choice(SHOP_ITEMS), f=r.choice(FOODS), c=r.unseen(CITIES), k=r.unseen(COUNTRIES), h=r.choice(HOBBIES))


def place_name(r: Source) -> str:
    return r.unseen(CITIES) if r.chance(0.75) else r.made_up()


def pick(words: list[str]) -> Callable[[Source], str]:
    return lambda r: r.unseen(words)


def person(r: Source) -> str:
    return r.name()


# ------------------------------------------------------------------------------------------------------------ schemas
@dataclass
class Param:
    names: list[str]
    what: str  # its description
    value: Callable
    says: str  # how the request mentions it; {v} is the value
    type: str = "string"
    enum: list | None = None
    required: bool = True


@dataclass
class Domain:
    names: list[str]
    what: list[str]  # descriptions of the function
    asks: list[str]  # requests; {name} of a required parameter's position: {0}, {1}; optional ones are appended
    params: list[Param]
    result: Callable | None = None  # (r, args by position) -> (value, answer)


def P(names: str, what: str, value, says: str = "", type: str = "string", enum=None, required: bool = True) -> Param:
    if enum:
        value = lambda r, enum=enum: r.choice(enum)
    return Param(names.split(), what, value, says, type, enum, required)


def D(names: str, what: str, asks: str, *params: Param, result=None) -> Domain:
    return Domain(names.split(), what.split("|"), asks.split("|"), list(params), result)


SKIES = ["sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "stormy"]


def weather_result(r, v):
    value = {"temperature": r.randrange(-10, 38), "sky": r.choice(SKIES)}
    return value, f"It is {value['sky']} in {v[0]}, {value['temperature']} degrees."


def forecast_result(r, v):
    value = {"city": v[0], "sky": r.choice(SKIES), "high": r.randrange(12, 35), "low": r.randrange(-5, 12)}
    return value, f"In {v[0]} it will be {value['sky']}, from {value['low']} to {value['high']} degrees."


def one(key: str, make: Callable, answer: str) -> Callable:
    """A result with one value, and the sentence that says it."""
    def made(r, v):
        x = make(r)
        return {key: x}, cap(answer.format(*v, x=x))
    return made


def ok(answer: str) -> Callable:
    def made(r, v):
        return {r.choice(("status", "result", "state")): r.choice(("ok", "done", "success"))}, cap(answer.format(*v))
    return made


def found(kind: str, make: Callable) -> Callable:
    def made(r, v):
        items = [make(r) for _ in range(r.randrange(0, 4))]
        if not items:
            return {"results": []}, f"I found no {plural(kind)}."
        return {"results": items}, f"I found {len(items)} {kind if len(items) == 1 else plural(kind)}: {join(items)}."
    return made


DOMAINS = {
    "weather": D("get_weather weather current_weather get_current_weather check_weather", "Get the weather of a city|Current weather in a place|Tells the weather now",
        "What is the weather in {0}?|What is the weather like in {0}?|How is the weather in {0}?|Is it raining in {0}?|Tell me the weather in {0}.|weather in {0}|How warm is it in {0}?|Is it cold in {0} today?",
        P("city location place town", "Name of the city", place_name),
        P("unit units", "Unit of the temperature", None, "in {v}", enum=["celsius", "fahrenheit"], required=False), result=weather_result),
    "forecast": D("get_forecast forecast weather_forecast", "Weather forecast for the coming days|Forecast of the weather",
        "What will the weather be in {0} on {1}?|Give me the forecast for {0} on {1}.|Will it rain in {0} on {1}?|How will the weather be on {1} in {0}?",
        P("city location place", "The city", place_name), P("day when date", "Day of the forecast", day), result=forecast_result),
    "timer": D("set_timer start_timer timer create_timer", "Start a timer|Sets a timer for some minutes",
        "Set a timer for {0} minutes.|Start a timer of {0} minutes.|Timer for {0} minutes, please.|Please count down {0} minutes.|I need a timer for {0} minutes.",
        P("minutes duration duration_minutes", "Length in minutes", integer(1, 120), type="integer"),
        P("label name title", "What the timer is called", pick(["tea", "eggs", "pasta", "laundry", "bread", "nap", "homework", "cake"]), "and call it {v}", required=False), result=ok("The timer is set for {0} minutes.")),
    "alarm": D("set_alarm create_alarm add_alarm", "Set an alarm|Wake the user at a time",
        "Wake me at {0}.|Set an alarm for {0}.|Please wake me up at {0}.|I need an alarm at {0}.", P("time at alarm_time", "Time as HH:MM", clock),
        P("day days repeat", "Day of the week", pick(DAYS), "on {v}", required=False), result=ok("The alarm is set for {0}.")),
    "reminder": D("add_reminder create_reminder set_reminder remind", "Remind the user of something|Creates a reminder",
        "Remind me to {0} on {1}.|On {1}, remind me to {0}.|Please remind me to {0} on {1}.|I must {0} on {1}. Remind me.", P("text task message about", "What to remember", task), P("day date when", "When to remind", pick(DAYS)), result=ok("I will remind you on {1} to {0}.")),
    "mail": D("send_email send_mail email mail", "Send an e-mail|Sends a mail to an address",
        'Send a mail to {0} with the subject "{1}".|Write an e-mail to {0}. The subject is "{1}".|Mail {0} with the subject "{1}".',
        P("to recipient address", "Address of the recipient", mail), P("subject title", "Subject of the mail", message),
        P("body text content message", "Text of the mail", message, 'and the text "{v}"', required=False), result=ok("The mail to {0} was sent.")),
    "message": D("send_message text_message send_text message sms", "Send a short message to a person|Text somebody",
        'Tell {0} that {1}.|Text {0}: {1}|Send {0} the message "{1}".|Write to {0}: "{1}"|Please let {0} know: {1}', P("to recipient person contact name", "Who gets it", person), P("text message body content", "What to say", message), result=ok("I sent the message to {0}.")),
    "call": D("call phone make_call start_call call_contact", "Call a person|Start a phone call", "Call {0}.|Please call {0}.|Phone {0}.|I want to talk to {0}.|Ring {0}, please.", P("name contact person who", "Who to call", person), result=ok("I am calling {0}.")),
    "contact": D("find_contact get_contact lookup_contact contact_info", "Look up a person in the contacts|Finds phone number and mail of a person",
        "What is the phone number of {0}?|Find the number of {0}.|How can I reach {0}?|Look up {0}.", P("name person who query", "Name of the person", person), result=one("phone", phone, "{0}'s number is {x}.")),
    "play": D("play_music play_song play start_music", "Play a song|Plays music",
        'Play "{0}".|Play the song "{0}".|I want to hear "{0}".|Put on "{0}", please.', P("song title track name", "Title of the song", title), P("artist by singer", "Who sings it", lambda r: f"{r.name()} {r.surname()}", "by {v}", required=False),
        P("volume level", "Volume from 0 to 10", integer(0, 10), "at volume {v}", type="integer", required=False), result=ok('Now playing "{0}".')),
    "light": D("set_light control_light light switch_light", "Switch a light|Turn the light in a room on or off",
        "Turn {1} the light in the {0}.|Switch {1} the {0} light.|Please turn the {0} light {1}.|Light {1} in the {0}.", P("room place location", "The room", pick(["kitchen", "bedroom", "bathroom", "hall", "office", "garage", "attic", "cellar", "living room", "garden"])),
        P("state mode power", "On or off", None, enum=["on", "off"]), P("brightness level", "From 1 to 100", integer(1, 100), "at {v} percent", type="integer", required=False), result=ok("The {0} light is {1}.")),
    "heat": D("set_temperature set_thermostat heat", "Set the temperature of a room|Controls the heating",
        "Set the {0} to {1} degrees.|Make it {1} degrees in the {0}.|Heat the {0} to {1} degrees.", P("room zone place", "The room", pick(["kitchen", "bedroom", "bathroom", "hall", "office", "garage", "living room", "study"])), P("degrees temperature target", "Degrees", integer(14, 28), type="integer"), result=ok("The {0} is set to {1} degrees.")),
    "translate": D("translate translate_text translation", "Translate text into another language|Translates a text",
        'Translate "{0}" into {1}.|What is "{0}" in {1}?|How do you say "{0}" in {1}?', P("text phrase content", "The text", message), P("language target to target_language", "The language", pick(["French", "German", "Spanish", "Italian", "Dutch", "Greek", "Polish", "Turkish", "Swedish", "Japanese", "Danish", "Korean"])), result=one("translation", lambda r: r.made_up().lower() + " " + r.made_up().lower(), '"{0}" in {1} is "{x}".')),
    "calendar": D("add_event create_event new_event schedule", "Add an event to the calendar|Puts an event into the calendar",
        "Put {0} in my calendar for {1} at {2}.|Add {0} on {1} at {2} to my calendar.|I have {0} on {1} at {2}. Write it down.", P("title event name what", "What it is", pick(["lunch", "football", "a meeting", "piano lesson", "the dentist", "a party", "book club", "dinner", "yoga", "a haircut", "choir"])),
        P("date day", "Day of the event", lambda r: r.choice(DAYS) if r.chance(0.6) else date(r)), P("time start at", "When it starts, HH:MM", clock), result=ok("{0} is in your calendar for {1} at {2}.")),
    "events": D("list_events get_events get_calendar show_calendar", "List the events of a day|What is in the calendar", "What do I have on {0}?|What is in my calendar on {0}?|Show me my plans for {0}.|Am I free on {0}?", P("day date when", "The day", lambda r: r.choice(DAYS) if r.chance(0.6) else date(r)), result=found("event", lambda r: f"{r.choice(['lunch', 'football', 'meeting', 'piano lesson', 'dentist', 'party', 'dinner', 'yoga'])} at {clock(r)}")),
    "todo": D("add_task add_todo create_task todo_add", "Add a task to the list|Puts something on the to-do list", 'Add "{0}" to my list.|Put "{0}" on my to-do list.|New task: {0}|I need to {0}. Put it on my list.', P("task text title item", "The task", task), P("priority importance", "How urgent it is", None, "with {v} priority", enum=["low", "medium", "high"], required=False), result=ok('"{0}" is on your list.')),
    "shopping": D("add_to_cart add_item shopping_add buy_item", "Add an item to the shopping list|Puts items into the cart", "Put {1} {0} in my cart.|Add {1} {0} to my shopping list.|I want to buy {1} {0}.", P("item product article", "What to buy", lambda r: plural(r.choice(FOODS if r.chance(0.5) else SHOP_ITEMS))), P("quantity amount count number", "How many", integer(2, 30), type="integer"), result=ok("I added {1} {0}.")),
    "search": D("search web_search search_web find_online", "Search the web|Looks something up on the internet",
        "Search the web for {0}.|Look up {0} online.|Find something about {0} on the web.|Search for {0}.", P("query q text search_term", "What to search for", topic),
        P("limit max_results count", "How many results", integer(1, 20), "and give me {v} results", type="integer", required=False), result=found("page", title)),
    "convert_money": D("convert_currency exchange currency convert_money", "Convert money between currencies|Exchange rates", "How much is {0} {1} in {2}?|Convert {0} {1} to {2}.|Change {0} {1} into {2}.", P("amount value sum", "How much", integer(1, 5000), type="number"), P("from source from_currency", "Currency to convert from", pick(["euros", "dollars", "pounds", "yen", "francs", "crowns", "pesos"])), P("to target to_currency", "Currency to convert to", pick(["euros", "dollars", "pounds", "yen", "francs", "crowns", "pesos"])), result=one("amount", decimal, "{0} {1} is {x} {2}.")),
    "route": D("get_route directions find_route navigate", "Find the way from one place to another|Directions between two places", "How do I get from {0} to {1}?|Show me the way from {0} to {1}.|What is the best route from {0} to {1}?", P("from start origin", "Where it starts", place_name), P("to destination end goal", "Where it ends", place_name), P("mode by travel_mode transport", "How to travel", None, "by {v}", enum=["car", "train", "bus", "bike"], required=False), result=one("minutes", integer(10, 600), "It takes {x} minutes from {0} to {1}.")),
    "flight": D("find_flights search_flights flights", "Find flights between cities|Search for flights", "Find a flight from {0} to {1} on {2}.|I want to fly from {0} to {1} on {2}.|Flights from {0} to {1} on {2}, please.", P("from origin departure", "City of departure", place_name), P("to destination arrival", "City of arrival", place_name), P("date day when", "Day of the flight", date), P("passengers people travellers", "How many people", integer(1, 9), "for {v} people", type="integer", required=False), result=found("flight", lambda r: code(r).replace("-", "") + " at " + clock(r))),
    "train": D("find_train search_trains train_times", "Find trains|Train times between two towns", "When is the next train from {0} to {1}?|Find a train from {0} to {1}.|Trains from {0} to {1}?", P("from start origin", "Where it leaves", place_name), P("to end destination", "Where it goes", place_name), P("after time at", "Not before this time", clock, "after {v}", required=False), result=one("departure", clock, "The next train from {0} to {1} leaves at {x}.")),
    "hotel": D("book_hotel find_hotel search_hotels reserve_hotel", "Find a hotel room|Book a hotel", "Book a hotel in {0} for {1} nights.|I need a room in {0} for {1} nights.|Find a hotel in {0} for {1} nights.", P("city place location", "The city", place_name), P("nights days", "How many nights", integer(2, 14), type="integer"), P("guests people persons", "How many guests", integer(1, 6), "for {v} guests", type="integer", required=False), result=one("hotel", lambda r: "Hotel " + r.unseen(TITLE_NOUNS), "I booked {x} in {0} for {1} nights.")),
    "table": D("book_table reserve_table restaurant_booking", "Reserve a table in a restaurant|Book a table", "Book a table at {0} for {1} people.|Reserve a table for {1} at {0}.|I want a table for {1} at {0}.", P("restaurant place name", "Name of the restaurant", lambda r: r.choice(("Chez {}", "The {} Spoon", "{}'s Kitchen", "Casa {}", "The {} Pot")).format(r.name())), P("people guests seats", "How many people", integer(2, 12), type="integer"), P("time at", "When, HH:MM", clock, "at {v}", required=False), result=ok("The table at {0} for {1} is booked.")),
    "read_file": D("read_file open_file get_file cat", "Read a file|Returns the text of a file", "Read the file {0}.|What is in {0}?|Open {0}.|Show me {0}.", P("path file filename name", "Name of the file", filename), result=one("text", message, "{0} says: {x}")),
    "write_file": D("write_file save_file create_file", "Write text to a file|Saves a text", 'Write "{1}" to {0}.|Save "{1}" in the file {0}.|Put the text "{1}" into {0}.', P("path file filename name", "Name of the file", filename), P("text content data", "What to write", message), result=ok("I wrote it to {0}.")),
    "delete_file": D("delete_file remove_file rm", "Delete a file|Removes a file for good", "Delete {0}.|Remove the file {0}.|I do not need {0} any more. Delete it.", P("path file filename name", "Name of the file", filename), result=ok("{0} is deleted.")),
    "list_files": D("list_files list_dir ls show_folder", "List the files in a folder|Shows what is in a folder", "Which files are in the folder {0}?|List the files in {0}.|Show me what is in {0}.", P("folder path dir directory", "The folder", lambda r: r.choice(("{}", "/{}", "/home/{}", "{}/old")).format(r.choice("photos music work notes school tax travel games books mail".split()))), result=found("file", filename)),
    "stock": D("get_stock_price stock_price get_price_of_stock", "Price of a share|Current price of a company's stock", "What is the stock price of {0}?|How is the {0} stock doing?|Price of {0} shares?", P("company symbol ticker name", "The company", lambda r: r.made_up() + r.choice(("", " Bank", " Foods", " Steel", " Motors"))), result=one("price", decimal, "A share of {0} costs {x}.")),
    "time": D("get_time current_time time_in world_clock", "Current time in a city|What time it is somewhere", "What time is it in {0}?|Tell me the time in {0}.|time in {0}|How late is it in {0}?", P("city location place timezone", "The city", place_name), result=one("time", clock, "It is {x} in {0}.")),
    "recipe": D("find_recipe get_recipe search_recipes", "Find a recipe|Looks for recipes with an ingredient", "Find a recipe with {0}.|What can I cook with {0}?|I have {0}. Find a recipe.", P("ingredient food with query", "What is in it", lambda r: plural(r.choice(FOODS))), P("minutes max_minutes time", "How long it may take", integer(10, 90), "in {v} minutes", type="integer", required=False), result=found("recipe", lambda r: f"{r.choice(FOODS)} {r.choice(['soup', 'pie', 'salad', 'cake', 'stew'])}")),
    "book": D("find_book search_books library_search", "Find a book in the library|Searches the library", 'Does the library have "{0}"?|Find the book "{0}".|Is "{0}" in the library?', P("title name query book", "Title of the book", title), P("author by writer", "Who wrote it", lambda r: f"{r.name()} {r.surname()}", "by {v}", required=False), result=one("shelf", code, '"{0}" is on shelf {x}.')),
    "order": D("get_order_status order_status track_order", "Status of an order|Where an order is", "Where is my order {0}?|What is the status of order {0}?|Track order {0}.", P("order_id id number order", "Number of the order", code), result=one("status", lambda r: r.choice(("packed", "sent", "on its way", "delivered", "cancelled", "paid")), "Order {0} is {x}.")),
    "calculator": D("calculate calculator compute eval", "Calculate an expression|Does sums", "Calculate {0}.|Use the calculator: {0}|Compute {0} with the calculator.", P("expression formula input", "What to calculate", lambda r: f"{r.randrange(100, 99999)} {r.choice('+-*/')} {r.randrange(100, 9999)}"), result=one("result", integer(1000, 999999), "{0} = {x}")),
    "note": D("save_note add_note create_note take_note", "Save a note|Writes a note", 'Take a note: {0}|Note that {0}.|Write down: {0}|Save the note "{0}".', P("text note content body", "The note", message), result=ok("I saved the note.")),
    "random": D("random_number roll_dice roll pick_number", "A random number|Throws dice", "Give me a random number from {0} to {1}.|Pick a number between {0} and {1}.|Random number from {0} to {1}, please.", P("min low start minimum", "The smallest number", integer(0, 50), type="integer"), P("max high end maximum", "The largest number", integer(51, 1000), type="integer"), result=one("number", integer(1, 99), "The number is {x}.")),
    "taxi": D("call_taxi order_taxi book_ride get_ride", "Order a taxi|Books a ride", "Order a taxi from {0} to {1}.|I need a ride from {0} to {1}.|Get me a taxi at {0} to {1}.", P("from pickup start", "Where to start", lambda r: f"{r.randrange(1, 200)} {r.unseen(TITLE_NOUNS)} Street"), P("to destination dropoff", "Where to go", lambda r: r.choice(("the station", "the airport", "the harbour", "the hospital", "the zoo", "the museum"))), result=one("minutes", integer(2, 30), "The taxi comes in {x} minutes.")),
    "door": D("lock_door set_lock door_lock", "Lock or unlock a door|Controls the doors", "{1} the {0} door.|Please {1} the {0} door.", P("door which name", "Which door", pick(["front", "back", "garage", "cellar", "garden", "side"])), P("action state command", "What to do", None, enum=["lock", "unlock", "open", "close"]), result=ok("Done: {1} the {0} door.")),
}
# Kinds of tools that training never sees; the natural requests are new to it too.
HELD_DOMAINS = {
    "library_card": D("renew_card extend_card", "Renew the library card of a member|Extend a card of the library", "Renew the card {0} for {1} months.|Please extend my library card {0} by {1} months.", P("card_number card member_id", "Number of the card", code), P("months period", "How many months", integer(1, 24), type="integer"), result=one("card_code", code, "The card code is {x}.")),
    "plant": D("water_plant plant_water", "Water a plant|Gives water to a plant", "Water the plant {0} with {1} millilitres.|Give {1} millilitres of water to the plant {0}.", P("plant target plant_name", "Which plant", pick(["rose", "tulip", "cactus", "basil", "mint", "orchid", "fern", "ivy"])), P("millilitres amount ml", "How many millilitres", integer(50, 900), type="integer"), result=one("status", lambda r: "ok", "Done: water the plant worked.")),
    "parking": D("find_parking parking_spot", "Find parking in a city|Shows where to park a car", "Where can I park my car in {0} for {1} hours?|Find parking in {0} for {1} hours.", P("city area place", "The city", place_name), P("hours duration", "How many hours", integer(1, 12), type="integer"), result=one("spot", code, "The spot is {x}.")),
    "vet": D("book_vet vet_appointment", "Make an appointment with the vet|Book the vet for a pet", "My pet {0} is sick. Book the vet for {1}.|Make an appointment with the vet for {0} on {1}.", P("pet animal pet_name", "Name of the pet", person), P("day date", "Which day", pick(DAYS)), result=one("time", clock, "The time is {x}.")),
    "printer": D("print_document print_file", "Print copies of a document|Prints a file on paper", "Print the file {0}, {1} copies.|Print {1} copies of {0}.", P("file document", "Which file", filename), P("copies number", "How many copies", integer(2, 50), type="integer"), result=one("price", decimal, "The price is {x}.")),
    "museum": D("buy_ticket get_tickets", "Buy tickets for a show|Gets tickets for a museum", 'Buy {1} tickets for "{0}".|I want {1} tickets for the show "{0}".', P("show exhibition title", "What to see", title), P("tickets number quantity", "How many tickets", integer(2, 20), type="integer"), result=one("code", code, "The code is {x}.")),
}

# ------------------------------------------------------------------------------------------------------------ generic
VERBS = """add adjust apply approve archive assign attach block book cancel change check clear close compare connect copy count
create deliver describe design detect disable download draw edit empty enable enter estimate export fetch fill filter find fix
flag fold freeze generate get grade grant group hide import inspect install invite join keep label launch list load log make
mark measure merge mix move open order pack park pause pay pick plan post prepare print publish pull push rank rate record refill
register reject remove rename rent repair replace report request reserve reset resize restart restore review rotate scan score
select send set share ship show sign sort split start stop store submit swap tag test track transfer trim turn update upload
validate verify view vote wash watch weigh wrap write""".split()
NOUNS = """account album animal answer apartment article badge ballot band bank banner battery bed bill bird blog board bonus bot
branch budget building bus cabin camera campaign car card case channel chapter chart class client clinic coach code colour
comment company concert contract coupon course crate crew cube customer database deal deck delivery desk device diary diet
document dog door drawing dress drone engine essay event exam expense farm feed field file film fleet flower folder font form
frame fridge gallery game garden gate gift graph group guest guide hall heater highway horse hotel house icon image index
invoice island job key label lamp layer lease lesson level license line list loan lock locker log machine magazine map market
meal meeting member menu meter model module movie network note office oven package page paint parcel park partner party patient
payment permit pet phone photo picture plan plane plant playlist poem policy poll pool post poster print prize product profile
project puzzle quest quiz quote race radio receipt record refund region rental report request review ride ring road robot role
roof room route row rule salary sample satellite scene school score seat sensor server session sheet shelf ship shop shuttle
signal site skill slot song stage stamp station stock story street student survey table tank task team template tent test theme
ticket tile token tool topic tour tower toy track trail train tree trip truck tube tunnel unit user vehicle video vote wall
warehouse wheel window wing worker zone""".split()
ADJECTIVES = ["", "", "", "", "new_", "my_", "all_", "next_", "main_", "old_", "daily_", "local_", "public_", "spare_", "quick_"]

GENERIC_PARAMS = [  # (name, description, maker, type, how it is said)
    ("name", "Name", person, "string"), ("owner", "Who owns it", person, "string"), ("user", "Name of the user", person, "string"), ("author", "Who made it", lambda r: f"{r.name()} {r.surname()}", "string"),
    ("customer", "The customer", lambda r: f"{r.name()} {r.surname()}", "string"), ("worker", "Who does it", person, "string"), ("guest", "Name of the guest", person, "string"), ("manager", "Who manages it", person, "string"),
    ("city", "The city", place_name, "string"), ("country", "The country", pick(COUNTRIES), "string"), ("place", "The place", place_name, "string"), ("origin", "Where it comes from", place_name, "string"), ("destination", "Where it goes", place_name, "string"),
    ("date", "Day as YYYY-MM-DD", date, "string"), ("day", "Day of the week", pick(DAYS), "string"), ("month", "The month", pick(MONTHS), "string"), ("time", "Time as HH:MM", clock, "string"), ("deadline", "The last day", date, "string"), ("start", "When it starts", clock, "string"), ("end", "When it ends", clock, "string"),
    ("id", "Identifier", code, "string"), ("code", "The code", code, "string"), ("key", "The key", code, "string"), ("serial", "Serial number", code, "string"), ("version", "The version", lambda r: f"{r.randrange(10)}.{r.randrange(20)}", "string"),
    ("title", "The title", title, "string"), ("label", "The label", title, "string"), ("topic", "The topic", title, "string"), ("text", "The text", message, "string"), ("comment", "A comment", message, "string"), ("reason", "The reason", message, "string"), ("note", "A note", message, "string"),
    ("email", "E-mail address", mail, "string"), ("phone", "Phone number", phone, "string"), ("file", "Name of the file", filename, "string"), ("folder", "The folder", lambda r: r.choice(("/home/{}", "{}/old", "/{}")).format(r.choice(NOUNS)), "string"),
    ("colour", "The colour", pick(COLOURS), "string"), ("material", "What it is made of", pick(MATERIALS), "string"), ("item", "The item", pick(SHOP_ITEMS), "string"), ("food", "The food", pick(FOODS), "string"), ("job", "The job", pick(JOBS), "string"), ("hobby", "The hobby", pick(HOBBIES), "string"), ("genre", "The genre", pick(GENRES), "string"),
    ("size", "The size", None, ["small", "medium", "large"]), ("priority", "How urgent", None, ["low", "medium", "high", "urgent"]), ("format", "The format", None, ["pdf", "csv", "png", "text"]), ("mode", "The mode", None, ["fast", "slow", "safe", "auto"]), ("status", "The status", None, ["open", "closed", "waiting", "done"]), ("level", "The level", None, ["easy", "normal", "hard"]), ("side", "Which side", None, ["left", "right", "top", "bottom"]), ("language", "The language", None, ["English", "French", "German", "Spanish"]), ("unit", "The unit", None, ["metre", "foot", "mile", "inch"]),
    ("count", "How many", integer(1, 500), "integer"), ("amount", "How much", integer(1, 9999), "integer"), ("quantity", "How many", integer(1, 99), "integer"), ("limit", "At most so many", integer(1, 100), "integer"), ("page", "Number of the page", integer(1, 400), "integer"), ("width", "Width in centimetres", integer(1, 900), "integer"), ("height", "Height in centimetres", integer(1, 900), "integer"), ("age", "Age in years", integer(1, 99), "integer"), ("hours", "How many hours", integer(1, 48), "integer"), ("minutes", "How many minutes", integer(1, 240), "integer"), ("days", "How many days", integer(1, 60), "integer"), ("year", "The year", integer(1950, 2040), "integer"), ("floor", "Which floor", integer(0, 40), "integer"), ("speed", "The speed", integer(1, 300), "integer"), ("score", "The score", integer(0, 100), "integer"),
    ("price", "The price", decimal, "number"), ("weight", "Weight in kilograms", decimal, "number"), ("length", "Length in metres", decimal, "number"), ("rate", "The rate", decimal, "number"), ("discount", "Discount in percent", decimal, "number"), ("distance", "Distance in kilometres", decimal, "number"),
    ("public", "Whether all may see it", "public", "boolean"), ("urgent", "Whether it is urgent", "urgent", "boolean"), ("silent", "Whether it makes no sound", "silent", "boolean"), ("paid", "Whether it is paid", "paid", "boolean"), ("locked", "Whether it is locked", "locked", "boolean"), ("repeat", "Whether it is repeated", "repeated", "boolean"), ("wrapped", "Whether it is wrapped", "wrapped", "boolean"),
]


def any_word(r: Source, words: list[str]) -> str:
    return r.open_word() if not r.held and PIECES and r.chance(0.35) else r.choice(words)


def generic(r: Source, like: Domain | None = None) -> tuple[Domain, str]:
    """A made-up tool and its noun; `like` shares its verb or its noun. Which verb goes with which noun is split."""
    while True:
        verb, noun, adjective = any_word(r, VERBS), any_word(r, NOUNS), r.choice(ADJECTIVES)
        if like is not None:
            verb, noun = (like.verb, noun) if r.chance(0.5) else (verb, like.plain_noun)
        if is_held("tool", verb, noun) == r.held:
            break
    name = f"{verb}_{adjective}{noun}" if r.chance(0.85) else f"{noun}_{verb}" if r.chance(0.5) else verb + cap(noun)
    noun_said = adjective.replace("_", " ") + noun
    what = r.choice((f"{cap(verb)} the {noun_said}", f"{cap(verb)} {a(noun)}", f"Use this to {verb} {a(noun_said)}", f"{cap(plural(noun))}: {verb}"))
    params, said = [], []
    for name_, desc, make, type_ in r.sample(GENERIC_PARAMS, r.choices((0, 1, 2, 3, 4), (1, 5, 6, 4, 2))[0]):
        prefixed = r.chance(0.12) and name_ in ("name", "id", "code", "date", "title", "size", "price")
        key = f"{noun}_{name_}" if prefixed else name_
        word = key.replace("_", " ")
        required = r.chance(0.7)
        if isinstance(type_, list):
            param = Param([key], desc, lambda r, e=type_: r.choice(e), f"{word} {{v}}", "string", type_, required)
        elif type_ == "boolean":
            param = Param([key], desc, lambda r: r.chance(0.5), make, "boolean", None, required)
        else:
            quoted = make in (title, message)
            param = Param([key], desc, make, f'{word} "{{v}}"' if quoted else f"{word} {{v}}", type_, None, required)
        params.append(param)
    d = Domain([name], [what], [], params, None)
    d.verb, d.noun, d.plain_noun = verb, noun_said, noun  # type: ignore[attr-defined]
    return d, noun_said


def generic_request(r: Source, d: Domain, values: dict[int, object]) -> str:
    """Asks for a made-up tool, naming every value."""
    parts = []
    for i, v in values.items():
        p = d.params[i]
        if p.type == "boolean":
            parts.append(f"{'' if v else 'not '}{p.says}")
        else:
            parts.append(p.says.format(v=v))
    start = r.say(r.choice(("{V} the {n}", "Please {v} the {n}", "Can you {v} the {n}", "I want to {v} the {n}", "{V} {an}", "I need you to {v} the {n}")), V=cap(d.verb), v=d.verb, n=d.noun, an=a(d.noun))
    mark = "?" if start.startswith("Can") else "."
    if not parts:
        return start + mark
    style = r.randrange(4)
    r.shuffle(parts)
    if style == 0:
        return f"{start} with {join(parts)}{mark}"
    if style == 1:
        return f"{start}: {', '.join(parts)}{mark if mark == '?' else '.'}"
    if style == 2:
        return f"{start}{mark} Use {join(parts)}."
    return f"{start}, {join(parts)}{mark}"


def schema(r: Source, d: Domain) -> tuple[dict, list[str]]:
    """The JSON description of a tool, with one of its names for everything; and the names of its parameters."""
    names: list[str] = []
    for p in d.params:
        free = [n for n in p.names if n not in names] or [p.names[0] + "_2"]
        names.append(r.choice(free))
    properties = {}
    order = list(zip(names, d.params))
    if r.chance(0.3):
        r.shuffle(order)
    describe = r.chance(0.8)
    for n, p in order:
        properties[n] = {"type": p.type}
        if describe:
            properties[n]["description"] = p.what
        if p.enum:
            properties[n]["enum"] = p.enum
    parameters = {"type": "object", "properties": properties, "required": [n for n, p in order if p.required]}
    return {"type": "function", "function": {"name": r.choice(d.names), "description": r.choice(d.what), "parameters": parameters}}, names


@dataclass
class Wish:
    """A request, and the call that answers it."""

    tool: dict
    text: str
    call: tuple[str, dict]
    missing: str | None  # the name of a required parameter that the request leaves out
    answer: tuple[object, str]  # the tool's result, and what to say about it


def pick_domain(r: Source) -> tuple[Domain, bool]:
    if r.held:
        return (generic(r)[0], True) if r.chance(0.5) else (r.choice(list(HELD_DOMAINS.values() if r.chance(0.5) else DOMAINS.values())), False)
    return (generic(r)[0], True) if r.chance(0.55) else (r.choice(list(DOMAINS.values())), False)


def make_wish(r: Source, d: Domain, made_up: bool, tool: dict, names: list[str], leave_out: bool = False) -> Wish:
    values: dict[int, object] = {}
    for i, p in enumerate(d.params):
        if p.required or r.chance(0.5):
            v = p.value(r)
            while v in values.values() and p.type == "string" and not p.enum:
                v = p.value(r)
            values[i] = v
    missing = None
    needed = [i for i in values if d.params[i].required and d.params[i].type != "boolean"]
    if leave_out and made_up and needed:
        i = r.choice(needed)
        del values[i]
        missing = names[i]
    if made_up:
        text = generic_request(r, d, values)
    else:
        text = r.choice(d.asks).format(*[values.get(i, "") for i in range(len(d.params))])
        extra = [d.params[i].says.format(v=v) for i, v in values.items() if not d.params[i].required]
        if extra:
            mark = text[-1] if text[-1] in ".?" else ""
            text = text[: len(text) - len(mark)] + " " + " ".join(extra) + mark
        text = cap(text) if not text[0].isdigit() else text
        if r.chance(0.15):
            text = r.choice(("Hello! ", "Please help me. ", "Hi. ", "One more thing: ")) + text
    arguments = {}
    for n in tool["function"]["parameters"]["properties"]:
        i = names.index(n)
        if i in values:
            arguments[n] = values[i]
    if d.result:
        answer = d.result(r, [values.get(i, "") for i in range(len(d.params))])
    else:
        answer = generic_result(r, d)
    return Wish(tool, text, (tool["function"]["name"], arguments), missing, answer)


def generic_result(r: Source, d: Domain) -> tuple[object, str]:
    form = r.randrange(4)
    if form == 0:
        return {"status": r.choice(("ok", "done", "success"))}, f"Done: {d.verb} the {d.noun} worked."
    if form == 1:
        x = code(r)
        return {"status": "ok", "id": x}, f"Done. The id is {x}."
    if form == 2:
        error = r.choice(("not found", "no access", "too late", "already done", "server is down", "not allowed"))
        return {"error": error}, f"It did not work: {error}."
    p = r.choice([p for p in GENERIC_PARAMS if callable(p[2]) and p[2] not in (message, title)])
    x = p[2](r)
    return {p[0]: x}, f"The {p[0]} is {x}."


def thought_of(wish: Wish) -> str:
    return f"The tool {wish.call[0]} can do this."


SYSTEMS = ["You are a helpful assistant.", "You help with tools.", "Be brief.", "You are demo, a small assistant.", "Use the tools when they help."]


def pack(r: Source, kind: str, messages: list[dict], tools: list[dict], think: bool, expect: dict) -> Chat:
    if not think:
        messages = [{k: v for k, v in m.items() if k != "reasoning_content"} for m in messages]
    if r.chance(0.25):
        messages = [{"role": "system", "content": r.choice(SYSTEMS)}] + messages
    return Chat(kind, messages, tools, think, expect)


def toolbox(r: Source, size: int) -> list[tuple[Domain, bool, dict, list[str]]]:
    """Some different tools."""
    box, seen = [], set()
    while len(box) < size:
        d, made_up = pick_domain(r)
        if made_up and box and box[-1][1] and r.chance(0.3):  # one that is easily taken for the other
            d = generic(r, like=box[-1][0])[0]
        tool, names = schema(r, d)
        key = d.verb + d.noun if made_up else d.names[0]
        if key not in seen and tool["function"]["name"] not in seen:
            seen |= {key, tool["function"]["name"]}
            box.append((d, made_up, tool, names))
    return box


def call_chat(r: Source, think: bool) -> Chat:
    """One request and its call."""
    box = toolbox(r, r.choices((1, 2, 3, 4), (3, 4, 3, 1))[0])
    tools = [b[2] for b in box]
    wish = make_wish(r, *r.choice(box))
    final = calls(wish.call, thought=thought_of(wish))
    return pack(r, "tool calls", [user(wish.text), final], tools, think, {"calls": [list(wish.call)]})


def missing_chat(r: Source, think: bool) -> Chat:
    """A request that leaves out what the tool needs: ask for it."""
    while True:
        box = toolbox(r, r.choices((1, 2, 3), (3, 3, 1))[0])
        wish = make_wish(r, *r.choice(box), leave_out=True)
        if wish.missing:
            break
    word = wish.missing.replace("_", " ")
    final = reply(f"What is the {word}?", f"The tool {wish.call[0]} needs {wish.missing}, and it is not given.")
    messages = [user(wish.text), final]
    return pack(r, "tool asks", messages, [b[2] for b in box], think, {"text": final["content"]})


def result_chat(r: Source, think: bool) -> Chat:
    """The call was made; the answer says what came back. Sometimes a second request follows."""
    box = toolbox(r, r.choices((1, 2, 3), (4, 3, 1))[0])
    wish = make_wish(r, *r.choice(box))
    value, answer = wish.answer
    messages = [user(wish.text), calls(wish.call, thought=thought_of(wish)), result(value), reply(answer, "The tool has answered.")]
    expect: dict = {"text": answer}
    if r.chance(0.4):
        messages[1].pop("reasoning_content")
        messages[3].pop("reasoning_content")
        wish = make_wish(r, *r.choice(box))
        messages += [user(wish.text), calls(wish.call, thought=thought_of(wish))]
        expect = {"calls": [list(wish.call)]}
        if r.chance(0.4):
            messages += [result(wish.answer[0]), reply(wish.answer[1], "The tool has answered.")]
            expect = {"text": wish.answer[1]}
    kind = "tool calls" if "calls" in expect else "tool results"
    return pack(r, kind, messages, [b[2] for b in box], think, expect)


def two_calls_chat(r: Source, think: bool) -> Chat:
    """Two requests at once: two calls in one message."""
    box = toolbox(r, r.choices((1, 2, 3), (2, 4, 1))[0])
    first = r.choice(box)
    second = r.choice(box)
    w1, w2 = make_wish(r, *first), make_wish(r, *second)
    text = w1.text + r.choice((" And then: ", " Also: ", " Then this: ", " And: ")) + w2.text
    final = calls(w1.call, w2.call, thought=f"These are two calls: {w1.call[0]} and {w2.call[0]}.")
    messages, expect = [user(text), final], {"calls": [list(w1.call), list(w2.call)]}
    if r.chance(0.3):
        answer = f"{w1.answer[1]} {w2.answer[1]}"
        messages += [result(w1.answer[0]), result(w2.answer[0]), reply(answer, "The tools have answered.")]
        expect = {"text": answer}
    kind = "tool calls" if "calls" in expect else "tool results"
    return pack(r, kind, messages, [b[2] for b in box], think, expect)


def no_tool_chat(r: Source, think: bool, plain: Callable) -> Chat:
    """Tools are there, but the question needs none: `plain` makes it and its answer."""
    box = toolbox(r, r.choices((1, 2, 3), (4, 3, 1))[0])
    inner = plain(r, think)
    messages = [m for m in inner.messages if m["role"] != "system"]
    return pack(r, "no tool", messages, [b[2] for b in box], think, inner.expect | {"no_call": True})


def unable_chat(r: Source, think: bool) -> Chat:
    """The request needs a tool that is not there."""
    box = toolbox(r, r.choices((2, 3, 4), (3, 3, 1))[0])
    wanted = box.pop(r.randrange(len(box)))
    wish = make_wish(r, *wanted)
    final = reply("None of my tools can do that.", "No tool fits this.")
    return pack(r, "no tool", [user(wish.text), final], [b[2] for b in box], think, {"text": final["content"], "no_call": True})
