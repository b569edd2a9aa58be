"""The text that the demo base reads: short documents in many registers, all made here.

The base is to know the words, the syntax of SQL, JSON and calls, and how to copy; and, as any base
does, it has met questions beside queries and sentences beside records. It never meets the adapters'
prompt (`Input: ... Output:`), nor an input held out for evaluation beside its answer.
"""

import json
import random

import tasks
from words import *

SYLLABLES = [a + b for a in "b d f g k l m n p r s t v z".split() for b in "a e i o u".split()]


def note(rng):
    """A sentence and its record."""
    kind = rng.randrange(3)
    if kind == 0:
        return tasks.order_record(rng)
    if kind == 1:
        people = rng.sample(FIRST_NAMES, 2)
        day, time, room, topic = rng.choice(DAYS), tasks.clock(rng), rng.randint(1, 30), rng.choice(TOPICS)
        record = {"people": people, "day": day, "time": time, "room": room, "topic": topic}
        text = rng.choice([
            f"{people[0]} and {people[1]} meet on {day} at {time} in room {room} to discuss the {topic}.",
            f"On {day} at {time}, {people[0]} and {people[1]} talk about the {topic} in room {room}."])
    else:
        name, (start, end) = tasks.full_name(rng), rng.sample(CITIES, 2)
        by, day = rng.choice(VEHICLES), rng.choice(DAYS)
        record = {"traveller": name, "from": start, "to": end, "by": by, "day": day}
        text = rng.choice([f"{name} travels from {start} to {end} by {by} on {day}.",
                           f"On {day}, {name} takes the {by} from {start} to {end}."])
    return text, json.dumps(record)


# The base reads statements only, and notes of more kinds than the adapter is asked for.
MAKERS = tasks.TASKS | {"json": note, "past": tasks.statement}


def draw(task, rng):
    return tasks.draw(task, rng, makers=MAKERS)


def pairs(rng, task, low=2, high=5):
    return [draw(task, rng) for _ in range(rng.randint(low, high))]


def made_up_word(rng):
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3)))


def any_words(rng, low, high):
    """Words of one kind, or invented ones, or numbers: what copying is practised on."""
    pools = [list(ITEMS), CITIES, FIRST_NAMES, COLORS + ANIMALS, PLACES + TOPICS, list(VERBS.values())]
    kind = rng.randrange(len(pools) + 3)
    count = rng.randint(low, high)
    if kind < len(pools):
        return rng.choices(pools[kind], k=count)
    if kind == len(pools):
        return [str(rng.randint(0, 99)) for _ in range(count)]
    return [made_up_word(rng) for _ in range(count)]


# --- plain language ----------------------------------------------------------------------------

def story(rng):
    """Two people or animals through a few sentences."""
    who = rng.choice(FIRST_NAMES)
    other = rng.choice([rng.choice(FIRST_NAMES), f"the {rng.choice(ANIMALS)}"])
    lines = [rng.choice([f"One day, {who} went to the {rng.choice(PLACES)} in {rng.choice(CITIES)}.",
                         f"Last {rng.choice(DAYS)}, {who} met {other} near the {rng.choice(PLACES)}.",
                         f"{who} lived in {rng.choice(CITIES)} and had a {rng.choice(COLORS)} "
                         f"{rng.choice(list(ITEMS))}."])]
    for _ in range(rng.randint(2, 6)):
        past = tasks.phrase(rng)[1]
        subject = rng.choice([who, "Then " + other, other[0].upper() + other[1:], f"In {rng.choice(MONTHS)}, {who}"])
        lines.append(f"{subject} {past}.")
    lines.append(rng.choice([f"In the end, {who} was happy.", f'"Thank you," said {who}.',
                             f"{who} never came back to {rng.choice(CITIES)}.", "It was a good day."]))
    return " ".join(lines)


def habits(rng):
    """The same in the present tense."""
    who = rng.choice(FIRST_NAMES)
    lines = [f"Every {rng.choice(DAYS)} {who} {tasks.phrase(rng)[0]}."]
    for _ in range(rng.randint(1, 4)):
        lines.append(f"Then {rng.choice([who, 'the ' + rng.choice(ANIMALS)])} {tasks.phrase(rng)[0]}.")
    return " ".join(lines)


def facts(rng):
    lines = []
    for _ in range(rng.randint(2, 5)):
        values = tasks.slots(rng)
        name = tasks.full_name(rng)
        lines.append(rng.choice([
            f"{name} is {values['n']} years old and lives in {values['city']}.",
            f"{name} works in the {values['team']} team and earns {values['k']} euros.",
            f"The {values['item']} of {name} is {values['color']} and costs {values['n']} euros.",
            f"The {values['topic']} of {values['month']} was discussed on {values['day']}.",
            tasks.neutral(rng).capitalize() + ".",
        ]))
    return " ".join(lines)


def dialogue(rng):
    a, b = rng.sample(FIRST_NAMES, 2)
    lines = []
    for _ in range(rng.randint(1, 3)):
        blunt, polite = draw("polite", rng)
        answer = rng.choice(["Of course.", "Yes, at once.", "I am sorry, not today.", "With pleasure."])
        lines += [f"{a}: {rng.choice([blunt, polite])}", f"{b}: {answer}"]
    return "\n".join(lines)


