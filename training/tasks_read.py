"""Reading: one line, a page, a form, a receipt."""
from . import draw, phrases, text
from .sample import Sample, image

READ = ["What does it say?", "Read the text.", "What is written here?", "Read this line.", "What is printed here?",
        "What does the picture say?", "Read what is written.", "Please read the text in the picture.",
        "What text is in the image?", "Transcribe the text.", "Can you read this?", "Read it to me.",
        "What is the text?", "Please read this.", "~Please read what is printed here.", "~What is written in the picture?",
        "~Can you read the text?"] + phrases.READ
READ_PAGE = ["Read the page.", "Read all the lines.", "What does the page say?", "Transcribe the page.",
             "Please read the whole page.", "Read everything on the page.", "What is written on the page? Keep the lines.",
             "Write down all the lines of the text.", "~Please read all the lines of the page.",
             "~Transcribe everything on the page."] + phrases.READ_PAGE
ASK_LINE = ["What is the {o} line?", "Read line {n}.", "Read the {o} line.", "What does line {n} say?",
            "What is written in the {o} line?", "What does the {o} line say?", "Please read line {n}.",
            "Which text is on line {n}?", "~What is printed on line {n}?", "~Please read the {o} line."] + phrases.ASK_LINE
LAST_LINE = ["What is the last line?", "Read the last line.", "What does the last line say?"] + phrases.LAST_LINE
HOW_MANY = ["How many lines are there?", "How many lines of text does the page have?"] + phrases.HOW_MANY


def line_picture(src, string, simple=0.0):
    """A picture of one printed line; returns (img, chars)."""
    level = src.level
    font = draw.pick_font(src)
    size = src.randint(18, 46) if src.coin(1 - 0.5 * level) else src.randint(13, 60)
    wide = draw.width_of(font, size, string) + 2
    w = int(wide + src.uniform(0.5, 2.5) * size + 4)
    # Anything from a tight strip to a line in a tall picture.
    h = int(size * src.uniform(1.5, 2.6)) if src.coin(0.6) else int(max(size * 1.6, w / src.uniform(0.9, 5)))
    if h < size * 1.5:
        h = int(size * 1.5)
    if w > h * 7:
        h = int(w / src.uniform(4.0, 6.5))
    w, h = max(w, 40), max(h, 28)
    img, base = draw.paper(src, h, w, plain=0.9 - 0.5 * level)
    page = draw.Page(img)
    x = src.uniform(0.2 * size, max(0.25 * size, w - wide - 0.2 * size))
    y = src.uniform(1.05 * size, max(1.06 * size, h - 0.4 * size))
    page.text(x, y, string, font, size, draw.ink_for(src, base, 110 - 40 * level))
    img, chars = page.array(), page.chars
    if src.coin(0.45 * level):
        # The turn must not push the ends of a long line out of the picture.
        room = max(0.3, min(5.0, 57 * 0.7 * (min(y - 0.8 * size, h - y - 0.2 * size) + 1) / (wide / 2)))
        img, chars = draw.turn(src, img, chars, src.uniform(-room, room))
    return draw.wear(src, img) if src.coin(level) else img, chars


def read_line(src, kind=None):
    longest = 24 if src.held or src.coin(0.25 + 0.75 * src.level) else 8
    string, kind = text.line(src, longest, kind)
    if src.level < 0.3 and not src.held and src.coin(0.6):
        string, kind = text.words(src, longest, 2), "words"
    img, chars = line_picture(src, string)
    return Sample("read_mixed" if kind == "mixed" else "read_line", [(src.phrase(READ), string)], [image(img, chars)],
                  check={"kind": "exact", "truth": string})


def page_size(src, low=300, high=560):
    """Width and height of a page picture; shapes that the engine cuts into 1, 3, 5 or 7 tiles."""
    h = src.randint(low, high)
    return int(h * src.choice([src.uniform(0.45, 0.6), src.uniform(0.6, 0.8), src.uniform(0.6, 0.8), src.uniform(0.9, 1.1), 1.33])), h


def page_lines(src, n, longest):
    out = []
    for _ in range(n):
        kind = src.choices(["words", "name", "number", "code"], [70, 10, 12, 8])[0]
        out.append(text.words(src, longest, 5) if kind == "words" else text.line(src, longest, kind)[0])
    return out


