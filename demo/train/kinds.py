"""What people really have tools for: weather, timers, bookings, bank, files, house and garden.

A kind has several names and descriptions of its function and its parameters, and several ways to ask. An ask that begins
with a small letter is an order, which `tools.make_wish` puts into one of many frames ("Please {}", "Could you {}?", "I
need to {}."); others stand as they are. {0} is the first parameter; optional ones are said behind, as their role has it.

KINDS are trained. HELD_KINDS are not: no tool in training has a word of words.HELD_TOOL_WORDS in its name or description.
"""

import re
from dataclasses import dataclass
from typing import Callable

from values import clock, code, date, day, decimal, filename, integer, mail, message, person, phone, pick, place_name, task, title, topic
from words import ANIMALS, COLOURS, COUNTRIES, DAYS, FOODS, GENRES, HOBBIES, INSTRUMENTS, JOBS, MONTHS, OBJECTS, SHOP_ITEMS, TITLE_NOUNS, Source, cap, join, plural


@dataclass
class Param:
    names: list[str]
    whats: list[str]  # descriptions
    value: Callable
    says: str = ""  # how a request mentions it, where the ask has no place for it; {v} is the value, a boolean has "yes|no"
    type: str = "string"
    enum: list | None = None
    required: bool = True

    def mentioned(self, v) -> str:
        """How a request says that it is v, where the ask has no place for it."""
        return self.says.split("|")[0 if v else 1] if self.type == "boolean" else self.says.format(v=said(v))


def said(v) -> str:
    return join(v) if isinstance(v, list) else str(v)


@dataclass
class Kind:
    names: list[str]
    whats: list[str]
    asks: list[str]
    params: list[Param]
    result: Callable | None = None  # (r, values by position) -> (the tool's result, what to say about it)


def full_name(r: Source) -> str:
    return f"{r.name()} {r.surname()}"


def address(r: Source) -> str:
    return f"{r.randrange(1, 200)} {r.unseen(TITLE_NOUNS)} {r.choice(('Street', 'Road', 'Lane', 'Square'))}"


def foods(r: Source) -> str:
    return plural(r.unseen(FOODS))


def word(r: Source) -> str:
    return r.unseen(r.choice((OBJECTS, JOBS, ANIMALS, HOBBIES)))


