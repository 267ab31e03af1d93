"""Chinese names of what real pictures show, where they are asked for in Chinese."""

from __future__ import annotations

from collections.abc import Mapping

RUBBISH: Mapping[str, str] = {
    "cardboard": "纸板", "glass": "玻璃", "metal": "金属", "paper": "纸", "plastic": "塑料", "trash": "其他垃圾",
}  # fmt: skip

PHOTOS: Mapping[str, str] = {
    "accordion": "手风琴", "airplanes": "飞机", "anchor": "锚", "ant": "蚂蚁", "barrel": "木桶", "bass": "鲈鱼",
    "beaver": "海狸", "binocular": "双筒望远镜", "bonsai": "盆景", "brain": "大脑", "buddha": "佛像",
    "butterfly": "蝴蝶", "camera": "照相机", "cannon": "大炮", "car side": "汽车", "cellphone": "手机",
    "chair": "椅子", "crab": "螃蟹", "crayfish": "小龙虾", "crocodile": "鳄鱼", "cup": "杯子", "dolphin": "海豚",
    "dragonfly": "蜻蜓", "elephant": "大象", "euphonium": "次中音号", "ewer": "水壶", "ferry": "渡轮",
    "flamingo": "火烈鸟", "grand piano": "三角钢琴", "hawksbill": "海龟", "headphone": "耳机", "hedgehog": "刺猬",
    "helicopter": "直升机", "ibis": "朱鹭", "kangaroo": "袋鼠", "ketch": "帆船", "lamp": "台灯", "laptop": "笔记本电脑",
    "leopards": "豹子", "llama": "羊驼", "lobster": "龙虾", "lotus": "莲花", "mandolin": "曼陀林",
    "menorah": "烛台", "motorbikes": "摩托车", "nautilus": "鹦鹉螺", "octopus": "章鱼", "okapi": "霍加狓",
    "pagoda": "宝塔", "panda": "熊猫", "pigeon": "鸽子", "pizza": "披萨", "platypus": "鸭嘴兽", "pyramid": "金字塔",
    "revolver": "左轮手枪", "rhino": "犀牛", "rooster": "公鸡", "saxophone": "萨克斯", "schooner": "纵帆船",
    "scissors": "剪刀", "scorpion": "蝎子", "sea horse": "海马", "soccer ball": "足球", "stapler": "订书机",
    "starfish": "海星", "stop sign": "停车标志", "strawberry": "草莓", "sunflower": "向日葵", "tick": "蜱虫",
    "trilobite": "三叶虫", "umbrella": "雨伞", "watch": "手表", "water lilly": "睡莲", "wheelchair": "轮椅",
    "wild cat": "野猫", "windsor chair": "温莎椅", "wrench": "扳手", "yin yang": "太极图",
}  # fmt: skip
"""Of the kinds of Caltech-101 that have a common one."""