# --- one thing beside another ------------------------------------------------------------------

def query_log(rng):
    return "\n".join(f"-- {q}\n{sql}" for q, sql in pairs(rng, "sql"))


def query_talk(rng):
    return "\n\n".join(f"{q} Run this: {sql}" for q, sql in pairs(rng, "sql", 1, 3))


def queries(rng):
    return "\n".join(sql for _, sql in pairs(rng, "sql"))


def records(rng):
    return "\n".join(f"# {text}\n{record}" for text, record in pairs(rng, "json", 1, 3))


def records_reversed(rng):
    return "\n".join(f"{record} // {text}" for text, record in pairs(rng, "json", 1, 3))


def json_array(rng):
    rows = [json.loads(record) for _, record in pairs(rng, "json", 1, 3)]
    return json.dumps(rows, indent=rng.choice([None, 1]))


def reviews(rng):
    """Reviews with stars, or with their verdict."""
    stars = {"positive": "5 stars", "negative": "1 star", "mixed": "3 stars", "neutral": "no stars"}
    drawn = pairs(rng, "sentiment", 3, 6)
    if rng.random() < 0.6:
        return "\n".join(f"{text} ({stars[label]})" for text, label in drawn)
    return "\n".join(f"{text} Verdict: {label}" for text, label in drawn)


def manners(rng):
    return "\n".join(f'Do not say "{blunt}" but say "{polite}"' for blunt, polite in pairs(rng, "polite"))


def calendar(rng):
    sign = rng.choice([" | ", " => ", " = "])
    return "\n".join(f"{text}{sign}{date}" for text, date in pairs(rng, "date"))


def diary(rng):
    return "\n".join(f"Today: {now} Yesterday: {then}" for now, then in pairs(rng, "past"))


def house_log(rng):
    return "\n".join(f"> {order}\n{call}" for order, call in pairs(rng, "command"))


def calls(rng):
    return "\n".join(call for _, call in pairs(rng, "command"))


# --- copying and patterns ----------------------------------------------------------------------

def backwards(rng):
    lines = []
    for _ in range(rng.randint(2, 5)):
        words = any_words(rng, 3, 6)
        text = ", ".join(words)
        if not tasks.held_out(text):
            lines.append(f"forth {text} and back {', '.join(reversed(words))}")
    return "\n".join(lines) or story(rng)


def repetition(rng):
    """A phrase said again and again: what induction is learned from."""
    sign = rng.choice([" ", ", ", " - ", "\n"])
    words = sign.join(any_words(rng, 3, 12))
    return rng.choice([". ", "\n", " | "]).join([words] * rng.randint(2, 4))


def echo(rng):
    task = rng.choice(list(tasks.TASKS))
    text, _ = draw(task, rng)
    return f'{rng.choice(FIRST_NAMES)} said: "{text}" And again: "{text}"'


def lookup(rng):
    """Pairs, and then questions about them."""
    keys = list(dict.fromkeys(any_words(rng, 4, 7)))
    table = {key: rng.choice(any_words(rng, 1, 3)) for key in keys}
    asked = rng.choices(keys, k=3)
    return (", ".join(f"{k} is {v}" for k, v in table.items()) + ". "
            + " ".join(f"So {k} is {table[k]}." for k in asked))


def counting(rng):
    start, step, count = rng.randint(0, 60), rng.randint(1, 5), rng.randint(5, 12)
    return ", ".join(str(start + step * i) for i in range(count))


def plurals(rng):
    return "\n".join(f"one {one}, {rng.choice(NUMBERS)} {many}" for one, many in rng.sample(list(ITEMS.items()), 5))


def quotes(rng):
    """Words from a sentence, and the same in quotes, where they are other tokens."""
    pool = DAYS + COLORS + ROOMS + SONGS + TOPICS + VEHICLES + ["on", "off"] + list(ITEMS) + CITIES
    words = rng.sample(pool, rng.randint(3, 8))
    marked = rng.choice(['"{}"', "'{}'", '="{}"', '["{}"]'])
    quoted = [marked.format(word) for word in words]
    if rng.random() < 0.5:
        return ", ".join(f"{word} {mark}" for word, mark in zip(words, quoted))
    return f"the {' and '.join(words)} are {', '.join(quoted)}"


REGISTERS = {
    story: 10, habits: 4, facts: 8, dialogue: 5,
    query_log: 7, query_talk: 4, queries: 3, records: 7, records_reversed: 3, json_array: 4, reviews: 9,
    manners: 7, calendar: 7, diary: 7, house_log: 7, calls: 2,
    backwards: 7, repetition: 8, echo: 6, lookup: 4, counting: 1, plurals: 1,
}


# What the last part of the training has more of: it is what the base is slowest to learn.
LATE_REGISTERS = REGISTERS | {quotes: 14, records: 30, house_log: 24, query_log: 10}


def documents(seed, registers=REGISTERS):
    """Endless, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield rng.choices(list(registers), list(registers.values()))[0](rng)
