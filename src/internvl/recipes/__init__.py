"""Training recipes: functions that return a `TrainConfig`.

    recipes.find("internvl2_5_2b_lora").make()      one by name, or by its name in the first code base
    recipes.find("mine.py")                         one from your own file: its only function that returns a TrainConfig
    recipes.find("mine.py:second")                  a function of it by name, or a row of its TABLE
    recipes.table()                                 all that come with the package

Every file here can be copied and changed; it runs from where it is: `internvl train COPY.py:NAME`.
"""

from __future__ import annotations

from internvl.recipes.lookup import find, table
from internvl.recipes.recipe import Recipe

__all__ = ["Recipe", "find", "table"]
