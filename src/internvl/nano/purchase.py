"""Made-up purchases in made-up shops, and the questions that their receipts and invoices answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from internvl.nano.asking import Asked, Asker, Both, Wordings, yes
from internvl.nano.lines import MONTHS, misread
from internvl.nano.sample import Kit

TRADES = (
    "HARDWARE", "TRADING", "ENTERPRISE", "RESTAURANT", "BOOKSTORE", "BAKERY", "CAFE", "MART", "PHARMACY", "STATIONERY",
    "MINI MARKET", "ELECTRICAL", "GIFT SHOP", "FASHION", "SEAFOOD", "AUTO PARTS", "PETROL STATION", "KOPITIAM",
)  # fmt: skip
ENDINGS = ("SDN BHD", "SDN BHD", "SDN. BHD.", "(M) SDN BHD", "ENTERPRISE", "", "", "BHD", "CO.")
TOWNS = (
    "SHAH ALAM", "JOHOR BAHRU", "PETALING JAYA", "KUALA LUMPUR", "KLANG", "IPOH", "SEREMBAN", "KAJANG", "PUCHONG",
    "SKUDAI", "SUBANG JAYA", "CHERAS", "AMPANG", "RAWANG", "MELAKA", "MUAR", "BATU CAVES", "SEPANG",
)  # fmt: skip
STATES = ("SELANGOR", "JOHOR", "MALAYSIA", "SELANGOR DARUL EHSAN", "W.P.", "PERAK", "PAHANG")
STREETS = ("INDAH", "BESAR", "PERMAI", "SETIA", "DAGANG", "UTAMA", "MELATI", "MAWAR", "CEMPAKA", "BUKIT", "DEDAP",
           "KENARI", "RIA", "PERDANA", "JAYA", "MERANTI", "SENTOSA", "DAMAI")  # fmt: skip
SURNAMES = ("TAN", "LIM", "LEE", "WONG", "AHMAD", "SITI", "KUMAR", "CHONG", "NG", "ALI", "RAJ", "SMITH", "MARIA")


@dataclass(frozen=True)
class Item:
    name: str
    quantity: int
    price: int
    """Of one, in cents."""

    @property
    def amount(self) -> int:
        return self.quantity * self.price


@dataclass(frozen=True)
class Purchase:
    """What a receipt or an invoice tells."""

    company: tuple[str, ...]
    address: tuple[str, ...]
    phone: str
    number: str
    date: str
    time: str
    items: tuple[Item, ...]
    tax: int
    rounding: int
    cash: int

    @property
    def net(self) -> int:
        return sum(item.amount for item in self.items)

    @property
    def total(self) -> int:
        return self.net + self.tax + self.rounding


def money(cents: int) -> str:
    """As printed: `-5` is `-0.05`.

    >>> money(6030), money(-5)
    ('60.30', '-0.05')
    """
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def make_purchase(rng: random.Random, kit: Kit, items: int, *, longest: int = 16) -> Purchase:
    """So many goods, whose names have at most `longest` letters, or a size after them."""
    goods = tuple(Item(name, *_amount(rng)) for name in _names(rng, kit, items, longest))
    net = sum(item.amount for item in goods)
    tax = round(net * 0.06) if rng.random() < 0.4 else 0
    rounding = (0, -1, -2, 2, 1)[(net + tax) % 5] if rng.random() < 0.6 else 0
    total = net + tax + rounding
    note = rng.choice((1, 100, 500, 1000, 5000))
    cash = -(-total // note) * note
    number = "".join(rng.choice("0123456789") for _ in range(rng.randint(4, 8)))
    phone = f"0{rng.randint(3, 9)}-{rng.randint(100, 9999)}{rng.choice((' ', ''))}{rng.randint(1000, 9999)}"
    prefix = rng.choice(("", "", "CS", "INV", "POS/", "R", "OR"))
    time = f"{rng.randint(8, 22):02d}:{rng.randint(0, 59):02d}" + rng.choice(("", f":{rng.randint(0, 59):02d}"))
    return Purchase(
        company=_company(rng, kit), address=_address(rng), phone=phone, number=prefix + number, date=make_date(rng),
        time=time, items=goods, tax=tax, rounding=rounding, cash=cash,
    )  # fmt: skip


def _amount(rng: random.Random) -> tuple[int, int]:
    price = rng.randint(30, rng.choice((999, 2500, 9999)))
    return rng.choice((1, 1, 1, 2, 3, rng.randint(2, 12))), price if rng.random() < 0.5 else max(50, price // 10 * 10)


def _names(rng: random.Random, kit: Kit, count: int, longest: int) -> list[str]:
    """Goods of one or two words, no two alike."""
    names: list[str] = []
    while len(names) < count:
        words = [rng.choice(kit.words).upper() for _ in range(rng.choice((1, 2, 2)))]
        name = " ".join(words) if len(" ".join(words)) <= longest else words[0][:longest]
        if longest > 12 and rng.random() < 0.2:
            name = f"{name} {rng.choice(('500G', '1L', 'XL', 'A4', '250ML', '2KG'))}"
        if rng.random() < 0.05:
            name = f"ITEM {rng.randint(100, 999)}"
        if name not in (*names, "TOTAL", "CASH", "CHANGE", "DATE"):
            names.append(name)
    return names


def _company(rng: random.Random, kit: Kit) -> tuple[str, ...]:
    """On one line, or with the end of the name on a second."""
    first = rng.choice((rng.choice(kit.words).upper(), f"{rng.choice(SURNAMES)} {rng.choice(kit.words).upper()}",
                        f"{rng.choice(STREETS)} {rng.choice(STREETS)}"))  # fmt: skip
    name, ending = f"{first[:18]} {rng.choice(TRADES)}", rng.choice(ENDINGS)
    if not ending:
        return (name,)
    return (f"{name} {ending}",) if len(name) + len(ending) < 27 and rng.random() < 0.7 else (name, ending)


def _address(rng: random.Random) -> tuple[str, ...]:
    number = rng.choice((f"NO {rng.randint(1, 99)}", f"NO. {rng.randint(1, 99)}", f"{rng.randint(1, 120)}",
                         f"LOT {rng.randint(1, 2000)}", f"{rng.randint(1, 60)}-{rng.randint(1, 5)}"))  # fmt: skip
    part = rng.choice(("", f" {rng.randint(1, 30)}", f" {rng.randint(1, 9)}/{rng.randint(1, 9)}"))
    street = f"JALAN {rng.choice(STREETS)}{part}"
    lines = [f"{number}, {street},"]
    if rng.random() < 0.5:
        lines.append(f"TAMAN {rng.choice(STREETS)} {rng.choice(STREETS)},")
    town = f"{rng.randint(10, 86)}{rng.randint(0, 9)}00 {rng.choice(TOWNS)}"
    if rng.random() < 0.6 and len(town) < 22:
        lines += [f"{town},", f"{rng.choice(STATES)}."] if rng.random() < 0.4 else [f"{town}, {rng.choice(STATES[:3])}"]
    else:
        lines.append(town + rng.choice(("", ".")))
    return tuple(lines)


def make_date(rng: random.Random) -> str:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(2015, 2026)
    name = MONTHS[month - 1]
    return rng.choice(
        (f"{day:02d}/{month:02d}/{year}", f"{day:02d}/{month:02d}/{year}", f"{day:02d}-{month:02d}-{year}",
         f"{day:02d}/{month:02d}/{year % 100:02d}", f"{day:02d}-{month:02d}-{year % 100:02d}",
         f"{day:02d} {name.upper()} {year}", f"{day} {name} {year}", f"{year}-{month:02d}-{day:02d}",
         f"{day:02d}-{name.upper()}-{year}", f"{day:02d}.{month:02d}.{year}")
    )  # fmt: skip


# ---- questions -------------------------------------------------------------------------------------------------------

COMPANY: Wordings = (
    (*("Which shop is this receipt from?",) * 4, "What is the name of the shop?", "Which company issued this {paper}?",
     "What is the company name?", "Who issued this {paper}?", "Which company is this {paper} from?"),
    ("这是哪家店的票?", "店名是什么?", "公司名称是什么?"),
)  # fmt: skip
DATE: Wordings = (
    (*("What is the date of this {paper}?",) * 4, "What is the date?", "When was this {paper} issued?",
     "Which date is printed on the {paper}?", "What date is on the {paper}?"),
    ("日期是什么?", "票上的日期是什么?", "是哪一天?"),
)  # fmt: skip
ADDRESS: Wordings = (
    (*("What is the address of the shop?",) * 4, "What is the address?", "Where is the shop?",
     "Which address is printed on the {paper}?"),
    ("店的地址是什么?", "地址是什么?"),
)  # fmt: skip
TOTAL: Wordings = (
    (*("What is the total of this {paper}?",) * 5, "What is the total?", "How much is the total?",
     "What is the total amount?", "How much was to be paid in total?", "What is the grand total?"),
    ("总额是多少?", "总计多少?", "一共多少钱?"),
)  # fmt: skip
PRICE: Wordings = (
    ("How much is {item}?", "How much does {item} cost?", "What is the price of {item}?", "What did {item} cost?"),
    ("{item}多少钱?", "{item}的价格是多少?"),
)
QUANTITY: Wordings = (
    ("How many of {item} were bought?", "What is the quantity of {item}?"),
    ("{item}买了几个?", "{item}的数量是多少?"),
)
ITEMS: Wordings = (
    ("How many different items are listed?", "How many items are on the {paper}?", "Count the items."),
    ("有几种商品?", "票上有几种商品?"),
)
LIST: Wordings = (("What was bought?", "List the items.", "Which items are listed?"), ("买了什么?", "列出商品。"))
DEAREST: Wordings = (
    ("Which item has the highest amount?", "What is the most expensive line of the {paper}?"),
    ("哪种商品金额最高?",),
)
HAS: Wordings = (
    ("Is {item} on this {paper}?", "Was {item} bought?", "Does the {paper} list {item}?"),
    ("票上有{item}吗?", "买了{item}吗?"),
)
PHONE: Wordings = (
    ("What is the phone number?", "What is the telephone number of the shop?", "Which phone number is printed?"),
    ("电话号码是多少?", "电话是多少?"),
)
NUMBER: Wordings = (
    ("What is the number of this {paper}?", "What is the {paper} number?", "Which number does this {paper} have?"),
    ("单号是多少?", "编号是什么?"),
)
CHANGE: Wordings = (
    ("How much change was given?", "What is the change?", "How much is the change?"),
    ("找零多少?", "找了多少钱?"),
)
CASH: Wordings = (
    ("How much cash was paid?", "How much was given in cash?", "What is the cash amount?"),
    ("付了多少现金?",),
)
TAX: Wordings = (("How much is the tax?", "What is the amount of tax?", "How much GST was charged?"), ("税额是多少?",))
RECEIPT, INVOICE = ("receipt", "票"), ("invoice", "发票")


def ask_purchase(rng: random.Random, asker: Asker, bought: Purchase, shown: Sequence[str], paper: Both) -> list[Asked]:
    """One to three questions, most of them for the four fields that every receipt has."""

    def ask(wordings: Wordings, answer: str, wrong: str | None) -> Asked:
        return asker.ask(rng, wordings, answer, wrong, paper=paper)

    company, address = " ".join(bought.company), " ".join(bought.address)
    near = rng.choice([v for v in (bought.cash, bought.net, bought.total + 100, bought.items[0].amount)
                       if v != bought.total])  # fmt: skip
    asked = [
        ask(TOTAL, money(bought.total), money(near)),
        ask(DATE, bought.date, misread_digit(rng, bought.date)),
        ask(COMPANY, company, misread(rng, company)),
        ask(ADDRESS, address, misread(rng, address)),
    ]
    asked = rng.sample(asked, rng.choice((1, 1, 2)))
    further = _ask_items(rng, asker, bought, paper)
    if "phone" in shown:
        further.append(ask(PHONE, bought.phone, misread_digit(rng, bought.phone)))
    if "number" in shown:
        further.append(ask(NUMBER, bought.number, misread_digit(rng, bought.number)))
    if "cash" in shown:
        further.append(ask(CASH, money(bought.cash), money(bought.cash + 100)))
        further.append(ask(CHANGE, money(bought.cash - bought.total), money(bought.cash)))
    if "tax" in shown:
        further.append(ask(TAX, money(bought.tax), money(bought.total)))
    asked += rng.sample(further, rng.choice((0, 1, 1)))
    rng.shuffle(asked)
    return asked


def _ask_items(rng: random.Random, asker: Asker, bought: Purchase, paper: Both) -> list[Asked]:
    items, item = bought.items, rng.choice(bought.items)
    names = ", ".join(i.name for i in items)
    count = asker.ask(rng, ITEMS, str(len(items)), str(len(items) + 1), paper=paper)
    true = rng.random() < 0.5
    absent = [name for name in (misread(rng, item.name), *rng.sample(TRADES, 2)) if name not in names]
    other = absent[0] if rng.random() < 0.5 else absent[-1]
    has = asker.ask(rng, HAS, *yes(true), item=item.name if true else other, paper=paper)
    asked = [count, has, asker.ask(rng, LIST, names, misread(rng, names), brief=False)]
    if item.quantity == 1:
        asked.append(asker.ask(rng, PRICE, money(item.price), money(item.price + 100), item=item.name))
    asked.append(asker.ask(rng, QUANTITY, str(item.quantity), str(item.quantity + 1), item=item.name))
    order = sorted(items, key=lambda i: -i.amount)
    if len(order) > 1 and order[0].amount > order[1].amount:
        asked.append(asker.ask(rng, DEAREST, order[0].name, order[1].name, paper=paper))
    return asked


def misread_digit(rng: random.Random, text: str) -> str:
    """The same text with one digit off."""
    at = rng.choice([i for i, sign in enumerate(text) if sign.isdigit()])
    return text[:at] + str((int(text[at]) + rng.randint(1, 9)) % 10) + text[at + 1 :]
