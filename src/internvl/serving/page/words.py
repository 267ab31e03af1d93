"""Every word of the page, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

# fmt: off
WORDS: Mapping[str, tuple[str, str]] = {
    # ---- the bar
    "title":          ("InternVL", "InternVL"),
    "new":            ("New conversation", "新对话"),
    "share":          ("Save as a file", "保存为文件"),
    "settings":       ("Settings", "设置"),
    "close":          ("Close", "关闭"),
    "language":       ("中文", "English"),
    "language_label": ("Switch to Chinese: 中文", "切换到英文：English"),
    "dark":           ("Dark mode", "深色模式"),
    "light":          ("Light mode", "浅色模式"),
    "skip":           ("Skip to the question", "跳到提问框"),
    "sign_out":       ("Sign out", "退出登录"),
    # ---- nothing said yet
    "welcome":        ("What shall we look at?", "想看点什么？"),
    "welcome_more":   ("Add a picture, a video or a PDF, and ask about it. Or try one of these:",
                       "添加图片、视频或 PDF，然后提问。也可以先试试这些例子："),
    "drop":           ("Drop pictures, videos or PDFs here", "把图片、视频或 PDF 放到这里"),
    # ---- asking
    "ask":            ("Your question", "你的问题"),
    "placeholder":    ("Ask about pictures, videos or documents …", "就图片、视频或文档提问……"),
    "hint":           ("Enter sends · Shift+Enter new line · Esc stops", "Enter 发送 · Shift+Enter 换行 · Esc 停止"),
    "send":           ("Send", "发送"),
    "stop":           ("Stop", "停止"),
    "attach":         ("Add pictures, videos or PDFs", "添加图片、视频或 PDF"),
    "camera":         ("Take a picture", "拍照"),
    "snap":           ("Take the picture", "拍摄"),
    "no_camera":      ("The camera cannot be used: it is missing, or not allowed.",
                       "无法使用相机：没有相机，或未获允许。"),
    "remove":         ("Remove {name}", "移除 {name}"),
    "uploading":      ("Adding {name} …", "正在添加 {name}……"),
    "too_large":      ("{name} is larger than {most} MB, the limit.", "{name} 超过了 {most} MB 的上限。"),
    "upload_failed":  ("{name} could not be added.", "无法添加 {name}。"),
    "editing":        ("You are editing an earlier question; what came after it will be replaced.",
                       "正在修改之前的问题；其后的内容将被替换。"),
    "cancel":         ("Cancel", "取消"),
    # ---- the conversation
    "log":            ("Conversation", "对话"),
    "you":            ("You", "你"),
    "model":          ("Model", "模型"),
    "reading":        ("Reading what you sent …", "正在读取你发送的内容……"),
    "thinking":       ("Looking …", "正在看……"),
    "answered":       ("The answer is complete.", "回答完毕。"),
    "stopped":        ("stopped", "已停止"),
    "cut":            ("the longest answer allowed", "已达到最大长度"),
    "empty":          ("The answer is empty.", "回答为空。"),
    "edit":           ("Edit", "修改"),
    "again":          ("Answer again", "重新回答"),
    "undo":           ("Take back", "撤回"),
    "copy":           ("Copy", "复制"),
    "copied":         ("Copied", "已复制"),
    "tiles":          ("Show tiles", "显示切块"),
    "tiles_off":      ("Hide tiles", "隐藏切块"),
    "tiles_said":     ("{columns} × {rows} tiles and a small whole", "{columns} × {rows} 块，外加一张缩略图"),
    "tile_said":      ("one tile", "一块"),
    "no_tiles":       ("This server does not say how it cuts pictures into tiles.", "此服务器不提供图片切块信息。"),
    "picture":        ("Picture {number}: {name}", "图片 {number}：{name}"),
    "page":           ("Page {number} of {name}", "{name} 第 {number} 页"),
    "frame":          ("Frame at {seconds} s of {name}", "{name} 第 {seconds} 秒的画面"),
    "pages":          ("{name}: {count} pages, as the model sees them", "{name}：{count} 页，模型看到的样子"),
    "frames":         ("{name}: {count} frames, as the model sees them", "{name}：{count} 帧，模型看到的样子"),
    "found":          ("What was found", "找到的内容"),
    "region":         ("region {number}", "区域 {number}"),
    # ---- what it took
    "usage":          ("Usage", "用量"),
    "first_token":    ("first word after {seconds} s", "{seconds} 秒后开始回答"),
    "answer_tokens":  ("{count} tokens, {speed} a second", "{count} 个 token，每秒 {speed} 个"),
    "answer_token":   ("{count} tokens", "{count} 个 token"),
    "prompt_tokens":  ("question {count}", "问题 {count}"),
    "image_tokens":   ("of which pictures {count}", "其中图片 {count}"),
    "cached_tokens":  ("known from before {count}", "此前已知 {count}"),
    # ---- what people think of it
    "up":             ("Good answer", "回答得好"),
    "down":           ("Bad answer", "回答不好"),
    "flag":           ("Report a problem", "报告问题"),
    "reason":         ("What is wrong with it?", "有什么问题？"),
    "send_reason":    ("Send", "提交"),
    "noted":          ("Thank you. It is written down on this server.", "谢谢。已记录在本服务器上。"),
    # ---- settings
    "model_label":    ("Model", "模型"),
    "system":         ("System message", "系统消息"),
    "system_info":    ("What the model is told before everything else. Empty: its own.",
                       "在所有内容之前告诉模型的话。留空则用模型自带的。"),
    "temperature":    ("Temperature", "温度"),
    "temperature_info": ("0: the likeliest word every time. Higher: more varied.", "0：每次取最可能的词。越高越多样。"),
    "top_p":          ("Top-p", "Top-p"),
    "top_p_info":     ("Only words within this share of likelihood.", "只在累计概率以内的词中选取。"),
    "top_k":          ("Top-k", "Top-k"),
    "top_k_info":     ("Only the k likeliest words. 0: all.", "只在最可能的 k 个词中选取。0：全部。"),
    "repetition":     ("Repetition penalty", "重复惩罚"),
    "repetition_info": ("Above 1: what was said becomes less likely.", "大于 1：说过的词更不易再出现。"),
    "max_tokens":     ("Longest answer", "最大长度"),
    "max_tokens_info": ("In tokens.", "以 token 计。"),
    "seed":           ("Seed", "随机种子"),
    "seed_info":      ("With a temperature: the same number, the same answer. Empty: another every time.",
                       "有温度时：同一数字得到同一回答。留空则每次不同。"),
    "max_tiles":      ("Tiles for pictures", "图片切块数"),
    "max_tiles_info": ("More tiles: finer detail, slower. 0: the model's own number.",
                       "切块越多越精细，也越慢。0：模型默认值。"),
    "num_frames":     ("Frames of a video", "视频帧数"),
    "num_frames_info": ("Taken at equal distances when you send a video.", "发送视频时等间隔抽取。"),
    "group_answer":   ("How it answers", "如何回答"),
    "group_sight":    ("How it looks", "如何看图"),
    "left_out":       ("This server is not known to take these settings, so they are not sent: {names}",
                       "此服务器未声明支持这些设置，因此没有发送：{names}"),
    # ---- when something is wrong
    "retry":          ("Try again", "重试"),
    "away":           ("The server does not answer. It may be starting; try again in a moment.",
                       "服务器没有应答。它可能正在启动，请稍后再试。"),
    "busy":           ("The server is busy. Try again in {seconds} s.", "服务器正忙。请 {seconds} 秒后再试。"),
    "starting":       ("The model is starting. Try again in {seconds} s.", "模型正在启动。请 {seconds} 秒后再试。"),
    "refused":        ("The server did not take the question: {said}", "服务器没有接受这个问题：{said}"),
    "unreadable":     ("{name} cannot be used: {said}", "无法使用 {name}：{said}"),
    "unreadable_all": ("These files cannot be used: {said}", "无法使用这些文件：{said}"),
    "broken":         ("The answer broke off. Try again.", "回答中断了。请重试。"),
    "key":            ("The server wants another key. Sign in again, or start the page with the right one.",
                       "服务器需要另一个密钥。请重新登录，或用正确的密钥启动本页。"),
    "fault":          ("Something went wrong on this page. Its log says what.", "本页出了问题。详情见日志。"),
    "no_models":      ("The server's models could not be listed.", "无法列出服务器的模型。"),
    "too_many":       ("At most {count} files go with one question.", "一个问题最多附带 {count} 个文件。"),
    "expired":        ("A file of this conversation is gone; add it again.", "对话中的一个文件已失效，请重新添加。"),
    # ---- a saved conversation
    "saved":          ("A conversation with {model}", "与 {model} 的对话"),
    "saved_on":       ("Saved on {date}", "保存于 {date}"),
    # ---- signing in
    "sign_in":        ("Sign in", "登录"),
    "key_label":      ("API key", "API 密钥"),
    "key_info":       ("The key that you use for this server's API.", "你用于此服务器 API 的密钥。"),
    "wrong_key":      ("This is none of the server's keys.", "这不是服务器的密钥。"),
}
"""What is said where. Braces are filled in."""
# fmt: on

IN_THE_BROWSER = (
    "new", "share", "settings", "close", "language", "language_label", "dark", "light", "skip", "welcome",
    "welcome_more", "drop", "ask", "placeholder", "hint", "send", "stop", "attach", "camera", "snap", "no_camera",
    "remove", "uploading", "too_large", "upload_failed", "editing", "cancel", "log", "answered", "copied", "copy",
    "tiles", "tiles_off", "reason", "send_reason", "too_many", "sign_out", "away",
)  # fmt: skip
"""What the browser says by itself."""


def say(word: str, language: Language, **filled: object) -> str:
    """One of the words.

    >>> say("remove", "en", name="a.png")
    'Remove a.png'
    """
    said = WORDS[word][LANGUAGES.index(language)]
    for name, value in filled.items():
        said = said.replace("{" + name + "}", str(value))
    return said


def words_of(language: Language) -> dict[str, str]:
    """Those that the browser needs."""
    return {word: say(word, language) for word in IN_THE_BROWSER}


def language_of(header: str) -> Language:
    """What an Accept-Language header, or `navigator.language`, asks for first.

    >>> language_of("zh-CN,zh;q=0.9,en;q=0.8"), language_of("fr"), language_of("")
    ('zh', 'en', 'en')
    """
    return "zh" if header.strip().lower().startswith("zh") else "en"
