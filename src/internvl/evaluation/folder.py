"""The data folder: rows and pictures of benchmarks in the forms that people have them in.

    folder = Folder(Path("data"))
    for row in folder.jsonl("chartqa/test_human.jsonl"): row.text("question"), folder.picture(row.text("image"))

Every row knows its file and line, so that bad data is refused by name. Nothing in a row is ever evaluated as code.
"""