ROOMS = ["kitchen", "bedroom", "bathroom", "hall", "office", "garage", "attic", "cellar", "living room", "study", "garden"]
LANGUAGES = "French German Spanish Italian Dutch Greek Polish Turkish Swedish Japanese Danish Korean".split()
MONEY = "euros dollars pounds yen francs crowns pesos".split()
SUBJECTS = "maths history geography music art biology chemistry French German sport".split()
EVENTS = ["lunch", "football", "a meeting", "piano lesson", "the dentist", "a party", "book club", "dinner", "yoga", "a haircut", "choir", "chess club"]
SKIES = ["sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "stormy"]

# role: names, descriptions, value, how it is said behind, type
ROLES: dict[str, tuple] = {
    "city": ("city location place town", "Name of the city|The city|Which city|Where", place_name, "in {v}"),
    "from": ("from origin start departure", "Where it starts|From where|The first place", place_name, "from {v}"),
    "to": ("to destination end goal", "Where it ends|To where|Where to go", place_name, "to {v}"),
    "country": ("country nation", "The country|Which country", pick(COUNTRIES), "in {v}"),
    "address": ("address street", "Street and number|The address", address, "at {v}"),
    "person": ("name person who", "Name of the person|Who it is|The person", person, "for {v}"),
    "full_name": ("customer client name", "First and last name|The customer", full_name, "for {v}"),
    "pet": ("pet name pet_name animal", "Name of the pet|Which pet", person, "for {v}"),
    "singer": ("artist by singer", "Who sings it|The artist", full_name, "by {v}"),
    "author": ("author by writer", "Who wrote it|The author", full_name, "by {v}"),
    "day": ("day date when", "The day|Which day", day, "on {v}"),
    "weekday": ("day date when", "Day of the week|Which day|The day", pick(DAYS), "on {v}"),
    "any_day": ("day date when", "The day|Which day|Day or date", lambda r: r.choice(DAYS) if r.chance(0.5) else date(r), "on {v}"),
    "date": ("date day when", "Day as YYYY-MM-DD|The date", date, "on {v}"),
    "month": ("month when period", "The month|Which month", pick(MONTHS), "in {v}"),
    "time": ("time at hour start", "Time as HH:MM|When, HH:MM|The time", clock, "at {v}"),
    "after": ("after time at", "Not before this time|The earliest time", clock, "after {v}"),
    "minutes": ("minutes duration length", "How many minutes|Length in minutes", integer(1, 120), "for {v} minutes", "integer"),
    "hours": ("hours duration length", "How many hours|Length in hours", integer(2, 24), "for {v} hours", "integer"),
    "days": ("days duration length", "How many days|Length in days", integer(2, 30), "for {v} days", "integer"),
    "nights": ("nights days stay", "How many nights", integer(2, 14), "for {v} nights", "integer"),
    "weeks": ("weeks duration", "How many weeks", integer(2, 20), "for {v} weeks", "integer"),
    "years": ("years duration term", "How many years", integer(2, 40), "for {v} years", "integer"),
    "year": ("year from_year since", "The year|Which year", integer(1950, 2035), "from {v}", "integer"),
    "people": ("people guests seats persons", "How many people|Number of people", integer(2, 12), "for {v} people", "integer"),
    "count": ("count amount quantity number", "How many|The number", integer(2, 50), "", "integer"),
    "limit": ("limit max_results max count", "How many results|At most so many", integer(1, 20), "and show {v} results", "integer"),
    "stars": ("stars rating score", "From 1 to 5 stars|The rating", integer(1, 5), "with {v} stars", "integer"),
    "degrees": ("degrees temperature target", "Degrees|The temperature|How warm", integer(14, 28), "at {v} degrees", "integer"),
    "heat": ("degrees temperature heat", "Degrees|The temperature", integer(50, 250), "at {v} degrees", "integer"),
    "percent": ("percent level value", "From 1 to 100|How many percent", integer(1, 100), "at {v} percent", "integer"),
    "level": ("level volume value", "From 0 to 10|The level", integer(0, 10), "at level {v}", "integer"),
    "euros": ("euros amount sum", "How many euros|Amount in euros", integer(2, 5000), "for {v} euros", "integer"),
    "price": ("max_price price limit budget", "Highest price in euros|At most so many euros", integer(5, 2000), "for at most {v} euros", "integer"),
    "kilometres": ("kilometres distance km", "How many kilometres|The distance", decimal, "over {v} kilometres", "number"),
    "kilograms": ("kilograms weight kg", "Weight in kilograms|How heavy", decimal, "of {v} kilograms", "number"),
    "grams": ("grams amount weight", "How many grams", integer(5, 900), "", "integer"),
    "centimetres": ("centimetres height size cm", "Height in centimetres|How tall", integer(50, 210), "", "integer"),
    "metres": ("metres height distance", "How many metres", integer(2, 400), "", "integer"),
    "channel": ("channel number", "Number of the channel", integer(1, 200), "", "integer"),
    "title": ("title name", "The title|What it is called", title, "called {v}"),
    "song": ("song title track name", "Title of the song|Which song", title, ""),
    "film": ("film movie title", "Title of the film|Which film", title, ""),
    "message": ("text message content body", "The text|What to say", message, 'with the text "{v}"'),
    "task": ("task text title item", "The task|What to do", task, ""),
    "topic": ("topic query subject about", "What it is about|The topic|What to look for", topic, "about {v}"),
    "label": ("label name title", "What it is called", word, "and call it {v}"),
    "word": ("word term", "The word|Which word", word, ""),
    "code": ("id number code", "The number|The id|The code", code, ""),
    "mail": ("to recipient address email", "Address of the recipient|Mail address", mail, "to {v}"),
    "phone": ("phone number", "The phone number", phone, "to {v}"),
    "file": ("file path filename", "Name of the file|Which file", filename, ""),
    "folder": ("folder path dir directory", "The folder|Which folder", lambda r: r.choice(("{}", "/{}", "/home/{}", "{}/old")).format(r.unseen(FOLDERS)), "in {v}"),
    "item": ("item product article", "The item|What it is|Which product", pick(SHOP_ITEMS), ""),
    "items": ("item product article", "What to buy|Which items", lambda r: plural(r.unseen(FOODS if r.chance(0.5) else SHOP_ITEMS)), ""),
    "object": ("object item thing", "The object|Which thing", pick(OBJECTS), ""),
    "food": ("food ingredient dish", "The food|What to eat|What is in it", foods, "with {v}"),
    "animal": ("animal species kind", "The animal|Which animal", pick(ANIMALS), ""),
    "colour": ("colour color", "The colour|Which colour", pick(COLOURS), "in {v}"),
    "job": ("job profession work", "The job|What kind of work", pick(JOBS), ""),
    "hobby": ("activity sport hobby course", "What to do|The activity|Which one", pick(HOBBIES), ""),
    "genre": ("genre kind type", "The genre|What kind", pick(GENRES), ""),
    "instrument": ("instrument what", "The instrument", pick(INSTRUMENTS), ""),
    "subject": ("subject class course", "The subject|Which class", pick(SUBJECTS), "in {v}"),
    "room": ("room place location", "The room|Which room", pick(ROOMS), "in the {v}"),
    "language": ("language target to_language", "The language|Into which language", pick(LANGUAGES), "in {v}"),
    "money": ("from source from_currency", "Currency to convert from", pick(MONEY), ""),
    "money2": ("to target to_currency", "Currency to convert to", pick(MONEY), ""),
    "event": ("title event name what", "What it is|The event", pick(EVENTS), ""),
    "company": ("company symbol name", "The company|Which company", lambda r: r.made_up() + r.choice(("", " Bank", " Foods", " Steel", " Motors")), ""),
    "restaurant": ("restaurant place name", "Name of the restaurant|Which restaurant", lambda r: r.choice(("Chez {}", "The {} Spoon", "{}'s Kitchen", "Casa {}", "The {} Pot")).format(r.name()), ""),
    "sum": ("expression formula input", "What to calculate", lambda r: f"{r.randrange(100, 99999)} {r.choice('+-*/')} {r.randrange(100, 9999)}", ""),
}
FOLDERS = "photos music work notes school tax travel games books mail films letters".split()
ENUMS: dict[str, tuple[str, str, str]] = {  # role: names, description, how it is said; its values stand behind "=" in a kind
    "mode": ("mode state power", "What to do", "in {v} mode"), "action": ("action state command", "What to do", "{v}"), "unit": ("unit units", "Unit of the result", "in {v}"),
    "by": ("by mode transport", "How to travel", "by {v}"), "priority": ("priority importance", "How urgent it is", "with {v} priority"), "size": ("size format", "The size", "in {v}"),
    "direction": ("direction side way", "Which way", "to the {v}"), "meal": ("meal when", "Which meal", "for {v}"), "speed": ("speed mode", "How fast", "at {v} speed"),
}


def param(spec: str) -> Param:
    """ "role", "role?" if it is optional, "role:name,name:description" with its own names, "enum=value,value"."""
    spec, required = spec.rstrip("?"), not spec.endswith("?")
    if "=" in spec:
        role, values = spec.split("=")
        names, what, says = ENUMS[role]
        enum = values.split(",")
        return Param(names.split(), [what], lambda r: r.choice(enum), says, "string", enum, required)
    role, *own = spec.split(":")
    names, whats, value, says, *type_ = ROLES[role]
    if not required and not says:
        raise ValueError(f"{role}: an optional parameter needs words to be said behind a request")
    names = own[0].split(",") if own else names.split()
    whats = [own[1].replace("_", " ")] if len(own) > 1 else whats.split("|")
    return Param(names, whats, value, says, type_[0] if type_ else "string", None, required)


def K(names: str, whats: str, asks: str, params: str = "", result: Callable | None = None) -> Kind:
    return Kind(names.split(), whats.split("|"), asks.split("|"), [param(p) for p in params.split()], result)


# ------------------------------------------------------------------------------------------------------------ results
def weather_result(r, v):
    value = {"temperature": r.randrange(-10, 38), "sky": r.choice(SKIES)}
    return value, f"It is {value['sky']} in {v[0]}, {value['temperature']} degrees."


def forecast_result(r, v):
    value = {"city": v[0], "sky": r.choice(SKIES), "high": r.randrange(12, 35), "low": r.randrange(-5, 12)}
    return value, f"In {v[0]} it will be {value['sky']}, from {value['low']} to {value['high']} degrees."


def one(key: str, make: Callable, answer: str = "") -> Callable:
    """A result with one value, and the sentence that says it."""
    def made(r, v):
        x = make(r)
        return {key: x}, cap((answer or f"The {key.replace('_', ' ')} is {{x}}.").format(*v, x=x))
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


def translation(r: Source) -> str:
    return r.made_up().lower() + " " + r.made_up().lower()


# -------------------------------------------------------------------------------------------------------------- kinds
KINDS = [
    # Weather, time, ways.
    K("get_weather weather current_weather check_weather", "Get the weather of a city|Current weather in a place|Tells the weather now",
      "What is the weather in {0}?|What is the weather like in {0}?|How is the weather in {0}?|Is it raining in {0}?|tell me the weather in {0}|weather in {0}|How warm is it in {0}?|Is it cold in {0} today?", "city unit=celsius,fahrenheit?", weather_result),
    K("get_forecast forecast weather_forecast", "Weather forecast for the coming days|Forecast of the weather",
      "What will the weather be in {0} on {1}?|give me the forecast for {0} on {1}|Will it rain in {0} on {1}?|How will the weather be on {1} in {0}?", "city day", forecast_result),
    K("air_quality check_air get_air", "Quality of the air in a city|Tells how clean the air is", "How is the air in {0}?|Is the air clean in {0}?|check the air in {0}", "city"),
    K("get_sunrise sunrise_time sunrise", "When the sun rises|Time of the sunrise in a city", "When does the sun rise in {0} on {1}?|tell me the time of the sunrise in {0} on {1}", "city day", one("time", clock, "The sun rises at {x} in {0}.")),
    K("get_time current_time time_in world_clock", "Current time in a city|What time it is somewhere", "What time is it in {0}?|tell me the time in {0}|time in {0}|How late is it in {0}?", "city", one("time", clock, "It is {x} in {0}.")),
    K("get_traffic traffic road_traffic", "Traffic on the roads of a city|How much traffic there is", "How is the traffic in {0}?|Is there much traffic in {0} at {1}?", "city time?"),
    K("get_route directions find_route navigate", "Find the way from one place to another|Directions between two places",
      "How do I get from {0} to {1}?|show me the way from {0} to {1}|What is the best route from {0} to {1}?", "from to by=car,train,bus,bike?", one("minutes", integer(10, 600), "It takes {x} minutes from {0} to {1}.")),
    K("find_flights search_flights flights", "Find flights between cities|Search for flights", "find a flight from {0} to {1} on {2}|fly from {0} to {1} on {2}|Flights from {0} to {1} on {2}, please.", "from to date people:passengers,people,travellers?", found("flight", lambda r: code(r).replace("-", "") + " at " + clock(r))),
    K("find_train search_trains train_times", "Find trains|Train times between two towns", "When is the next train from {0} to {1}?|find a train from {0} to {1}|Trains from {0} to {1}?|take a train from {0} to {1}", "from to after?", one("departure", clock, "The next train from {0} to {1} leaves at {x}.")),
    K("next_bus bus_times find_bus", "When the next bus leaves|Times of the bus between two places", "When does the next bus leave from {0} to {1}?|Is there a bus from {0} to {1}?|find a bus from {0} to {1}", "from to after?", one("departure", clock, "The next bus from {0} to {1} leaves at {x}.")),
    K("call_taxi order_taxi book_ride", "Order a taxi|Books a ride in a taxi", "order a taxi from {0} to {1}|I need a taxi from {0} to {1}.|get me a taxi at {0} to {1}", "address:from,pickup,start:Where_to_start to", one("minutes", integer(2, 30), "The taxi comes in {x} minutes.")),
    K("find_place nearest search_place", "Find the nearest shop or place|Where the nearest one is", "Where is the nearest {0} in {1}?|find the nearest {0} in {1}|Is there a {0} in {1}?", "word:kind,what,place:What_to_find city", one("address", address, "The nearest {0} is at {x}.")),
    # Travel.
    K("book_hotel find_hotel search_hotels reserve_hotel", "Find a hotel room|Book a hotel", "book a hotel in {0} for {1} nights|I need a hotel in {0} for {1} nights.|find a hotel in {0} for {1} nights", "city nights people?", one("hotel", lambda r: "Hotel " + r.unseen(TITLE_NOUNS), "I booked {x} in {0} for {1} nights.")),
    K("rent_car book_car car_rental", "Rent a car|Books a car for some days", "rent a car in {0} for {1} days|I need a car in {0} for {1} days.", "city days size=small,medium,large?"),
    K("rent_bike hire_bike bike_rental", "Rent a bike|Hires a bicycle", "rent a bike in {0} for {1} hours|I want a bike in {0} for {1} hours.|hire a bike for {1} hours in {0}", "city hours"),
    K("rent_boat boat_rental hire_boat", "Rent a boat|A boat for some hours", "rent a boat for {0} people at {1}|I want to go out in a boat with {0} people at {1}.", "people time"),
    K("check_in flight_check_in", "Check in for a flight|Check in at the airport", "check me in for the flight {0}|check in for flight {0}", "code:flight,flight_number:Number_of_the_flight people:passengers,people?"),
    K("add_baggage add_bags", "Add bags to a booking|More baggage for a flight", "add {1} bags to my booking {0}|I have {1} more bags for booking {0}.", "code:booking,booking_id:Number_of_the_booking count:bags,number"),
    K("cancel_booking cancel", "Cancel a booking|Cancels what was booked", "cancel my booking {0}|I do not need the booking {0} any more. Cancel it.", "code:booking,booking_id,id"),
    K("move_booking change_booking", "Move a booking to another date|Change the date of a booking", "move my booking {0} to {1}|change the date of booking {0} to {1}", "code:booking,booking_id,id date"),
    K("apply_visa request_visa", "Apply for a visa|Asks for a visa of a country", "I need a visa for {0} for {1} days.|apply for a visa to {0} for {1} days", "country days"),
    K("book_tour find_tour", "Book a tour of a city|City tours with a guide", "book a tour of {0} on {1}|I want to join a tour of {0} on {1}.", "city any_day language?"),
    K("find_campsite campsites", "Find a place to camp|Campsites near a city", "Where can I camp near {0}?|find a campsite near {0} for {1} nights", "city nights?"),
    # Eating, shopping, money.
    K("book_table reserve_table restaurant_booking", "Reserve a table in a restaurant|Book a table", "book a table at {0} for {1} people|reserve a table for {1} at {0}|I want a table for {1} at {0}.", "restaurant people time?", ok("The table at {0} for {1} is booked.")),
    K("order_food food_delivery order_meal", "Order food to an address|Delivery of meals", "order {0} to {1}|I am hungry. Order {0} to {1}.|bring {0} to {1}", "food address"),
    K("find_recipe get_recipe search_recipes", "Find a recipe|Looks for recipes with an ingredient", "find a recipe with {0}|What can I cook with {0}?|I have {0}. Find a recipe.", "food minutes?", found("recipe", lambda r: f"{r.choice(FOODS)} {r.choice(['soup', 'pie', 'salad', 'cake', 'stew'])}")),
    K("add_to_cart add_item shopping_add buy_item", "Add an item to the shopping list|Puts items into the cart", "put {1} {0} in my cart|add {1} {0} to my shopping list|buy {1} {0}", "items count", ok("I added {1} {0}.")),
    K("get_price price_of check_price", "Price of a product|What something costs in the shop", "How much does a {0} cost?|What is the price of a {0}?|check the price of a {0}", "item colour?", one("price", decimal, "A {0} costs {x} euros.")),
    K("check_stock in_stock", "Whether the shop has an item|Stock of the shop", "Do you have a {0} in {1}?|Is there a {1} {0} in the shop?|check the stock of {0} in {1}", "item colour", one("count", integer(0, 40), "There are {x} in the shop.")),
    K("use_coupon apply_coupon redeem_coupon", "Use a coupon|Applies the code of a coupon", "use the coupon {0}|I have a coupon: {0}.|apply my coupon {0}", "code:coupon,code:The_code_of_the_coupon"),
    K("get_order_status order_status track_order", "Status of an order|Where an order is", "Where is my order {0}?|What is the status of order {0}?|track order {0}", "code:order_id,id,number,order:Number_of_the_order", one("status", lambda r: r.choice(("packed", "sent", "on its way", "delivered", "cancelled", "paid")), "Order {0} is {x}.")),
    K("return_item send_back", "Return an item to the shop|Send something back", "return the {0} of order {1}|The {0} is broken. I want to return it. The order is {1}.|send back the {0} from order {1}", "item code:order,order_id"),
    K("send_gift gift", "Send a gift to a person|Sends something as a gift", "send a {0} as a gift to {1}|I need a gift for {1}: a {0}.|give {1} a {0} as a gift", "item person:to,recipient,person"),
    K("send_flowers order_flowers", "Send flowers|Flowers for a person", "send {1} flowers to {0}|order {1} flowers for {0}", "person:to,recipient,person count:flowers,count,number"),
    K("send_parcel ship_parcel", "Send a parcel|Ships a parcel to a city", "send a parcel of {1} kilograms to {0}|My parcel weighs {1} kilograms. Send it to {0}.", "to kilograms"),
    K("track_parcel parcel_status find_parcel", "Where a parcel is|Track a parcel", "Where is my parcel {0}?|track the parcel {0}|Has the parcel {0} arrived?", "code:parcel,tracking_number"),
    K("sell_item offer_item", "Sell something|Offers an item for sale", "sell my {0} for {1} euros|I want to get {1} euros for my {0}. Sell it.", "item euros:price,euros"),
    K("place_bid bid", "Bid in an auction|Makes a bid for an item", "bid {1} euros for the {0}|make a bid of {1} euros for the {0}", "object euros"),
    K("send_money transfer_money pay_person", "Send money to a person|Transfers money", "send {1} euros to {0}|pay {0} {1} euros|I owe {0} {1} euros. Send the money.", "person:to,recipient,person euros"),
    K("get_balance account_balance check_balance", "Balance of an account|How much money is in an account", "What is the balance of account {0}?|How much money is in my account {0}?|check the balance of {0}", "code:account,account_id", one("balance", decimal)),
    K("send_invoice make_invoice", "Send an invoice to a customer|Writes an invoice", "send an invoice of {1} euros to {0}|{0} must pay {1} euros. Send an invoice.", "full_name euros"),
    K("calculate_loan loan_cost", "Cost of a loan|What a loan costs in a month", "What does a loan of {0} euros over {1} years cost?|calculate a loan of {0} euros for {1} years", "euros years"),
    K("calculate_tip tip", "Tip for a bill|How much to tip", "How much is a tip of {1} percent on {0} euros?|The bill is {0} euros. Calculate a tip of {1} percent.", "euros:bill,amount percent"),
    K("convert_currency exchange currency convert_money", "Convert money between currencies|Exchange rates", "How much is {0} {1} in {2}?|convert {0} {1} to {2}|change {0} {1} into {2}", "euros:amount,value,sum:How_much money money2", one("amount", decimal, "{0} {1} is {x} {2}.")),
    K("get_stock_price stock_price share_price", "Price of a share|Current price of a company's stock", "What is the stock price of {0}?|How is the {0} stock doing?|What is the price of {0} shares?", "company", one("price", decimal, "A share of {0} costs {x}.")),
    K("donate give_money", "Donate money|Gives money to a good cause", "donate {1} euros to {0}|I want to give {1} euros to {0}. Donate it.", "title:cause,to,charity euros"),
    # Reminders, people, messages.
    K("set_timer start_timer timer create_timer", "Start a timer|Sets a timer for some minutes", "set a timer for {0} minutes|start a timer of {0} minutes|Timer for {0} minutes, please.|count down {0} minutes|I need a timer for {0} minutes.", "minutes label?", ok("The timer is set for {0} minutes.")),
    K("set_alarm create_alarm add_alarm", "Set an alarm|Wake the user at a time", "wake me at {0}|set an alarm for {0}|wake me up at {0}|I need an alarm at {0}.", "time weekday:day,days,repeat?", ok("The alarm is set for {0}.")),
    K("add_reminder create_reminder set_reminder remind", "Remind the user of something|Creates a reminder", "remind me to {0} on {1}|On {1}, remind me to {0}.|I must {0} on {1}. Remind me.", "task:text,task,message,about weekday", ok("I will remind you on {1} to {0}.")),
    K("send_email send_mail email mail", "Send an e-mail|Sends a mail to an address", 'send a mail to {0} with the subject "{1}"|write an e-mail to {0} with the subject "{1}"|mail {0} with the subject "{1}"', "mail message:subject,title:Subject_of_the_mail message:body,text,content?", ok("The mail to {0} was sent.")),
    K("send_message text_message send_text sms", "Send a short message to a person|Text somebody", 'tell {0} that {1}|text {0}: {1}|send {0} the message "{1}"|write to {0}: "{1}"|let {0} know: {1}', "person:to,recipient,person,contact message", ok("I sent the message to {0}.")),
    K("call phone make_call start_call call_contact", "Call a person|Start a phone call", "call {0}|phone {0}|talk to {0} on the phone|ring {0}", "person:name,contact,person,who", ok("I am calling {0}.")),
    K("find_contact get_contact lookup_contact contact_info", "Look up a person in the contacts|Finds phone number and mail of a person", "What is the phone number of {0}?|find the number of {0}|How can I reach {0}?|look up {0} in my contacts", "person:name,person,who,contact", one("phone", phone, "{0}'s number is {x}.")),
    K("add_contact save_contact new_contact", "Save a new contact|Adds a person and a phone number", "save the number {1} for {0}|{0} has the phone number {1}. Save it.|add {0} to my contacts with the number {1}", "person phone"),
    K("save_birthday add_birthday", "Save a birthday|Remembers when a person was born", "{0}'s birthday is on {1}. Save it.|save the birthday of {0}: {1}", "person date"),
    K("add_event create_event new_event schedule", "Add an event to the calendar|Puts an event into the calendar", "put {0} in my calendar for {1} at {2}|add {0} on {1} at {2} to my calendar|I have {0} on {1} at {2}. Write it in the calendar.", "event any_day time", ok("{0} is in your calendar for {1} at {2}.")),
    K("list_events get_events get_calendar show_calendar", "List the events of a day|What is in the calendar", "What do I have on {0}?|What is in my calendar on {0}?|show me my events for {0}|Am I free on {0}?", "any_day", found("event", lambda r: f"{r.choice(['lunch', 'football', 'meeting', 'piano lesson', 'dentist', 'party', 'dinner', 'yoga'])} at {clock(r)}")),
    K("add_task add_todo create_task todo_add", "Add a task to the list|Puts something on the to-do list", 'add "{0}" to my list|put "{0}" on my to-do list|New task: {0}|I need to {0}. Put it on my list.', "task priority=low,medium,high?", ok('"{0}" is on your list.')),
    K("save_note add_note create_note take_note", "Save a note|Writes a note", 'take a note: {0}|note that {0}|write down a note: {0}|save the note "{0}"', "message:text,note,content,body", ok("I saved the note.")),
    K("invite_guest invite send_invitation", "Invite a person to an event|Sends an invitation", "invite {0} to {1} on {2}|send an invitation for {1} on {2} to {0}", "person:guest,name,person event weekday"),
    K("create_group new_group make_group", "Make a group of people|Creates a chat group", 'make a group called "{0}" with {1}|create the group "{0}" and add {1}', "title:group,name,title person:member,person"),
    K("create_poll start_poll", "Start a poll|Asks people for their vote", 'start a poll: "{0}" until {1}|make a poll with the question "{0}" until {1}', "message:question,text weekday:until,end,day"),
    K("book_meeting plan_meeting", "Plan a meeting with a person|Books a meeting", "plan a meeting with {0} on {1} at {2}|I must meet {0} on {1} at {2}. Book a meeting.", "person weekday time"),
    # Health, lessons, helpers.
    K("book_doctor doctor_appointment see_doctor", "Make an appointment with the doctor|Book a doctor", "make an appointment with the doctor for {0} on {1}|{0} is ill. Book the doctor for {1}.|I need a doctor for {0} on {1}.", "person:patient,name weekday"),
    K("book_dentist dentist_appointment", "Make an appointment with the dentist|Book a dentist", "My tooth hurts. Book the dentist for {0} at {1}.|make an appointment with the dentist on {0} at {1}", "weekday time"),
    K("book_haircut hairdresser", "Book a haircut|Appointment at the hairdresser", "book a haircut for {0} on {1}|{0} needs a haircut on {1}.", "person weekday time?"),
    K("book_massage massage", "Book a massage|A massage for tired people", "book a massage of {0} minutes on {1}|My back hurts. I want a massage of {0} minutes on {1}.", "minutes weekday"),
    K("add_medicine medicine_reminder", "Remember to take a medicine|When to take which medicine", "I must take the medicine {0} at {1}.|remind me to take my medicine {0} at {1}", "company:medicine,name:The_medicine time"),
    K("calculate_bmi bmi", "Body mass index|Calculates the BMI of height and weight", "I am {0} centimetres tall and weigh {1} kilograms. What is my BMI?|calculate the BMI of {0} centimetres and {1} kilograms", "centimetres kilograms", one("bmi", decimal, "The BMI is {x}.")),
    K("log_run save_run add_run", "Save a run|Logs kilometres and minutes of a run", "I ran {0} kilometres in {1} minutes. Save the run.|log a run of {0} kilometres in {1} minutes", "kilometres minutes"),
    K("log_sleep save_sleep", "Save how long the user slept|Logs hours of sleep", "I slept {0} hours. Save it.|log {0} hours of sleep", "hours any_day?"),
    K("log_meal save_meal", "Save what the user ate|Logs a meal", "I had {0} for {1}. Save it.|log my meal: {0} for {1}", "food meal=breakfast,lunch,dinner"),
    K("start_workout begin_workout", "Start a workout|Begins to train", "start a workout of {0} minutes|begin my workout of {0} minutes", "minutes level?"),
    K("find_tutor book_tutor", "Find a tutor for a subject|Somebody who teaches", "find a tutor for {0} on {1}|{0} is hard. I need a tutor on {1}.", "subject weekday"),
    K("book_lesson music_lesson", "Book a music lesson|Lessons on an instrument", "book a {0} lesson on {1}|I want to learn the {0}. Book a lesson on {1}.", "instrument weekday time?"),
    K("join_course enrol sign_up", "Sign a person up for a course|Join a course", "sign {0} up for the {1} course|{0} wants to join the {1} course.|enrol {0} in the {1} course", "person hobby"),
    K("get_grade grade_of", "Grade of a pupil in a subject|Which grade somebody got", "Which grade did {0} get in {1}?|tell me the grade of {0} in {1}", "person:pupil,student,name subject", one("grade", lambda r: r.choice("ABCDEF"), "{0} got the grade {x} in {1}.")),
    K("add_homework save_homework", "Save homework|Homework and its deadline", 'My homework in {0} is "{1}".|save homework in {0}: "{1}"', "subject message:homework,text date:deadline,until?"),
    K("mark_absent report_absent", "Mark a pupil as absent|Says that a child is not at school", "{0} is ill and absent on {1}.|mark {0} as absent on {1}", "person:pupil,student,name weekday"),
    K("book_babysitter find_babysitter", "Find a babysitter|Somebody who looks after children", "find a babysitter for {0} on {1}|We go out on {1}. I need a babysitter for {0}.", "person:child,name weekday hours?"),
    K("walk_dog book_walk", "Book somebody who walks the dog|A walk for a dog", "My dog {0} needs a walk at {1}.|walk my dog {0} at {1}", "pet:dog,name,pet time"),
    K("feed_animal feed", "Feed an animal|Gives food to an animal", "feed the {0} {1} grams|give the {0} {1} grams of food|The {0} is hungry. Feed it {1} grams.", "animal grams"),
    K("call_plumber book_plumber", "Call a plumber to an address|A plumber mends pipes", "A pipe is broken at {0}. Call a plumber.|send a plumber to {0}", "address weekday?"),
    K("book_cleaner order_cleaner", "Book a cleaner|Somebody who cleans the flat", "book a cleaner for {0} hours on {1}|I need a cleaner on {1} for {0} hours.", "hours weekday"),
    K("repair_item book_repair", "Have something repaired|Repairs broken things", "My {0} is broken. Repair it on {1}.|have my {0} repaired on {1}", "item weekday"),
    K("report_lost lost_and_found lost_item", "Report a lost thing|Lost things of a city", "I lost my {0} in {1}.|report a lost {0} in {1}", "object city"),
    K("find_jobs search_jobs job_search", "Search for jobs|Finds work in a city", "find a job as {0} in {1}|Is there a job as {0} in {1}?|I want to work as {0} in {1}. Search for jobs.", "job city"),
    K("find_flat search_flats rent_flat", "Find a flat to rent|Flats in a city", "find a flat in {0} for at most {1} euros|I need a flat in {0}. It may cost {1} euros.", "city price"),
    # House.
    K("set_light control_light light switch_light", "Switch a light|Turn the light in a room on or off", "turn {1} the light in the {0}|switch {1} the {0} light|turn the {0} light {1}|Light {1} in the {0}.", "room mode=on,off percent:brightness,level?", ok("The {0} light is {1}.")),
    K("set_temperature set_thermostat heat_room", "Set the temperature of a room|Controls the heating", "set the {0} to {1} degrees|make it {1} degrees in the {0}|heat the {0} to {1} degrees", "room:room,zone,place degrees", ok("The {0} is set to {1} degrees.")),
    K("lock_door set_lock door_lock", "Lock or unlock a door|Controls the doors", "{1} the {0} door", "word:door,which,name:Which_door action=lock,unlock,open,close", ok("Done: {1} the {0} door.")),
    K("move_blinds set_blinds blinds", "Open or close the blinds|Moves the blinds of a room", "{1} the blinds in the {0}|{1} the {0} blinds", "room action=open,close"),
    K("start_vacuum vacuum clean_floor", "Start the vacuum cleaner|Vacuums a room", "vacuum the {0}|start the vacuum in the {0}|The floor of the {0} is dirty. Vacuum it.", "room mode=quiet,normal,strong?"),
    K("heat_oven set_oven start_oven", "Heat the oven|Turns the oven on", "heat the oven to {0} degrees|set the oven to {0} degrees|I want to bake. Heat the oven to {0} degrees.", "heat minutes?"),
    K("make_coffee brew_coffee coffee", "Make coffee|Brews cups of coffee", "make {0} cups of coffee|I want {0} cups of coffee.|brew {0} cups of coffee", "count:cups,count size=small,large?"),
    K("start_dishwasher run_dishwasher", "Start the dishwasher|Cleans the dishes", "start the dishwasher at {0}|The dishes are dirty. Run the dishwasher at {0}.", "time"),
    K("start_sprinkler lawn_sprinkler", "Turn on the sprinkler|Water for the lawn", "turn on the sprinkler for {0} minutes|The lawn is dry. Start the sprinkler for {0} minutes.", "minutes time?"),
    K("check_fridge fridge_content", "What is in the fridge|Looks into the fridge", "Are there any {0} in the fridge?|check the fridge for {0}|How many {0} are in the fridge?", "food", one("count", integer(0, 20), "There are {x} {0} in the fridge.")),
    K("read_meter get_meter", "Read a meter|Shows what a meter says", "What does the meter {0} say?|read the meter {0}", "code:meter,meter_id", one("value", integer(10, 99999), "The meter says {x}.")),
    K("watch_camera show_camera", "Show the picture of a camera|Watch a room by camera", "show me the camera in the {0}|What does the camera in the {0} see?", "room"),
    # Music, films, games, news.
    K("play_music play_song play", "Play a song|Plays music", 'play "{0}"|play the song "{0}"|hear the song "{0}"|put on "{0}"', "song singer? level:volume,level?", ok('Now playing "{0}".')),
    K("set_volume volume change_volume", "Set the volume|How loud the music is", "set the volume to {0}|change the volume to {0}|It is too loud. Set the volume to {0}.", "level"),
    K("switch_channel set_channel tv_channel", "Switch the channel of the TV|Changes the channel", "switch to channel {0}|put the TV on channel {0}|watch channel {0}", "channel"),
    K("play_video find_video show_video", "Play a video|Videos about a topic", "play a video about {0}|show me a video about {0}", "topic minutes:max_minutes,minutes?"),
    K("play_podcast podcast", "Play a podcast|Podcasts about a topic", "play a podcast about {0}|listen to a podcast about {0}", "topic"),
    K("rate_film rate_movie film_rating", "Rate a film|Gives stars to a film", 'rate the film "{0}" with {1} stars|give the film "{0}" {1} stars|I saw the film "{0}". It gets {1} stars.', "film stars"),
    K("film_times cinema_program cinema", "When films are shown in the cinema|Program of the cinema", 'When is "{0}" in the cinema in {1}?|Which cinema in {1} shows "{0}"?', "film city", one("time", clock, '"{0}" starts at {x}.')),
    K("suggest_film recommend_movie", "Suggest a film|Recommends films of a genre", "suggest a {0} film|Which {0} film is good?|recommend a {0} film", "genre year:since,from_year?", found("film", title)),
    K("find_book search_books library_search", "Find a book in the library|Searches the library", 'Does the library have "{0}"?|find the book "{0}"|Is the book "{0}" in the library?', "title:title,name,book author?", one("shelf", code, '"{0}" is on shelf {x}.')),
    K("reserve_court book_court", "Reserve a court|Courts for sport", "reserve a court for {0} on {1}|We want to play {0} on {1}. Book a court.", "hobby weekday time?"),
    K("match_result get_score score", "Result of a match|Score of a game between two cities", "How did {0} play against {1}?|What was the score of {0} against {1}?", "from:home,team,team1:The_first_team to:guest,team2,against:The_second_team", one("score", lambda r: f"{r.randrange(6)}:{r.randrange(6)}", "The score is {x}.")),
    K("get_news news latest_news", "News about a topic|Reads the news", "What is the news about {0}?|read me the news about {0}|show me news about {0}", "topic limit?", found("story", title)),
    K("start_quiz quiz", "Start a quiz|Questions about a topic", "start a quiz about {0} with {1} questions|ask me {1} quiz questions about {0}", "topic count:questions,count"),
    K("start_game play_game", "Start a game with a person|Plays a game", "start a game of {0} with {1}|I want to play a game of {0} against {1}.", "hobby:game,name person:player,opponent"),
    K("random_number roll_dice roll pick_number", "A random number|Throws dice", "give me a random number from {0} to {1}|pick a random number between {0} and {1}|Random number from {0} to {1}, please.", "channel:min,low,start,minimum:The_smallest_number euros:max,high,end,maximum:The_largest_number", one("number", integer(1, 99), "The number is {x}.")),
    K("draw_image make_image create_picture", "Draw an image|Makes a picture of something", "make an image of a {1} {0}|draw an image of a {1} {0}", "animal colour size=small,large?"),
    K("find_photos show_photos search_photos", "Find photos of a person|Shows photos", "show me photos of {0} from {1}|find the photos of {0} from {1}", "person year"),
    K("write_review add_review review", "Write a review of a restaurant|Reviews with stars", "write a review of {0} with {1} stars|I ate at {0}. Give it a review of {1} stars.", "restaurant stars message?"),
    # Words and computers.
    K("search web_search search_web find_online", "Search the web|Looks something up on the internet", "search the web for {0}|look up {0} online|find something about {0} on the web|search for {0}", "topic:query,q,search_term limit?", found("page", title)),
    K("translate translate_text translation", "Translate text into another language|Translates a text", 'translate "{0}" into {1}|What is "{0}" in {1}?|How do you say "{0}" in {1}?', "message:text,phrase,content language", one("translation", translation, '"{0}" in {1} is "{x}".')),
    K("define_word dictionary look_up_word", "Look up a word in the dictionary|Meaning of a word", 'look up the word "{0}" in the dictionary|What does the dictionary say about the word "{0}"?', "word language?", one("meaning", message, "{0}: {x}")),
    K("check_spelling spell_check", "Check the spelling of a text|Finds wrong letters", 'check the spelling of "{0}"|Is the spelling of "{0}" right?', "message", one("errors", integer(0, 9), "I found {x} errors.")),
    K("calculate calculator compute eval", "Calculate an expression|Does sums", "calculate {0} with the calculator|use the calculator: {0}|compute {0} with the calculator", "sum", one("result", integer(1000, 999999), "{0} = {x}")),
    K("read_file open_file get_file cat", "Read a file|Returns the text of a file", "read the file {0}|What is in the file {0}?|open {0}|show me the file {0}", "file", one("text", message, "{0} says: {x}")),
    K("write_file save_file create_file", "Write text to a file|Saves a text", 'write "{1}" to {0}|save "{1}" in the file {0}|put the text "{1}" into the file {0}', "file message", ok("I wrote it to {0}.")),
    K("delete_file remove_file rm", "Delete a file|Removes a file for good", "delete {0}|remove the file {0}|I do not need the file {0} any more. Delete it.", "file", ok("{0} is deleted.")),
    K("rename_file mv", "Rename a file|Gives a file another name", "rename the file {0} to {1}|rename {0} to {1}", "file:file,from,old_name file:to,new_name:The_new_name"),
    K("copy_file cp", "Copy a file into a folder|Copies files", "copy {0} to the folder {1}|make a copy of {0} in {1}", "file folder:folder,to,target"),
    K("list_files list_dir ls show_folder", "List the files in a folder|Shows what is in a folder", "Which files are in the folder {0}?|list the files in {0}|show me what is in the folder {0}", "folder", found("file", filename)),
    K("back_up backup", "Back up a folder|Makes a backup", "back up the folder {0}|make a backup of {0}", "folder weekday?"),
    K("make_password new_password", "Make a new password|Random passwords", "make a password with {0} letters|I need a new password of {0} letters.", "count:length,letters", one("password", code)),
    K("connect_wifi join_network", "Connect to a network|Joins a wifi", 'connect to the network "{0}"|join the wifi "{0}"', "title:network,name,wifi"),
    K("restart_server reboot", "Restart a server|Reboots a machine", "restart the server {0}|The server {0} hangs. Restart it.", "code:server,server_id"),
    K("create_branch new_branch", "Create a branch in the repository|Makes a git branch", "create a branch called {0}|make a new branch called {0}", "code:branch,name"),
    K("open_issue create_issue report_bug", "Open an issue|Reports a bug", 'open an issue: "{0}"|report the bug "{0}"', "message:title,text priority=low,medium,high?"),
    K("run_tests test", "Run the tests of a project|Tests the code", "run the tests in {0}|test the code in the folder {0}", "folder"),
    K("set_wallpaper change_wallpaper", "Change the wallpaper of the screen|Sets a colour as wallpaper", "make the wallpaper {0}|change my wallpaper to {0}", "colour"),
    K("move_robot robot_walk", "Move the robot|The robot walks in a direction", "move the robot {0} metres to the {1}|let the robot walk {0} metres to the {1}", "metres direction=left,right,front,back speed=slow,normal,fast?"),
    K("fly_drone drone", "Fly the drone|Sends the drone up", "fly the drone to {0} metres|send the drone up to {0} metres", "metres"),
    K("add_employee hire_person", "Add an employee|Hires a person for a job", "hire {0} as {1}|{0} starts to work as {1}. Add the employee.", "full_name:employee,name job date:start,start_date?"),
    K("ask_holiday request_leave", "Ask for days of holiday|Requests leave", "I want {0} days of holiday from {1}.|ask for {0} days of leave from {1}", "days date:from,start"),
    K("vote cast_vote", "Vote for a person|Casts a vote", "vote for {0}|give my vote to {0}", "full_name:candidate,name,person"),
    K("send_complaint complain", "Complain about an order|Sends a complaint", 'complain about order {0}: "{1}"|I want to send a complaint about order {0}: "{1}"', "code:order,order_id message:text,complaint"),
]
# Kinds that training never sees. Their results are those of made-up tools.
HELD_KINDS = [
    K("renew_card extend_card", "Renew the library card of a member|Extend a card of the library", "renew the card {0} for {1} months|extend my library card {0} by {1} months", "code:card_number,card,member_id:Number_of_the_card weeks:months,period:How_many_months", one("card_code", code)),
    K("water_plant plant_water", "Water a plant|Gives water to a plant", "water the plant {0} with {1} millilitres|give {1} millilitres of water to the plant {0}", "word:plant,target,plant_name:Which_plant grams:millilitres,amount,ml:How_many_millilitres"),
    K("find_parking parking_spot", "Find parking in a city|Shows where to park a car", "Where can I park my car in {0} for {1} hours?|find parking in {0} for {1} hours", "city hours", one("spot", code)),
    K("book_vet vet_appointment", "Make an appointment with the vet|Book the vet for a pet", "My pet {0} is sick. Book the vet for {1}.|make an appointment with the vet for {0} on {1}", "pet weekday", one("time", clock)),
    K("print_document print_file", "Print copies of a document|Prints a file on paper", "print the file {0}, {1} copies|print {1} copies of {0}", "file:file,document count:copies,number:How_many_copies", one("price", decimal)),
    K("buy_ticket get_tickets", "Buy tickets for a show|Gets tickets for a museum", 'buy {1} tickets for "{0}"|I want {1} tickets for the show "{0}".', "title:show,exhibition,title:What_to_see count:tickets,number,quantity:How_many_tickets", one("code", code)),
    K("order_pizza pizza_delivery", "Order a pizza|Brings a pizza to an address", "order a pizza with {0} to {1}|I want a pizza with {0}. Bring it to {1}.", "food:topping,with:What_is_on_it address size=small,medium,large?"),
    K("next_ferry ferry_times", "When the next ferry leaves|Times of the ferry between two places", "When does the next ferry leave from {0} to {1}?|Is there a ferry from {0} to {1}?", "from to after?", one("departure", clock)),
    K("join_gym_class book_gym", "Book a class at the gym|Classes of the gym", "book the {0} class at the gym on {1}|I want to do {0} at the gym on {1}.", "hobby:class,class_name:Which_class weekday"),
    K("start_laundry wash_clothes", "Wash clothes|Starts the laundry", "wash my clothes at {0} degrees|start the laundry at {0} degrees", "heat minutes?"),
]

# A request's build: its small words, with w for words of its tool's own and # for values. What is held out, is held out as a build too: no
# training request has that of a request for a held kind, whatever its nouns and verbs.
SMALL = set("""a the my your our this these i me we us you it its is are was am be do does did can could will would must to from in into on at by for with of
after until and or not no any where when who what which how there""".split())


def build(template: str) -> str:
    out: list[str] = []
    for t in re.findall(r"\{[^}]*\}|[a-z]+|[.,:\"]", template.lower().rstrip(".?")):
        t = "#" if t[0] == "{" else "a" if t == "an" else t if t in SMALL or not t.isalpha() else "w"
        if out[-1:] != ["w"] or t != "w":
            out.append(t)
    return " ".join(out)


HELD_BUILDS = {build(ask) for kind in HELD_KINDS for ask in kind.asks}
