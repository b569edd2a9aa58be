"""The words from which all the demo's text is made."""

FIRST_NAMES = """Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Noah Olivia Paul Rosa Sam
Tom Una Victor Wendy Yusuf Zoe Alice Bruno Carmen Dario Elena Frank Greta Hugo Irene James Karim Laura Martin
Nina Oscar Petra Ravi Sofia Tara Umar Vera Will Lisa Mark Julia Omar""".split()

LAST_NAMES = """Adams Baker Costa Diaz Evans Fischer Garcia Hall Ito Jensen Klein Lopez Miller Novak Olsen Park
Quinn Rossi Smith Tanaka Usman Vogel Weber Young Ziegler Brown Carter Moreau Khan Lind Murphy Patel""".split()

CITIES = """Berlin Paris Rome Madrid Vienna Lisbon Oslo Dublin Prague Warsaw Athens Boston Chicago Denver Tokyo
Osaka Delhi Cairo Lagos Lima Quito Toronto Sydney Zurich Munich Hamburg Milan Porto Lyon Bergen""".split()

# singular -> plural, for what can be bought
ITEMS = {
    "lamp": "lamps", "chair": "chairs", "book": "books", "cup": "cups", "table": "tables", "bag": "bags",
    "shirt": "shirts", "phone": "phones", "clock": "clocks", "pen": "pens", "bottle": "bottles",
    "jacket": "jackets", "camera": "cameras", "radio": "radios", "knife": "knives", "shelf": "shelves",
    "box": "boxes", "watch": "watches", "brush": "brushes", "glass": "glasses", "mirror": "mirrors",
    "blanket": "blankets", "candle": "candles", "basket": "baskets", "guitar": "guitars", "drum": "drums",
    "helmet": "helmets", "ladder": "ladders", "tent": "tents", "kettle": "kettles", "hat": "hats",
    "scarf": "scarves", "key": "keys", "carpet": "carpets", "bike": "bikes", "plate": "plates",
}

COLORS = "red blue green black white yellow brown grey beige purple pink silver".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = """January February March April May June July August September October November December""".split()
NUMBERS = "two three four five six seven eight nine ten".split()
TOPICS = """budget plan contract design report holiday garden website survey menu project school harvest
concert market trial party""".split()
TEAMS = "sales support design research finance legal marketing security".split()
VEHICLES = "train bus car plane".split()
STATUSES = "open paid sent lost closed late".split()
PLACES = """market station library school park office garden harbour museum kitchen bridge hotel
bakery farm beach castle""".split()
ANIMALS = "cat dog horse bird fox goat rabbit duck mouse bear".split()
SIZES = "small big old new heavy light pretty strange".split()

# present (third person) -> past, with things that it is done to
VERBS = {
    "buys": "bought", "sells": "sold", "finds": "found", "loses": "lost", "brings": "brought",
    "takes": "took", "gives away": "gave away", "paints": "painted", "cleans": "cleaned", "carries": "carried",
    "breaks": "broke", "repairs": "repaired", "draws": "drew", "steals": "stole", "hides": "hid",
    "makes": "made", "sees": "saw", "keeps": "kept", "wants": "wanted", "needs": "needed",
    "opens": "opened", "closes": "closed", "throws away": "threw away", "wins": "won", "chooses": "chose",
    "holds": "held", "forgets": "forgot", "builds": "built", "sends": "sent", "moves": "moved",
}
# present -> past, that need no object
MOVES = {
    "goes": "went", "runs": "ran", "walks": "walked", "drives": "drove", "flies": "flew", "swims": "swam",
    "sleeps": "slept", "sings": "sang", "waits": "waited", "sits": "sat", "stands": "stood", "works": "worked",
    "eats": "ate", "reads": "read", "laughs": "laughed", "speaks": "spoke", "dances": "danced",
    "rests": "rested", "writes": "wrote", "arrives": "arrived",
}

GOOD = """great excellent wonderful lovely perfect amazing brilliant superb fantastic beautiful pleasant
impressive delightful charming reliable""".split()
BAD = """terrible awful horrible poor dreadful ugly disappointing useless boring weak noisy cheap
unpleasant broken annoying""".split()
ASPECTS = """screen sound battery price service food design quality story music staff room view handle
colour engine sauce fabric camera delivery""".split()
# verb phrases of opinion, with the same meaning under `not` turned round
LIKES = ["like", "love", "enjoy", "recommend", "trust"]
HATES = ["hate", "regret", "dislike"]
NEUTRAL_FACTS = ["comes in a {color} box", "was made in {city}", "arrived on {day}", "is {color}",
                 "was sold in {city}", "is {n} years old", "weighs {n} grams", "was ordered in {month}",
                 "costs {n} euros", "was packed by {name}"]

REQUEST_VERBS = """send bring show give lend""".split()
REQUEST_THINGS = """the report|the keys|the bill|a pen|the map|the photos|a ticket|the list|the letter|a cup of tea
the menu|my jacket|a receipt|the address|the results|a copy|the contract|an answer|the code|the newspaper
the password|a blanket|the charger|some water|the invoice|a chair""".replace("\n", "|").split("|")
RECEIVERS = ["me", "us", "him", "her", "them"]
TASKS_TO_DO = """open the window|close the door|turn down the music|clean the kitchen|water the plants|feed the cat
move the car|call the doctor|book a table|print the form|check the numbers|wash the dishes|lock the gate
carry the boxes|repair the lamp|read the letter|sign the form|answer the phone|cancel the trip|update the page
pack the bags|empty the bin|save the file|wake the guests|sweep the floor""".replace("\n", "|").split("|")
WHENS = """|now|today|tomorrow|tonight|by Friday|by Monday|before lunch|after dinner|this evening|next week
at noon|before the meeting|in ten minutes|by the end of the day""".replace("\n", "|").split("|")

ROOMS = "kitchen bathroom bedroom hall garage office garden cellar attic nursery".split()
SONGS = "jazz rock piano opera blues folk techno soul".split()
