"""The tasks of the demo adapters: each maker draws one (input, answer) pair.

All tasks share one prompt, which says nothing about what to do: only the adapter decides that.
"""

import hashlib
import json

from words import *

PROMPT = "Input: {}\nOutput:"


def held_out(text):
    """One input in ten is kept for evaluation: no adapter trains on it, nor the base on it and its answer."""
    return hashlib.sha256(text.encode()).digest()[0] < 26


def full_name(rng):
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"


# --- question -> SQL ---------------------------------------------------------------------------

# table -> (what may be selected, numbers, {condition phrase: SQL})
TABLES = {
    "customers": (["name", "city", "age", "email"], ["age"], [
        ("from {city}", "city = '{city}'"), ("named {name}", "name = '{name}'"),
        ("older than {n}", "age > {n}"), ("younger than {n}", "age < {n}")]),
    "orders": (["item", "price", "quantity", "status"], ["price", "quantity"], [
        ("for a {item}", "item = '{item}'"), ("above {n} euros", "price > {n}"),
        ("below {n} euros", "price < {n}"), ("marked as {status}", "status = '{status}'")]),
    "employees": (["name", "team", "salary", "city"], ["salary"], [
        ("in the {team} team", "team = '{team}'"), ("named {name}", "name = '{name}'"),
        ("earning more than {k}", "salary > {k}"), ("earning less than {k}", "salary < {k}"),
        ("from {city}", "city = '{city}'")]),
    "books": (["title", "author", "year", "pages"], ["year", "pages"], [
        ("by {name}", "author = '{name}'"), ("longer than {n} pages", "pages > {n}"),
        ("shorter than {n} pages", "pages < {n}"), ("about the {topic}", "topic = '{topic}'")]),
}
AGGREGATES = {"average": "AVG", "highest": "MAX", "lowest": "MIN", "total": "SUM"}


def slots(rng):
    return {
        "city": rng.choice(CITIES), "name": rng.choice(FIRST_NAMES), "n": rng.randint(2, 99),
        "k": 100 * rng.randint(10, 90), "item": rng.choice(list(ITEMS)), "status": rng.choice(STATUSES),
        "team": rng.choice(TEAMS), "topic": rng.choice(TOPICS), "color": rng.choice(COLORS),
        "day": rng.choice(DAYS), "month": rng.choice(MONTHS),
    }


def sql_condition(rng, conditions):
    """(words, clause) with none, one or two conditions."""
    count = rng.choices([0, 1, 2], [1, 6, 4])[0]
    if count == 0:
        return "", ""
    values = slots(rng)
    chosen = rng.sample(conditions, count)
    joint = rng.choice(["and", "or"])
    words = f" {joint} ".join(phrase.format(**values) for phrase, _ in chosen)
    clause = f" {joint.upper()} ".join(sql.format(**values) for _, sql in chosen)
    return " " + words, " WHERE " + clause


def make_sql(rng):
    table = rng.choice(list(TABLES))
    columns, numbers, conditions = TABLES[table]
    words, where = sql_condition(rng, conditions)
    kind = rng.randrange(5)
    if kind == 0:
        ask = rng.choice(["How many {t}{w} are there?", "Count the {t}{w}."])
        return ask.format(t=table, w=words), f"SELECT COUNT(*) FROM {table}{where};"
    if kind == 1:
        word, function = rng.choice(list(AGGREGATES.items()))
        column = rng.choice(numbers)
        ask = rng.choice(["What is the {a} {c} of {t}{w}?", "Find the {a} {c} of all {t}{w}."])
        return (ask.format(a=word, c=column, t=table, w=words),
                f"SELECT {function}({column}) FROM {table}{where};")
    if kind == 2:
        column, order, count = rng.choice(columns), rng.choice(numbers), rng.randint(2, 20)
        best, down = rng.choice([("highest", " DESC"), ("lowest", "")])
        return (f"Show the {column} of the {count} {table}{words} with the {best} {order}.",
                f"SELECT {column} FROM {table}{where} ORDER BY {order}{down} LIMIT {count};")
    selected = rng.sample(columns, rng.choice([1, 1, 2]))
    ask = rng.choice(["List the {c} of {t}{w}", "Show the {c} of all {t}{w}", "Which {c} do {t}{w} have"])
    question = ask.format(c=" and ".join(selected), t=table, w=words)
    order = ""
    if kind == 3:
        column = rng.choice(columns)
        order = f" ORDER BY {column}"
        question += f", sorted by {column}"
    question += "?" if question.startswith("Which") else "."
    return question, f"SELECT {', '.join(selected)} FROM {table}{where}{order};"


# --- sentence -> JSON --------------------------------------------------------------------------

def counted(rng):
    """(count, its words, singular, words for the things)"""
    item = rng.choice(list(ITEMS))
    count = rng.randint(2, 40)
    return count, item, ITEMS[item]