def read_page(src, whole=None):
    n = src.randint(2, 8) if src.coin(0.3 + 0.7 * src.level) else src.randint(1, 3)
    longest = src.choice([12, 16, 20, 24])
    lines = page_lines(src, n, longest)
    w, h = page_size(src, 220 + 16 * n, 330 + 32 * n)
    font = draw.pick_font(src)
    at1 = max(draw.width_of(font, 100, s) for s in lines) / 100   # widest line in units of the size
    size = max(9, min(int(0.92 * w / at1), int(h / (n + 0.6) / 1.25), 48))
    if src.coin(0.5):
        size = max(9, int(size * src.uniform(0.75, 1)))
    if at1 * size > 0.97 * w:
        w = int(at1 * size / 0.95)
    gap = min(h / (n + 0.4), size * src.uniform(1.25, 2.4))
    img, base = draw.paper(src, h, w, plain=0.7)
    page = draw.Page(img)
    ink = draw.ink_for(src, base, 110)
    left = src.uniform(0.02 * w, max(0.021 * w, 0.98 * w - at1 * size))
    top = src.uniform(size, max(size + 1, h - gap * (n - 1) - 0.4 * size))
    align = src.choices(["left", "centre", "right"], [80, 14, 6])[0]
    for k, s in enumerate(lines):
        wide = draw.width_of(font, size, s)
        x = left + {"left": 0, "centre": 0.5, "right": 1}[align] * (at1 * size - wide)
        page.text(x, top + k * gap, s, font, size, ink)
    img, chars = page.array(), page.chars
    if src.coin(0.15 * src.level):
        img, chars = draw.turn(src, img, chars, src.uniform(-1, 1))
    whole = src.coin(0.6) if whole is None else whole
    turns = [(src.phrase(READ_PAGE), "\n".join(lines))] if whole else []
    for k in src.sample(range(n), min(n, 1 if src.held else src.randint(1, 5))):
        q = src.phrase(LAST_LINE) if k == n - 1 and n > 1 and src.coin(0.3) else src.phrase(ASK_LINE, o=text.ORDINAL[k], n=k + 1)
        turns.append((q, lines[k]))
    if not src.held and src.coin(0.2):
        turns.append((src.phrase(HOW_MANY), str(n)))
    src.shuffle(turns)
    if src.held:
        turns = [(src.phrase(READ_PAGE), "\n".join(lines))] if whole else turns[:1]
    q, truth = turns[-1]
    return Sample("read_page" if whole or not src.held else "read_asked", turns, [image(draw.wear(src, img), chars)],
                  check={"kind": "lines" if src.held and whole else "exact", "truth": truth})


# --- forms and receipts ----------------------------------------------------------------------------------------

FIELDS = {
    "name": ("Name", text.name), "date": ("Date", text.date), "city": ("City", lambda s: text.pick(s, text.CITY)),
    "phone": ("Phone", lambda s: f"{s.randint(100, 999)} {s.randint(1000, 9999)}"),
    "number": ("Number", lambda s: str(s.randint(100, 99999))), "code": ("Code", lambda s: text.code(s, longest=8)),
    "amount": ("Amount", text.price), "order number": ("Order number", lambda s: str(s.randint(1000, 999999))),
    "customer": ("Customer", text.name), "room": ("Room", lambda s: str(s.randint(1, 499))),
    "due date": ("Due date", text.date), "street": ("Street", lambda s: f"{text.word(s).capitalize()} St {s.randint(1, 199)}"),
    "age": ("Age", lambda s: str(s.randint(1, 99))), "seat": ("Seat", lambda s: f"{s.randint(1, 40)}{s.choice('ABCDEF')}"),
    "weight": ("Weight", lambda s: f"{s.randint(1, 99)} kg"), "subject": ("Subject", lambda s: text.words(s, 14, 2)),
    "invoice": ("Invoice", lambda s: str(s.randint(1000, 99999))), "country": ("Country", lambda s: text.word(s).capitalize()),
}
ASK_FIELD = ["What is the {f}?", "What is the value of {f}?", "Which {f} is given?", "What does the form say for {f}?",
             "Read the {f}.", "Find the {f}.", "Tell me the {f}.", "What {f} is on the form?", "What is written under {f}?",
             "~Please tell me the {f}.", "~Which {f} is on the form?"] + phrases.ASK_FIELD


def form(src):
    keys = src.sample(list(FIELDS), src.randint(2, 7))
    rows = [(FIELDS[k][0], FIELDS[k][1](src)) for k in keys]
    font, bold = draw.pick_font(src), draw.pick_font(src)
    size = src.randint(15, 30)
    upper, colon = src.coin(0.2), src.choice([":", ":", "", " -"])
    heads = [(r[0].upper() if upper else r[0]) + colon for r in rows]
    column = max(draw.width_of(bold, size, s) for s in heads) + size * src.uniform(0.6, 2.5)
    ragged, below = src.coin(0.3), src.coin(0.15)
    gap = size * src.uniform(1.35, 2.0) * (2.0 if below else 1)
    wide = max(draw.width_of(font, size, r[1]) + (0 if below else column) for r in rows)
    w = int(max(wide, column) + size * src.uniform(1.2, 3))
    title = src.choice(["", "", "Form", "Order", "Invoice", "Ticket", "Registration", "Booking"])
    h = int(gap * len(rows) + size * src.uniform(1.2, 3) + (1.6 * size if title else 0))
    img, base = draw.paper(src, h, max(w, 90), plain=0.8)
    page, ink = draw.Page(img), draw.ink_for(src, base, 120)
    second = ink if src.coin(0.6) else draw.ink_for(src, base, 120)
    x0, y = size * src.uniform(0.4, 0.9), size * src.uniform(1.1, 1.4)
    if title:
        page.text(x0, y, title, bold, int(size * 1.1), ink)
        y += 1.5 * size
    for head, row in zip(heads, rows):
        used = page.text(x0, y, head, bold, size, ink)
        at = (x0, y + 0.5 * gap) if below else (x0 + (used + 0.6 * size if ragged else column), y)
        page.text(*at, row[1], font, size, second)
        if src.coin(0.1):
            page.pen.line([(x0, y + 0.3 * size), (w - x0, y + 0.3 * size)], fill=ink)
        y += gap
    asked = src.sample(range(len(rows)), 1 if src.held else min(len(rows), src.randint(2, 6)))
    turns = [(src.phrase(ASK_FIELD, f=keys[k]), rows[k][1]) for k in asked]
    if not src.held and src.coin(0.15):
        turns.append((src.phrase(READ_PAGE), "\n".join(([title] if title else []) + (
            [f"{a}\n{b[1]}" if below else f"{a} {b[1]}" for a, b in zip(heads, rows)]))))
    return Sample("form", turns, [image(draw.wear(src, page.array()), page.chars)],
                  check={"kind": "exact", "truth": turns[-1][1]})


