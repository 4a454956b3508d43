"""No picture needed: tools, tool results, small talk, and copying what the user wrote."""
import json

from . import phrases, text
from .sample import Sample

# --- tools -----------------------------------------------------------------------------------------------------

STR, INT = "string", "integer"


def quoted(src, n=3):
    return " ".join(text.word(src, 8) for _ in range(src.randint(1, n)))


# name -> (description, {argument: (type, description)}, value makers, requests)
TOOLS = {
    "get_weather": ("Get the weather in a city.", {"city": (STR, "Name of the city")}, {"city": lambda s: text.pick(s, text.CITY)},
                    ["What is the weather in {city}?", "How is the weather in {city} today?", "Is it raining in {city}?", "Tell me the weather in {city}.", "~Will it rain in {city} today?", "~How is the weather in {city}?"]),
    "get_time": ("Get the current time in a city.", {"city": (STR, "Name of the city")}, {"city": lambda s: text.pick(s, text.CITY)},
                 ["What time is it in {city}?", "Tell me the time in {city}.", "How late is it in {city}?", "What is the current time in {city}?", "~What is the time in {city} now?"]),
    "set_timer": ("Set a timer.", {"minutes": (INT, "Length in minutes")}, {"minutes": lambda s: s.randint(1, 90)},
                  ["Set a timer for {minutes} minutes.", "Wake me in {minutes} minutes.", "Start a timer of {minutes} minutes.", "Please set a {minutes} minute timer.", "~Please start a timer for {minutes} minutes."]),
    "set_alarm": ("Set an alarm.", {"time": (STR, "Time of day, HH:MM")}, {"time": lambda s: f"{s.randint(0, 23):02d}:{s.choice([0, 15, 30, 45, s.randint(0, 59)]):02d}"},
                  ["Set an alarm for {time}.", "Wake me up at {time}.", "I must get up at {time}.", "Please set the alarm to {time}.", "~Please wake me at {time}."]),
    "play_music": ("Play a song.", {"title": (STR, "Title of the song")}, {"title": quoted},
                   ["Play the song {title}.", "I want to hear {title}.", "Please play {title}.", "Put on {title}.", "~Can you play {title}?"]),
    "send_message": ("Send a message to a person.", {"to": (STR, "Who gets it"), "text": (STR, "What to say")}, {"to": lambda s: text.pick(s, text.FIRST), "text": lambda s: quoted(s, 4)},
                     ["Send {to} a message: {text}", "Tell {to}: {text}", "Write to {to}: {text}", "Message {to} that {text}", "~Please send {to} the message: {text}"]),
    "call_person": ("Call a person on the phone.", {"name": (STR, "Who to call")}, {"name": lambda s: text.pick(s, text.FIRST)},
                    ["Call {name}.", "Please call {name}.", "I want to talk to {name} on the phone.", "Phone {name}.", "~Can you call {name}?"]),
    "search_web": ("Search the web.", {"query": (STR, "What to search for")}, {"query": quoted},
                   ["Search the web for {query}.", "Look up {query}.", "Find pages on {query}.", "Search for {query}.", "~Please look up {query}."]),
    "translate": ("Translate a text.", {"text": (STR, "The text"), "language": (STR, "Target language")}, {"text": quoted, "language": lambda s: s.choice("French German Spanish Italian Polish Dutch Czech Greek".split())},
                  ["Translate {text} into {language}.", "How do you say {text} in {language}?", "What is {text} in {language}?", "~Please translate {text} into {language}."]),
    "add": ("Add two numbers.", {"a": (INT, "First number"), "b": (INT, "Second number")}, {"a": lambda s: s.randint(0, 999), "b": lambda s: s.randint(0, 999)},
            ["Add {a} and {b}.", "What is {a} plus {b}?", "How much is {a} + {b}?", "~Please add {a} and {b}."]),
    "multiply": ("Multiply two numbers.", {"a": (INT, "First number"), "b": (INT, "Second number")}, {"a": lambda s: s.randint(0, 999), "b": lambda s: s.randint(0, 99)},
                 ["Multiply {a} by {b}.", "What is {a} times {b}?", "How much is {a} * {b}?", "~Please multiply {a} by {b}."]),
    "convert_money": ("Convert an amount of money.", {"amount": (INT, "How much"), "from": (STR, "Currency"), "to": (STR, "Currency")},
                      {"amount": lambda s: s.randint(1, 5000), "from": lambda s: s.choice(["USD", "EUR", "GBP"]), "to": lambda s: s.choice(["JPY", "CHF", "SEK"])},
                      ["Convert {amount} {from} to {to}.", "How much is {amount} {from} in {to}?", "What are {amount} {from} in {to}?", "~Please convert {amount} {from} to {to}."]),
    "book_table": ("Book a table in a restaurant.", {"people": (INT, "How many people"), "time": (STR, "Time of day, HH:MM")},
                   {"people": lambda s: s.randint(1, 12), "time": lambda s: f"{s.randint(11, 22)}:{s.choice(['00', '15', '30', '45'])}"},
                   ["Book a table for {people} at {time}.", "A table for {people} people at {time}, please.", "Reserve a table for {people} at {time}.", "~Please book a table for {people} people at {time}."]),
    "turn_on": ("Turn on a device.", {"device": (STR, "Which device")}, {"device": lambda s: s.choice(["lamp", "heater", "fan", "radio", "printer", "oven"])},
                ["Turn on the {device}.", "Switch the {device} on.", "Please turn the {device} on.", "~Can you turn on the {device}?"]),
    "add_event": ("Add an event to the calendar.", {"title": (STR, "What it is"), "date": (STR, "Date, YYYY-MM-DD")}, {"title": quoted, "date": lambda s: f"{s.randint(2024, 2032)}-{s.randint(1, 12):02d}-{s.randint(1, 28):02d}"},
                  ["Add {title} to the calendar on {date}.", "I have {title} on {date}, note it.", "Put {title} into my calendar for {date}.", "~Please add {title} on {date} to the calendar."]),
    "get_stock": ("Get the price of a share.", {"symbol": (STR, "Ticker symbol")}, {"symbol": lambda s: "".join(s.choice("ABCDEFGHIKLMNOPRSTUVXZ") for _ in range(s.randint(2, 4))) if not s.blank else "000"},
                  ["What is the price of {symbol}?", "How is {symbol} doing?", "Get the share price of {symbol}.", "~Tell me the price of the share {symbol}."]),
}
NONE = "None of these tools can do that."


