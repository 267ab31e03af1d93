"""Talk without a picture: greetings, who nano is, and texts to say again."""

from __future__ import annotations

import random

from internvl.nano.asking import Both
from internvl.nano.lines import write
from internvl.nano.sample import Kit, Sample, Turn

HELLO: Both = (
    "Hello! I am nano, the small embedded model of InternVL. Show me a picture and ask about it.",
    "你好！我是nano，InternVL的小模型。请给我一张图片并提问。",
)
WHO: Both = ("I am nano, the small embedded model of InternVL.", "我是nano，InternVL的小模型。")
ABLE: Both = (
    "I can read printed text, name flags, emoji and objects, count shapes, read clocks, charts and tables.",
    "我可以读文字、认国旗和物体、数图形、看钟表、图表和表格。",
)
BLIND: Both = ("I see no picture. Please show me one.", "我没有看到图片。请给我一张图片。")
WELCOME: Both = ("You are welcome!", "不客气！")
GOODBYE: Both = ("Goodbye!", "再见！")

TALK: tuple[tuple[tuple[str, ...], tuple[str, ...], Both], ...] = (
    (("Hello", "Hello!", "Hi", "Hi!", "Hi there", "hello", "hi", "Good morning", "Hey", "Hello there!"),
     ("你好", "您好", "你好！", "嗨"), HELLO),
    (("Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "who are you"),
     ("你是谁?", "你是谁？", "你叫什么?", "请介绍一下自己。"), WHO),
    (("What can you do?", "Help", "How can you help me?", "What do you know?", "help", "What are you good at?"),
     ("你能做什么?", "你会什么?", "帮助"), ABLE),
    (("Thanks", "Thank you!", "Thank you", "thanks", "Great, thanks!"), ("谢谢", "谢谢！", "谢谢您"), WELCOME),
    (("Bye", "Goodbye", "Bye!", "See you"), ("再见", "再见！"), GOODBYE),
    (("What is in the picture?", "What does it say?", "How many shapes are there?", "What is this?",
      "Which country's flag is this?", "Describe the image.", "What time is it?", "Read the text."),
     ("图片里有什么?", "写的是什么?", "有几个图形?", "这是什么?", "这是哪个国家的国旗?"), BLIND),
)  # fmt: skip
"""Questions in English and in Chinese, and what is answered to any of them."""

ECHO = ("Repeat: {}", "Say: {}", "Write: {}", "Repeat {}", "Say this again: {}", "Copy this text: {}")
ECHO_ZH = ("重复: {}", "请说: {}", "请写: {}")


def draw_talk(rng: random.Random, kit: Kit) -> Sample:
    """Greetings, or for half of the draws a text to say again."""
    return echo(rng, kit) if rng.random() < 0.5 else talk(rng)


def echo(rng: random.Random, kit: Kit, limit: int = 20) -> Sample:
    """A text to say again: copying letter by letter is half of reading, and needs no picture to be learnt."""
    text = write(rng, kit.words, limit)
    wording = rng.choice(ECHO_ZH if rng.random() < 0.15 else ECHO)
    return Sample("talk", (), ((wording.format(text), text),))


def talk(rng: random.Random) -> Sample:
    """One or two turns of greeting, without a picture."""
    chinese = rng.random() < 0.15
    turns: list[Turn] = []
    for english, other, answer in rng.sample(TALK, rng.choice((1, 2))):
        turns.append((rng.choice(other if chinese else english), answer[chinese]))
    return Sample("talk", (), tuple(turns))
