"""Real architectures, brought like any user's model: which formats each can be converted to, and at what cost.

models.py     the architectures, each written as a file by its own framework
__main__.py   brings each of them, and makes the table of docs/zoo.md
"""