def schema(src, name):
    about, args, _, _ = TOOLS[name]
    return {"type": "function", "function": {"name": name, "description": about, "parameters": {
        "type": "object", "properties": {k: {"type": t, "description": d} if src.coin(0.6) else {"type": t} for k, (t, d) in args.items()},
        "required": list(args)}}}


def tools(src):
    names = src.sample(list(TOOLS), src.randint(2, 3))
    k = src.random()
    name = names[src.randrange(len(names))]
    if k < 0.08:
        name = src.choice([n for n in TOOLS if n not in names])
    _, args, makers, requests = TOOLS[name]
    values = {a: makers[a](src) for a in args}
    ask = src.phrase(requests + phrases.TOOLS[name], reworded=False, **values)
    offered = [schema(src, n) for n in names]
    if k < 0.08:
        return Sample("tools", [(ask, NONE)], tools=offered, check={"kind": "exact", "truth": NONE})
    call = f'<TOOLCALL>[{{"name": "{name}", "arguments": {json.dumps(values)}}}]</TOOLCALL>'
    if k < 0.85 or src.held:
        return Sample("tools", [(ask, call)], tools=offered, check={"kind": "tool", "truth": call})
    results = {"get_weather": lambda: (f'{{"temperature": {(t := src.randint(-15, 38))}, "sky": "{(y := src.choice(["clear", "cloudy", "rain", "snow"]))}"}}', f"It is {t} degrees in {values.get('city')}, with {y if y in ('rain', 'snow') else y + ' sky'}."),
               "get_time": lambda: (f'{{"time": "{(t := text.TOOL_TIME(src))}"}}', f"It is {t} in {values.get('city')}."),
               "add": lambda: (str(t := src.randint(0, 1998)), f"The result is {t}."), "multiply": lambda: (str(t := src.randint(0, 99999)), f"The result is {t}."),
               "convert_money": lambda: (f'{{"amount": {(t := src.randint(1, 9999))}}}', f"That is {t} {values.get('to')}."),
               "get_stock": lambda: (f'{{"price": {(t := text.price(src))}}}', f"The price of {values.get('symbol')} is {t}.")}
    result, answer = results.get(name, lambda: ('{"status": "ok"}', "Done."))()
    messages = [{"role": "user", "content": ask},
                {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": values}}]},
                {"role": "tool", "content": result}]
    return Sample("tools", [(ask, answer)], tools=offered, messages=messages, check={"kind": "exact", "truth": answer})


text.TOOL_TIME = lambda src: f"{src.randint(0, 23):02d}:{src.randint(0, 59):02d}"

# --- small talk ------------------------------------------------------------------------------------------------

WHO = "I am Videre's small built-in model. I read printed text, forms and charts, look at simple shapes and watch short clips."
CAN = "I can read printed lines, pages, forms and receipts, count and place simple shapes, read charts, compare pictures, follow short clips, count aloud and ask for tools."
TALK = [
    (["Hello", "Hello!", "Hi", "Hi!", "Hi there", "Good morning", "Good evening", "Hey", "~Hi, hello!"], "Hello! Show me a picture or a short clip and ask me about it."),
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Which model are you?", "Are you a robot?", "Introduce yourself.", "~Tell me who you are.", "~What model are you?"], WHO),
    (["What can you do?", "How can you help me?", "What are you good at?", "What can I ask you?", "Help", "What do you know?", "Can you help me?", "~Tell me what you can do.", "~What can you do for me?"], CAN),
    (["Who made you?", "Who built you?", "Where do you come from?", "Who trained you?", "~Who has made you?"], "I was trained from random weights for Videre, on pictures that a program drew."),
    (["How big are you?", "How many parameters do you have?", "Are you a large model?", "What size are you?", "~How large are you?"], "I am tiny: about fifteen million parameters, thirty megabytes."),
    (["Do you know photographs?", "Can you describe photos?", "Can you look at my photo?", "Do you recognise people?", "Can you recognise faces?", "Do you know animals?", "~Can you recognise photographs?"], "No. I do not know photographs. I only know printed text, simple shapes, charts and short clips of these."),
    (["What don't you know?", "What can't you do?", "What are your limits?", "Where do you fail?", "~Tell me your limits."], "I know no photographs, no handwriting and no facts about the world. Small or slanted print can mislead me."),
    (["Thank you", "Thanks", "Thank you!", "Thanks a lot!", "Great, thank you.", "~Many thanks!"], "You are welcome."),
    (["Bye", "Goodbye", "See you later", "Good night", "Bye!", "~Goodbye!"], "Goodbye!"),
    (["How are you?", "How are you today?", "How do you do?", "~Hello, how are you?"], "I am well, thank you. What shall I look at?"),
    (["What is the capital of France?", "Who wrote Hamlet?", "Tell me a joke.", "What is the meaning of life?", "Write a poem.", "Who is the president?", "How do I cook rice?", "What happened in 1989?",
      "Tell me a story.", "How far is the moon?", "~Who won the game?", "~Tell me the news."], "I do not know. I am a small model that looks at pictures; I know no facts about the world."),
    (["What do you see?", "What is in the picture?", "Describe the picture.", "How many shapes are there?", "Read the text.", "What is the total?", "Which bar is the largest?", "~Describe the image."], "I see no picture. Please send one with your question."),
    (["Can you see videos?", "Can you watch a video?", "Do you understand videos?", "~Can you follow a video?"], "Yes, short clips of simple shapes and words: what moves, what comes next, what blinks and when words appear."),
    (["Can you read handwriting?", "Do you read handwriting?", "~Are you able to read handwriting?"], "No, only printed text."),
    (["Can you think?", "How do I make you think?", "Can you reason?", "~How do I turn on thinking?"], "Write /no_think or nothing for a short answer. With thinking on I count or add step by step first."),
    (["Which languages do you speak?", "Do you speak German?", "Do you speak French?", "~Do you speak Spanish?"], "Only simple English."),
]


def talk(src):
    k = src.random()
    if k < 0.35 and not src.held:
        s = text.line(src, 24, src.choice(["words", "words", "code", "number", "name"]))[0]
        return Sample("copy", [(src.phrase(["Repeat: {s}", "Say {s}", "Repeat after me: {s}", "Write {s}", "Please say {s}"], s=s), s)],
                      check={"kind": "exact", "truth": s})
    turns = []
    for _ in range(1 if src.held else src.randint(1, 3)):
        k = src.randrange(len(TALK))
        turns.append((src.phrase(TALK[k][0] + phrases.TALK[k], reworded=src.coin(0.4)), TALK[k][1]))
    system = src.choice(["", "", "", "/no_think", "You are a helpful assistant.", "You are Videre."])
    return Sample("talk", turns, system=system, check={"kind": "exact", "truth": turns[-1][1]})
