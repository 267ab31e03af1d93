"""Every benchmark, by name.

>>> from internvl.evaluation.tasks import TABLE
>>> TABLE["pope"].title
'POPE'
"""