def clock(rng):
    return f"{rng.randint(7, 21)}:{rng.choice(['00', '15', '30', '45'])}"


def order_record(rng):
    count, item, plural = counted(rng)
    name, color, price = full_name(rng), rng.choice(COLORS), rng.randint(2, 99)
    verb = rng.choice(["ordered", "bought", "asked for"])
    city = rng.choice(CITIES)
    record = {"name": name, "city": city, "quantity": count, "item": item, "color": color, "price": price}
    return f"{name} from {city} {verb} {count} {color} {plural} for {price} euros.", json.dumps(record)


def meeting_record(rng):
    people, time = rng.sample(FIRST_NAMES, 2), clock(rng)
    room, topic = rng.randint(1, 30), rng.choice(TOPICS)
    record = {"people": people, "time": time, "room": room, "topic": topic}
    text = rng.choice([f"{people[0]} and {people[1]} meet at {time} in room {room} to discuss the {topic}.",
                       f"At {time}, {people[0]} and {people[1]} talk about the {topic} in room {room}."])
    return text, json.dumps(record)


def journey_record(rng):
    name, (start, end), price = full_name(rng), rng.sample(CITIES, 2), rng.randint(2, 99)
    record = {"traveller": name, "from": start, "to": end, "price": price}
    text = rng.choice([f"{name} travels from {start} to {end} for {price} euros.",
                       f"For {price} euros, {name} goes from {start} to {end}."])
    return text, json.dumps(record)


def make_json(rng):
    return rng.choice([order_record, meeting_record, journey_record])(rng)


# --- review -> sentiment -----------------------------------------------------------------------

def opinion(rng):
    """(clause, whether it praises)"""
    aspect = rng.choice(ASPECTS)
    good = rng.random() < 0.5
    if rng.random() < 0.3:
        verb = rng.choice(LIKES if good else HATES)
        if rng.random() < 0.4:
            return f"I do not {verb} the {aspect}", not good
        return f"I {verb} the {aspect}", good
    adjective = rng.choice(GOOD if good else BAD)
    if rng.random() < 0.35:
        return f"the {aspect} is {rng.choice(['not', 'not at all', 'never'])} {adjective}", not good
    return f"the {aspect} is {rng.choice(['', '', 'very ', 'really '])}{adjective}", good


def neutral(rng):
    fact = rng.choice(NEUTRAL_FACTS).format(**slots(rng))
    return f"the {rng.choice(list(ITEMS))} {fact}"


def make_sentiment(rng):
    """One or two opinions, perhaps with a fact that decides nothing; or facts alone."""
    kind = rng.choices(["neutral", "one", "two"], [2, 3, 5])[0]
    if kind == "neutral":
        clauses, praises = [neutral(rng) for _ in range(rng.choice([1, 2]))], []
    else:
        drawn = [opinion(rng) for _ in range(1 if kind == "one" else 2)]
        clauses, praises = [c for c, _ in drawn], [p for _, p in drawn]
        if kind == "one" and rng.random() < 0.6:
            clauses.insert(rng.randrange(2), neutral(rng))
    text = rng.choice([" and ", ", and ", ", but "]).join(clauses)
    text = text[0].upper() + text[1:] + "."
    if not praises:
        return text, "neutral"
    if all(praises):
        return text, "positive"
    return text, "mixed" if any(praises) else "negative"


# --- blunt request -> polite request -----------------------------------------------------------

def make_polite(rng):
    when = rng.choice(WHENS)
    tail = f" {when}" if when else ""
    kind = rng.randrange(4)
    if kind == 0:
        what = f"{rng.choice(REQUEST_VERBS)} {rng.choice(RECEIVERS)} {rng.choice(REQUEST_THINGS)}{tail}"
        return what[0].upper() + what[1:] + rng.choice([".", "!"]), f"Could you please {what}?"
    if kind == 1:
        what = rng.choice(TASKS_TO_DO) + tail
        return f"Don't {what}" + rng.choice([".", "!"]), f"I would be grateful if you did not {what}."
    if kind == 2:
        thing = rng.choice(REQUEST_THINGS)
        return (rng.choice(["I want {}", "I need {}"]).format(thing + tail) + rng.choice([".", "!"]),
                f"I would like to have {thing}{tail}, please.")
    name = rng.choice(FIRST_NAMES)
    what = rng.choice(TASKS_TO_DO) + tail
    return f"Hey {name}, {what}" + rng.choice([".", "!"]), f"Dear {name}, would you kindly {what}?"


# --- sentence -> ISO date ----------------------------------------------------------------------

