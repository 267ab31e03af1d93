"""Drawn papers with fields: receipts in the style of scanned Malaysian shop receipts (SROIE), invoices and forms.

    draw_receipt(random.Random(7), Kit()).turns     # (("What is the total of this receipt?", "60.30"),)

Shops, streets and goods are made up. Papers have fewer lines than real ones, so that letters stay readable in tiles of
112 pixels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from internvl.nano.asking import Asked, Asker, Both, Wordings, some_language, yes
from internvl.nano.lines import misread
from internvl.nano.purchase import (
    INVOICE,
    RECEIPT,
    STREETS,
    SURNAMES,
    TOWNS,
    Purchase,
    ask_purchase,
    make_date,
    make_purchase,
    money,
)
from internvl.nano.sample import Kit, Sample
from internvl.nano.sheet import LEFT, RIGHT, Part, Row, ends, left, middle, pick_print, scan, set_rows

READ_ALL: Wordings = (
    ("Read the lines.", "Read this {paper}.", "Read all lines of the {paper}.", "Transcribe the {paper}."),
    ("逐行读出。", "读出票上的文字。"),
)
READ_FIRST: Wordings = (
    ("Read the first {count} lines.", "What do the first {count} lines say?"),
    ("读出前{count}行。",),
)

TITLES = ("RECEIPT", "TAX INVOICE", "CASH SALE", "CASH BILL", "SIMPLIFIED TAX INVOICE", "INVOICE", "OFFICIAL RECEIPT")
TOTALS = ("TOTAL", "TOTAL", "TOTAL (RM)", "TOTAL RM", "GRAND TOTAL", "NET TOTAL", "TOTAL AMOUNT", "AMOUNT DUE",
          "TOTAL SALES (INCL GST)", "TOTAL:", "TOTAL DUE", "NET AMT", "ROUNDED TOTAL (RM)",
          "TOTAL PAYABLE")  # fmt: skip
THANKS = ("THANK YOU", "THANK YOU PLEASE COME AGAIN", "THANK YOU FOR SHOPPING", "TERIMA KASIH", "*** THANK YOU ***",
          "GOODS SOLD ARE NOT RETURNABLE", "PLEASE COME AGAIN", "HAVE A NICE DAY", "NO REFUND")  # fmt: skip


def draw_receipt(rng: random.Random, kit: Kit) -> Sample:
    """8 to 25 lines of a till, in capitals; imitates the receipts of SROIE."""
    asker = some_language(rng)
    bought = make_purchase(rng, kit, rng.choices((1, 2, 3, 4, 5), (2, 3, 3, 2, 1))[0])
    shown: list[str] = []
    rows = [*_head(rng, bought, shown), *_goods(rng, bought), *_sums(rng, bought, shown)]
    asked = ask_purchase(rng, asker, bought, shown, RECEIPT)
    if rng.random() < 0.2:
        asked = [ask_lines(rng, asker, rows, RECEIPT), *asked[:1]]
    return finish(rng, kit, "receipt", rows, asked, **_facts(bought))


def _facts(bought: Purchase) -> dict[str, str]:
    return {"company": " ".join(bought.company), "address": " ".join(bought.address), "date": bought.date,
            "total": money(bought.total)}  # fmt: skip


def _head(rng: random.Random, bought: Purchase, shown: list[str]) -> list[Row]:
    """The shop, its address, and when and under which number it sold."""
    put = middle if rng.random() < 0.8 else left
    scale = rng.choice((1.0, 1.0, 1.15, 1.3))
    rows = [Row(put(text).parts, scale=scale, bold=scale > 1 or rng.random() < 0.3) for text in bought.company]
    if rng.random() < 0.3:
        rows.append(put(f"({rng.randint(10000, 999999)}-{rng.choice('ADHKMPTVWX')})"))
    rows += [put(text) for text in bought.address]
    if rng.random() < 0.5:
        shown.append("phone")
        rows.append(put(rng.choice(("TEL: ", "TEL:", "TEL : ", "PHONE: ", "TEL ")) + bought.phone))
    if rng.random() < 0.3:
        rows.append(put(f"GST ID: {rng.randint(10**8, 10**9 - 1):012d}"))
    if rng.random() < 0.4:
        rows.append(middle(rng.choice(TITLES), bold=rng.random() < 0.5))
    rows.append(Row(rule=rng.choice(("", "-", "=", "_"))))
    label = rng.choice(("DATE: ", "DATE : ", "DATE ", "", ""))
    when = label + bought.date
    draw = rng.random()
    if draw < 0.35:
        rows.append(left(f"{when} {bought.time}"))
    elif draw < 0.6:
        rows.append(ends(when, bought.time))
    else:
        rows.append(left(when) if rng.random() < 0.7 else ends(rng.choice(("CASHIER: 01", "POS 2", "SLIP")), when))
    if rng.random() < 0.5:
        shown.append("number")
        label = rng.choice(("INVOICE NO: ", "BILL NO: ", "RECEIPT NO: ", "NO: ", "INV NO.: ", "DOC NO. : "))
        rows.insert(len(rows) - rng.randint(0, 1), left(label + bought.number))
    if rng.random() < 0.25:
        rows.append(left(f"CASHIER: {rng.choice(SURNAMES)}"))
    return rows


def _goods(rng: random.Random, bought: Purchase) -> list[Row]:
    """The items in one of four layouts."""
    layout = rng.randrange(4)
    rule = rng.choice(("", "-", "_"))
    heads = ((("ITEM", 0, LEFT), ("AMOUNT", 1, RIGHT)), (("QTY", 0, LEFT), ("ITEM", 0.14, LEFT), ("RM", 1, RIGHT)),
             (("ITEM", 0, LEFT), ("QTY", 0.72, RIGHT), ("AMT", 1, RIGHT)),
             (("DESCRIPTION", 0, LEFT), ("AMOUNT", 1, RIGHT)))  # fmt: skip
    rows = [Row(rule=rule)] if rule else []
    if rng.random() < 0.5:
        rows += [Row(tuple(Part(*part) for part in heads[layout])), *([Row(rule=rule)] if rule else [])]
    for number, item in enumerate(bought.items, 1):
        count, amount = str(item.quantity), Part(money(item.amount), 1, RIGHT)
        if layout == 0:
            rows.append(left(f"{number}. {item.name}" if rng.random() < 0.1 else item.name))
            rows.append(ends(f"{count} X {money(item.price)}", amount.text))
        elif layout == 1:
            rows.append(Row((Part(count, 0, LEFT), Part(item.name, 0.14, LEFT), amount)))
        elif layout == 2:
            rows.append(Row((Part(item.name, 0, LEFT), Part(count, 0.72, RIGHT), amount)))
        else:
            rows.append(left(item.name))
            rows.append(Row((Part(f"{count} PCS", 0.05, LEFT), Part(money(item.price), 0.6, RIGHT), amount)))
    return [*rows, Row(rule=rng.choice(("", "-", "=", "_")))]


def _sums(rng: random.Random, bought: Purchase, shown: list[str]) -> list[Row]:
    """Subtotal, tax and rounding, the total, what was paid, and thanks."""
    currency = rng.choice(("", "", "RM", "RM "))
    rows: list[Row] = []
    if bought.tax or bought.rounding or rng.random() < 0.25:
        rows.append(ends(rng.choice(("SUBTOTAL", "SUB TOTAL", "SUB-TOTAL", "TOTAL EXCL. GST")), money(bought.net)))
    if bought.tax:
        shown.append("tax")
        rows.append(ends(rng.choice(("GST 6%", "TAX 6%", "SST 6%", "ADD GST")), money(bought.tax)))
    if bought.rounding:
        rows.append(ends(rng.choice(("ROUNDING", "ROUNDING ADJ", "ROUND ADJ")), money(bought.rounding)))
    scale = rng.choice((1.0, 1.0, 1.15, 1.3))
    rows.append(ends(rng.choice(TOTALS), currency + money(bought.total), bold=rng.random() < 0.5, scale=scale))
    if rng.random() < 0.6:
        shown.append("cash")
        rows.append(ends(rng.choice(("CASH", "CASH RM", "TENDERED", "PAID CASH")), money(bought.cash)))
        rows.append(ends(rng.choice(("CHANGE", "CHANGE DUE", "BALANCE")), money(bought.cash - bought.total)))
    elif rng.random() < 0.3:
        rows.append(ends(rng.choice(("VISA CARD", "MASTERCARD", "PAYMENT")), money(bought.total)))
    if rng.random() < 0.6:
        rows += [Row(), *(middle(text) for text in rng.sample(THANKS, rng.choice((1, 1, 2))))]
    return rows


def draw_invoice(rng: random.Random, kit: Kit) -> Sample:
    """A seller, a buyer, a table of goods and a sum, in mixed letters."""
    asker = some_language(rng)
    bought = make_purchase(rng, kit, rng.randint(1, 4), longest=9)
    buyer = f"{rng.choice(kit.words)} {rng.choice(SURNAMES)}".title()
    title = [Row(middle("INVOICE").parts, scale=1.4, bold=True)]
    seller = [left(text, scale=1.15 if number == 0 else 1.0) for number, text in enumerate(bought.company)]
    seller += [left(text) for text in bought.address]
    facts = [
        ends(rng.choice(("Invoice No.", "Invoice number", "No.")), bought.number),
        ends(rng.choice(("Date", "Invoice date", "Issued")), bought.date),
        ends(rng.choice(("Bill to", "Customer", "Sold to")), buyer),
    ]
    rng.shuffle(facts)
    top = [*title, *seller] if rng.random() < 0.5 else [*seller, *title]
    columns = (("Item", 0.0, LEFT), ("Qty", 0.56, RIGHT), ("Price", 0.77, RIGHT), ("Amount", 1.0, RIGHT))
    table = [Row(rule="_"), Row(tuple(Part(*column) for column in columns), bold=True), Row(rule="_")]
    for item in bought.items:
        cells = (item.name, str(item.quantity), money(item.price), money(item.amount))
        places = zip(cells, columns, strict=True)
        table.append(Row(tuple(Part(cell, at, side) for cell, (_, at, side) in places), scale=0.95))
    sums = [ends("Subtotal", money(bought.net))] if bought.tax or bought.rounding else []
    sums += [ends("Tax 6%", money(bought.tax))] if bought.tax else []
    sums += [ends("Rounding", money(bought.rounding))] if bought.rounding else []
    sums.append(ends(rng.choice(("Total", "TOTAL", "Total due", "Amount due")), money(bought.total), bold=True))
    shown = ["number", *(["tax"] if bought.tax else [])]
    asked = ask_purchase(rng, asker, bought, shown, INVOICE)
    if rng.random() < 0.25:
        asked = [asker.ask(rng, BUYER, buyer, bought.company[0], brief=False), *asked[:1]]
    rows = [*top, Row(), *facts, *table, Row(rule="_"), *sums]
    if rng.random() < 0.1:
        asked = [ask_lines(rng, asker, rows, INVOICE)]
    return finish(rng, kit, "invoice", rows, asked, **_facts(bought), buyer=buyer)


BUYER: Wordings = (
    ("Who is the customer?", "Who is the invoice for?", "To whom is the invoice addressed?", "Who has to pay?"),
    ("客户是谁?", "发票开给谁?"),
)

# ---- forms -----------------------------------------------------------------------------------------------------------

FORM: Both = ("form", "表格")
FIELD: Wordings = (
    ("What is the {field}?", "What is written for {field}?", "What does the field {field} say?",
     "What is the {field} on this form?", "Read the field {field}."),
    ("{field}一栏写的是什么?", "{field}是什么?"),
)  # fmt: skip
TICKED: Wordings = (
    ("Is {field} ticked?", "Is the box {field} ticked?", "Is {field} checked?", "Is the box {field} marked?"),
    ("{field}打勾了吗?", "{field}选中了吗?"),
)
WHICH_BOX: Wordings = (
    ("Which box is ticked?", "Which option is marked?", "Which option is checked?"),
    ("哪一项打勾了?", "选中了哪一项?"),
)
CHOICES = (("Single", "Married"), ("Male", "Female"), ("Yes", "No"), ("Cash", "Card", "Cheque"), ("New", "Renewal"),
           ("Adult", "Child", "Senior"), ("Morning", "Evening"), ("Email", "Phone", "Post"))  # fmt: skip
FORM_TITLES = ("APPLICATION FORM", "REGISTRATION", "MEMBERSHIP FORM", "ORDER FORM", "VISITOR CARD", "REQUEST FORM",
               "LIBRARY CARD", "BOOKING FORM")  # fmt: skip


def draw_form(rng: random.Random, kit: Kit) -> Sample:
    """3 to 7 labelled fields, some in frames, and mostly a row of boxes of which one is ticked."""
    asker = some_language(rng)
    fields = rng.sample(list(_values(rng, kit).items()), rng.randint(3, 7))
    rows: list[Row] = [middle(rng.choice(FORM_TITLES), bold=True, scale=rng.choice((1.0, 1.2)))]
    boxed, across, colon = rng.random() < 0.3, rng.choice((0.42, 0.48)), rng.choice((":", "", " :"))
    for label, value in fields:
        rows += [Row(rule="_")] if rng.random() < 0.2 else [Row()] if rng.random() < 0.3 else []
        rows.append(Row((Part(label + colon, 0, LEFT), Part(value, across, LEFT, boxed=boxed))))
    label, value = rng.choice(fields)
    others = [v for _, v in fields if v != value]
    wrong = misread(rng, value) if rng.random() < 0.5 else rng.choice(others)
    named = label.lower() if rng.random() < 0.7 else label
    asked = [asker.ask(rng, FIELD, value, wrong, brief=rng.random() < 0.5, field=named)]
    if rng.random() < 0.7:
        choices = rng.choice(CHOICES)
        chosen = rng.choice(choices)
        mark = rng.choice(("X", "x", "V"))
        text = "  ".join(f"[{mark if choice == chosen else ' '}] {choice}" for choice in choices)
        rows += [Row(), left(text)]
        asked.append(_ask_boxes(rng, asker, choices, chosen))
        rng.shuffle(asked)
    if rng.random() < 0.15 and not any("[" in row.text for row in rows):
        asked = [ask_lines(rng, asker, rows, FORM)]
    return finish(rng, kit, "form", rows, asked, **{f"field {label}": value for label, value in fields})


def _ask_boxes(rng: random.Random, asker: Asker, choices: Sequence[str], chosen: str) -> Asked:
    wrong = rng.choice([choice for choice in choices if choice != chosen])
    if rng.random() < 0.5:
        return asker.ask(rng, WHICH_BOX, chosen, wrong)
    true = rng.random() < 0.5
    return asker.ask(rng, TICKED, *yes(true), field=chosen if true else wrong)


def _values(rng: random.Random, kit: Kit) -> dict[str, str]:
    word = rng.choice(kit.words).title()
    return {
        "Name": f"{word} {rng.choice(SURNAMES).title()}",
        "Date": make_date(rng),
        "Date of birth": make_date(rng),
        "Phone": f"0{rng.randint(1, 9)}{rng.randint(1, 9)}-{rng.randint(100000, 9999999)}",
        "City": rng.choice(TOWNS).title(),
        "Street": f"Jalan {rng.choice(STREETS).title()} {rng.randint(1, 99)}",
        "Post code": str(rng.randint(10000, 98000)),
        "Number": str(rng.randint(100, 99999)),
        "Amount": money(rng.randint(100, 99999)),
        "Email": f"{word.lower()}{rng.randint(1, 99)}@mail.com",
        "Age": str(rng.randint(6, 90)),
        "Room": f"{rng.choice('ABCD')}{rng.randint(1, 40)}",
    }


# ---- all papers ------------------------------------------------------------------------------------------------------


def finish(rng: random.Random, kit: Kit, skill: str, rows: Sequence[Row], asked: list[Asked], **facts: str) -> Sample:
    """Printed, scanned, with its questions."""
    look = pick_print(rng, kit, width=rng.randint(224, 340), letters=rng.uniform(13, 15.5))
    picture = scan(rng, set_rows(rows, look), look)
    said = "\n".join(row.text for row in rows if row.parts)
    turns = tuple({a.question: a.turn for a in asked}.values())
    return Sample(skill, (picture,), turns, wrong=asked[0].wrong, facts={**facts, "lines": said})


def ask_lines(rng: random.Random, asker: Asker, rows: Sequence[Row], paper: Both) -> Asked:
    """All lines if they are few, else the first of them."""
    said = [row.text for row in rows if row.parts]
    if len(said) <= 14 and rng.random() < 0.5:
        return asker.ask(rng, READ_ALL, "\n".join(said), misread(rng, "\n".join(said)), brief=False, paper=paper)
    count = rng.randint(2, min(5, len(said)))
    answer = "\n".join(said[:count])
    return asker.ask(rng, READ_FIRST, answer, misread(rng, answer), brief=False, count=str(count))