ASK_TOTAL = ["What is the total?", "How much is the total?", "What is the total amount?", "How much is to be paid?",
             "What does it cost in total?", "Read the total.", "How much was paid in total?", "Tell me the total.",
             "~How much is it in total?", "~Please read the total amount."] + phrases.ASK_TOTAL
ASK_PRICE = ["How much is the {i}?", "What does the {i} cost?", "What is the price of {i}?", "How much are the {i}?",
             "Read the price of the {i}.", "~Tell me the price of the {i}."] + phrases.ASK_PRICE


def receipt(src, total=True, title=True, goods=None):
    """A till receipt; returns (img, chars, items, cents of the sum as printed)."""
    n = src.randint(1, 6)
    items = []
    for g in src.sample(text.GOODS, n):
        cents = src.choice([src.randint(1, 99) * 100, src.randint(10, 2999), src.randint(1, 40) * 50]) if goods is None else goods(src)
        items.append((g if not src.blank else "000", cents))
    money = lambda c: f"{c // 100}.{c % 100:02d}"
    sign = src.choice(["", "", "$", "EUR "])
    rows = [(g.capitalize() if src.coin(0.6) else g, money(c)) for g, c in items]
    amount = sum(c for _, c in items)
    tail = []
    if total:
        if src.coin(0.25):
            tail.append((src.choice(["Subtotal", "Net"]), money(int(amount / 1.2))))
            tail.append((src.choice(["Tax", "VAT"]), money(amount - int(amount / 1.2))))
        tail.append((src.choice(["Total", "TOTAL", "Sum", "Total due", "Amount due"]), sign + money(amount)))
        if src.coin(0.3):
            paid = (amount // 1000 + 1) * 1000
            tail += [(src.choice(["Cash", "Paid"]), money(paid)), ("Change", money(paid - amount))]
    head = []
    if title:
        head = src.sample([text.word(src).upper() + " SHOP", text.date(src), "RECEIPT", "Welcome", f"No. {src.randint(1, 9999)}"], src.randint(0, 2))
    font, size = draw.pick_font(src), src.randint(14, 26)
    wide = max(draw.width_of(font, size, a + b) for a, b in rows + tail) + size * src.uniform(1.5, 4)
    wide = max([wide] + [draw.width_of(font, size, s) for s in head])
    gap = size * src.uniform(1.3, 1.8)
    x0 = size * src.uniform(0.4, 1.2)
    w, h = int(wide + 2 * x0), int(gap * (len(rows + tail) + len(head)) + 1.3 * size)
    img, base = draw.paper(src, h, max(w, int(h * 0.4), 80), plain=0.8)
    page, ink = draw.Page(img), draw.ink_for(src, base, 120)
    y = 1.2 * size
    for s in head:
        page.text(x0 + (wide - draw.width_of(font, size, s)) / 2, y, s, font, size, ink)
        y += gap
    for k, (left, right) in enumerate(rows + tail):
        if k == len(rows) and src.coin(0.6):
            page.pen.line([(x0, y - 0.95 * size), (x0 + wide, y - 0.95 * size)], fill=ink)
        page.text(x0, y, left, font, size, ink)
        page.text(x0 + wide - draw.width_of(font, size, right), y, right, font, size, ink)
        y += gap
    return page.array(), page.chars, rows, tail, items, amount


def receipt_task(src):
    img, chars, rows, tail, items, amount = receipt(src)
    total = next(b for a, b in tail if a in ("Total", "TOTAL", "Sum", "Total due", "Amount due"))
    turns = [(src.phrase(ASK_TOTAL), total)]
    if not src.held or src.coin(0.4):
        turns += [(src.phrase(ASK_PRICE, i=g), b) for (g, _), (_, b) in src.sample(list(zip(items, rows)), min(len(rows), 1 if src.held else src.randint(1, 4)))]
    src.shuffle(turns)
    if src.held:
        turns = turns[:1]
    return Sample("receipt", turns, [image(draw.wear(src, img), chars)], check={"kind": "exact", "truth": turns[-1][1]})
