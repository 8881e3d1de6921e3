"""Real architectures, brought like anybody's model: which format of which can be had, and what it costs.

models.py     the architectures, each written as a file by its own framework
__main__.py   brings each of them, and tabulates what came of it
README.md     the table
"""