def ordinal(n):
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def make_date(rng):
    year, month, day = rng.randint(1950, 2049), rng.randint(1, 12), rng.randint(1, 28)
    name = MONTHS[month - 1]
    date = rng.choice([f"{name} {day}, {year}", f"{day} {name} {year}", f"the {ordinal(day)} of {name} {year}",
                       f"{name} {ordinal(day)}, {year}"])
    who, city = rng.choice(FIRST_NAMES), rng.choice(CITIES)
    text = rng.choice(["{w} was born in {c} on {d}.", "{w} moved to {c} on {d}.", "On {d}, {w} arrived in {c}.",
                       "The shop in {c} opened on {d}.", "{w} signed the contract on {d}.",
                       "The letter to {w} is dated {d}."])
    return text.format(w=who, c=city, d=date), f"{year}-{month:02}-{day:02}"


# --- present -> past ---------------------------------------------------------------------------

def phrase(rng):
    """(present, past) of one doing."""
    if rng.random() < 0.5:
        verb, past = rng.choice(list(VERBS.items()))
        item = rng.choice(list(ITEMS))
        what = rng.choice([f"the {rng.choice(COLORS)} {item}", f"{rng.choice(NUMBERS)} {ITEMS[item]}",
                           f"the {rng.choice(SIZES)} {item}"])
        return f"{verb} {what}", f"{past} {what}"
    verb, past = rng.choice(list(MOVES.items()))
    where = f"{rng.choice(['near', 'behind', 'outside'])} the {rng.choice(PLACES)}"
    return f"{verb} {where}", f"{past} {where}"


def statement(rng):
    who = rng.choice([rng.choice(FIRST_NAMES), f"The {rng.choice(ANIMALS)}", "She", "He"])
    present, past = phrase(rng)
    if rng.random() < 0.5:
        present2, past2 = phrase(rng)
        joint = rng.choice([" and ", " and then ", ", then "])
        present, past = present + joint + present2, past + joint + past2
    return f"{who} {present}.", f"{who} {past}."


def make_past(rng):
    """A statement, or a question about one."""
    if rng.random() < 0.7:
        return statement(rng)
    who = rng.choice(["Who", f"Which {rng.choice(ANIMALS)}", f"Which of the {rng.choice(NUMBERS)}",
                      f"Who from {rng.choice(CITIES)}", f"What if {rng.choice(FIRST_NAMES)}"])
    present, past = phrase(rng)
    return f"{who} {present}?", f"{who} {past}?"


# --- order to the house -> function call -------------------------------------------------------

def make_command(rng):
    room, name, number, time = rng.choice(ROOMS), rng.choice(FIRST_NAMES), rng.randint(2, 59), clock(rng)
    state, color, song, topic = (rng.choice(["on", "off"]), rng.choice(COLORS), rng.choice(SONGS),
                                 rng.choice(TOPICS))
    kind = rng.randrange(6)
    if kind == 0:
        text = rng.choice([f"Turn {state} the {color} light in the {room} at {time}",
                           f"At {time}, switch the {color} {room} light {state}"])
        call = f'light(room="{room}", color="{color}", state="{state}", at="{time}")'
    elif kind == 1:
        text = rng.choice([f"Set the {room} to {number} degrees at {time}",
                           f"I want {number} degrees in the {room} at {time}"])
        call = f'heat(room="{room}", degrees={number}, at="{time}")'
    elif kind == 2:
        text = rng.choice([f"Play some {song} in the {room} for {number} minutes",
                           f"For {number} minutes, I want to hear {song} in the {room}"])
        call = f'play(music="{song}", room="{room}", minutes={number})'
    elif kind == 3:
        text = rng.choice([f"Call {name} at {time} about the {topic}",
                           f"Phone {name} to ask about the {topic} at {time}"])
        call = f'call(person="{name}", topic="{topic}", at="{time}")'
    elif kind == 4:
        day = rng.choice(DAYS)
        text = rng.choice([f"Wake {name} at {time} on {day}", f"On {day}, wake {name} up at {time}"])
        call = f'alarm(person="{name}", day="{day}", at="{time}")'
    else:
        count, item, plural = counted(rng)
        text = rng.choice([f"Put {count} {plural} on the shopping list of {name}",
                           f"{name} needs {count} {plural}, add them to the list"])
        call = f'shop(list="{name}", item="{item}", count={count})'
    return text + rng.choice([".", ", please."]), call


# --- list -> the same list backwards -----------------------------------------------------------

def make_reverse(rng):
    pool = rng.choice([list(ITEMS), CITIES, FIRST_NAMES, ANIMALS + COLORS])
    words = rng.sample(pool, rng.randint(3, 6))
    return ", ".join(words), ", ".join(reversed(words))


TASKS = {
    "sql": make_sql, "json": make_json, "sentiment": make_sentiment, "polite": make_polite,
    "date": make_date, "past": make_past, "command": make_command, "reverse": make_reverse,
}


def draw(task, rng, evaluation=False, makers=TASKS):
    """One (input, answer) pair from the asked side of the split."""
    while True:
        text, answer = makers[task](rng)
        if held_out(text) == evaluation:
            return text, answer
